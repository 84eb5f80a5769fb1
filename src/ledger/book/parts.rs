//! Limits that a renewal draws on besides the account's credits: those of the account's day, and of
//! the parts along a path.

use super::{
    super::{
        LimitStanding, MAX_LEASE_PARTS, MonthStanding, PartTerms, Renewal, Span, parts::PartTotal,
        record::PART_DAYS,
    },
    Book, Record,
};
use crate::{Credits, clock::UnixTime};

/// A limit that a renewal draws on.
struct Drawn {
    level: usize,
    span: Span,
    limit: Credits,
    used: Credits,
    /// On hold by all leases, this one included.
    held: Credits,
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
    pub(in crate::ledger) fn available_in_parts(
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
    pub(in crate::ledger) fn tightest(
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
            let resets_at = match span {
                Span::Day => now.next_day(),
                Span::Month => self.period.ends(),
            };
            // Of two that leave the same, the one that does so for longer.
            let is_longer =
                tightest.is_some_and(|other: LimitStanding| resets_at > other.resets_at);
            if left < least || (left == least && is_longer) {
                least = left;
                tightest = Some(LimitStanding { level, span, limit, used, held, resets_at });
            }
        }
        tightest
    }

    /// Returns the months of the parts that a renewal draws on, as far as they have a limit.
    pub(in crate::ledger) fn months_of_parts(
        &self,
        record: &Record,
        renewal: &Renewal,
    ) -> [Option<MonthStanding>; MAX_LEASE_PARTS] {
        std::array::from_fn(|at| {
            let PartTerms { part, limits } = renewal.parts.get(at)?;
            let limits = record.part_limits.get(part).copied().unwrap_or_default().or(*limits);
            let limit = limits.per_month.filter(|limit| *limit != Credits::MAX)?;
            Some(MonthStanding { limit, used: self.parts.total(part).used })
        })
    }

    /// Counts what a renewal settles in the parts that it draws on. What is debited in another
    /// month counts in the day's totals alone.
    pub(in crate::ledger) fn count_in_parts(
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
        let today = now.days();
        if !renewal.parts.is_empty() && record.parts_day != today {
            // Else those of parts that are used no more would stay for ever.
            record.parts_day = today;
            record.part_days.retain(|_, used| used.day + PART_DAYS >= today);
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
    pub(in crate::ledger) fn hold_in_parts(
        &mut self,
        renewal: &Renewal,
        hold: Credits,
        expires: UnixTime,
    ) {
        if !renewal.parts.is_empty() {
            self.parts.set_hold(renewal, hold, expires);
        }
    }
}
