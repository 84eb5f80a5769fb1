//! The ledger's rule as a pure function over plain data: no I/O, no clock.
//!
//! A [`Book`] is one account's ledger of one period, a [`Record`] what the account keeps across
//! periods. `redis/renew.lua` is the same function, line for line, and the two are compared state
//! for state on random histories: change both or neither.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Answer, EARLY, LATE, LeaseId, LedgerError, LineKey, MAX_LINES, Outcome, Refund, Renewal, SHARE,
    Standing, Usage, UsageLine,
    agreed::Agreed,
    holds::{Holds, is_live},
    leases::{Entry, Leases, Sums},
    record::{Pledge, Record},
};
use crate::{Credits, Name, Period, ledger::Terms};

/// After how long it is noted that the same terms were said again.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// The most refunds of a month.
const MOST_REFUNDS: usize = 2_000;

/// One account's ledger of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    pub(super) period: Period,
    /// All that was debited.
    pub(super) used: Credits,
    /// What of `used` is paid from purchased credits.
    pub(super) drawn: Credits,
    /// What of `used` was charged on top when it was debited.
    pub(super) charged: Credits,
    /// What of `used` stands in no line, because a failover forgot the batch.
    pub(super) recovered: Credits,
    /// What of `used` was refunded.
    pub(super) refunded: Credits,
    /// What the leases settled, here or in another month.
    pub(super) sums: Sums,
    /// The terms of the month: the last that a request said before it ended.
    pub(super) agreed: Option<Agreed>,
    pub(super) lines: BTreeMap<LineKey, Usage>,
    pub(super) refunds: BTreeMap<Name, Refund>,
    /// What was settled here and debited in another month, by that month.
    pub(super) moved_to: BTreeMap<Period, Credits>,
    /// What was debited here and settled in another month, by that month: what that month's
    /// `moved_to` says, unless one of the two was lost or torn.
    pub(super) moved_from: BTreeMap<Period, Credits>,
    pub(super) leases: Leases,
    pub(super) holds: Holds,
    /// Thresholds that were reached, and who says so to the host.
    pub(super) claims: BTreeMap<Name, LeaseId>,
    /// The most lines that are kept apart.
    pub(super) max_lines: usize,
}

impl Book {
    /// An empty book.
    pub const fn new(period: Period) -> Self {
        Self {
            period,
            used: Credits::ZERO,
            drawn: Credits::ZERO,
            charged: Credits::ZERO,
            recovered: Credits::ZERO,
            refunded: Credits::ZERO,
            sums: Sums { settled: Credits::ZERO, forgotten: Credits::ZERO },
            agreed: None,
            lines: BTreeMap::new(),
            refunds: BTreeMap::new(),
            moved_to: BTreeMap::new(),
            moved_from: BTreeMap::new(),
            leases: Leases { entries: BTreeMap::new(), beside: None },
            holds: Holds { entries: BTreeMap::new(), held: Credits::ZERO, next: None },
            claims: BTreeMap::new(),
            max_lines: MAX_LINES,
        }
    }

    /// Keeps so many usage lines apart at most; [`MAX_LINES`] unless it is set.
    #[must_use]
    pub fn with_max_lines(self, max_lines: usize) -> Self {
        Self { max_lines, ..self }
    }

    /// All that was settled in this period.
    pub const fn used(&self) -> Credits {
        self.used
    }

    /// On hold by all leases, those that expired since the last renewal included.
    pub const fn held(&self) -> Credits {
        self.holds.held
    }

    /// What of `used` was refunded.
    pub const fn refunded(&self) -> Credits {
        self.refunded
    }

    /// Says if nothing was ever settled or put on hold; or the book was lost.
    pub(super) fn is_blank(&self) -> bool {
        self.agreed.is_none() && self.used.is_zero() && self.sums.settled.is_zero()
    }

    /// How many leases the book remembers.
    pub fn leases(&self) -> usize {
        self.leases.entries.len()
    }

    /// What of `used` stands in no line, because a failover forgot the batch.
    pub const fn recovered(&self) -> Credits {
        self.recovered
    }

    /// The storage loses the book, its leases or its holds: that part is now what it is in `with`.
    #[cfg(test)]
    pub(crate) fn lose(&mut self, part: usize, with: Self) {
        match part {
            0 => {
                let Self { leases, holds, claims, .. } = std::mem::replace(self, with);
                (self.leases, self.holds, self.claims) = (leases, holds, claims);
            }
            1 => self.leases = with.leases,
            _ => self.holds = with.holds,
        }
    }

    /// Says if the book and the leases agree.
    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.leases.beside.is_none_or(|beside| beside.sums == self.sums)
    }

    /// Its lines.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&LineKey, &Usage)> {
        self.lines.iter()
    }

    /// What the lines and the line of recovered usage add up to: always [`Book::used`].
    pub fn itemised(&self) -> Credits {
        self.lines.values().fold(self.recovered, |sum, usage| sum.saturating_add(usage.cost))
    }

    /// Renews a lease. `now` is the ledger's clock and `not_after` the last moment at which the
    /// renewal may act, both since the Unix epoch in whole milliseconds. `current` is the book of
    /// the month that it is by that clock, where it is another one than this: what is settled of a
    /// month that is closed, or has not begun, is debited there. Without one that is open, a
    /// renewal of a closed month comes too [late](Outcome::Late) by the clock that its node knows.
    ///
    /// A total that would be larger than [`Credits::MAX`] stays there.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the lines cost more than what is newly settled. Nothing has
    /// changed then.
    pub fn renew(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        current: Option<&mut Self>,
        not_after: Duration,
        now: Duration,
    ) -> Result<Answer, LedgerError> {
        let answer = |outcome| Ok(Answer { outcome, now });
        if now > not_after {
            return answer(Outcome::Late);
        }
        if now > self.period.ends() + LATE {
            return answer(Outcome::Closed);
        }
        if record.is_erased(now) {
            return answer(Outcome::Erased);
        }
        let (closed, early) = (record.is_closed(self.period, now), self.is_early(now));
        let open = |other: &&mut Self| {
            !other.is_early(now)
                && now <= other.period.ends() + LATE
                && !record.is_closed(other.period, now)
        };
        let current = current.filter(open).filter(|_| closed || early);
        let known = self.leases.entries.get(&renewal.lease).copied();
        if early && (current.is_none() || (known.is_none() && renewal.settled.is_zero())) {
            return answer(Outcome::NotBegun);
        }
        if closed && current.is_none() {
            return answer(Outcome::Late);
        }

        let unknown_goodbye = renewal.forget && known.is_none();
        let entry = known.unwrap_or_default();
        let news = !unknown_goodbye && renewal.seq > entry.seq;
        let (mut delta, mut itemised, mut lines) = (Credits::ZERO, Credits::ZERO, &[][..]);
        if news {
            delta = renewal.settled.saturating_sub(entry.settled);
            if renewal.batch > entry.batch {
                lines = &renewal.lines;
                itemised = lines
                    .iter()
                    .fold(Credits::ZERO, |sum, line| sum.saturating_add(line.usage.cost));
            }
            if itemised > delta {
                return Err(LedgerError::Refused(
                    "lines cost more than what is newly settled".into(),
                ));
            }
        }

        let was_blank = self.is_blank();
        let was_lost = closed && was_blank;
        let (mut beside, mut lacking) = self.sums.reconcile(self.leases.beside, now);
        let (moved, come) =
            current.as_deref().map_or_else(Default::default, |current| self.moved(current));
        // What the leases account for is in another month already, and what this month moved there
        // is not.
        lacking = lacking.saturating_sub(if was_blank {
            beside.moved
        } else {
            come.saturating_sub(moved)
        });
        let restored = if was_lost { std::mem::take(&mut lacking) } else { Credits::ZERO };
        let healed = lacking.saturating_add(moved.saturating_sub(come));
        self.holds.release(now);
        let agreed = self.terms(record, Some((renewal.terms, renewal.said)), now);
        let superseded = renewal.seq < entry.seq;
        // What was admitted on a grant before it expired may still be drawn from it.
        let grace = now.saturating_sub(renewal.ttl);
        // What leases report again whose entries were lost is in the book already.
        let behind = self.sums.settled.saturating_sub(beside.sums.settled);
        let repeated = behind
            .min(renewal.reported.min(renewal.settled).saturating_sub(entry.settled))
            .min(delta);
        let cost = delta.saturating_sub(repeated);
        let of = current.as_deref().map_or(self.used, |current| current.used);
        let debited = cost.saturating_add(healed).min(Credits::MAX.saturating_sub(of));
        if itemised > debited.saturating_sub(healed) {
            // They are there already, or there is no room for what they cost.
            (lines, itemised) = (&[], Credits::ZERO);
        }
        if news {
            record.put_spent_aside(grace);
        }
        if (!closed && (news || !lacking.is_zero())) || !restored.is_zero() {
            self.agreed = Some(agreed);
        }
        // What is debited here, and what of it stands in lines.
        let (here, lines_here, itemised_here) = match current {
            None => (debited, lines, itemised),
            Some(_) => (restored, &[][..], Credits::ZERO),
        };
        if current.is_none() || !restored.is_zero() {
            record.match_drawn(self.period, &mut self.drawn, grace);
            self.add_lines(lines_here);
            self.debit(record, here, grace, now);
            self.recovered = self.recovered.saturating_add(here.saturating_sub(itemised_here));
        }
        let mut outcome = match (news, unknown_goodbye, superseded) {
            (false, true, _) => Some(Outcome::Forgotten),
            (false, false, true) => Some(Outcome::Superseded),
            _ => None,
        };
        if news {
            beside.sums.settled = beside.sums.settled.saturating_add(delta);
            self.sums.settled = self.sums.settled.saturating_add(cost);
            let (batch, settled) =
                (renewal.batch.max(entry.batch), renewal.settled.max(entry.settled));
            let hold = self.hold(record, renewal, agreed, cost, now);
            if renewal.forget && hold.is_zero() && delta.is_zero() {
                self.leases.entries.remove(&renewal.lease);
                beside.sums.forgotten =
                    beside.sums.forgotten.saturating_add(settled).min(beside.sums.settled);
                self.sums.forgotten = beside.sums.forgotten;
                outcome = Some(Outcome::Forgotten);
            } else {
                self.leases
                    .entries
                    .insert(renewal.lease, Entry { seq: renewal.seq, batch, settled });
            }
        }
        self.leases.beside = Some(beside)
            .filter(|beside| !self.leases.entries.is_empty() || beside.behind_until.is_some());
        let hold = self.holds.of(renewal.lease);
        let outcome = outcome.unwrap_or_else(|| Outcome::Renewed {
            hold,
            standing: self.standing_by(record, agreed, now),
        });
        if let Some(current) = current {
            self.note_moved(current, debited);
            if !lines.is_empty() || !debited.is_zero() {
                current.add_late(record, renewal, lines, debited, now);
            }
        }
        answer(outcome)
    }

    /// Notes in both books that `debited` goes to another month: what was missing there, then more.
    fn note_moved(&mut self, to: &mut Self, debited: Credits) {
        let (moved, come) = self.moved(to);
        let known = moved.max(come);
        let more = debited.saturating_sub(moved.saturating_sub(come));
        let all = known.saturating_add(more);
        if all > moved {
            self.moved_to.insert(to.period, all);
        }
        if all > come {
            to.moved_from.insert(self.period, all);
        }
        if let Some(beside) = &mut self.leases.beside {
            beside.moved = beside.moved.saturating_add(all.saturating_sub(known));
        }
    }

    /// What was settled here and debited in another month: as this book has it, and as that one
    /// does.
    fn moved(&self, to: &Self) -> (Credits, Credits) {
        let of = |months: &BTreeMap<Period, Credits>, month| {
            months.get(&month).copied().unwrap_or_default()
        };
        (of(&self.moved_to, to.period), of(&to.moved_from, self.period))
    }

    /// Says if the period has not begun, and will not within a minute.
    fn is_early(&self, now: Duration) -> bool {
        now + EARLY < self.period.begins()
    }

    /// How the account stands. A month that has ended keeps its own terms; the current one has
    /// those given, or those it had last.
    pub fn standing(&self, record: &Record, terms: Option<Terms>, now: Duration) -> Standing {
        self.standing_by(
            record,
            self.terms(record, terms.map(|terms| (terms, Duration::MAX)), now),
            now,
        )
    }

    fn standing_by(&self, record: &Record, agreed: Agreed, now: Duration) -> Standing {
        let pay_as_you_go = agreed.terms.pay_as_you_go;
        let on_top = record.most_on_top(agreed);
        let prepaid = agreed
            .included()
            .saturating_add(self.drawn)
            .saturating_add(record.purchased(self.period, now, now));
        Standing {
            used: self.net(),
            held: self.holds.held,
            // What is settled of a closed month, or of one that has not begun, is paid in another;
            // and past the largest amount there is nothing.
            limit: if record.is_closed(self.period, now)
                || self.is_early(now)
                || self.used == Credits::MAX
            {
                self.net()
            } else {
                prepaid.saturating_add(on_top)
            },
            included: agreed.included(),
            limited_by_owner: on_top < pay_as_you_go,
            early: self.is_early(now),
            ended: now >= self.period.ends(),
        }
    }

    /// The terms that count: of a month that has ended its own, else the newest that were said;
    /// those that are as before are noted now and then.
    pub(super) fn terms(
        &self,
        record: &Record,
        given: Option<(Terms, Duration)>,
        now: Duration,
    ) -> Agreed {
        let seats = record.seats;
        // A node whose clock is ahead must not pin what it says, nor a clock of the ledger that
        // was.
        let now_said = Duration::from_secs(now.as_secs());
        let given = given.map(|(terms, said)| (terms, said.min(now_said)));
        let is_old = |agreed: Agreed, terms, said| {
            let before = if agreed.said > now_said { Duration::ZERO } else { agreed.said };
            said < before || (terms == agreed.terms && said < before.saturating_add(SAID_AGAIN))
        };
        match (self.agreed, given) {
            (Some(agreed), _) if now >= self.period.ends() => agreed,
            (Some(agreed), Some((terms, said))) if is_old(agreed, terms, said) => {
                Agreed { seats, ..agreed }
            }
            (Some(agreed), None) => Agreed { seats, ..agreed },
            (_, Some((terms, said))) => Agreed { terms, seats, said },
            (_, None) => Agreed { terms: Terms::nothing(), seats, said: Duration::ZERO },
        }
    }

    /// What the month costs: what was used, less what was refunded.
    pub(super) fn net(&self) -> Credits {
        self.used.saturating_sub(self.refunded)
    }

    /// What of the month's cost is charged on top: what was when it was debited, as far as included
    /// credits do not cover it since.
    pub(super) fn on_top(&self) -> Credits {
        self.charged.min(self.net().saturating_sub(self.drawn).saturating_sub(self.included()))
    }

    fn included(&self) -> Credits {
        self.agreed.map_or(Credits::ZERO, |agreed| agreed.included())
    }

    /// Refunds part of what the month cost: of what was charged on top first, then of purchased
    /// credits, which go back to grants that have not expired, then of included ones. Answers
    /// `false` where the id is known already: it changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it is of nothing, where the month is closed, or did not cost
    /// as much. Nothing has changed then.
    pub fn refund(
        &mut self,
        record: &mut Record,
        id: Name,
        refund: Refund,
        now: Duration,
    ) -> Result<bool, LedgerError> {
        if self.refunds.contains_key(&id) {
            return Ok(false);
        }
        if record.is_closed(self.period, now) {
            return Err(LedgerError::Refused(format!(
                "{} is closed: refund in a later month, or grant credits",
                self.period
            )));
        }
        // Of a book that was lost nobody knows the terms, before a request or whoever reads the
        // statement says them.
        let lacking = if self.is_blank() { Credits::ZERO } else { self.lacking() };
        if refund.amount.is_zero()
            || refund.amount > self.net().saturating_add(lacking)
            || self.refunds.len() >= MOST_REFUNDS
        {
            let why = "a refund is of some amount, of no more than the month cost, and one of 2 000 at most: grant credits instead";
            return Err(LedgerError::Refused(why.into()));
        }
        self.heal(record, lacking, now);
        let after_top = refund.amount.saturating_sub(self.on_top());
        self.charged = self.charged.saturating_sub(refund.amount);
        self.refunded = self.refunded.saturating_add(refund.amount);
        self.drawn = self.drawn.saturating_sub(record.give_back(
            self.period,
            after_top.min(self.drawn),
            now,
        ));
        self.refunds.insert(id, refund);
        Ok(true)
    }

    /// Closes the month, and all before: what was used in it stays as it is from now on. Answers
    /// `false` where it is closed already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it has not ended. Nothing has changed then.
    pub fn close(&mut self, record: &mut Record, now: Duration) -> Result<bool, LedgerError> {
        if now < self.period.ends() {
            return Err(LedgerError::Refused(format!(
                "{} has not ended: close it from {}",
                self.period,
                self.period.resets_at()
            )));
        }
        if record.is_closed(self.period, now) {
            return Ok(false);
        }
        if !self.is_blank() {
            self.heal(record, self.lacking(), now);
        }
        record.closed = Some(self.period);
        Ok(true)
    }

    /// Says whether it is for `by` to tell the host that a threshold was reached: for whoever asks
    /// first, and again for the same one.
    pub fn claim(&mut self, threshold: Name, by: LeaseId) -> bool {
        *self.claims.entry(threshold).or_insert(by) == by
    }

    /// Brings up to date what statements show: as the next renewal will.
    pub(super) fn refresh(&mut self, record: &mut Record, terms: Option<Terms>, now: Duration) {
        self.holds.release(now);
        let (was_lost, lacking) = (self.is_blank(), self.lacking());
        self.agreed = Some(self.terms(record, terms.map(|terms| (terms, Duration::MAX)), now));
        if (was_lost || !record.is_closed(self.period, now)) && !self.is_early(now) {
            self.heal(record, lacking, now);
        }
    }

    /// What the leases account for and the book does not: a write was torn, or the book was lost.
    pub(super) fn lacking(&self) -> Credits {
        let lacking = self.leases.beside.map_or(Credits::ZERO, |beside| {
            let elsewhere = if self.is_blank() { beside.moved } else { Credits::ZERO };
            beside.sums.settled.saturating_sub(self.sums.settled).saturating_sub(elsewhere)
        });
        lacking.min(Credits::MAX.saturating_sub(self.used))
    }

    /// Debits what it lacks.
    fn heal(&mut self, record: &mut Record, lacking: Credits, now: Duration) {
        record.match_drawn(self.period, &mut self.drawn, now);
        self.sums.settled = self.sums.settled.saturating_add(lacking);
        self.debit(record, lacking, now, now);
        self.recovered = self.recovered.saturating_add(lacking);
    }

    /// Debits what a renewal of another month settles.
    fn add_late(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        lines: &[UsageLine],
        cost: Credits,
        now: Duration,
    ) {
        let said = renewal.said.min(Duration::from_secs(now.as_secs()));
        let fresh = Agreed { terms: renewal.terms, seats: record.seats, said };
        self.agreed.get_or_insert(fresh);
        let mut late = Usage { cost, ..Usage::default() };
        for line in lines {
            late.add(Usage { cost: Credits::ZERO, ..line.usage });
        }
        self.lines.entry(LineKey::Late).or_default().add(late);
        let grace = now.saturating_sub(renewal.ttl);
        record.match_drawn(self.period, &mut self.drawn, grace);
        self.debit(record, cost, grace, now);
    }

    fn add_lines(&mut self, lines: &[UsageLine]) {
        for line in lines {
            let room = self.lines.contains_key(&line.key) || self.lines.len() < self.max_lines;
            let key = if room { line.key.clone() } else { LineKey::Other };
            self.lines.entry(key).or_default().add(line.usage);
        }
    }

    /// Debits: included credits first, then purchased ones that had not expired by `grace`, then
    /// pay-as-you-go as far as that goes.
    fn debit(&mut self, record: &mut Record, delta: Credits, grace: Duration, now: Duration) {
        let rest = delta.saturating_sub(self.included_left());
        let drawn = rest.min(record.purchased(self.period, grace, now));
        let room = self
            .agreed
            .map_or(Credits::ZERO, |agreed| record.most_on_top(agreed))
            .saturating_sub(self.on_top());
        self.drawn = self.drawn.saturating_add(record.draw(self.period, drawn, grace));
        self.charged = self.charged.saturating_add(rest.saturating_sub(drawn).min(room));
        self.used = self.used.saturating_add(delta);
    }

    /// What is left of the included credits, and of what was drawn for usage that was refunded
    /// since.
    fn included_left(&self) -> Credits {
        self.included().saturating_add(self.drawn).saturating_sub(self.net())
    }

    /// Sets the lease's hold to what it keeps by right and what more there is for it.
    fn hold(
        &mut self,
        record: &mut Record,
        renewal: &Renewal,
        agreed: Agreed,
        cost: Credits,
        now: Duration,
    ) -> Credits {
        let before = self.holds.of(renewal.lease);
        let others = self.holds.held.saturating_sub(before);
        let standing = self.standing_by(record, agreed, now);
        let kept = renewal.keep.min(before.saturating_sub(cost));
        let available = standing
            .limit
            .saturating_sub(standing.used)
            .saturating_sub(others)
            .saturating_sub(kept);
        // Only what runs gets more of a month that it is not.
        let (need, extra) = if standing.ended || standing.early {
            (Credits::ZERO, Credits::ZERO)
        } else {
            (renewal.need, renewal.extra)
        };
        let wanted =
            renewal.keep.saturating_sub(kept).saturating_add(renewal.refill).saturating_add(need);
        let more = wanted.min(available);
        let share = available.saturating_sub(more).part(SHARE);
        let hold = kept.saturating_add(more).saturating_add(extra.min(share));
        let expires = now + renewal.ttl;
        self.holds.set(renewal.lease, hold, expires);
        self.pledge(record, agreed, expires, now);
        hold
    }

    /// Notes what this period's holds may draw from purchased credits, so that another period does
    /// not hold it too.
    fn pledge(&self, record: &mut Record, agreed: Agreed, until: Duration, now: Duration) {
        let included_left = agreed.included().saturating_add(self.drawn).saturating_sub(self.net());
        let amount = self.holds.held.saturating_sub(included_left).min(record.purchased(
            self.period,
            now,
            now,
        ));
        record
            .pledges
            .retain(|period, pledge| *period != self.period && is_live(pledge.until, now));
        if !amount.is_zero() {
            record.pledges.insert(self.period, Pledge { amount, until });
        }
    }
}

#[cfg(test)]
mod tests;
