//! How renewals, answers and books look in Redis. `renew.lua` says the same in its head.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use redis::{Cmd, ToRedisArgs};

use super::super::{
    Answer, Book, Grant, LeaseId, LedgerError, LineKey, Outcome, Record, Renewal, Standing, Usage,
    book::{Entry, Pledge},
    whole_millis,
};
use crate::{Account, Credits, Name, Period};

/// The keys of an account and period. All share the account's slot of a cluster.
pub(super) struct Keys {
    pub(super) record: String,
    pub(super) book: String,
    pub(super) leases: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, account: &Account, period: Period) -> Self {
        let record = format!("{prefix}:{{{account}}}");
        let book = format!("{record}:{period}");
        Self { leases: format!("{book}:l"), book, record }
    }
}

/// A call of the script: `how` is `EVALSHA` and the script's hash, or `EVAL` and the script itself.
pub(super) fn renewal(how: (&str, &str), keys: &Keys, renewal: &Renewal, not_after: Duration, period: Period) -> Cmd {
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(3).arg(&keys.record).arg(&keys.book).arg(&keys.leases);
    let nanos = Credits::as_nano_usd;
    call.arg(renewal.lease.to_string()).arg(renewal.seq).arg(renewal.batch).arg(nanos(renewal.settled));
    call.arg(nanos(renewal.keep)).arg(nanos(renewal.refill)).arg(nanos(renewal.need)).arg(nanos(renewal.extra));
    call.arg(nanos(renewal.terms.included)).arg(u8::from(renewal.terms.per_seat)).arg(nanos(renewal.terms.pay_as_you_go));
    call.arg(millis(renewal.ttl)).arg(u8::from(renewal.forget)).arg(millis(not_after));
    call.arg(period.to_string()).arg(millis(period.begins())).arg(millis(period.ends()));
    for line in renewal.lines.iter() {
        call.arg(LineField(&line.key)).arg(line.usage.requests).arg(line.usage.compute_micros).arg(nanos(line.usage.cost));
    }
    call
}

pub(super) fn read_answer(answer: &str) -> Result<Answer, LedgerError> {
    let mut words = answer.split(' ');
    let outcome = words.next();
    let mut numbers = [None; 8];
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = word.parse::<i64>().ok();
    }
    let number = |at: usize| numbers[at - 1].ok_or_else(|| bad("an answer", answer));
    let amount = |at| number(at).and_then(|nanos| Credits::from_nano_usd(nanos).map_err(LedgerError::from));
    let outcome = match outcome {
        Some("renewed") => {
            let standing = Standing {
                used: amount(3)?,
                held: amount(4)?,
                limit: amount(5)?,
                included: amount(6)?,
                limited_by_owner: number(7)? == 1,
                ended: number(8)? == 1,
            };
            Outcome::Renewed { hold: amount(2)?, standing }
        }
        Some("superseded") => Outcome::Superseded,
        Some("forgotten") => Outcome::Forgotten,
        Some("late") => Outcome::Late,
        Some("not-begun") => Outcome::NotBegun,
        Some("closed") => Outcome::Closed,
        _ => return Err(bad("an answer", answer)),
    };
    Ok(Answer { outcome, now: Duration::from_millis(number(1)?.unsigned_abs()) })
}

pub(super) fn read_record(hash: &HashMap<String, String>) -> Result<Record, LedgerError> {
    let mut record = Record::default();
    for (field, value) in hash {
        let wrong = || bad(field, value);
        let words: Vec<_> = value.split(' ').collect();
        if field == "seats" {
            record.seats = value.parse::<NonZeroU32>().map_err(|_| wrong())?;
        } else if field == "limit" {
            record.spending_limit = Some(parse_amount(value).ok_or_else(wrong)?);
        } else if let (Some(id), [amount, left, expires]) = (field.strip_prefix("grant:"), words.as_slice()) {
            let expires = if *expires == "never" { None } else { Some(parse_millis(expires).ok_or_else(wrong)?) };
            let grant = Grant { amount: parse_amount(amount).ok_or_else(wrong)?, left: parse_amount(left).ok_or_else(wrong)?, expires };
            record.grants.insert(id.parse().map_err(|_| wrong())?, grant);
        } else if let (Some(period), [amount, until]) = (field.strip_prefix("pledge:"), words.as_slice()) {
            let pledge = Pledge { amount: parse_amount(amount).ok_or_else(wrong)?, until: parse_millis(until).ok_or_else(wrong)? };
            record.pledges.insert(period.parse().map_err(|_| wrong())?, pledge);
        }
    }
    Ok(record)
}

pub(super) fn read_book(period: Period, book: &HashMap<String, String>, leases: &HashMap<String, String>) -> Result<Book, LedgerError> {
    let total = book.get(TOTAL).map_or("0 0 0 0 0", String::as_str);
    let [used, held, next, drawn, recovered] = read_total(total).ok_or_else(|| bad(TOTAL, total))?;
    let entries = leases.iter().map(|(id, value)| read_entry(id, value).ok_or_else(|| bad(id, value)));
    let lines = book.iter().filter(|(key, _)| *key != TOTAL);
    let lines = lines.map(|(key, value)| read_line(key, value).ok_or_else(|| bad(key, value)));
    Ok(Book {
        period,
        used,
        held,
        next: (!next.is_zero()).then(|| Duration::from_millis(next.as_nano_usd().unsigned_abs())),
        drawn,
        recovered,
        lines: lines.collect::<Result<BTreeMap<_, _>, _>>()?,
        entries: entries.collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}

/// The field of a book that holds its totals. No line is called so: theirs have separators, or are [`LineKey::Other`]'s.
const TOTAL: &str = "total";

/// `next` is a time in milliseconds, in the range of amounts like all numbers there.
fn read_total(text: &str) -> Option<[Credits; 5]> {
    text.split(' ').map(parse_amount).collect::<Option<Vec<_>>>()?.try_into().ok()
}

pub(super) fn grant(amount: Credits, expires: Option<Duration>) -> String {
    let expires = expires.map_or_else(|| "never".to_owned(), |expires| millis(expires).to_string());
    format!("{nanos} {nanos} {expires}", nanos = amount.as_nano_usd())
}

fn read_entry(id: &str, value: &str) -> Option<(LeaseId, Entry)> {
    let [seq, batch, settled, hold, expires] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let entry = Entry {
        seq: seq.parse().ok()?,
        batch: batch.parse().ok()?,
        settled: parse_amount(settled)?,
        hold: parse_amount(hold)?,
        expires: parse_millis(expires)?,
    };
    Some((LeaseId::from_bits(u128::from_str_radix(id, 16).ok()?), entry))
}

fn read_line(key: &str, value: &str) -> Option<(LineKey, Usage)> {
    let [requests, micros, cost] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let usage = Usage { requests: requests.parse().ok()?, compute_micros: micros.parse().ok()?, cost: parse_amount(cost)? };
    if key == "other" {
        return Some((LineKey::Other, usage));
    }
    let [day, model, hardware, feature, subject] = key.split(SEPARATOR).collect::<Vec<_>>().try_into().ok()?;
    let name = |text: &str| text.parse::<Name>().ok();
    let key = LineKey::Of {
        day: day.parse().ok()?,
        model: name(model)?,
        hardware: name(hardware)?,
        feature: name(feature)?,
        subject: name(subject)?,
    };
    Some((key, usage))
}

/// No name holds a control character.
const SEPARATOR: char = '\t';

struct LineField<'a>(&'a LineKey);

impl ToRedisArgs for LineField<'_> {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        match self.0 {
            LineKey::Of { day, model, hardware, feature, subject } => {
                let s = SEPARATOR;
                out.write_arg_fmt(format_args!("{day}{s}{model}{s}{hardware}{s}{feature}{s}{subject}"));
            }
            LineKey::Other => out.write_arg(b"other"),
        }
    }
}

fn parse_amount(text: &str) -> Option<Credits> {
    Credits::from_nano_usd(text.parse().ok()?).ok()
}

fn parse_millis(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(whole_millis(time).as_millis()).unwrap_or(u64::MAX)
}

fn bad(what: &str, value: impl std::fmt::Debug) -> LedgerError {
    LedgerError::Refused(format!("cannot read {what} in Redis: {value:?}"))
}
