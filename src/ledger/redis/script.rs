//! The Lua scripts: their texts, with the constants that they share with Rust, and how they are
//! called.

use std::{collections::HashMap, time::Duration};

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, Value,
    aio::ConnectionLike,
};

use super::{
    super::{
        CLOCK_SKEW, SETTLEMENT_WINDOW, SHARE_LIFETIME, SURPLUS_DIVISOR,
        book::{NOTE_SAME_TERMS_EVERY, corrections::MAX_REFUNDS},
        holds::MAX_HOLD_LIFETIME,
        leases::REPORT_AGAIN_WITHIN,
        rates::MAX_TOLERANCE,
        record::{
            ERASED_FOR, MAX_PART_FIELDS, MAX_PURCHASED_USED_PERIODS, PART_DAYS, TOO_MANY_PARTS,
        },
    },
    call::{LINE_NUMBERS, PART_NUMBERS, RENEWAL_ARGUMENTS, RENEWAL_NUMBERS},
    schema::{self, BOOK_LIFETIME},
};
use crate::{Credits, redis_server::Link};

const CLOCK: &str = include_str!("clock.lua");
const HEAD: &str = include_str!("head.lua");
const PLAIN: &str = include_str!("plain.lua");
const NUMBERS: &str = include_str!("numbers.lua");
const ACCOUNT: &str = include_str!("account.lua");
const RENEW: &str = include_str!("renew.lua");
const SEVERAL: &str = include_str!("several.lua");
const AMEND: &str = include_str!("amend.lua");
const COSTS: &str = include_str!("costs.lua");
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

    /// The script that renews several leases.
    pub(super) fn renew_several() -> Self {
        Self::new(several_text(CLOCK))
    }

    /// The script that amends an account.
    pub(super) fn amend() -> Self {
        Self::new(amend_text(CLOCK))
    }

    /// The script that reads what a statement is made of.
    pub(super) fn read() -> Self {
        Self::new(filled_in(&[READ], &[]))
    }

    /// The script that keeps costs.
    pub(super) fn costs() -> Self {
        Self::new(filled_in(&[COSTS], &[]))
    }

    /// Calls the script by its hash. If the server forgot it, and may be made to forget it again at
    /// once, calls it with its text, which needs no memory.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        link: Link,
        call: impl Fn((&str, &str)) -> Cmd,
    ) -> RedisResult<T> {
        let answer = self.call_with_errors(link, call).await?;
        Ok(redis::from_redis_value(answer.extract_error()?)?)
    }

    /// The same, for an answer that may have errors in a list.
    pub(super) async fn call_with_errors(
        &self,
        mut link: Link,
        call: impl Fn((&str, &str)) -> Cmd,
    ) -> RedisResult<Value> {
        let mut ask = async |how: (&str, &str)| {
            let call = call(how);
            match link.req_packed_command(&call).await? {
                error @ Value::ServerError(_) => error.extract_error(),
                answer => Ok(answer),
            }
        };
        match ask(("EVALSHA", self.script.get_hash())).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                ask(("EVAL", &self.text)).await
            }
            answered => answered,
        }
    }
}

/// The text of the script that renews, on a clock: Lua code that defines `clock()`.
pub(super) fn renew_text(clock: &str) -> String {
    // What is plain is answered before the functions of the rest are made.
    let plain = "local plain_answer = renew_plain(KEYS, ARGV)\n\
                 if plain_answer then return plain_answer end";
    let texts =
        [clock, HEAD, PLAIN, plain, NUMBERS, "return (function()", ACCOUNT, RENEW, "end)()"];
    filled_in(&texts, &renewal_constants())
}

/// The text of the script that renews several leases, on a clock as [`renew_text`] has it.
pub(super) fn several_text(clock: &str) -> String {
    let renew = "local function renew(KEYS, ARGV)";
    let texts = [clock, HEAD, PLAIN, NUMBERS, renew, ACCOUNT, RENEW, "end", SEVERAL];
    filled_in(&texts, &renewal_constants())
}

/// Constants of the scripts that renew.
fn renewal_constants() -> Vec<Constant> {
    vec![
        number("FIRST_PART", RENEWAL_ARGUMENTS as u64 + 1),
        packed("RENEWAL_NUMBERS", RENEWAL_NUMBERS),
        packed("PART_NUMBERS", PART_NUMBERS),
        packed("LINE_NUMBERS", LINE_NUMBERS),
        number("SURPLUS_DIVISOR", SURPLUS_DIVISOR.unsigned_abs()),
        number("NOTE_SAME_TERMS_EVERY", NOTE_SAME_TERMS_EVERY.as_secs()),
        number("MAX_TOLERANCE", MAX_TOLERANCE),
        number("MAX_RUNNING", u32::MAX.into()),
        millis("CLOCK_SKEW", CLOCK_SKEW),
        millis("SETTLEMENT_WINDOW", SETTLEMENT_WINDOW),
        millis("REPORT_AGAIN_WITHIN", REPORT_AGAIN_WITHIN),
        millis("SHARE_LIFETIME", SHARE_LIFETIME),
        word("LATE_LINE", schema::LATE_LINE),
        word("OTHER_LINE", schema::OTHER_LINE),
        word("PART_LIMITS", schema::PART_LIMITS),
        word("PART_TODAY", schema::PART_TODAY),
        word("PARTS_DAY", schema::PARTS_DAY),
        number("PART_DAYS", PART_DAYS),
        word("PART_TOTAL", schema::PART_TOTAL),
        word("PART_HOLD", schema::PART_HOLD),
        word("NEXT_EXPIRY", schema::NEXT_EXPIRY),
        word("NOT_SET", schema::NOT_SET),
        word("PERMITS", schema::PERMITS),
        word("PARTS", schema::PARTS),
        word("RUNNING", schema::RUNNING),
        word("SEPARATOR", "\\t"),
        word("RENEWED", schema::RENEWED),
        word("SUPERSEDED", schema::SUPERSEDED),
        word("FORGOTTEN", schema::FORGOTTEN),
        word("LATE_RENEWAL", schema::LATE_RENEWAL),
        word("NOT_BEGUN", schema::NOT_BEGUN),
        word("PERIOD_CLOSED", schema::PERIOD_CLOSED),
        word("ACCOUNT_ERASED", schema::ACCOUNT_ERASED),
    ]
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
    let texts = [clock, HEAD, NUMBERS, "return (function()", ACCOUNT, AMEND, "end)()"];
    filled_in(&texts, &constants)
}

/// Constants that every script may use. Each text adds its own.
fn account_constants() -> Vec<Constant> {
    vec![
        number("MAX_AMOUNT", Credits::MAX.as_nano_usd().unsigned_abs()),
        word("MAX_AMOUNT_TEXT", &Credits::MAX.as_nano_usd().to_string()),
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
        word("DAY_CREDITS", schema::DAY_CREDITS),
        word("SHARE", schema::SHARE),
        word("TODAY", schema::TODAY),
        word("NEVER", schema::NEVER),
        word("TOTAL", schema::TOTAL),
        word("TERMS", schema::TERMS),
        word("UNLIMITED", schema::UNLIMITED),
        word("MOVED_TO", schema::MOVED_TO),
        word("MOVED_FROM", schema::MOVED_FROM),
        word("SUM", schema::SUM),
        word("MALFORMED", schema::MALFORMED),
        word("REFUSED", schema::REFUSED),
        // What to write, in errors about what was read.
        word(
            "FORM_TOTAL",
            "\"used purchased_used charged recovered refunded settled forgotten lines\", in \
             nano-dollars and a count",
        ),
        word("FORM_TERMS", "\"included per_seat pay_as_you_go seats stated_at\""),
        word("FORM_LINE", "\"requests micros cost\""),
        word("FORM_LEASE_SUM", "\"settled forgotten behind_until moved\""),
        word("FORM_MOVED", "\"month amount\""),
        // Patterns of values.
        word("NUMBERS_1", &numbers(1)),
        word("NUMBERS_2", &numbers(2)),
        word("NUMBERS_3", &numbers(3)),
        word("NUMBERS_4", &numbers(4)),
        word("NUMBERS_5", &numbers(5)),
        word("NUMBERS_8", &numbers(8)),
        word("TERMS_UNLIMITED", "^(%d+) (%d+) %* (%d+) (%d+)$"),
    ]
}

/// The pattern of so many whole numbers.
fn numbers(count: usize) -> String {
    format!("^{}$", ["(%d+)"].repeat(count).join(" "))
}

/// The name of a constant, and what stands for it in Lua.
type Constant = (&'static str, String);

fn number(name: &'static str, value: u64) -> Constant {
    (name, value.to_string())
}

fn millis(name: &'static str, value: Duration) -> Constant {
    (name, value.as_millis().to_string())
}

fn word(name: &'static str, value: &str) -> Constant {
    (name, format!("'{value}'"))
}

/// The format of so many doubles, for `struct.unpack`.
fn packed(name: &'static str, count: usize) -> Constant {
    word(name, &format!("<{}", "d".repeat(count)))
}

/// Returns the texts as one, with the constants in place of their names: each call runs the whole
/// text, and a script may have only 200 local variables.
///
/// `account.lua` and what comes after it are in a function: a closure that is made finds a variable
/// of an outer function at once, and one of the same function only by a search.
fn filled_in(texts: &[&str], constants: &[Constant]) -> String {
    let constants: HashMap<_, _> =
        account_constants().into_iter().chain(constants.iter().cloned()).collect();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut filled = String::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let (mut rest, code_ends) = (line, line.find("--").unwrap_or(line.len()));
        while let Some(at) = rest.find(|c: char| c.is_ascii_uppercase()) {
            let begins_word = !rest[..at].ends_with(is_of_name);
            let end = rest[at..].find(|c| !is_of_name(c)).map_or(rest.len(), |end| at + end);
            filled.push_str(&rest[..at]);
            let name = &rest[at..end];
            let is_code = line.len() - rest.len() + at < code_ends;
            let value = constants.get(name).filter(|_| begins_word && is_code);
            filled.push_str(value.map_or(name, String::as_str));
            rest = &rest[end..];
        }
        filled.push_str(rest);
        filled.push('\n');
    }
    filled
}
