//! Anything as what a file has: keys and rows of accounts.

use super::rows::{account_of, day_of_cost, lines_of, read_line};
use crate::{
    Account,
    ledger::{AccountState, Amendment},
    pieces::{edited, with_each_byte_replaced},
};

const WORDS: &[&str] =
    &["null", "{}", "[]", "0", "-1", "18446744073709551615", "1e400", "\"\"", "true", "\"a/b\""];

#[test]
fn a_row_is_read_or_refused() {
    let lines = lines_of("2026-11".parse().unwrap(), &Account::user("alice").unwrap());
    let row = row();
    bolero::check!(name = "row").for_each(|bytes| {
        let _ = (account_of(bytes), day_of_cost(bytes));
        let _ = read_line(&[&lines.start, bytes].concat(), &lines);
        check(bytes);
        check(&edited(&row, bytes, WORDS));
    });
}

#[test]
fn a_row_of_which_a_byte_is_not_what_it_was_is_read_or_refused() {
    with_each_byte_replaced(&row(), check);
}

/// The row of an account with a grant and a closed month.
fn row() -> Vec<u8> {
    let mut state = AccountState::default();
    let now = crate::Period::begins("2026-11".parse().unwrap());
    let grant = Amendment::Grant {
        id: "order-1".parse().unwrap(),
        amount: "1.00".parse().unwrap(),
        expires: None,
    };
    state.amend(grant, now).unwrap();
    state.amend(Amendment::Close("2026-10".parse().unwrap()), now).unwrap();
    serde_json::to_vec(&state).unwrap()
}

/// If a row can be read, a statement can be made of it, and what is read again is what was written.
fn check(row: &[u8]) {
    let Ok(state) = serde_json::from_slice::<AccountState>(row) else { return };
    let again = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(state, again);
    let alice = Account::user("alice").unwrap();
    let now = crate::Period::begins("2026-11".parse().unwrap());
    let _ = state.summary(&alice, "2026-10".parse().unwrap(), now);
}
