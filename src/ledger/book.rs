//! One account's ledger of one period, as plain data: no I/O, no clock.
//!
//! `redis/account.lua`, `redis/renew.lua` and `redis/amend.lua` are the same functions, step for
//! step, and the two are compared state for state on random histories: change both or neither.

pub(super) mod corrections;
mod parts;
mod renewal;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CLOCK_SKEW, LeaseId, LineKey, MAX_LINES, Refund, Standing, Usage, UsageLine,
    day_credits::DayCredits,
    holds::Holds,
    leases::{Leases, SettledSums},
    parts::Parts,
    record::Record,
    terms_in_force::TermsInForce,
};
use crate::names::RefundId;
use crate::{Credits, Name, Period, clock::UnixTime, ledger::Terms};

/// The interval at which it is noted that unchanged terms were stated again.
pub(super) const NOTE_SAME_TERMS_EVERY: Duration = Duration::from_secs(10);

/// One account's ledger of one period. [`AccountState`](super::AccountState) changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Book {
    pub(super) period: Period,
    /// Debited in all.
    pub(super) used: Credits,
    /// The part of `used` that is paid from purchased credits.
    pub(super) purchased_used: Credits,
    /// The part of `used` that was charged as pay-as-you-go when it was debited.
    pub(super) charged: Credits,
    /// The part of `used` that is in no line, because a failover forgot the batch.
    pub(super) recovered: Credits,
    /// The part of `used` that was refunded.
    pub(super) refunded: Credits,
    /// Settled by leases of this period, here or in another month.
    pub(super) sums: SettledSums,
    /// The terms of the month: the last that a request stated before it ended.
    pub(super) terms: Option<TermsInForce>,
    #[serde(with = "super::stored::lines")]
    pub(super) lines: BTreeMap<LineKey, Usage>,
    pub(super) refunds: BTreeMap<RefundId, Refund>,
    /// Settled here and debited in another month, by that month.
    pub(super) moved_to: BTreeMap<Period, Credits>,
    /// Debited here and settled in another month, by that month: as that month's `moved_to` has it,
    /// unless one of the two was lost or torn.
    pub(super) moved_from: BTreeMap<Period, Credits>,
    pub(super) leases: Leases,
    pub(super) holds: Holds,
    /// The thresholds that were reached, and the lease that reports each to the host.
    pub(super) claims: BTreeMap<Name, LeaseId>,
    /// Parts of the account.
    #[serde(default)]
    pub(super) parts: Parts,
    pub(super) max_lines: usize,
}

impl Book {
    /// Returns an empty book.
    pub const fn new(period: Period) -> Self {
        Self {
            period,
            used: Credits::ZERO,
            purchased_used: Credits::ZERO,
            charged: Credits::ZERO,
            recovered: Credits::ZERO,
            refunded: Credits::ZERO,
            sums: SettledSums { settled: Credits::ZERO, forgotten: Credits::ZERO },
            terms: None,
            lines: BTreeMap::new(),
            refunds: BTreeMap::new(),
            moved_to: BTreeMap::new(),
            moved_from: BTreeMap::new(),
            leases: Leases { entries: BTreeMap::new(), sums: None },
            holds: Holds { entries: BTreeMap::new(), held: Credits::ZERO, next_expiry: None },
            claims: BTreeMap::new(),
            parts: Parts::new(),
            max_lines: MAX_LINES,
        }
    }

    pub(super) fn with_max_lines(self, max_lines: usize) -> Self {
        Self { max_lines, ..self }
    }

    /// The month.
    pub const fn period(&self) -> Period {
        self.period
    }

    /// Debited in this period, refunds not subtracted.
    pub const fn used(&self) -> Credits {
        self.used
    }

    /// On hold by all leases, including holds that expired since the last renewal.
    pub const fn held(&self) -> Credits {
        self.holds.held
    }

    /// The part of `used` that was refunded.
    pub const fn refunded(&self) -> Credits {
        self.refunded
    }

    /// The number of leases that the book remembers.
    pub fn leases(&self) -> usize {
        self.leases.entries.len()
    }

    /// The part of `used` that is in no line, because a failover forgot the batch.
    pub const fn recovered(&self) -> Credits {
        self.recovered
    }

    /// The usage lines.
    pub fn lines(&self) -> impl Iterator<Item = (&LineKey, &Usage)> {
        self.lines.iter()
    }

    /// The cost of all lines and the recovered usage: always [`Book::used`].
    pub fn lines_cost(&self) -> Credits {
        self.lines.values().fold(self.recovered, |sum, usage| sum.saturating_add(usage.cost))
    }

    /// Returns what a lease has settled, and what it has on hold; `None` if it is not remembered.
    #[cfg(test)]
    pub(crate) fn lease(&self, id: LeaseId, now: UnixTime) -> Option<(Credits, Credits)> {
        let mut holds = self.holds.clone();
        holds.release(now);
        self.leases.entries.get(&id).map(|entry| (entry.settled, holds.of(id)))
    }

    /// `true` if nothing was ever settled or put on hold; also if the book was lost.
    pub fn is_empty(&self) -> bool {
        self.terms.is_none() && self.used.is_zero() && self.sums.settled.is_zero()
    }

    /// Returns the account's balance. A month that has ended keeps its own terms; for others
    /// `terms` count, or if they are `None`, those stated last.
    pub fn standing(&self, record: &Record, terms: Option<Terms>, now: UnixTime) -> Standing {
        let stated = terms.map(|terms| (terms, UnixTime::MAX));
        self.standing_by(record, self.terms_in_force(record, stated, now), now)
    }

    /// Returns what is left of the day's included credits, and how many there are each day. Of a
    /// month that has ended it is what its last day left.
    pub(super) fn included_today(
        &self,
        record: &Record,
        terms: Option<Terms>,
        now: UnixTime,
    ) -> (Credits, Credits) {
        let terms = self.terms_in_force(record, terms.map(|terms| (terms, UnixTime::MAX)), now);
        let included = terms.included_per_day();
        (self.day_credits(record, terms, now).left(included), included)
    }

    /// Decides which lease reports to the host that a threshold was reached: the first that claims
    /// it. Returns `true` if that is `by`.
    pub(super) fn claim(&mut self, threshold: Name, by: LeaseId) -> bool {
        *self.claims.entry(threshold).or_insert(by) == by
    }

    /// Brings up to date what statements show, as the next renewal will.
    pub(super) fn refresh(&mut self, record: &mut Record, terms: Option<Terms>, now: UnixTime) {
        self.holds.release(now);
        self.parts.release(now);
        let (was_lost, missing) = (self.is_empty(), self.missing());
        let stated = terms.map(|terms| (terms, UnixTime::MAX));
        let terms = self.terms_in_force(record, stated, now);
        self.store_terms(record, terms, now);
        if (was_lost || !record.is_closed(self.period, now)) && !self.is_early(now) {
            self.repair(record, missing, now);
        }
    }

    /// The month's cost: what was used, less refunds.
    pub(super) fn net(&self) -> Credits {
        self.used.saturating_sub(self.refunded)
    }

    /// The part of the month's cost that is charged as pay-as-you-go: charged so when it was
    /// debited, as far as included credits do not cover it since.
    pub(super) fn pay_as_you_go(&self, record: &Record) -> Credits {
        let included = self.included().saturating_add(record.day_credits(self.period).covered);
        let beyond_prepaid =
            self.net().saturating_sub(self.purchased_used).saturating_sub(included);
        self.charged.min(beyond_prepaid)
    }

    /// Accounted for by the leases and missing in the book: a write was torn, or the book was lost.
    pub(super) fn missing(&self) -> Credits {
        let missing = self.leases.sums.map_or(Credits::ZERO, |leases| {
            let elsewhere = if self.is_empty() { leases.moved } else { Credits::ZERO };
            leases.sums.settled.saturating_sub(self.sums.settled).saturating_sub(elsewhere)
        });
        missing.min(Credits::MAX.saturating_sub(self.used))
    }

    /// Returns the terms that count: of a month that has ended its own, else the newest that were
    /// stated. Terms that are as before are noted at intervals.
    fn terms_in_force(
        &self,
        record: &Record,
        stated: Option<(Terms, UnixTime)>,
        now: UnixTime,
    ) -> TermsInForce {
        let seats = record.seats;
        // Neither a node whose clock is ahead may pin its terms, nor a clock of the ledger that
        // was.
        let now_at = now.whole_seconds();
        let stated = stated.map(|(terms, at)| (terms, at.whole_seconds().min(now_at)));
        let is_old = |known: TermsInForce, terms, at| {
            let before = if known.stated_at > now_at { UnixTime::EPOCH } else { known.stated_at };
            at < before || (terms == known.terms && at < before + NOTE_SAME_TERMS_EVERY)
        };
        match (self.stored_terms(record), stated) {
            (Some(known), _) if now >= self.period.ends() => known,
            (Some(known), Some((terms, at))) if is_old(known, terms, at) => {
                TermsInForce { seats, ..known }
            }
            (Some(known), None) => TermsInForce { seats, ..known },
            (_, Some((terms, stated_at))) => TermsInForce { terms, seats, stated_at },
            (None, None) => {
                TermsInForce { terms: Terms::nothing(), seats, stated_at: UnixTime::EPOCH }
            }
        }
    }

    fn standing_by(&self, record: &Record, terms: TermsInForce, now: UnixTime) -> Standing {
        let max_pay_as_you_go = record.max_pay_as_you_go(terms);
        let included = self.included_so_far(record, terms, now);
        let prepaid = included
            .saturating_add(self.purchased_used)
            .saturating_add(record.purchased_available(self.period, now, now));
        let early = self.is_early(now);
        // Usage of a closed month, or of one that has not begun, is debited in another. No total
        // grows beyond the largest amount.
        let is_full = record.is_closed(self.period, now) || early || self.used == Credits::MAX;
        Standing {
            used: self.net(),
            held: self.holds.held,
            limit: if is_full { self.net() } else { prepaid.saturating_add(max_pay_as_you_go) },
            included,
            limited_by_owner: max_pay_as_you_go < terms.terms.pay_as_you_go,
            early,
            ended: now >= self.period.ends(),
            at: now,
            tightest: None,
        }
    }

    /// `true` if the period has not begun, and does not within a minute.
    fn is_early(&self, now: UnixTime) -> bool {
        now + CLOCK_SKEW < self.period.begins()
    }

    fn included(&self) -> Credits {
        self.terms.map_or(Credits::ZERO, |terms| terms.included())
    }

    /// Returns the terms that are stored, if there are any. The credits of a day are in the record.
    fn stored_terms(&self, record: &Record) -> Option<TermsInForce> {
        let included_per_day = record.day_credits(self.period).each;
        self.terms.map(|stored| TermsInForce {
            terms: Terms { included_per_day, ..stored.terms },
            ..stored
        })
    }

    /// Stores the terms, and a day that has begun if it pays what days before owe: it pays that
    /// once.
    fn store_terms(&mut self, record: &mut Record, terms: TermsInForce, now: UnixTime) {
        let each = terms.terms.included_per_day;
        let (known, begun) =
            (record.day_credits(self.period), self.day_credits(record, terms, now));
        let owed = begun.covered > known.covered;
        let day_credits = DayCredits { each, ..if owed { begun } else { known } };
        record.note_day_credits(self.period, day_credits);
        let month = Terms { included_per_day: Credits::ZERO, ..terms.terms };
        self.terms = Some(TermsInForce { terms: month, ..terms });
    }

    /// Returns the state of the day's credits. What nobody has paid for yet is paid by those of a
    /// new day first.
    pub(super) fn day_credits(
        &self,
        record: &Record,
        terms: TermsInForce,
        now: UnixTime,
    ) -> DayCredits {
        let known = record.day_credits(self.period);
        let day = now.min(self.period.ends() - Duration::from_millis(1)).days();
        let included = terms.included_per_day();
        // A clock that was ahead by more than a little wrote a day that is none.
        if included.is_zero() || day == known.day || day + 1 == known.day {
            return known;
        }
        let paid = terms
            .included()
            .saturating_add(known.covered)
            .saturating_add(self.purchased_used)
            .saturating_add(self.charged);
        let debt = self.net().saturating_sub(paid);
        // Days without usage pay, too.
        let idle = if known.day == 0 { 0 } else { day.saturating_sub(known.day + 1).min(31) };
        let idle = u32::try_from(idle).unwrap_or_default();
        let of_idle = debt.min(included.checked_mul(idle).unwrap_or(Credits::MAX));
        known.begin_day(day, of_idle, debt.saturating_sub(of_idle).min(included))
    }

    /// Included credits of the month, of its days as far as they were used, and of today.
    fn included_so_far(&self, record: &Record, terms: TermsInForce, now: UnixTime) -> Credits {
        let day = self.day_credits(record, terms, now);
        terms
            .included()
            .saturating_add(day.covered)
            .saturating_add(day.left(terms.included_per_day()))
    }

    /// Included credits of the month that are left, and purchased ones whose usage was refunded
    /// since, if the credits of its days paid for `covered`.
    fn included_left(&self, terms: TermsInForce, covered: Credits) -> Credits {
        terms
            .included()
            .saturating_add(covered)
            .saturating_add(self.purchased_used)
            .saturating_sub(self.net())
    }

    /// Debits `cost`: of the day's credits first, then of the month's, then of grants valid at
    /// `grants_valid_at`, then as pay-as-you-go as far as that goes.
    fn debit(
        &mut self,
        record: &mut Record,
        cost: Credits,
        grants_valid_at: UnixTime,
        now: UnixTime,
    ) {
        let terms = self.stored_terms(record).unwrap_or(TermsInForce {
            terms: Terms::nothing(),
            seats: record.seats,
            stated_at: UnixTime::EPOCH,
        });
        let day = self.day_credits(record, terms, now);
        let of_day = cost.min(day.left(terms.included_per_day()));
        let of_month = self.included_left(terms, day.covered);
        let rest = cost.saturating_sub(of_day).saturating_sub(of_month);
        let purchased = rest.min(record.purchased_available(self.period, grants_valid_at, now));
        let chargeable = self
            .terms
            .map_or(Credits::ZERO, |terms| record.max_pay_as_you_go(terms))
            .saturating_sub(self.pay_as_you_go(record));
        let from_grants = record.use_grants(self.period, purchased, grants_valid_at);
        self.purchased_used = self.purchased_used.saturating_add(from_grants);
        self.charged = self.charged.saturating_add(rest.saturating_sub(purchased).min(chargeable));
        self.used = self.used.saturating_add(cost);
        if !cost.is_zero() {
            record.note_day_credits(self.period, day.pay(of_day));
        }
    }

    /// Debits what was missing.
    fn repair(&mut self, record: &mut Record, missing: Credits, now: UnixTime) {
        record.match_purchased_used(self.period, &mut self.purchased_used, now);
        self.sums.settled = self.sums.settled.saturating_add(missing);
        self.debit(record, missing, now, now);
        self.recovered = self.recovered.saturating_add(missing);
    }

    fn add_lines(&mut self, lines: &[UsageLine]) {
        for line in lines {
            let has_room = self.lines.contains_key(&line.key) || self.lines.len() < self.max_lines;
            let key = if has_room { line.key.clone() } else { LineKey::Other };
            self.lines.entry(key).or_default().add(line.usage);
        }
    }
}

/// Faults of the storage, and what tests ask about them.
#[cfg(test)]
impl Book {
    /// The storage loses the book, its leases, its parts or its holds: that is now as in `with`.
    pub(crate) fn lose(&mut self, part: usize, with: Self) {
        match part {
            0 => {
                let Self { leases, holds, claims, parts, .. } = std::mem::replace(self, with);
                (self.leases, self.holds, self.claims) = (leases, holds, claims);
                self.parts = parts;
            }
            1 => self.leases = with.leases,
            2 => self.parts = with.parts,
            _ => self.holds = with.holds,
        }
    }

    /// `true` if the book and the leases agree.
    pub(crate) fn is_whole(&self) -> bool {
        self.leases.sums.is_none_or(|leases| leases.sums == self.sums)
    }
}

#[cfg(test)]
pub(super) mod tests;
