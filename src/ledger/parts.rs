//! What the parts of an account used in a month, and what is on hold in them.
//!
//! A lease draws on all parts along its path, and on the account, in one step. A hold of a part
//! expires by itself, as one of the account does. Nothing here is repaired if the storage loses it:
//! the account's own totals are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Book, LeaseId, LimitStanding, PartTerms, Record, Renewal, Span, holds::is_live};
use crate::{Credits, Part, clock::UnixTime};

/// The parts of an account in a month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parts {
    pub(super) totals: BTreeMap<Part, PartTotal>,
    pub(super) holds: BTreeMap<LeaseId, PartHold>,
    /// No hold expires before this moment: they are scanned only from then on.
    pub(super) next_expiry: Option<UnixTime>,
}

/// What a part used in a month, and what is on hold in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartTotal {
    pub(super) used: Credits,
    pub(super) held: Credits,
}

/// A lease's hold in the parts that it draws on. They are always the same for a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartHold {
    pub(super) amount: Credits,
    pub(super) expires: UnixTime,
    pub(super) parts: Vec<Part>,
}

/// What was used on a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DayTotal {
    /// Days since 1970, UTC.
    pub(super) day: u64,
    pub(super) used: Credits,
}

/// A limit that a renewal draws on.
struct Drawn {
    level: usize,
    span: Span,
    limit: Credits,
    used: Credits,
    /// On hold by all leases, this one included.
    held: Credits,
}

impl DayTotal {
    /// What was used on the day of `now`.
    pub(super) fn on(self, now: UnixTime) -> Credits {
        if self.day == now.days() { self.used } else { Credits::ZERO }
    }

    /// Adds what is used on the day of `now`.
    pub(super) fn add(&mut self, more: Credits, now: UnixTime) {
        let used = self.on(now).saturating_add(more);
        *self = Self { day: now.days(), used };
    }
}

impl Parts {
    pub(super) const fn new() -> Self {
        Self { totals: BTreeMap::new(), holds: BTreeMap::new(), next_expiry: None }
    }

    /// `true` if no part was ever used.
    #[cfg(all(test, feature = "redis"))]
    pub(super) fn is_empty(&self) -> bool {
        self.totals.is_empty() && self.holds.is_empty()
    }

    /// Releases the holds that nobody renewed in time, and adds up the others anew.
    pub(super) fn release(&mut self, now: UnixTime) {
        if self.next_expiry.is_none_or(|next| is_live(next, now)) {
            return;
        }
        self.holds.retain(|_, hold| is_live(hold.expires, now));
        self.totals.values_mut().for_each(|total| total.held = Credits::ZERO);
        for hold in self.holds.values() {
            for part in &hold.parts {
                let total = self.totals.entry(part.clone()).or_default();
                total.held = total.held.saturating_add(hold.amount);
            }
        }
        self.next_expiry = self.holds.values().map(|hold| hold.expires).min();
    }

    fn hold_of(&self, lease: LeaseId) -> Credits {
        self.holds.get(&lease).map_or(Credits::ZERO, |hold| hold.amount)
    }

    fn total(&self, part: &Part) -> PartTotal {
        self.totals.get(part).copied().unwrap_or_default()
    }

    /// Sets the hold of a lease in the parts that it draws on.
    fn set_hold(&mut self, renewal: &Renewal, amount: Credits, expires: UnixTime) {
        let before = self.hold_of(renewal.lease);
        for PartTerms { part, .. } in renewal.parts.iter() {
            let total = self.totals.entry(part.clone()).or_default();
            total.held = total.held.saturating_sub(before).saturating_add(amount);
        }
        if amount.is_zero() {
            self.holds.remove(&renewal.lease);
        } else {
            let parts = renewal.parts.iter().map(|terms| terms.part.clone()).collect();
            self.holds.insert(renewal.lease, PartHold { amount, expires, parts });
            self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        }
    }
}

impl Book {
    /// Returns the limits that a renewal draws on: of the account's day, and of each part along the
    /// path its month and its day.
    fn drawn(&self, record: &Record, renewal: &Renewal, now: UnixTime) -> Vec<Drawn> {
        let per_day = record.most_per_day(renewal);
        if renewal.parts.is_empty() && per_day == Credits::MAX {
            return Vec::new();
        }
        let (used, held) = (record.today.on(now), self.holds.held);
        let mut all = vec![Drawn { level: 0, span: Span::Day, limit: per_day, used, held }];
        for (at, PartTerms { part, limits }) in renewal.parts.iter().enumerate() {
            let limits = record.part_limits.get(part).copied().unwrap_or_default().or(*limits);
            let PartTotal { used, held } = self.parts.total(part);
            let today = record.part_days.get(part).copied().unwrap_or_default().on(now);
            for (span, limit, used) in
                [(Span::Month, limits.per_month, used), (Span::Day, limits.per_day, today)]
            {
                let limit = limit.unwrap_or(Credits::MAX);
                all.push(Drawn { level: at + 1, span, limit, used, held });
            }
        }
        all.retain(|drawn| drawn.limit != Credits::MAX);
        all
    }

    /// Returns what a lease may hold more than `kept`, by the limits that it draws on.
    pub(super) fn available_in_parts(
        &self,
        record: &Record,
        renewal: &Renewal,
        kept: Credits,
        now: UnixTime,
    ) -> Credits {
        let own = [self.holds.of(renewal.lease), self.parts.hold_of(renewal.lease)];
        self.drawn(record, renewal, now).into_iter().fold(Credits::MAX, |least, drawn| {
            let own = own[drawn.level.min(1)];
            let others = drawn.held.saturating_sub(own);
            let left = drawn.limit.saturating_sub(drawn.used).saturating_sub(others);
            least.min(left.saturating_sub(kept))
        })
    }

    /// Returns the limit that leaves less than the account does, and the least of all.
    pub(super) fn tightest(
        &self,
        record: &Record,
        renewal: &Renewal,
        available: Credits,
        now: UnixTime,
    ) -> Option<LimitStanding> {
        let mut least = available;
        let mut tightest = None;
        for Drawn { level, span, limit, used, held } in self.drawn(record, renewal, now) {
            let left = limit.saturating_sub(used).saturating_sub(held);
            if left < least {
                least = left;
                let resets_at = match span {
                    Span::Day => now.next_day(),
                    Span::Month => self.period.ends(),
                };
                tightest = Some(LimitStanding { level, span, limit, used, held, resets_at });
            }
        }
        tightest
    }

    /// Counts what a renewal settles in the parts that it draws on. What is debited in another
    /// month counts in the day's totals alone.
    pub(super) fn count_in_parts(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        cost: Credits,
        is_here: bool,
        now: UnixTime,
    ) {
        if cost.is_zero() {
            return;
        }
        if record.most_per_day(renewal) != Credits::MAX {
            record.today.add(cost, now);
        }
        for PartTerms { part, .. } in renewal.parts.iter() {
            record.part_days.entry(part.clone()).or_default().add(cost, now);
            if is_here {
                let total = self.parts.totals.entry(part.clone()).or_default();
                total.used = total.used.saturating_add(cost);
            }
        }
    }

    /// Sets the lease's hold in the parts that it draws on.
    pub(super) fn hold_in_parts(&mut self, renewal: &Renewal, hold: Credits, expires: UnixTime) {
        if !renewal.parts.is_empty() {
            self.parts.set_hold(renewal, hold, expires);
        }
    }
}

impl Record {
    /// The most that the account may use on a day: [`Credits::MAX`] if there is no limit.
    fn most_per_day(&self, renewal: &Renewal) -> Credits {
        [self.per_day, renewal.most_per_day].into_iter().flatten().min().unwrap_or(Credits::MAX)
    }
}
