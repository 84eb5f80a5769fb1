//! How renewals, answers and books look in Redis. `renew.lua` says the same in its head.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use redis::{Cmd, ToRedisArgs};

use super::super::{
    Amendment, Answer, Book, Grant, LeaseId, LedgerError, LineKey, Outcome, Record, Refund,
    Renewal, Standing, Terms, Usage,
    agreed::Agreed,
    holds::{Hold, Holds},
    leases::{Beside, Entry, Leases, Sums},
    record::Pledge,
    whole_millis,
};
use crate::{Account, Credits, Name, Period};

/// The keys of an account and period. All share the account's slot of a cluster.
pub(super) struct Keys {
    period: Period,
    pub(super) record: String,
    pub(super) spent: String,
    pub(super) book: String,
    pub(super) leases: String,
    pub(super) holds: String,
    pub(super) notes: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, account: &Account, period: Period) -> Self {
        let record = record_key(prefix, account);
        let book = book_key(&record, period);
        Self {
            period,
            spent: format!("{record}:spent"),
            leases: format!("{book}:l"),
            holds: format!("{book}:h"),
            notes: format!("{book}:n"),
            book,
            record,
        }
    }
}

/// A call of the script that renews, at about `now` by the ledger's clock: `how` is `EVALSHA` and
/// the script's hash, or `EVAL` and the script itself.
pub(super) fn renewal(
    how: (&str, &str),
    keys: &Keys,
    renewal: &Renewal,
    max_lines: usize,
    now: Duration,
    not_after: Duration,
) -> Cmd {
    let mut call = redis::cmd(how.0);
    let (period, today) = (keys.period, Period::containing(now));
    let current = (today != period).then(|| book_key(&keys.record, today));
    call.arg(how.1).arg(if current.is_some() { 6 } else { 5 });
    call.arg(&keys.record)
        .arg(&keys.spent)
        .arg(&keys.book)
        .arg(&keys.leases)
        .arg(&keys.holds)
        .arg(current);
    let nanos = Credits::as_nano_usd;
    call.arg(renewal.lease.to_string())
        .arg(renewal.seq)
        .arg(renewal.batch)
        .arg(nanos(renewal.settled));
    call.arg(nanos(renewal.reported));
    call.arg(nanos(renewal.keep))
        .arg(nanos(renewal.refill))
        .arg(nanos(renewal.need))
        .arg(nanos(renewal.extra));
    call.arg(nanos(renewal.terms.included))
        .arg(u8::from(renewal.terms.per_seat))
        .arg(nanos(renewal.terms.pay_as_you_go));
    call.arg(renewal.said.as_secs())
        .arg(millis(renewal.ttl))
        .arg(u8::from(renewal.forget))
        .arg(millis(not_after));
    call.arg(millis(period.begins()))
        .arg(millis(period.ends()))
        .arg(millis(today.begins()))
        .arg(millis(today.ends()))
        .arg(max_lines);
    for line in renewal.lines.iter() {
        call.arg(LineField(&line.key))
            .arg(line.usage.requests)
            .arg(line.usage.compute_micros)
            .arg(nanos(line.usage.cost));
    }
    call
}

/// A call of the script that amends, as [`renewal`] has it, at about `now` by the ledger's clock.
pub(super) fn amendment(
    how: (&str, &str),
    prefix: &str,
    account: &Account,
    amendment: &Amendment,
    now: Duration,
) -> Cmd {
    let script = |period: Option<Period>, what: &str| {
        let Keys { record, spent, book, leases, .. } =
            Keys::new(prefix, account, period.unwrap_or(Period::containing(now)));
        let of_month = period.map_or_else(Vec::new, |_| vec![book, leases]);
        let mut call = redis::cmd(how.0);
        call.arg(how.1).arg(2 + of_month.len()).arg(record).arg(spent).arg(of_month).arg(what);
        call
    };
    match amendment {
        Amendment::Grant { id, amount, expires } => {
            script(None, "grant").arg(id.as_str()).arg(grant(*amount, *expires)).to_owned()
        }
        Amendment::Seats(seats) => script(None, "set").arg("seats").arg(seats.get()).to_owned(),
        Amendment::SpendingLimit(Some(limit)) => {
            script(None, "set").arg("limit").arg(limit.as_nano_usd()).to_owned()
        }
        Amendment::SpendingLimit(None) => script(None, "unset").arg("limit").to_owned(),
        Amendment::Refund { period, id, refund } => {
            let mut call = script(Some(*period), "refund");
            call.arg(millis(period.ends()))
                .arg(id.as_str())
                .arg(refund.amount.as_nano_usd())
                .arg(refund.reason.as_str())
                .to_owned()
        }
        Amendment::Close(period) => script(Some(*period), "close")
            .arg(period.to_string())
            .arg(millis(period.ends()))
            .to_owned(),
        Amendment::Erase => {
            let months =
                std::iter::successors(Some(Period::containing(now).next().next()), |month| {
                    Some(month.previous())
                })
                .take(KEPT_MONTHS);
            let keys: Vec<_> = months
                .map(|month| Keys::new(prefix, account, month))
                .flat_map(|Keys { book, leases, holds, notes, .. }| [book, leases, holds, notes])
                .collect();
            let Keys { record, spent, .. } = Keys::new(prefix, account, Period::containing(now));
            redis::cmd(how.0)
                .arg(how.1)
                .arg(keys.len() + 2)
                .arg(record)
                .arg(spent)
                .arg(keys)
                .arg("erase")
                .to_owned()
        }
    }
}

/// The months of which an account may have keys: those since a book is kept, the next one, and a
/// month's slack for a clock that is set.
const KEPT_MONTHS: usize = 17;

/// Reads what came of an amendment. Only what has an id can have been done before.
pub(super) fn read_amended(amendment: &Amendment, written: bool) -> bool {
    written || matches!(amendment, Amendment::Seats(_) | Amendment::SpendingLimit(_))
}

/// A call of the script that claims a threshold, as [`renewal`] has it.
pub(super) fn claim(how: (&str, &str), keys: &Keys, threshold: &Name, by: LeaseId) -> Cmd {
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(3).arg(&keys.record).arg(&keys.spent).arg(&keys.notes);
    call.arg("claim").arg(threshold.as_str()).arg(by.to_string()).arg(millis(keys.period.ends()));
    call
}

/// What matches the keys of all accounts in a period, and nothing else that a ledger keeps.
pub(super) fn books_pattern(prefix: &str, period: Period) -> String {
    let escaped = prefix.chars().flat_map(|c| {
        matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\').into_iter().chain([c])
    });
    format!("{}:{{*}}:{period}*", escaped.collect::<String>())
}

/// Whose a book is, or the leases whose book may have been lost, by the key; and if it is the book.
pub(super) fn account_of(key: &str, prefix: &str, period: Period) -> Option<(Account, bool)> {
    let rest = key.strip_prefix(prefix)?.strip_prefix(":{")?;
    let leases = rest.strip_suffix(":l");
    Some((
        leases.unwrap_or(rest).strip_suffix(&format!("}}:{period}"))?.parse().ok()?,
        leases.is_none(),
    ))
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
    let mut numbers = [None; 9];
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = word.parse::<i64>().ok();
    }
    let number = |at: usize| numbers[at - 1].ok_or_else(|| bad("an answer", answer));
    let amount =
        |at| number(at).and_then(|nanos| Credits::from_nano_usd(nanos).map_err(LedgerError::from));
    let outcome = match outcome {
        Some("renewed") => {
            let standing = Standing {
                used: amount(3)?,
                held: amount(4)?,
                limit: amount(5)?,
                included: amount(6)?,
                limited_by_owner: number(7)? == 1,
                early: number(8)? == 1,
                ended: number(9)? == 1,
            };
            Outcome::Renewed { hold: amount(2)?, standing }
        }
        Some("superseded") => Outcome::Superseded,
        Some("forgotten") => Outcome::Forgotten,
        Some("late") => Outcome::Late,
        Some("not-begun") => Outcome::NotBegun,
        Some("closed") => Outcome::Closed,
        Some("erased") => Outcome::Erased,
        _ => return Err(bad("an answer", answer)),
    };
    Ok(Answer { outcome, now: Duration::from_millis(number(1)?.unsigned_abs()) })
}

/// An account's hashes, as Redis has them, and their keys.
pub(super) struct Hashes<'a> {
    pub(super) keys: &'a Keys,
    pub(super) record: Hash,
    pub(super) spent: Hash,
    pub(super) book: Hash,
    pub(super) leases: Hash,
    pub(super) holds: Hash,
    pub(super) notes: Hash,
}

pub(super) type Hash = HashMap<String, String>;

impl Hashes<'_> {
    pub(super) fn record(&self) -> Result<Record, LedgerError> {
        let mut record = Record::default();
        for (field, value) in &self.record {
            read_record_field(&mut record, field, value)
                .ok_or_else(|| malformed(&self.keys.record, field, value))?;
        }
        for (field, value) in &self.spent {
            let (id, grant) = read_grant(field, value)
                .ok_or_else(|| malformed(&self.keys.spent, field, value))?;
            record.spent.insert(id, grant);
        }
        Ok(record)
    }

    pub(super) fn book(&self) -> Result<Book, LedgerError> {
        let Keys { period, book: key, leases, holds, notes, .. } = self.keys;
        let mut book = read_totals(*period, key, self.book.get(TOTAL).map(String::as_str))?;
        for (field, value) in self.book.iter().filter(|(field, _)| *field != TOTAL) {
            read_book_field(&mut book, field, value).ok_or_else(|| malformed(key, field, value))?;
        }
        for (field, value) in &self.leases {
            read_lease(&mut book.leases, field, value)
                .ok_or_else(|| malformed(leases, field, value))?;
        }
        for (field, value) in &self.holds {
            read_hold(&mut book.holds, field, value)
                .ok_or_else(|| malformed(holds, field, value))?;
        }
        for (field, value) in &self.notes {
            read_note(&mut book, field, value).ok_or_else(|| malformed(notes, field, value))?;
        }
        Ok(book)
    }
}

fn read_record_field(record: &mut Record, field: &str, value: &str) -> Option<()> {
    match field {
        "seats" => record.seats = value.parse::<NonZeroU32>().ok()?,
        "limit" => record.spending_limit = Some(parse_amount(value)?),
        "closed" => record.closed = Some(value.parse().ok()?),
        "erased" => record.erased = Some(parse_millis(value)?),
        _ => {
            if field.starts_with(GRANT) {
                let (id, grant) = read_grant(field, value)?;
                record.grants.insert(id, grant);
            } else if let Some(period) = field.strip_prefix("pledge:") {
                let (amount, until) = value.split_once(' ')?;
                record.pledges.insert(
                    period.parse().ok()?,
                    Pledge { amount: parse_amount(amount)?, until: parse_millis(until)? },
                );
            } else if let Some(period) = field.strip_prefix("drawn:") {
                record.drawn.insert(period.parse().ok()?, parse_amount(value)?);
            }
        }
    }
    Some(())
}

const GRANT: &str = "grant:";

fn read_grant(field: &str, value: &str) -> Option<(Name, Grant)> {
    let [amount, left, expires] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let expires = if expires == "never" { None } else { Some(parse_millis(expires)?) };
    let grant = Grant { amount: parse_amount(amount)?, left: parse_amount(left)?, expires };
    Some((field.strip_prefix(GRANT)?.parse().ok()?, grant))
}

/// A book with its totals alone.
pub(super) fn read_totals(
    period: Period,
    key: &str,
    total: Option<&str>,
) -> Result<Book, LedgerError> {
    let empty = Book::new(period);
    let Some(total) = total else { return Ok(empty) };
    let [used, drawn, charged, recovered, refunded, settled, forgotten, _lines] =
        read_numbers(total).ok_or_else(|| malformed(key, TOTAL, total))?;
    Ok(Book {
        used,
        drawn,
        charged,
        recovered,
        refunded,
        sums: Sums { settled, forgotten },
        ..empty
    })
}

fn read_book_field(book: &mut Book, field: &str, value: &str) -> Option<()> {
    if field == TERMS {
        book.agreed = Some(read_terms(value)?);
    } else if field == MOVED_TO {
        book.moved_to = read_moved(value)?;
    } else if field == MOVED_FROM {
        book.moved_from = read_moved(value)?;
    } else if let Some(id) = field.strip_prefix(REFUND) {
        let (amount, reason) = value.split_once(' ')?;
        let refund = Refund { amount: parse_amount(amount)?, reason: reason.parse().ok()? };
        book.refunds.insert(id.parse().ok()?, refund);
    } else {
        let (key, usage) = read_line(field, value)?;
        book.lines.insert(key, usage);
    }
    Some(())
}

/// What the field of a refund begins with. No line's does: they begin with a number, or are words.
const REFUND: &str = "refund:";

fn read_lease(leases: &mut Leases, field: &str, value: &str) -> Option<()> {
    if field == SUM {
        let [settled, forgotten, until, moved] = read_numbers(value)?;
        let behind_until = (!until.is_zero()).then(|| time(until));
        leases.beside = Some(Beside { sums: Sums { settled, forgotten }, behind_until, moved });
        return Some(());
    }
    let [seq, batch, settled] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let entry = Entry {
        seq: seq.parse().ok()?,
        batch: batch.parse().ok()?,
        settled: parse_amount(settled)?,
    };
    leases.entries.insert(read_id(field)?, entry);
    Some(())
}

fn read_hold(holds: &mut Holds, field: &str, value: &str) -> Option<()> {
    let [amount, at] = read_numbers(value)?;
    if field == SUM {
        (holds.held, holds.next) = (amount, (!at.is_zero()).then(|| time(at)));
    } else {
        holds.entries.insert(read_id(field)?, Hold { amount, expires: time(at) });
    }
    Some(())
}

/// The field that holds the sums over leases, or over holds.
pub(super) const SUM: &str = "sum";

/// What is on hold by all leases, by the field of it.
pub(super) fn read_held(key: &str, sum: Option<&str>) -> Result<Holds, LedgerError> {
    let mut holds = Holds::default();
    if let Some(sum) = sum {
        read_hold(&mut holds, SUM, sum).ok_or_else(|| malformed(key, SUM, sum))?;
    }
    Ok(holds)
}

/// What the leases settled, by the field of it.
pub(super) fn read_settled(key: &str, sum: Option<&str>) -> Result<Leases, LedgerError> {
    let mut leases = Leases::default();
    if let Some(sum) = sum {
        read_lease(&mut leases, SUM, sum).ok_or_else(|| malformed(key, SUM, sum))?;
    }
    Ok(leases)
}

/// A month's terms, by the field of them.
pub(super) fn read_agreed(key: &str, terms: Option<&str>) -> Result<Option<Agreed>, LedgerError> {
    terms.map(|terms| read_terms(terms).ok_or_else(|| malformed(key, TERMS, terms))).transpose()
}

fn read_terms(terms: &str) -> Option<Agreed> {
    let [included, per_seat, pay_as_you_go, seats, said] =
        read_numbers(&terms.replace('*', UNBOUNDED))?;
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
    if let Some(threshold) = field.strip_prefix("claim:") {
        book.claims.insert(threshold.parse().ok()?, read_id(value)?);
    }
    Some(())
}

/// The fields of a book that say what was settled in one month and debited in another.
const MOVED_TO: &str = "to";
const MOVED_FROM: &str = "from";

fn read_moved(value: &str) -> Option<BTreeMap<Period, Credits>> {
    let words: Vec<_> = value.split(' ').collect();
    words.chunks(2).map(|pair| Some((pair[0].parse().ok()?, parse_amount(pair.get(1)?)?))).collect()
}

/// The field of a book that holds its terms.
pub(super) const TERMS: &str = "terms";

/// The field of a book that holds its totals. No line is called so: theirs have separators, or are
/// [`LineKey::Late`]'s and [`LineKey::Other`]'s.
pub(super) const TOTAL: &str = "total";

fn grant(amount: Credits, expires: Option<Duration>) -> String {
    let expires = expires.map_or_else(|| "never".to_owned(), |expires| millis(expires).to_string());
    format!("{nanos} {nanos} {expires}", nanos = amount.as_nano_usd())
}

pub(super) fn read_id(id: &str) -> Option<LeaseId> {
    u128::from_str_radix(id, 16).ok().map(LeaseId::from_bits)
}

fn read_usage(value: &str) -> Option<Usage> {
    let [requests, micros, cost] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Usage {
        requests: requests.parse().ok()?,
        compute_micros: micros.parse().ok()?,
        cost: parse_amount(cost)?,
    })
}

fn read_line(key: &str, value: &str) -> Option<(LineKey, Usage)> {
    let usage = read_usage(value)?;
    match key {
        "other" => return Some((LineKey::Other, usage)),
        "late" => return Some((LineKey::Late, usage)),
        _ => {}
    }
    let [day, model, hardware, feature, subject] =
        key.split(SEPARATOR).collect::<Vec<_>>().try_into().ok()?;
    let name = |text: &str| text.parse::<Name>().ok();
    let key = LineKey::Of {
        day: day.parse().ok()?,
        model: name(model)?,
        hardware: name(hardware)?,
        feature: name(feature)?,
        subject: subject.parse().ok()?,
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
                out.write_arg_fmt(format_args!(
                    "{day}{s}{model}{s}{hardware}{s}{feature}{s}{subject}"
                ));
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

fn malformed(key: &str, field: &str, value: &str) -> LedgerError {
    LedgerError::Malformed(format!(
        "{key} {field} {value:?} cannot be read: mend that field, or restore the key"
    ))
}
