//! A renewal, step by step: read what it reports, bring the book and its leases together, debit,
//! and set the hold.

use std::collections::BTreeMap;

use crate::{
    Credits, Period,
    clock::UnixTime,
    ledger::{
        Answer, Book, LedgerError, LineKey, Outcome, Record, Renewal, SETTLEMENT_WINDOW,
        SURPLUS_DIVISOR, Standing, Usage, UsageLine,
        holds::is_live,
        leases::{Entry, LeaseSums},
        record::Reservation,
        terms_in_force::TermsInForce,
    },
};

/// A renewal, compared with the lease's entry.
struct Report<'a> {
    renewal: &'a Renewal,
    /// The lease's entry; `None` if there is none.
    known: Option<Entry>,
    entry: Entry,
    /// `true` if it is newer than all before. Only then it changes anything.
    is_news: bool,
    /// Settled since the entry.
    delta: Credits,
    /// The lines that are new, and their cost.
    lines: &'a [UsageLine],
    lines_cost: Credits,
}

/// Differences that a renewal found between the book and its leases.
struct Repair {
    /// The sums of the leases, brought up to date.
    lease_sums: LeaseSums,
    /// Missing in this book, and to be debited with the renewal.
    missing: Credits,
    /// Missing in this book, which is closed and was lost: to be debited here, whatever month it
    /// is.
    restored: Credits,
    /// To be debited with the renewal, in addition to its own cost.
    repaired: Credits,
}

impl<'a> Report<'a> {
    /// Refuses lines that cost more than is newly settled.
    fn read(renewal: &'a Renewal, known: Option<Entry>) -> Result<Self, LedgerError> {
        let entry = known.unwrap_or_default();
        let is_news = renewal.seq > entry.seq && !(renewal.forget && known.is_none());
        let (mut delta, mut lines) = (Credits::ZERO, &[][..]);
        if is_news {
            delta = renewal.settled.saturating_sub(entry.settled);
            if renewal.batch > entry.batch {
                lines = &renewal.lines;
            }
        }
        let lines_cost =
            lines.iter().fold(Credits::ZERO, |sum, line| sum.saturating_add(line.usage.cost));
        if lines_cost > delta {
            return Err(LedgerError::Refused(format!(
                "the lines of batch {} cost {lines_cost}, and only {delta} is newly settled: send \
                 lines that cost no more",
                renewal.batch
            )));
        }
        Ok(Self { renewal, known, entry, is_news, delta, lines, lines_cost })
    }

    /// The lease as it is remembered from now on.
    fn new_entry(&self) -> Entry {
        Entry {
            seq: self.renewal.seq,
            batch: self.renewal.batch.max(self.entry.batch),
            settled: self.renewal.settled.max(self.entry.settled),
        }
    }

    /// The outcome of a renewal that is no news, unless it is a repeat, which is answered in full.
    fn old_outcome(&self) -> Option<Outcome> {
        if self.renewal.forget && self.known.is_none() {
            Some(Outcome::Forgotten)
        } else {
            (self.renewal.seq < self.entry.seq).then_some(Outcome::Superseded)
        }
    }
}

impl Book {
    /// Renews a lease. `now` is the ledger's clock and `not_after` the last moment at which the
    /// renewal may act. `current` is the book of the month that it is by that clock, if it is
    /// another one than this: usage of a month that is closed, or has not begun, is debited there.
    /// Without one that is open, a renewal of a closed month is [late](Outcome::Late) by the clock
    /// that its node knows.
    ///
    /// A total that would be larger than [`Credits::MAX`] stays there.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the lines cost more than is newly settled. Nothing changed then.
    pub(crate) fn renew(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        current: Option<&mut Self>,
        not_after: UnixTime,
        now: UnixTime,
    ) -> Result<Answer, LedgerError> {
        let current = match self.debited_in(record, renewal, current, not_after, now) {
            Ok(current) => current,
            Err(outcome) => return Ok(Answer { outcome, now }),
        };
        let closed = record.is_closed(self.period, now);
        let mut report = Report::read(renewal, self.leases.entries.get(&renewal.lease).copied())?;
        let mut repair = self.reconcile(current.as_deref(), closed, now);
        self.holds.release(now);
        if !renewal.parts.is_empty() {
            self.parts.release(now);
        }
        let terms = self.terms_in_force(record, Some((renewal.terms, renewal.terms_at)), now);
        // Usage that was admitted on a grant before it expired may still be debited from it.
        let grants_valid_at = now.saturating_sub(renewal.ttl);
        let cost = report.delta.saturating_sub(self.reported_again(&report, &repair));
        let used = current.as_deref().map_or(self.used, |current| current.used);
        let debited = cost.saturating_add(repair.repaired).min(Credits::MAX.saturating_sub(used));
        if report.lines_cost > debited.saturating_sub(repair.repaired) {
            // They are there already, or there is no room for their cost.
            (report.lines, report.lines_cost) = (&[], Credits::ZERO);
        }
        if report.is_news {
            record.set_spent_aside(grants_valid_at);
        }
        if report.is_news {
            let drawn = debited.saturating_sub(repair.repaired);
            self.count_in_parts(record, renewal, drawn, current.is_none(), now);
        }
        let is_restored = !repair.restored.is_zero();
        if (!closed && (report.is_news || !repair.missing.is_zero())) || is_restored {
            self.store_terms(record, terms, now);
        }
        if current.is_none() {
            self.debit_lines(
                record,
                debited,
                (report.lines, report.lines_cost),
                grants_valid_at,
                now,
            );
        } else if is_restored {
            self.debit_lines(record, repair.restored, (&[], Credits::ZERO), grants_valid_at, now);
        }
        let concurrency = {
            let is_current = now < self.period.ends() && !self.is_early(now);
            record.share(renewal, (report.is_news, is_current), now)
        };
        let outcome = self
            .settle(record, &report, &mut repair.lease_sums, terms, cost, now)
            .unwrap_or_else(|| {
                let standing = self.standing_by(record, terms, now);
                let tightest = self.tightest(record, renewal, standing.available(), now);
                let parts = self.months_of_parts(record, renewal);
                Outcome::Renewed {
                    hold: self.holds.of(renewal.lease),
                    standing: Standing { tightest, ..standing },
                    permits: renewal
                        .permits
                        .map(|request| record.permits(request, report.is_news, now)),
                    concurrency,
                    parts,
                }
            });
        if let Some(current) = current {
            self.note_moved(current, debited);
            if !report.lines.is_empty() || !debited.is_zero() {
                current.debit_late(record, &report, debited, now);
            }
        }
        Ok(Answer { outcome, now })
    }

    /// Decides in which book the renewal is debited: `None` for this one. Returns the outcome of a
    /// renewal that has no effect as an error.
    #[expect(clippy::result_large_err, reason = "it is returned at once, and not from a hot path")]
    fn debited_in<'b>(
        &self,
        record: &Record,
        renewal: &Renewal,
        current: Option<&'b mut Self>,
        not_after: UnixTime,
        now: UnixTime,
    ) -> Result<Option<&'b mut Self>, Outcome> {
        if now > not_after {
            return Err(Outcome::Late);
        }
        if now > self.period.ends() + SETTLEMENT_WINDOW {
            return Err(Outcome::Closed);
        }
        if record.is_erased(now) {
            return Err(Outcome::Erased);
        }
        let (closed, early) = (record.is_closed(self.period, now), self.is_early(now));
        let is_open = |other: &&'b mut Self| {
            !other.is_early(now)
                && now <= other.period.ends() + SETTLEMENT_WINDOW
                && !record.is_closed(other.period, now)
        };
        let current = current.filter(is_open).filter(|_| closed || early);
        let is_known = self.leases.entries.contains_key(&renewal.lease);
        if early && (current.is_none() || (!is_known && renewal.settled.is_zero())) {
            return Err(Outcome::NotBegun);
        }
        if closed && current.is_none() {
            return Err(Outcome::Late);
        }
        Ok(current)
    }

    /// Brings the book and its leases together, and finds what is missing in each.
    fn reconcile(&mut self, current: Option<&Self>, closed: bool, now: UnixTime) -> Repair {
        let was_empty = self.is_empty();
        let (lease_sums, mut missing) = self.sums.reconcile(self.leases.sums, now);
        let (moved_to, moved_from) =
            current.map_or_else(Default::default, |current| self.moved(current));
        // Part of what the leases account for is in another month already. If this book was lost,
        // that is not missing here.
        missing = missing.saturating_sub(if was_empty {
            lease_sums.moved
        } else {
            moved_from.saturating_sub(moved_to)
        });
        let restored =
            if closed && was_empty { std::mem::take(&mut missing) } else { Credits::ZERO };
        let repaired = missing.saturating_add(moved_to.saturating_sub(moved_from));
        Repair { lease_sums, missing, restored, repaired }
    }

    /// The part of what the renewal settles that leases report again because their entries were
    /// lost: it is in the book already.
    fn reported_again(&self, report: &Report<'_>, repair: &Repair) -> Credits {
        let renewal = report.renewal;
        let behind = self.sums.settled.saturating_sub(repair.lease_sums.sums.settled);
        behind
            .min(renewal.reported.min(renewal.settled).saturating_sub(report.entry.settled))
            .min(report.delta)
    }

    /// Debits `cost` here, of which some is in lines.
    fn debit_lines(
        &mut self,
        record: &mut Record,
        cost: Credits,
        (lines, lines_cost): (&[UsageLine], Credits),
        grants_valid_at: UnixTime,
        now: UnixTime,
    ) {
        record.match_purchased_used(self.period, &mut self.purchased_used, grants_valid_at);
        self.add_lines(lines);
        self.debit(record, cost, grants_valid_at, now);
        self.recovered = self.recovered.saturating_add(cost.saturating_sub(lines_cost));
    }

    /// Sets the lease's entry and hold if the renewal is news. Returns the outcome, unless the
    /// renewal is to be answered in full.
    fn settle(
        &mut self,
        record: &mut Record,
        report: &Report<'_>,
        leases: &mut LeaseSums,
        terms: TermsInForce,
        cost: Credits,
        now: UnixTime,
    ) -> Option<Outcome> {
        let mut outcome = report.old_outcome();
        if report.is_news {
            let lease = report.renewal.lease;
            leases.sums.settled = leases.sums.settled.saturating_add(report.delta);
            self.sums.settled = self.sums.settled.saturating_add(cost);
            let entry = report.new_entry();
            let hold = self.set_hold(record, report.renewal, terms, cost, now);
            if report.renewal.forget && hold.is_zero() && report.delta.is_zero() {
                self.leases.entries.remove(&lease);
                let forgotten = leases.sums.forgotten.saturating_add(entry.settled);
                leases.sums.forgotten = forgotten.min(leases.sums.settled);
                self.sums.forgotten = leases.sums.forgotten;
                outcome = Some(Outcome::Forgotten);
            } else {
                self.leases.entries.insert(lease, entry);
            }
        }
        let is_needed = !self.leases.entries.is_empty() || leases.behind_until.is_some();
        self.leases.sums = is_needed.then_some(*leases);
        outcome
    }

    /// Sets the lease's hold to what it keeps by right and what more there is for it.
    fn set_hold(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        terms: TermsInForce,
        cost: Credits,
        now: UnixTime,
    ) -> Credits {
        let before = self.holds.of(renewal.lease);
        let others = self.holds.held.saturating_sub(before);
        let standing = self.standing_by(record, terms, now);
        let kept = renewal.keep.min(before.saturating_sub(cost));
        let available = standing
            .limit
            .saturating_sub(standing.used)
            .saturating_sub(others)
            .saturating_sub(kept)
            .min(self.available_in_parts(record, renewal, kept, now));
        // In another month than the current one, only running requests get more.
        let (need, extra) = if standing.ended || standing.early {
            (Credits::ZERO, Credits::ZERO)
        } else {
            (renewal.need, renewal.extra)
        };
        let wanted =
            renewal.keep.saturating_sub(kept).saturating_add(renewal.refill).saturating_add(need);
        let more = wanted.min(available);
        let max_surplus = available.saturating_sub(more).part(SURPLUS_DIVISOR);
        let hold = kept.saturating_add(more).saturating_add(extra.min(max_surplus));
        let expires = now + renewal.ttl;
        self.holds.set(renewal.lease, hold, expires);
        self.hold_in_parts(renewal, hold, expires);
        self.reserve(record, terms, expires, now);
        hold
    }

    /// Reserves the purchased credits that this period's holds may use, so that another period does
    /// not hold them too.
    fn reserve(&self, record: &mut Record, terms: TermsInForce, until: UnixTime, now: UnixTime) {
        let day = self.day_credits(record, terms, now);
        let included_left = self
            .included_left(terms, day.covered)
            .saturating_add(day.left(terms.included_per_day()));
        let purchased = record.purchased_available(self.period, now, now);
        let amount = self.holds.held.saturating_sub(included_left).min(purchased);
        record.reserved.retain(|period, reservation| {
            *period != self.period && is_live(reservation.until, now)
        });
        if !amount.is_zero() {
            record.reserved.insert(self.period, Reservation { amount, until });
        }
    }

    /// Notes in both books that `debited` goes to another month: first what was missing there, then
    /// more.
    fn note_moved(&mut self, to: &mut Self, debited: Credits) {
        let (moved_to, moved_from) = self.moved(to);
        let known = moved_to.max(moved_from);
        let more = debited.saturating_sub(moved_to.saturating_sub(moved_from));
        let all = known.saturating_add(more);
        if all > moved_to {
            self.moved_to.insert(to.period, all);
        }
        if all > moved_from {
            to.moved_from.insert(self.period, all);
        }
        if let Some(leases) = &mut self.leases.sums {
            leases.moved = leases.moved.saturating_add(all.saturating_sub(known));
        }
    }

    /// Settled here and debited in another month: as this book has it, and as that one does.
    fn moved(&self, to: &Self) -> (Credits, Credits) {
        let of = |months: &BTreeMap<Period, Credits>, month| {
            months.get(&month).copied().unwrap_or_default()
        };
        (of(&self.moved_to, to.period), of(&to.moved_from, self.period))
    }

    /// Debits the cost of a renewal of another month.
    fn debit_late(
        &mut self,
        record: &mut Record,
        report: &Report<'_>,
        cost: Credits,
        now: UnixTime,
    ) {
        let renewal = report.renewal;
        let stated_at = renewal.terms_at.whole_seconds().min(now.whole_seconds());
        let terms = TermsInForce { terms: renewal.terms, seats: record.seats, stated_at };
        if self.terms.is_none() {
            self.store_terms(record, terms, now);
        }
        let mut late = Usage { cost, ..Usage::default() };
        for line in report.lines {
            late.add(Usage { cost: Credits::ZERO, ..line.usage });
        }
        self.lines.entry(LineKey::Late).or_default().add(late);
        let grants_valid_at = now.saturating_sub(renewal.ttl);
        record.match_purchased_used(self.period, &mut self.purchased_used, grants_valid_at);
        self.debit(record, cost, grants_valid_at, now);
    }
}
