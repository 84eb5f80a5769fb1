//! The Lua scripts: their texts, with the constants that they share with Rust, and how they are
//! called.

use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind};

use super::{
    super::{
        CLOCK_SKEW, SETTLEMENT_WINDOW, SHARE_LIFETIME, SURPLUS_DIVISOR,
        book::{NOTE_SAME_TERMS_EVERY, corrections::MAX_REFUNDS},
        holds::MAX_HOLD_LIFETIME,
        leases::REPORT_AGAIN_WITHIN,
        rates::MAX_TOLERANCE,
        record::{ERASED_FOR, MAX_PART_FIELDS, MAX_PURCHASED_USED_PERIODS, TOO_MANY_PARTS},
    },
    call::RENEWAL_ARGUMENTS,
    schema::{self, BOOK_LIFETIME},
};
use crate::{Credits, clock::UnixTime, redis_server::Link};

const CLOCK: &str = include_str!("clock.lua");
const ACCOUNT: &str = include_str!("account.lua");
const RENEW: &str = include_str!("renew.lua");
const AMEND: &str = include_str!("amend.lua");
const READ: &str = include_str!("read.lua");

/// A script, and its text for a server that forgot it.
pub(super) struct LoadedScript {
    script: Script,
    text: String,
}

impl LoadedScript {
    fn new(text: String) -> Self {
        Self { script: Script::new(&text), text }
    }

    /// The script that renews a lease.
    pub(super) fn renew() -> Self {
        Self::new(renew_text(CLOCK))
    }

    /// The script that amends an account.
    pub(super) fn amend() -> Self {
        Self::new(amend_text(CLOCK))
    }

    /// The script that reads what a statement is made of.
    pub(super) fn read() -> Self {
        Self::new(format!("local SUM = '{}'\n{READ}", schema::SUM))
    }

    /// Calls the script by its hash. If the server forgot it, and may be made to forget it again at
    /// once, calls it with its text, which needs no memory.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        mut link: Link,
        call: impl Fn((&str, &str)) -> Cmd,
    ) -> RedisResult<T> {
        match call(("EVALSHA", self.script.get_hash())).query_async(&mut link).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call(("EVAL", &self.text)).query_async(&mut link).await
            }
            answered => answered,
        }
    }
}

/// The text of the script that renews, on a clock: Lua code that defines `clock()`.
pub(super) fn renew_text(clock: &str) -> String {
    let constants = [
        number("FIRST_PART", RENEWAL_ARGUMENTS as u64 + 1),
        number("SURPLUS_DIVISOR", SURPLUS_DIVISOR.unsigned_abs()),
        number("NOTE_SAME_TERMS_EVERY", NOTE_SAME_TERMS_EVERY.as_secs()),
        millis("CLOCK_SKEW", CLOCK_SKEW),
        millis("SETTLEMENT_WINDOW", SETTLEMENT_WINDOW),
        millis("REPORT_AGAIN_WITHIN", REPORT_AGAIN_WITHIN),
        word("LATE_LINE", schema::LATE_LINE),
        word("OTHER_LINE", schema::OTHER_LINE),
        table(
            "WORDS",
            &[
                ("PART_LIMITS", schema::PART_LIMITS),
                ("PART_TODAY", schema::PART_TODAY),
                ("PARTS_DAY", schema::PARTS_DAY),
                ("PART_TOTAL", schema::PART_TOTAL),
                ("PART_HOLD", schema::PART_HOLD),
                ("NEXT_EXPIRY", schema::NEXT_EXPIRY),
                ("NOT_SET", schema::NOT_SET),
                ("PERMITS", schema::PERMITS),
                ("PARTS", schema::PARTS),
                ("RUNNING", schema::RUNNING),
                ("SEPARATOR", "\\t"),
            ],
        ),
        number_in("WORDS", "MAX_TOLERANCE", MAX_TOLERANCE),
        number_in("WORDS", "MAX_RUNNING", u32::MAX.into()),
        number_in("WORDS", "SHARE_LIFETIME", (UnixTime::EPOCH + SHARE_LIFETIME).as_millis()),
        word("RENEWED", schema::RENEWED),
        word("SUPERSEDED", schema::SUPERSEDED),
        word("FORGOTTEN", schema::FORGOTTEN),
        word("LATE_RENEWAL", schema::LATE_RENEWAL),
        word("NOT_BEGUN", schema::NOT_BEGUN),
        word("PERIOD_CLOSED", schema::PERIOD_CLOSED),
        word("ACCOUNT_ERASED", schema::ACCOUNT_ERASED),
    ];
    format!("{}{}{clock}{ACCOUNT}{RENEW}", account_constants(), constants.concat())
}

/// The text of the script that amends, on a clock as [`renew_text`] has it.
pub(super) fn amend_text(clock: &str) -> String {
    let constants = [
        number("MAX_REFUNDS", MAX_REFUNDS as u64),
        number("MAX_PART_FIELDS", MAX_PART_FIELDS as u64),
        word("TOO_MANY_PARTS", TOO_MANY_PARTS),
        word("REFUND", schema::REFUND),
        word("CLAIM", schema::CLAIM),
    ];
    format!("{}{}{clock}{ACCOUNT}{AMEND}", account_constants(), constants.concat())
}

/// The constants of `account.lua`.
fn account_constants() -> String {
    [
        number("MAX_AMOUNT", Credits::MAX.as_nano_usd().unsigned_abs()),
        number("MAX_SEATS", u32::MAX.into()),
        word("SEATS_FORM", &format!("a whole number from 1 to {}", u32::MAX)),
        number("MAX_PURCHASED_USED_PERIODS", MAX_PURCHASED_USED_PERIODS as u64),
        millis("MAX_HOLD_LIFETIME", MAX_HOLD_LIFETIME),
        millis("ERASED_FOR", ERASED_FOR),
        millis("BOOK_LIFETIME", BOOK_LIFETIME),
        word("SEATS", schema::SEATS),
        word("LIMIT", schema::LIMIT),
        word("CLOSED", schema::CLOSED),
        word("ERASED", schema::ERASED),
        word("GRANT", schema::GRANT),
        word("RESERVED", schema::RESERVED),
        word("PURCHASED_USED", schema::PURCHASED_USED),
        word("PER_DAY", schema::PER_DAY),
        word("RATE", schema::RATE),
        table("DAYS", &[("FIELD", schema::DAY_CREDITS)]),
        table("SHARES", &[("FIELD", schema::SHARE)]),
        word("TODAY", schema::TODAY),
        word("NEVER", schema::NEVER),
        word("TOTAL", schema::TOTAL),
        word("TERMS", schema::TERMS),
        word("UNLIMITED", schema::UNLIMITED),
        // A character with a meaning in patterns, as itself.
        word("UNLIMITED_PATTERN", &format!("%{}", schema::UNLIMITED)),
        word("MOVED_TO", schema::MOVED_TO),
        word("MOVED_FROM", schema::MOVED_FROM),
        word("SUM", schema::SUM),
        word("MALFORMED", schema::MALFORMED),
        word("REFUSED", schema::REFUSED),
    ]
    .concat()
}

fn number(name: &str, value: u64) -> String {
    format!("local {name} = {value}\n")
}

fn millis(name: &str, value: Duration) -> String {
    format!("local {name} = {}\n", value.as_millis())
}

fn word(name: &str, value: &str) -> String {
    format!("local {name} = '{value}'\n")
}

/// Several words under one name: a script may have only 200 local variables.
fn table(name: &str, words: &[(&str, &str)]) -> String {
    let words: Vec<_> = words.iter().map(|(name, word)| format!("{name} = '{word}'")).collect();
    format!("local {name} = {{ {} }}\n", words.join(", "))
}

/// A number under the name of a table.
fn number_in(table: &str, name: &str, value: u64) -> String {
    format!("{table}.{name} = {value}\n")
}
