//! Reads an account's hashes, as Redis has them.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
};

use super::{
    super::{
        Book, Grant, LeaseId, LedgerError, LineKey, Record, Refund, Terms, Usage,
        day_credits::DayCredits,
        holds::{Hold, Holds},
        leases::{Entry, LeaseSums, Leases, SettledSums},
        parts::{DayTotal, PartHold, PartTotal, Parts},
        rates::RateCell,
        record::Reservation,
        shares::Share,
        terms_in_force::TermsInForce,
    },
    schema::{
        CLAIM, CLOSED, DAY_CREDITS, ERASED, GRANT, Keys, LATE_LINE, LIMIT, MOVED_FROM, MOVED_TO,
        NEVER, NEXT_EXPIRY, NOT_SET, OTHER_LINE, PART_HOLD, PART_LIMITS, PART_TODAY, PART_TOTAL,
        PARTS_DAY, PER_DAY, PURCHASED_USED, RATE, REFUND, RESERVED, SEATS, SEPARATOR, SHARE, SUM,
        TERMS, TODAY, TOTAL, UNLIMITED,
    },
};
use crate::names::GrantId;
use crate::{Credits, Limits, Name, Part, Period, clock::UnixTime};

/// The fields and values of a hash.
pub(super) type Hash = HashMap<String, String>;

/// An account's hashes, and their keys.
pub(super) struct Hashes<'a> {
    pub(super) keys: &'a Keys,
    pub(super) record: Hash,
    pub(super) spent: Hash,
    pub(super) book: Hash,
    pub(super) leases: Hash,
    pub(super) holds: Hash,
    pub(super) claims: Hash,
    pub(super) parts: Hash,
    pub(super) month_parts: Hash,
}

impl Hashes<'_> {
    pub(super) fn record(&self) -> Result<Record, LedgerError> {
        let mut record = Record::default();
        read_fields(&self.keys.record, &self.record, |field, value| {
            read_record_field(&mut record, field, value)
        })?;
        read_fields(&self.keys.spent, &self.spent, |field, value| {
            let (id, grant) = read_grant(field, value)?;
            record.spent.insert(id, grant);
            Some(())
        })?;
        read_fields(&self.keys.parts, &self.parts, |field, value| {
            read_part_of_account(&mut record, field, value)
        })?;
        Ok(record)
    }

    pub(super) fn book(&self) -> Result<Book, LedgerError> {
        let mut book = Book::new(self.keys.period);
        read_fields(&self.keys.book, &self.book, |field, value| {
            read_book_field(&mut book, field, value)
        })?;
        read_fields(&self.keys.leases, &self.leases, |field, value| {
            read_lease(&mut book.leases, field, value)
        })?;
        read_fields(&self.keys.holds, &self.holds, |field, value| {
            read_hold(&mut book.holds, field, value)
        })?;
        read_fields(&self.keys.claims, &self.claims, |field, value| {
            if let Some(threshold) = field.strip_prefix(CLAIM) {
                book.claims.insert(threshold.parse().ok()?, value.parse().ok()?);
            }
            Some(())
        })?;
        read_fields(&self.keys.month_parts, &self.month_parts, |field, value| {
            read_part_of_month(&mut book.parts, field, value)
        })?;
        Ok(book)
    }
}

/// Reads a book's summary: of the values that [`call::summary`](super::call::summary) asks for,
/// those of the book, the holds and the leases.
pub(super) fn read_summary(
    keys: &Keys,
    [total, _, holds, leases, terms]: [Option<&str>; super::call::SUMMARY_FIELDS],
) -> Result<Book, LedgerError> {
    let mut book = Book::new(keys.period);
    for (field, value) in [(TOTAL, total), (TERMS, terms)] {
        read_field(&keys.book, field, value, |value| read_book_field(&mut book, field, value))?;
    }
    read_field(&keys.holds, SUM, holds, |value| read_hold(&mut book.holds, SUM, value))?;
    read_field(&keys.leases, SUM, leases, |value| read_lease(&mut book.leases, SUM, value))?;
    Ok(book)
}

fn read_fields(
    key: &str,
    hash: &Hash,
    mut read: impl FnMut(&str, &str) -> Option<()>,
) -> Result<(), LedgerError> {
    hash.iter().try_for_each(|(field, value)| {
        read_field(key, field, Some(value), |value| read(field, value))
    })
}

fn read_field(
    key: &str,
    field: &str,
    value: Option<&str>,
    read: impl FnOnce(&str) -> Option<()>,
) -> Result<(), LedgerError> {
    let Some(value) = value else { return Ok(()) };
    read(value).ok_or_else(|| {
        LedgerError::Malformed(format!(
            "{key} {field} {value:?}: correct that field, or restore the key"
        ))
    })
}

fn read_record_field(record: &mut Record, field: &str, value: &str) -> Option<()> {
    match field {
        SEATS => record.seats = value.parse::<NonZeroU32>().ok()?,
        LIMIT => record.spending_limit = Some(parse_amount(value)?),
        CLOSED => record.closed = Some(value.parse().ok()?),
        ERASED => record.erased = Some(parse_moment(value)?),
        PER_DAY => record.per_day = Some(parse_amount(value)?),
        TODAY => record.today = read_day(value)?,
        _ => {
            if let Some(rate) = field.strip_prefix(RATE) {
                let [at, used] = words(value)?;
                let cell = RateCell { at: at.parse().ok()?, used: used.parse().ok()? };
                record.rates.insert(rate.parse().ok()?, cell);
            } else if let Some(period) = field.strip_prefix(DAY_CREDITS) {
                let [each, covered, day, today] = words(value)?;
                let day_credits = DayCredits {
                    each: parse_amount(each)?,
                    covered: parse_amount(covered)?,
                    day: day.parse().ok()?,
                    today: parse_amount(today)?,
                };
                record.day_credits.insert(period.parse().ok()?, day_credits);
            } else if let Some(lease) = field.strip_prefix(SHARE) {
                let [count, expires] = words(value)?;
                let share = Share { count: count.parse().ok()?, expires: parse_moment(expires)? };
                record.shares.insert(lease.parse().ok()?, share);
            } else if field.starts_with(GRANT) {
                let (id, grant) = read_grant(field, value)?;
                record.grants.insert(id, grant);
            } else if let Some(period) = field.strip_prefix(RESERVED) {
                let (amount, until) = value.split_once(' ')?;
                let (amount, until) = (parse_amount(amount)?, parse_moment(until)?);
                record.reserved.insert(period.parse().ok()?, Reservation { amount, until });
            } else if let Some(period) = field.strip_prefix(PURCHASED_USED) {
                record.purchased_used.insert(period.parse().ok()?, parse_amount(value)?);
            }
        }
    }
    Some(())
}

fn read_part_of_account(record: &mut Record, field: &str, value: &str) -> Option<()> {
    if let Some(part) = field.strip_prefix(PART_LIMITS) {
        let [per_month, per_day] = words(value)?;
        let limit = |word| if word == NOT_SET { Some(None) } else { parse_amount(word).map(Some) };
        let limits = Limits { per_month: limit(per_month)?, per_day: limit(per_day)? };
        record.part_limits.insert(Part::stored(part), limits);
    } else if let Some(part) = field.strip_prefix(PART_TODAY) {
        record.part_days.insert(Part::stored(part), read_day(value)?);
    } else if field == PARTS_DAY {
        record.parts_day = value.parse().ok()?;
    }
    Some(())
}

fn read_part_of_month(parts: &mut Parts, field: &str, value: &str) -> Option<()> {
    if let Some(part) = field.strip_prefix(PART_TOTAL) {
        let [used, held] = read_numbers(value)?;
        parts.totals.insert(Part::stored(part), PartTotal { used, held });
    } else if let Some(lease) = field.strip_prefix(PART_HOLD) {
        let (amount, rest) = value.split_once(' ')?;
        let (expires, parts_of_lease) = rest.split_once(' ')?;
        let hold = PartHold {
            amount: parse_amount(amount)?,
            expires: parse_moment(expires)?,
            parts: parts_of_lease.split(SEPARATOR).map(Part::stored).collect(),
        };
        parts.holds.insert(lease.parse().ok()?, hold);
    } else if field == NEXT_EXPIRY {
        parts.next_expiry = Some(parse_moment(value)?);
    }
    Some(())
}

fn read_day(value: &str) -> Option<DayTotal> {
    let [day, used] = words(value)?;
    Some(DayTotal { day: day.parse().ok()?, used: parse_amount(used)? })
}

fn read_grant(field: &str, value: &str) -> Option<(GrantId, Grant)> {
    let [amount, left, expires] = words(value)?;
    let expires = if expires == NEVER { None } else { Some(parse_moment(expires)?) };
    let grant = Grant { amount: parse_amount(amount)?, left: parse_amount(left)?, expires };
    Some((field.strip_prefix(GRANT)?.parse().ok()?, grant))
}

fn read_book_field(book: &mut Book, field: &str, value: &str) -> Option<()> {
    match field {
        TOTAL => {
            let [used, purchased_used, charged, recovered, refunded, settled, forgotten, _lines] =
                read_numbers(value)?;
            (book.used, book.purchased_used, book.charged) = (used, purchased_used, charged);
            (book.recovered, book.refunded) = (recovered, refunded);
            book.sums = SettledSums { settled, forgotten };
        }
        TERMS => book.terms = Some(read_terms(value)?),
        MOVED_TO => book.moved_to = read_moved(value)?,
        MOVED_FROM => book.moved_from = read_moved(value)?,
        _ => {
            if let Some(id) = field.strip_prefix(REFUND) {
                let (amount, reason) = value.split_once(' ')?;
                let refund = Refund { amount: parse_amount(amount)?, reason: reason.parse().ok()? };
                book.refunds.insert(id.parse().ok()?, refund);
            } else {
                book.lines.insert(read_line_key(field)?, read_usage(value)?);
            }
        }
    }
    Some(())
}

fn read_terms(terms: &str) -> Option<TermsInForce> {
    let [included, per_seat, pay_as_you_go, seats, stated_at] = words(terms)?;
    let pay_as_you_go =
        if pay_as_you_go == UNLIMITED { Credits::MAX } else { parse_amount(pay_as_you_go)? };
    let per_seat = !parse_amount(per_seat)?.is_zero();
    Some(TermsInForce {
        terms: Terms {
            included: parse_amount(included)?,
            // It is in the record.
            included_per_day: Credits::ZERO,
            per_seat,
            pay_as_you_go,
        },
        seats: seats.parse().ok()?,
        stated_at: UnixTime::from_secs(stated_at.parse().ok()?),
    })
}

fn read_lease(leases: &mut Leases, field: &str, value: &str) -> Option<()> {
    if field == SUM {
        let [settled, forgotten, until, moved] = read_numbers(value)?;
        let behind_until = (!until.is_zero()).then(|| moment(until));
        let sums = SettledSums { settled, forgotten };
        leases.sums = Some(LeaseSums { sums, behind_until, moved });
    } else {
        let [seq, batch, settled] = words(value)?;
        let (seq, batch) = (seq.parse().ok()?, batch.parse().ok()?);
        let entry = Entry { seq, batch, settled: parse_amount(settled)? };
        leases.entries.insert(field.parse::<LeaseId>().ok()?, entry);
    }
    Some(())
}

fn read_hold(holds: &mut Holds, field: &str, value: &str) -> Option<()> {
    let [amount, at] = read_numbers(value)?;
    if field == SUM {
        (holds.held, holds.next_expiry) = (amount, (!at.is_zero()).then(|| moment(at)));
    } else {
        let hold = Hold { amount, expires: moment(at) };
        holds.entries.insert(field.parse::<LeaseId>().ok()?, hold);
    }
    Some(())
}

fn read_moved(value: &str) -> Option<BTreeMap<Period, Credits>> {
    let words: Vec<_> = value.split(' ').collect();
    words
        .chunks(2)
        .map(|pair| match pair {
            [month, amount] => Some((month.parse().ok()?, parse_amount(amount)?)),
            _ => None,
        })
        .collect()
}

fn read_line_key(field: &str) -> Option<LineKey> {
    match field {
        OTHER_LINE => return Some(LineKey::Other),
        LATE_LINE => return Some(LineKey::Late),
        _ => {}
    }
    let [day, model, hardware, feature, subject] =
        field.split(SEPARATOR).collect::<Vec<_>>().try_into().ok()?;
    let name = |text: &str| text.parse::<Name>().ok();
    Some(LineKey::Of {
        day: day.parse().ok()?,
        model: name(model)?,
        hardware: name(hardware)?,
        feature: name(feature)?,
        subject: subject.parse().ok()?,
    })
}

fn read_usage(value: &str) -> Option<Usage> {
    let [requests, micros, cost] = words(value)?;
    Some(Usage {
        requests: requests.parse().ok()?,
        compute_micros: micros.parse().ok()?,
        cost: parse_amount(cost)?,
    })
}

fn words<const COUNT: usize>(text: &str) -> Option<[&str; COUNT]> {
    text.split(' ').collect::<Vec<_>>().try_into().ok()
}

/// Moments in milliseconds, counts and flags are in the range of amounts, as all numbers there.
fn read_numbers<const COUNT: usize>(text: &str) -> Option<[Credits; COUNT]> {
    text.split(' ').map(parse_amount).collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn moment(millis: Credits) -> UnixTime {
    UnixTime::from_millis(millis.as_nano_usd().unsigned_abs())
}

fn parse_amount(text: &str) -> Option<Credits> {
    Credits::from_nano_usd(text.parse().ok()?).ok()
}

fn parse_moment(text: &str) -> Option<UnixTime> {
    text.parse().ok().map(UnixTime::from_millis)
}
