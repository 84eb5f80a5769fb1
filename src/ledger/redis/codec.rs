//! How renewals, answers and books look in Redis. `renew.lua` says the same in its head.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use redis::{Cmd, Pipeline, ToRedisArgs};

use super::super::{
    Amendment, Answer, Book, Grant, LeaseId, LedgerError, LineKey, Outcome, Record, Refund, Renewal, Standing, Terms, Usage,
    book::{Agreed, Entry},
    record::Pledge,
    whole_millis,
};
use crate::{Account, Credits, Name, Period};

/// The keys of an account and period. All share the account's slot of a cluster.
pub(super) struct Keys {
    period: Period,
    pub(super) record: String,
    pub(super) book: String,
    pub(super) leases: String,
    pub(super) notes: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, account: &Account, period: Period) -> Self {
        let record = record_key(prefix, account);
        let book = book_key(&record, period);
        Self { period, leases: format!("{book}:l"), notes: format!("{book}:n"), book, record }
    }
}

/// A call of the script that renews, at about `now` by the ledger's clock: `how` is `EVALSHA` and the script's hash, or `EVAL` and the script itself.
pub(super) fn renewal(how: (&str, &str), keys: &Keys, renewal: &Renewal, now: Duration, not_after: Duration) -> Cmd {
    let mut call = redis::cmd(how.0);
    let (period, today) = (keys.period, Period::containing(now));
    let later = (today > period).then(|| book_key(&keys.record, today));
    call.arg(how.1).arg(if later.is_some() { 4 } else { 3 }).arg(&keys.record).arg(&keys.book).arg(&keys.leases).arg(later);
    let nanos = Credits::as_nano_usd;
    call.arg(renewal.lease.to_string()).arg(renewal.seq).arg(renewal.batch).arg(nanos(renewal.settled));
    call.arg(nanos(renewal.keep)).arg(nanos(renewal.refill)).arg(nanos(renewal.need)).arg(nanos(renewal.extra));
    call.arg(nanos(renewal.terms.included)).arg(u8::from(renewal.terms.per_seat)).arg(nanos(renewal.terms.pay_as_you_go));
    call.arg(renewal.said.as_secs()).arg(millis(renewal.ttl)).arg(u8::from(renewal.forget)).arg(millis(not_after));
    call.arg(millis(period.begins())).arg(millis(period.ends())).arg(millis(today.ends()));
    for line in renewal.lines.iter() {
        call.arg(LineField(&line.key)).arg(line.usage.requests).arg(line.usage.compute_micros).arg(nanos(line.usage.cost));
    }
    call
}

/// What changes an account: a command, or a call of the script that amends, as [`renewal`] has it.
pub(super) fn amendment(how: (&str, &str), prefix: &str, account: &Account, amendment: &Amendment) -> Cmd {
    let key = record_key(prefix, account);
    let script = |period: Period, what: &str| {
        let Keys { record, book, notes, .. } = Keys::new(prefix, account, period);
        let mut call = redis::cmd(how.0);
        call.arg(how.1).arg(3).arg(record).arg(book).arg(notes).arg(what).arg(millis(period.ends()));
        call
    };
    let command = |name| redis::cmd(name).arg(&key).to_owned();
    match amendment {
        Amendment::Grant { id, amount, expires } => command("HSETNX").arg(format!("grant:{id}")).arg(grant(*amount, *expires)).to_owned(),
        Amendment::Seats(seats) => command("HSET").arg("seats").arg(seats.get()).to_owned(),
        Amendment::SpendingLimit(Some(limit)) => command("HSET").arg("limit").arg(limit.as_nano_usd()).to_owned(),
        Amendment::SpendingLimit(None) => command("HDEL").arg("limit").to_owned(),
        Amendment::Refund { period, id, refund } => {
            let mut call = script(*period, "refund");
            call.arg(id.as_str()).arg(refund.amount.as_nano_usd()).arg(refund.reason.as_str());
            call
        }
        Amendment::Close(period) => script(*period, "close"),
    }
}

/// Reads what came of an amendment. Only what has an id can have been done before.
pub(super) fn read_amended(amendment: &Amendment, written: bool) -> bool {
    written || matches!(amendment, Amendment::Seats(_) | Amendment::SpendingLimit(_))
}

/// A claim of a threshold, and who has it then.
pub(super) fn claim(keys: &Keys, period: Period, threshold: &Name, by: LeaseId) -> Pipeline {
    let (field, forgotten) = (format!("claim:{threshold}"), period.ends() + KEEP_BOOKS);
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("HSETNX").arg(&keys.notes).arg(&field).arg(by.to_string()).ignore();
    pipe.cmd("PEXPIREAT").arg(&keys.notes).arg(millis(forgotten)).ignore();
    pipe.cmd("HGET").arg(&keys.notes).arg(&field);
    pipe
}

/// What matches the books of all accounts in a period, and nothing else that a ledger keeps.
pub(super) fn books_pattern(prefix: &str, period: Period) -> String {
    let escaped = prefix.chars().flat_map(|c| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\').into_iter().chain([c]));
    format!("{}:{{*}}:{period}", escaped.collect::<String>())
}

/// Whose a book is, by its key.
pub(super) fn account_of(key: &str, prefix: &str, period: Period) -> Option<Account> {
    let rest = key.strip_prefix(prefix)?.strip_prefix(":{")?;
    rest.strip_suffix(&format!("}}:{period}"))?.parse().ok()
}

fn book_key(record: &str, period: Period) -> String {
    format!("{record}:{period}")
}

pub(super) fn record_key(prefix: &str, account: &Account) -> String {
    format!("{prefix}:{{{account}}}")
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
        } else if field == "closed" {
            record.closed = Some(value.parse().map_err(|_| wrong())?);
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

/// A period's hashes, as Redis has them.
pub(super) struct Hashes {
    pub(super) book: HashMap<String, String>,
    pub(super) leases: HashMap<String, String>,
    pub(super) notes: HashMap<String, String>,
}

pub(super) fn read_book(period: Period, Hashes { book, leases, notes }: &Hashes) -> Result<Book, LedgerError> {
    let mut read = read_totals(period, book.get(TOTAL).map(String::as_str))?;
    read.agreed = book.get(TERMS).map(|terms| read_terms(terms).ok_or_else(|| bad(TERMS, terms))).transpose()?;
    for (key, value) in book.iter().filter(|(key, _)| *key != TOTAL && *key != TERMS) {
        let (key, usage) = read_line(key, value).ok_or_else(|| bad(key, value))?;
        read.lines.insert(key, usage);
    }
    for (id, value) in leases {
        let (id, entry) = read_entry(id, value).ok_or_else(|| bad(id, value))?;
        read.entries.insert(id, entry);
    }
    for (field, value) in notes {
        read_note(&mut read, field, value).ok_or_else(|| bad(field, value))?;
    }
    Ok(read)
}

/// A book with its totals alone.
pub(super) fn read_totals(period: Period, total: Option<&str>) -> Result<Book, LedgerError> {
    let empty = Book::new(period);
    let Some(total) = total else { return Ok(empty) };
    let wrong = || bad(TOTAL, total);
    let [used, held, next, drawn, charged, recovered, refunded] = read_numbers(total).ok_or_else(wrong)?;
    let next = (!next.is_zero()).then(|| time(next));
    Ok(Book { used, held, next, drawn, charged, recovered, refunded, ..empty })
}

fn read_terms(terms: &str) -> Option<Agreed> {
    let [included, per_seat, pay_as_you_go, seats, said] = read_numbers(&terms.replace('*', UNBOUNDED))?;
    let terms = Terms { included, per_seat: !per_seat.is_zero(), pay_as_you_go };
    Some(Agreed {
        terms,
        seats: NonZeroU32::new(u32::try_from(seats.as_nano_usd()).ok()?)?,
        said: Duration::from_secs(said.as_nano_usd().unsigned_abs()),
    })
}

/// [`Credits::MAX`].
const UNBOUNDED: &str = "9007199254740991";

/// Times in milliseconds, counts and flags are in the range of amounts like all numbers there.
fn read_numbers<const COUNT: usize>(text: &str) -> Option<[Credits; COUNT]> {
    text.split(' ').map(parse_amount).collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn time(millis: Credits) -> Duration {
    Duration::from_millis(millis.as_nano_usd().unsigned_abs())
}

fn read_note(book: &mut Book, field: &str, value: &str) -> Option<()> {
    if let Some(id) = field.strip_prefix("refund:") {
        let (amount, reason) = value.split_once(' ')?;
        let refund = Refund { amount: parse_amount(amount)?, reason: reason.parse().ok()? };
        book.refunds.insert(id.parse().ok()?, refund);
    } else if let Some(threshold) = field.strip_prefix("claim:") {
        book.claims.insert(threshold.parse().ok()?, read_id(value)?);
    }
    Some(())
}

/// The field of a book that holds its terms.
const TERMS: &str = "terms";

/// The field of a book that holds its totals. No line is called so: theirs have separators, or are [`LineKey::Late`]'s and [`LineKey::Other`]'s.
pub(super) const TOTAL: &str = "total";

/// How long a period's book is kept after its end: 13 months. `account.lua` has it too.
const KEEP_BOOKS: Duration = Duration::from_secs(396 * 24 * 60 * 60);

fn grant(amount: Credits, expires: Option<Duration>) -> String {
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
    Some((read_id(id)?, entry))
}

pub(super) fn read_id(id: &str) -> Option<LeaseId> {
    u128::from_str_radix(id, 16).ok().map(LeaseId::from_bits)
}

fn read_usage(value: &str) -> Option<Usage> {
    let [requests, micros, cost] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Usage { requests: requests.parse().ok()?, compute_micros: micros.parse().ok()?, cost: parse_amount(cost)? })
}

fn read_line(key: &str, value: &str) -> Option<(LineKey, Usage)> {
    let usage = read_usage(value)?;
    match key {
        "other" => return Some((LineKey::Other, usage)),
        "late" => return Some((LineKey::Late, usage)),
        _ => {}
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
            LineKey::Late => out.write_arg(b"late"),
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
