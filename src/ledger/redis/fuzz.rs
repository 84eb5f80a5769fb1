//! Anything as what a server says: answers of scripts, and what lies in an account's hashes.

use super::{
    call::read_answer,
    codec::{Hash, Hashes},
    schema::Keys,
};
use crate::{Account, Part, clock::UnixTime, ledger::Statement, pieces::inputs};

const ANSWER_WORDS: &[&str] = &[
    "renewed",
    "superseded",
    "forgotten",
    "late",
    "closed",
    " ",
    "0",
    "1",
    "-1",
    "9007199254740991",
    "9007199254740992",
    "1796000000000",
    " parts ",
    " running ",
    " permits ",
    "nan",
    "1e15",
    "",
    "renewed 1796000000000 5 10 5 100 100 0 0 0",
];

const ANSWERS: &[&str] = &[
    include_str!("__fuzz__/answer/corpus/1"),
    include_str!("__fuzz__/answer/corpus/2"),
    include_str!("__fuzz__/answer/corpus/3"),
];

#[test]
fn an_answer_is_read_or_refused() {
    bolero::check!(name = "answer").for_each(|bytes| {
        for text in inputs(bytes, ANSWER_WORDS, ANSWERS) {
            let _ = read_answer(&text);
        }
    });
}

const ACCOUNT_WORDS: &[&str] = &[
    "record ",
    "spent ",
    "book ",
    "leases ",
    "holds ",
    "claims ",
    "parts ",
    "month_parts ",
    "\n",
    "=",
    " ",
    "0",
    "1",
    "-1",
    "9007199254740991",
    "9007199254740992",
    "1796000000000",
    "seats",
    "limit",
    "grant:x",
    "refund:x",
    "closed",
    "pledge:2026-11",
    "2026-11",
    "total",
    "terms",
    "sum",
    "next",
    "day",
    "late",
    "other",
    "?",
    "-",
    "1 2 3 4",
    "00000000000000000000000000000001",
    "rate",
    "share:",
    "a/b",
    "nan",
];

const ACCOUNTS: &[&str] = &[include_str!("__fuzz__/account/corpus/one_lease")];

/// Lines of `hash field=value`, as a person would write them.
fn hash_of(text: &str, name: &str) -> Hash {
    let fields = text.lines().filter_map(|line| {
        let (hash, rest) = line.split_once(' ')?;
        let (field, value) = rest.split_once('=')?;
        (hash == name).then(|| (field.to_owned(), value.to_owned()))
    });
    fields.collect()
}

#[test]
fn an_account_is_read_or_the_field_is_named() {
    let (alice, period) = (Account::user("alice").unwrap(), "2026-11".parse().unwrap());
    let keys = Keys::new("tc", &alice, period);
    bolero::check!(name = "account").for_each(|bytes| {
        for text in inputs(bytes, ACCOUNT_WORDS, ACCOUNTS) {
            check_account(&alice, &keys, &text);
        }
    });
}

fn check_account(alice: &Account, keys: &Keys, text: &str) {
    let hash = |name| hash_of(text, name);
    let hashes = Hashes {
        keys,
        record: hash("record"),
        spent: hash("spent"),
        book: hash("book"),
        leases: hash("leases"),
        holds: hash("holds"),
        claims: hash("claims"),
        parts: hash("parts"),
        month_parts: hash("month_parts"),
    };
    match (hashes.record(), hashes.book()) {
        (Ok(record), Ok(book)) => {
            // Whatever is there, a statement can be made of it.
            let now = UnixTime::from_millis(1_800_000_000_000);
            let statement = Statement::from_book(alice, &book, &record, None, now);
            assert!(statement.lines.len() <= text.lines().count() + 1);
            let _ = record.limits(Some(&"a".parse::<Part>().unwrap()));
        }
        (Err(error), _) | (_, Err(error)) => {
            assert!(error.to_string().contains("tc:{user:alice}"), "{error}");
        }
    }
}
