//! Anything as what a file has: keys and rows of accounts.

use super::rows::{account_of, day_of_cost, lines_of, read_line};
use crate::{
    Account,
    ledger::{AccountState, Amendment},
};

#[test]
fn a_row_is_read_or_refused() {
    let lines = lines_of("2026-11".parse().unwrap(), &Account::user("alice").unwrap());
    bolero::check!(name = "row").for_each(|bytes| {
        let _ = (account_of(bytes), day_of_cost(bytes));
        let _ = read_line(&[&lines.start, bytes].concat(), &lines);
        // What is read again is what was written.
        if let Ok(state) = serde_json::from_slice::<AccountState>(bytes) {
            let again = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
            assert_eq!(state, again);
        }
    });
}

#[test]
fn a_row_of_which_a_byte_is_not_what_it_was_is_read_or_refused() {
    let mut state = AccountState::default();
    let now = crate::Period::begins("2026-11".parse().unwrap());
    let grant = Amendment::Grant {
        id: "order-1".parse().unwrap(),
        amount: "1.00".parse().unwrap(),
        expires: None,
    };
    state.amend(grant, now).unwrap();
    state.amend(Amendment::Close("2026-10".parse().unwrap()), now).unwrap();
    let row = serde_json::to_vec(&state).unwrap();
    for at in 0..row.len() {
        for other in b"0-9\"}]{n \xff" {
            let mut row = row.clone();
            row[at] = *other;
            if let Ok(state) = serde_json::from_slice::<AccountState>(&row) {
                let _ = state.summary(
                    &Account::user("alice").unwrap(),
                    "2026-10".parse().unwrap(),
                    now,
                );
            }
        }
    }
}
