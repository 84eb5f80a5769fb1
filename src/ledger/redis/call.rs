//! Calls of the scripts, and their answers.
//!
//! `how` is `EVALSHA` and a script's hash, or `EVAL` and the script itself. `renew.lua` and
//! `amend.lua` describe their arguments in their heads.

use std::{array, collections::BTreeMap, fmt, time::Duration};

use redis::{Cmd, ToRedisArgs};

use super::{
    super::{
        Amendment, Answer, Concurrency, ConcurrencyRequest, LeaseId, LedgerError, LimitStanding,
        LineKey, MonthStanding, Outcome, PartTerms, Permits, Renewal, RequestCost, Span, Standing,
        Terms, UsageLine,
    },
    buckets::Bucket,
    schema::{
        self, ACCOUNT_ERASED, FORGOTTEN, Keys, LATE_LINE, LATE_RENEWAL, LIMIT, NEVER, NOT_BEGUN,
        NOT_SET, OTHER_LINE, PART_LIMITS, PARTS, PER_DAY, PERIOD_CLOSED, PERMITS, RENEWED, RUNNING,
        SEATS, SEPARATOR, STORED_MONTHS, SUPERSEDED, UNLIMITED,
    },
};
use crate::{Account, Credits, Name, Period, clock::UnixTime};

/// The number of arguments of a renewal before its parts and its lines.
pub(super) const RENEWAL_ARGUMENTS: usize = 4;

/// The numbers of a renewal, of a part and of a line.
pub(super) const RENEWAL_NUMBERS: usize = 20;
pub(super) const PART_NUMBERS: usize = 2;
pub(super) const LINE_NUMBERS: usize = 3;

/// A renewal that is to be sent.
#[derive(Clone, Copy)]
pub(super) struct ToSend<'a> {
    pub(super) keys: &'a Keys,
    pub(super) renewal: &'a Renewal,
    /// Moment after which it must have no effect.
    pub(super) not_after: UnixTime,
}

/// A call that renews a lease, at about `now` by the ledger's clock.
pub(super) fn renewal(
    how: (&str, &str),
    keys: &Keys,
    renewal: &Renewal,
    max_lines: usize,
    now: UnixTime,
    not_after: UnixTime,
) -> Cmd {
    let renewal = ToSend { keys, renewal, not_after };
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(renewal.number_of_keys(now));
    renewal.write_keys(&mut call, now);
    renewal.write_arguments(&mut call, max_lines, now);
    call
}

/// A call that renews several leases.
pub(super) fn several(
    how: (&str, &str),
    renewals: &[ToSend<'_>],
    max_lines: usize,
    now: UnixTime,
) -> Cmd {
    let mut call = redis::cmd(how.0);
    let keys: usize = renewals.iter().map(|renewal| renewal.number_of_keys(now)).sum();
    call.arg(how.1).arg(keys);
    for renewal in renewals {
        renewal.write_keys(&mut call, now);
    }
    for renewal in renewals {
        call.arg(renewal.number_of_keys(now)).arg(renewal.number_of_arguments());
        renewal.write_arguments(&mut call, max_lines, now);
    }
    call
}

/// `true` if `plain.lua` may answer a renewal, by what it asks for.
pub(super) fn is_plain(renewal: &Renewal) -> bool {
    let Renewal { most_per_day, permits, terms, concurrency, parts, .. } = renewal;
    parts.is_empty()
        && most_per_day.is_none()
        && permits.is_none()
        && concurrency.is_none()
        && terms.included_per_day.is_zero()
}

impl ToSend<'_> {
    /// The month that it is now, if that is another than the renewal's.
    fn current(&self, now: UnixTime) -> Option<Period> {
        Some(Period::containing(now)).filter(|today| *today != self.keys.period)
    }

    fn number_of_keys(&self, now: UnixTime) -> usize {
        let of_parts = if self.renewal.parts.is_empty() { 0 } else { 2 };
        5 + of_parts + usize::from(self.current(now).is_some())
    }

    fn number_of_arguments(&self) -> usize {
        RENEWAL_ARGUMENTS + 2 * (self.renewal.parts.len() + self.renewal.lines.len())
    }

    fn write_keys(&self, call: &mut Cmd, now: UnixTime) {
        let keys = self.keys;
        call.arg(&keys.record).arg(&keys.spent).arg(&keys.book).arg(&keys.leases).arg(&keys.holds);
        if !self.renewal.parts.is_empty() {
            call.arg(&keys.parts).arg(&keys.month_parts);
        }
        call.arg(self.current(now).map(|today| keys.book_of(today)));
    }

    fn write_arguments(&self, call: &mut Cmd, max_lines: usize, now: UnixTime) {
        let Self { keys, renewal, not_after } = *self;
        let (period, today) = (keys.period, Period::containing(now));
        let nanos = |amount: Credits| amount.as_nano_usd().unsigned_abs();
        let Terms { included, per_seat, pay_as_you_go, .. } = renewal.terms;
        let numbers: [u64; RENEWAL_NUMBERS] = [
            renewal.seq,
            renewal.batch,
            nanos(renewal.settled),
            nanos(renewal.reported),
            nanos(renewal.keep),
            nanos(renewal.refill),
            nanos(renewal.need),
            nanos(renewal.extra),
            nanos(included),
            u64::from(per_seat),
            nanos(pay_as_you_go),
            renewal.terms_at.as_secs(),
            (UnixTime::EPOCH + renewal.ttl).as_millis(),
            u64::from(renewal.forget),
            not_after.as_millis(),
            period.begins().as_millis(),
            period.ends().as_millis(),
            today.begins().as_millis(),
            today.ends().as_millis(),
            max_lines as u64,
        ];
        call.arg(renewal.lease.to_string()).arg(terms_text(renewal.terms));
        call.arg(further_words(renewal)).arg(packed(numbers));
        for PartTerms { part, limits } in renewal.parts.iter() {
            let limit = |limit: Option<Credits>| nanos(limit.unwrap_or(Credits::MAX));
            let numbers: [u64; PART_NUMBERS] = [limit(limits.per_month), limit(limits.per_day)];
            call.arg(part.as_str()).arg(packed(numbers));
        }
        for UsageLine { key, usage } in renewal.lines.iter() {
            let numbers: [u64; LINE_NUMBERS] =
                [usage.requests, usage.compute_micros, nanos(usage.cost)];
            call.arg(LineField(key)).arg(packed(numbers));
        }
    }
}

/// Terms as a book has them, before its seats.
fn terms_text(terms: Terms) -> String {
    let Terms { included, per_seat, pay_as_you_go, .. } = terms;
    let (included, per_seat) = (included.as_nano_usd(), u8::from(per_seat));
    if pay_as_you_go == Credits::MAX {
        format!("{included} {per_seat} {UNLIMITED}")
    } else {
        format!("{included} {per_seat} {}", pay_as_you_go.as_nano_usd())
    }
}

/// Numbers as the scripts read them: doubles, the lowest byte first. They are exact up to 2^53,
/// which no amount exceeds.
#[expect(clippy::cast_precision_loss, reason = "the scripts count in doubles")]
fn packed<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(|number| (number as f64).to_le_bytes()).collect()
}

/// The words of a renewal that most have none of, but for the number of its parts.
fn further_words(renewal: &Renewal) -> String {
    let Renewal { most_per_day, permits, terms, concurrency, parts, .. } = renewal;
    let nanos = |amount: Credits| amount.as_nano_usd().to_string();
    let included_per_day = Some(terms.included_per_day).filter(|credits| !credits.is_zero());
    let words = [
        most_per_day.map(nanos),
        permits.map(|permits| permits.wanted.to_string()),
        permits.map(|permits| permits.rate.to_string()),
        included_per_day.map(nanos),
        concurrency.map(|ConcurrencyRequest { most, running, wanted }| {
            format!("{most} {running} {wanted}")
        }),
    ];
    let said = words.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    words.into_iter().take(said).fold(parts.len().to_string(), |all, word| {
        format!("{all} {}", word.as_deref().unwrap_or(NOT_SET))
    })
}

/// Reads the answer to a renewal.
pub(super) fn read_answer(answer: &str) -> Result<Answer, LedgerError> {
    let unreadable = || LedgerError::Failed {
        reason: format!("an answer to a renewal cannot be read: {answer:?}"),
        source: None,
    };
    let outcome = answer.split(' ').next().unwrap_or_default();
    // What most renewals do not ask for is said at the end.
    let (answer, permits) = answer.split_once(PERMITS).unwrap_or((answer, ""));
    let (answer, share) = answer.split_once(RUNNING).unwrap_or((answer, ""));
    let (answer, months) = answer.split_once(PARTS).unwrap_or((answer, ""));
    let mut words = answer.split(' ').skip(1);
    let numbers: [Option<i64>; 15] =
        array::from_fn(|_| words.next().and_then(|word| word.parse().ok()));
    let number = |at: usize| numbers[at].ok_or_else(unreadable);
    let amount = |at| number(at).and_then(|nanos| Ok(Credits::from_nano_usd(nanos)?));
    let outcome = match outcome {
        RENEWED => {
            let standing = Standing {
                used: amount(2)?,
                held: amount(3)?,
                limit: amount(4)?,
                included: amount(5)?,
                limited_by_owner: number(6)? == 1,
                early: number(7)? == 1,
                ended: number(8)? == 1,
                at: UnixTime::from_millis(number(0)?.unsigned_abs()),
                tightest: match numbers[9] {
                    None => None,
                    Some(level) => Some(LimitStanding {
                        level: usize::try_from(level).map_err(|_| unreadable())?,
                        span: if number(10)? == 1 { Span::Day } else { Span::Month },
                        limit: amount(11)?,
                        used: amount(12)?,
                        held: amount(13)?,
                        resets_at: UnixTime::from_millis(number(14)?.unsigned_abs()),
                    }),
                },
            };
            let permits = match permits {
                "" => None,
                permits => Some(read_permits(permits).ok_or_else(unreadable)?),
            };
            let concurrency = match share {
                "" => None,
                share => Some(read_share(share).ok_or_else(unreadable)?),
            };
            let mut months = months.split(' ');
            let parts = array::from_fn(|_| {
                let mut next = || Credits::from_nano_usd(months.next()?.parse().ok()?).ok();
                let (limit, used) = (next(), next());
                Some(MonthStanding { limit: limit?, used: used? })
            });
            Outcome::Renewed { hold: amount(1)?, standing, permits, concurrency, parts }
        }
        SUPERSEDED => Outcome::Superseded,
        FORGOTTEN => Outcome::Forgotten,
        LATE_RENEWAL => Outcome::Late,
        NOT_BEGUN => Outcome::NotBegun,
        PERIOD_CLOSED => Outcome::Closed,
        ACCOUNT_ERASED => Outcome::Erased,
        _ => return Err(unreadable()),
    };
    Ok(Answer { outcome, now: UnixTime::from_millis(number(0)?.unsigned_abs()) })
}

fn read_share(text: &str) -> Option<Concurrency> {
    let (granted, remaining) = text.split_once(' ')?;
    Some(Concurrency { granted: granted.parse().ok()?, remaining: remaining.parse().ok()? })
}

fn read_permits(text: &str) -> Option<Permits> {
    let mut words = text.split(' ').map(str::parse::<u64>);
    let mut next = || words.next()?.ok();
    Some(Permits {
        granted: u32::try_from(next()?).ok()?,
        remaining: u32::try_from(next()?).ok()?,
        next_after: Duration::from_micros(next()?),
        reset_after: Duration::from_micros(next()?),
    })
}

/// A call that amends an account, at about `now` by the ledger's clock.
pub(super) fn amendment(
    how: (&str, &str),
    prefix: &str,
    account: &Account,
    amendment: &Amendment,
    now: UnixTime,
) -> Cmd {
    let keys = |period| Keys::new(prefix, account, period);
    let today = Period::containing(now);
    let of_record = |action: &str| amending(how, &keys(today), &[], action);
    let of_month = |period, action: &str| {
        let keys = keys(period);
        amending(how, &keys, &[&keys.book, &keys.leases], action)
    };
    match amendment {
        Amendment::Grant { id, amount, expires } => {
            let expires = expires.map_or_else(|| NEVER.to_owned(), |at| at.as_millis().to_string());
            let grant = format!("{amount} {amount} {expires}", amount = amount.as_nano_usd());
            of_record("grant").arg(id.as_str()).arg(grant).to_owned()
        }
        Amendment::Seats(seats) => of_record("set").arg(SEATS).arg(seats.get()).to_owned(),
        Amendment::SpendingLimit(Some(limit)) => {
            of_record("set").arg(LIMIT).arg(limit.as_nano_usd()).to_owned()
        }
        Amendment::SpendingLimit(None) => of_record("unset").arg(LIMIT).to_owned(),
        Amendment::Limits { part: None, limits } => match limits.per_day {
            Some(limit) => of_record("set").arg(PER_DAY).arg(limit.as_nano_usd()).to_owned(),
            None => of_record("unset").arg(PER_DAY).to_owned(),
        },
        Amendment::Limits { part: Some(part), limits } => {
            let keys = keys(today);
            let of_parts = |action: &str| amending(how, &keys, &[&keys.parts], action);
            let field = format!("{PART_LIMITS}{part}");
            if limits.is_none() {
                of_parts("unset").arg(field).to_owned()
            } else {
                let word = |limit: Option<Credits>| {
                    limit.map_or_else(|| NOT_SET.to_owned(), |at| at.as_nano_usd().to_string())
                };
                let value = format!("{} {}", word(limits.per_month), word(limits.per_day));
                of_parts("set").arg(field).arg(value).to_owned()
            }
        }
        Amendment::Refund { period, id, refund } => of_month(*period, "refund")
            .arg(period.ends().as_millis())
            .arg(id.as_str())
            .arg(refund.amount.as_nano_usd())
            .arg(refund.reason.as_str())
            .to_owned(),
        Amendment::Close(period) => of_month(*period, "close")
            .arg(period.to_string())
            .arg(period.ends().as_millis())
            .to_owned(),
        Amendment::Erase => {
            let previous = |month: &Period| Some(month.previous());
            let Keys { record, parts: of_account, .. } = keys(today);
            let costs = Bucket::all(now).map(|bucket| Keys::costs_of(&record, bucket));
            let all: Vec<_> = std::iter::successors(Some(today.next().next()), previous)
                .take(STORED_MONTHS)
                .map(keys)
                .flat_map(|Keys { book, leases, holds, claims, month_parts, .. }| {
                    [book, leases, holds, claims, month_parts]
                })
                .chain([of_account])
                .chain(costs)
                .collect();
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            amending(how, &keys(today), &all, "erase")
        }
    }
}

/// A call of `amend.lua` without further arguments.
fn amending(how: (&str, &str), keys: &Keys, further_keys: &[&str], action: &str) -> Cmd {
    let mut call = redis::cmd(how.0);
    call.arg(how.1)
        .arg(2 + further_keys.len())
        .arg(&keys.record)
        .arg(&keys.spent)
        .arg(further_keys)
        .arg(action);
    call
}

/// A call that keeps costs, of which there is at least one, at about `now` by the ledger's clock.
pub(super) fn costs(
    how: (&str, &str),
    record: &str,
    costs: &[RequestCost],
    keep_for: Duration,
    now: UnixTime,
) -> Cmd {
    let mut buckets: BTreeMap<Bucket, Vec<&RequestCost>> = BTreeMap::new();
    for cost in costs {
        buckets.entry(Bucket::of(&cost.id, now)).or_default().push(cost);
    }
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(1 + buckets.len()).arg(record);
    for bucket in buckets.keys() {
        call.arg(Keys::costs_of(record, *bucket));
    }
    call.arg((now + keep_for).as_millis());
    for costs in buckets.values() {
        call.arg(costs.len());
        for RequestCost { id, cost } in costs {
            call.arg(id.to_string()).arg(cost.as_nano_usd());
        }
    }
    call
}

/// Reads the answer to an amendment. Only one with an id can have been made before.
pub(super) fn read_amended(amendment: &Amendment, written: bool) -> bool {
    written
        || matches!(
            amendment,
            Amendment::Seats(_) | Amendment::SpendingLimit(_) | Amendment::Limits { .. }
        )
}

/// A call that claims a threshold.
pub(super) fn claim(how: (&str, &str), keys: &Keys, threshold: &Name, by: LeaseId) -> Cmd {
    let mut call = amending(how, keys, &[&keys.claims], "claim");
    call.arg(threshold.as_str()).arg(by.to_string()).arg(keys.period.ends().as_millis());
    call
}

/// A call that reads what a statement is made of, and with `all` every lease.
pub(super) fn statement(how: (&str, &str), keys: &Keys, all: bool) -> Cmd {
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(6);
    call.arg(&keys.record).arg(&keys.book).arg(&keys.holds);
    call.arg(&keys.parts).arg(&keys.month_parts).arg(&keys.leases);
    call.arg(if all { "all" } else { "sums" });
    call
}

/// The keys and fields of what the list shows of an account: as many as [`SUMMARY_FIELDS`].
pub(super) fn summary(keys: &Keys) -> [(&str, &str); SUMMARY_FIELDS] {
    [
        (&keys.book, schema::TOTAL),
        (&keys.record, schema::CLOSED),
        (&keys.holds, schema::SUM),
        (&keys.leases, schema::SUM),
        (&keys.book, schema::TERMS),
    ]
}

/// The number of values of a [`summary`].
pub(super) const SUMMARY_FIELDS: usize = 5;

/// The name of a usage line in a book.
pub(super) struct LineField<'a>(pub(super) &'a LineKey);

impl fmt::Display for LineField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LineKey::Of { day, model, hardware, feature, subject } => {
                let s = SEPARATOR;
                write!(f, "{day}{s}{model}{s}{hardware}{s}{feature}{s}{subject}")
            }
            LineKey::Late => f.write_str(LATE_LINE),
            LineKey::Other => f.write_str(OTHER_LINE),
        }
    }
}

impl ToRedisArgs for LineField<'_> {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}
