//! The ledger's rule as a pure function over plain data: no I/O, no clock.
//!
//! A [`Book`] is one account's ledger of one period, a [`Record`] what the account keeps across periods. `redis/renew.lua` is the same function,
//! line for line, and the two are compared state for state on random histories: change both or neither.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{
    Answer, EARLY, LATE, LeaseId, LedgerError, LineKey, MOST_LINES, Outcome, Renewal, SHARE, Standing, Terms, Usage, UsageLine,
    record::{Pledge, Record},
};
use crate::{Credits, Name, Period};

/// After how long it is noted that the same terms were said again.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// One account's ledger of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    pub(super) period: Period,
    /// All that was settled.
    pub(super) used: Credits,
    /// On hold by all entries.
    pub(super) held: Credits,
    /// No hold expires before this moment: entries are scanned only from then on.
    pub(super) next: Option<Duration>,
    /// What of `used` is paid from purchased credits.
    pub(super) drawn: Credits,
    /// What of `used` was charged on top when it was debited.
    pub(super) charged: Credits,
    /// What of `used` was refunded.
    pub(super) refunded: Credits,
    /// The terms of the month: the last that a request said before it ended.
    pub(super) agreed: Option<Agreed>,
    /// What of `used` stands in no line, because a failover forgot the batch.
    pub(super) recovered: Credits,
    pub(super) lines: BTreeMap<LineKey, Usage>,
    pub(super) entries: BTreeMap<LeaseId, Entry>,
    pub(super) refunds: BTreeMap<Name, Refund>,
    /// Thresholds that were reached, and who says so to the host.
    pub(super) claims: BTreeMap<Name, LeaseId>,
}

/// What an account may use in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) terms: Terms,
    pub(super) seats: NonZeroU32,
    pub(super) said: Duration,
}

impl Agreed {
    /// Included credits, seats counted.
    pub(super) fn included(&self) -> Credits {
        let seats = if self.terms.per_seat { self.seats.get() } else { 1 };
        self.terms.included.checked_mul(seats).unwrap_or(Credits::MAX)
    }
}

/// A correction of what a month cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// How much.
    pub amount: Credits,
    /// Why, for people.
    pub reason: Name,
}

/// What the ledger knows of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) batch: u64,
    pub(super) settled: Credits,
    pub(super) hold: Credits,
    pub(super) expires: Duration,
}

impl Book {
    /// An empty book.
    pub const fn new(period: Period) -> Self {
        Self {
            period,
            used: Credits::ZERO,
            held: Credits::ZERO,
            next: None,
            drawn: Credits::ZERO,
            charged: Credits::ZERO,
            refunded: Credits::ZERO,
            agreed: None,
            recovered: Credits::ZERO,
            lines: BTreeMap::new(),
            entries: BTreeMap::new(),
            refunds: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// All that was settled in this period.
    pub const fn used(&self) -> Credits {
        self.used
    }

    /// On hold by all leases, those that expired since the last renewal included.
    pub const fn held(&self) -> Credits {
        self.held
    }

    /// What of `used` was refunded.
    pub const fn refunded(&self) -> Credits {
        self.refunded
    }

    /// Whether nothing was ever settled or put on hold.
    pub(super) fn is_blank(&self) -> bool {
        self.agreed.is_none() && self.used.is_zero()
    }

    /// How many leases the book remembers.
    pub fn leases(&self) -> usize {
        self.entries.len()
    }

    /// What of `used` stands in no line, because a failover forgot the batch.
    pub const fn recovered(&self) -> Credits {
        self.recovered
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

    /// Renews a lease. `now` is the ledger's clock and `not_after` the last moment at which the renewal may act, both since the Unix epoch in
    /// whole milliseconds. `current` is the book of the month that the ledger's clock says, where that is a later one: what comes late of a closed
    /// month is debited there. Without one that is open, a renewal of a closed month comes too [late](Outcome::Late) by the clock that its node knows.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the lines cost more than what is newly settled, [`LedgerError::TooLarge`] where the total would be more than
    /// [`Credits::MAX`]. Nothing has changed then.
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
        if now + EARLY < self.period.begins() {
            return answer(Outcome::NotBegun);
        }
        if now > self.period.ends() + LATE {
            return answer(Outcome::Closed);
        }
        let closed = record.is_closed(self.period);
        let current = current.filter(|current| closed && !record.is_closed(current.period));
        if closed && current.is_none() {
            return answer(Outcome::Late);
        }

        let known = self.entries.get(&renewal.lease).copied();
        let unknown_goodbye = renewal.forget && known.is_none();
        let entry = known.unwrap_or_default();
        let news = !unknown_goodbye && renewal.seq > entry.seq;
        let (mut delta, mut itemised, mut lines) = (Credits::ZERO, Credits::ZERO, &[][..]);
        if news {
            delta = renewal.settled.saturating_sub(entry.settled);
            if renewal.batch > entry.batch {
                lines = &renewal.lines;
                itemised = lines.iter().fold(Credits::ZERO, |sum, line| sum.saturating_add(line.usage.cost));
            }
            if itemised > delta {
                return Err(LedgerError::Refused("lines cost more than what is newly settled".into()));
            }
            current.as_deref().unwrap_or(self).used.checked_add(delta)?;
        }

        self.release(now);
        if unknown_goodbye {
            return answer(Outcome::Forgotten);
        }
        if renewal.seq < entry.seq {
            return answer(Outcome::Superseded);
        }
        let agreed = self.terms(record, Some((renewal.terms, renewal.said)), now);
        let mut outcome = None;
        if news {
            if !closed {
                self.agreed = Some(agreed);
                self.add_lines(lines);
                // What was admitted on a grant before it expired may still be drawn from it.
                self.debit(record, delta, now.saturating_sub(renewal.ttl), now);
                self.recovered = self.recovered.saturating_add(delta.saturating_sub(itemised));
            }
            let hold = self.hold(record, renewal, agreed, delta, now);
            if renewal.forget && hold.is_zero() && delta.is_zero() {
                self.entries.remove(&renewal.lease);
                outcome = Some(Outcome::Forgotten);
            }
        }
        let hold = self.entries.get(&renewal.lease).map_or(Credits::ZERO, |entry| entry.hold);
        let outcome = outcome.unwrap_or_else(|| Outcome::Renewed { hold, standing: self.standing_by(record, agreed, now) });
        if let Some(current) = current.filter(|_| !lines.is_empty() || !delta.is_zero()) {
            current.add_late(record, renewal, lines, delta, now);
        }
        answer(outcome)
    }

    /// How the account stands. A month that has ended keeps its own terms; the current one has those given, or those it had last.
    pub fn standing(&self, record: &Record, terms: Option<Terms>, now: Duration) -> Standing {
        self.standing_by(record, self.terms(record, terms.map(|terms| (terms, Duration::MAX)), now), now)
    }

    fn standing_by(&self, record: &Record, agreed: Agreed, now: Duration) -> Standing {
        let pay_as_you_go = agreed.terms.pay_as_you_go;
        let on_top = record.most_on_top(agreed);
        let prepaid = agreed.included().saturating_add(self.drawn).saturating_add(record.purchased(self.period, now, now));
        Standing {
            used: self.net(),
            held: self.held,
            // What is settled of a closed month is paid in another.
            limit: if record.is_closed(self.period) { self.net() } else { prepaid.saturating_add(on_top) },
            included: agreed.included(),
            limited_by_owner: on_top < pay_as_you_go,
            ended: now >= self.period.ends(),
        }
    }

    /// The terms that count: of a month that has ended its own, else the newest that were said; those that are as before are noted now and then.
    pub(super) fn terms(&self, record: &Record, given: Option<(Terms, Duration)>, now: Duration) -> Agreed {
        let seats = record.seats;
        match (self.agreed, given) {
            (Some(agreed), _) if now >= self.period.ends() => agreed,
            (Some(agreed), Some((terms, said)))
                if said < agreed.said || (terms == agreed.terms && said < agreed.said.saturating_add(SAID_AGAIN)) =>
            {
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

    /// What of the month's cost is charged on top: what was when it was debited, as far as included credits do not cover it since.
    pub(super) fn on_top(&self) -> Credits {
        self.charged.min(self.net().saturating_sub(self.drawn).saturating_sub(self.included()))
    }

    fn included(&self) -> Credits {
        self.agreed.map_or(Credits::ZERO, |agreed| agreed.included())
    }

    /// Refunds part of what the month cost: of what was charged on top first, then of purchased credits, which go back to grants that have not expired,
    /// then of included ones. Answers `false` where the id is known already: it changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it is of nothing, where the month is closed, or did not cost as much. Nothing has changed then.
    pub fn refund(&mut self, record: &mut Record, id: Name, refund: Refund, now: Duration) -> Result<bool, LedgerError> {
        if self.refunds.contains_key(&id) {
            return Ok(false);
        }
        if record.is_closed(self.period) {
            return Err(LedgerError::Refused(format!("{} is closed: refund in a later month, or grant credits", self.period)));
        }
        let notes = self.refunds.len() + self.claims.len();
        if refund.amount.is_zero() || refund.amount > self.net() || notes >= MOST_LINES {
            let why = "a refund is of some amount, of no more than the month cost, and one of 2 000 at most: grant credits instead";
            return Err(LedgerError::Refused(why.into()));
        }
        let after_top = refund.amount.saturating_sub(self.on_top());
        self.charged = self.charged.saturating_sub(refund.amount);
        self.refunded = self.refunded.saturating_add(refund.amount);
        self.drawn = self.drawn.saturating_sub(record.give_back(after_top.min(self.drawn), now));
        self.refunds.insert(id, refund);
        Ok(true)
    }

    /// Closes the month, and all before: what was used in it stays as it is from now on. Answers `false` where it is closed already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it has not ended. Nothing has changed then.
    pub fn close(&self, record: &mut Record, now: Duration) -> Result<bool, LedgerError> {
        if now < self.period.ends() {
            return Err(LedgerError::Refused(format!("{} has not ended: close it from {}", self.period, self.period.resets_at())));
        }
        if record.is_closed(self.period) {
            return Ok(false);
        }
        record.closed = Some(self.period);
        Ok(true)
    }

    /// Says whether it is for `by` to tell the host that a threshold was reached: for whoever asks first, and again for the same one.
    pub fn claim(&mut self, threshold: Name, by: LeaseId) -> bool {
        *self.claims.entry(threshold).or_insert(by) == by
    }

    /// Brings up to date what statements show: as the next renewal will.
    pub(super) fn refresh(&mut self, record: &Record, terms: Option<Terms>, now: Duration) {
        self.release(now);
        self.agreed = Some(self.terms(record, terms.map(|terms| (terms, Duration::MAX)), now));
    }

    /// Debits what a renewal of a closed month settles.
    fn add_late(&mut self, record: &mut Record, renewal: &Renewal, lines: &[UsageLine], cost: Credits, now: Duration) {
        let fresh = Agreed { terms: renewal.terms, seats: record.seats, said: renewal.said };
        self.agreed.get_or_insert(fresh);
        let mut late = Usage { cost, ..Usage::default() };
        for line in lines {
            late.add(Usage { cost: Credits::ZERO, ..line.usage });
        }
        self.lines.entry(LineKey::Late).or_default().add(late);
        self.debit(record, cost, now.saturating_sub(renewal.ttl), now);
    }

    /// Releases the holds that nobody renewed in time.
    pub(super) fn release(&mut self, now: Duration) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        self.next = None;
        for entry in self.entries.values_mut().filter(|entry| !entry.hold.is_zero()) {
            if entry.expires <= now {
                self.held = self.held.saturating_sub(entry.hold);
                entry.hold = Credits::ZERO;
            } else {
                self.next = Some(self.next.map_or(entry.expires, |next| next.min(entry.expires)));
            }
        }
    }

    fn add_lines(&mut self, lines: &[UsageLine]) {
        for line in lines {
            let room = self.lines.contains_key(&line.key) || self.lines.len() < MOST_LINES;
            let key = if room { line.key.clone() } else { LineKey::Other };
            self.lines.entry(key).or_default().add(line.usage);
        }
    }

    /// Debits: included credits first, then purchased ones that had not expired by `grace`, then pay-as-you-go as far as that goes.
    fn debit(&mut self, record: &mut Record, delta: Credits, grace: Duration, now: Duration) {
        let rest = delta.saturating_sub(self.included_left());
        let drawn = rest.min(record.purchased(self.period, grace, now));
        let room = self.agreed.map_or(Credits::ZERO, |agreed| record.most_on_top(agreed)).saturating_sub(self.on_top());
        record.draw(drawn, grace);
        self.drawn = self.drawn.saturating_add(drawn);
        self.charged = self.charged.saturating_add(rest.saturating_sub(drawn).min(room));
        self.used = self.used.saturating_add(delta);
    }

    fn included_left(&self) -> Credits {
        self.included().saturating_sub(self.net().saturating_sub(self.drawn))
    }

    /// Sets the lease's hold to what it keeps by right and what more there is for it.
    fn hold(&mut self, record: &mut Record, renewal: &Renewal, agreed: Agreed, delta: Credits, now: Duration) -> Credits {
        let entry = self.entries.get(&renewal.lease).copied().unwrap_or_default();
        let others = self.held.saturating_sub(entry.hold);
        let standing = self.standing_by(record, agreed, now);
        let kept = renewal.keep.min(entry.hold.saturating_sub(delta));
        let available = standing.limit.saturating_sub(standing.used).saturating_sub(others).saturating_sub(kept);
        let (need, extra) = if standing.ended { (Credits::ZERO, Credits::ZERO) } else { (renewal.need, renewal.extra) };
        let wanted = renewal.keep.saturating_sub(kept).saturating_add(renewal.refill).saturating_add(need);
        let more = wanted.min(available);
        let share = available.saturating_sub(more).part(SHARE);
        let hold = kept.saturating_add(more).saturating_add(extra.min(share));

        self.held = others.saturating_add(hold);
        let expires = now + renewal.ttl;
        if !hold.is_zero() {
            self.next = Some(self.next.map_or(expires, |next| next.min(expires)));
        }
        let (batch, settled) = (renewal.batch.max(entry.batch), renewal.settled.max(entry.settled));
        self.entries.insert(renewal.lease, Entry { seq: renewal.seq, batch, settled, hold, expires });
        self.pledge(record, expires, now);
        hold
    }

    /// Notes what this period's holds may draw from purchased credits, so that another period does not hold it too.
    fn pledge(&self, record: &mut Record, until: Duration, now: Duration) {
        let amount = self.held.saturating_sub(self.included_left()).min(record.purchased(self.period, now, now));
        record.pledges.retain(|period, pledge| *period != self.period && pledge.until > now);
        if !amount.is_zero() {
            record.pledges.insert(self.period, Pledge { amount, until });
        }
    }
}

#[cfg(test)]
mod tests;
