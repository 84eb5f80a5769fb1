//! The ledger's rule as a pure function over plain data: no I/O, no clock.
//!
//! A [`Book`] is one account's ledger of one period, a [`Record`] what the account keeps across periods. `redis/renew.lua` is the same function,
//! line for line, and the two are compared state for state on random histories: change both or neither.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{
    Answer, EARLY, LATE, LeaseId, LedgerError, LineKey, MOST_LINES, Outcome, Renewal, SHARE, Standing, Terms, Usage, whole_millis,
};
use crate::{Credits, Name, Period};

/// What an account keeps across periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// How many seats it has; a tier may include credits for each.
    pub seats: NonZeroU32,
    /// The most that its owner will pay beyond included and purchased credits in a period.
    pub spending_limit: Option<Credits>,
    /// Purchased credits by id.
    pub grants: BTreeMap<Name, Grant>,
    /// The last month that is closed, and with it all before: what comes late of them is settled in a later one.
    pub closed: Option<Period>,
    /// What was settled late of closed months and stands in no book yet: the next renewal in the current month, or its close, debits it there.
    pub late: Usage,
    /// What holds of a period may yet draw from the grants, and until when those holds can last: periods overlap at a month's end, and no
    /// credit is held twice.
    pub(super) pledges: BTreeMap<Period, Pledge>,
}

/// Purchased credits: used after the included ones, the first to expire first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What was purchased.
    pub amount: Credits,
    /// What is left of it.
    pub left: Credits,
    /// Until when requests are admitted on it, since the Unix epoch, in whole milliseconds.
    pub expires: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pledge {
    pub(super) amount: Credits,
    pub(super) until: Duration,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            seats: NonZeroU32::MIN,
            spending_limit: None,
            grants: BTreeMap::new(),
            closed: None,
            late: Usage::default(),
            pledges: BTreeMap::new(),
        }
    }
}

impl Record {
    /// Adds purchased credits. Answers `false` where the id is known already: it changed nothing.
    pub fn grant(&mut self, id: Name, amount: Credits, expires: Option<Duration>) -> bool {
        let known = self.grants.contains_key(&id);
        self.grants.entry(id).or_insert(Grant { amount, left: amount, expires: expires.map(whole_millis) });
        !known
    }

    pub(super) fn is_closed(&self, period: Period) -> bool {
        self.closed.is_some_and(|closed| period <= closed)
    }

    fn included(&self, terms: Terms) -> Credits {
        let seats = if terms.per_seat { self.seats.get() } else { 1 };
        terms.included.checked_mul(seats).unwrap_or(Credits::MAX)
    }

    /// What is left of the grants that have not expired by `at`, but for what holds of other periods may draw.
    fn purchased(&self, period: Period, at: Duration, now: Duration) -> Credits {
        let alive = |grant: &&Grant| grant.expires.is_none_or(|expires| expires > at);
        let left = self.grants.values().filter(alive).fold(Credits::ZERO, |sum, grant| sum.saturating_add(grant.left));
        let others = |(other, pledge): &(&Period, &Pledge)| **other != period && pledge.until > now;
        let pledged = self.pledges.iter().filter(others).fold(Credits::ZERO, |sum, (_, pledge)| sum.saturating_add(pledge.amount));
        left.saturating_sub(pledged)
    }

    /// What is left of the grants that have not expired, on hold or not.
    pub(super) fn purchased_left(&self, now: Duration) -> Credits {
        let alive = self.grants.values().filter(|grant| grant.expires.is_none_or(|expires| expires > now));
        alive.fold(Credits::ZERO, |sum, grant| sum.saturating_add(grant.left))
    }

    /// Gives `amount` of what was drawn back to the grants that it was drawn from: the last to expire first.
    fn give_back(&mut self, mut amount: Credits) {
        let mut order: Vec<_> = self.grants.iter_mut().collect();
        order.sort_by_key(|(id, grant)| std::cmp::Reverse((grant.expires.unwrap_or(Duration::MAX), (*id).clone())));
        for (_, grant) in order {
            let given = amount.min(grant.amount.saturating_sub(grant.left));
            grant.left = grant.left.saturating_add(given);
            amount = amount.saturating_sub(given);
        }
    }

    /// Takes `amount` from the grants that have not expired by `at`, the first to expire first.
    fn draw(&mut self, mut amount: Credits, at: Duration) {
        let alive = |grant: &Grant| grant.expires.is_none_or(|expires| expires > at) && !grant.left.is_zero();
        let mut order: Vec<_> = self.grants.iter_mut().filter(|(_, grant)| alive(grant)).collect();
        order.sort_by_key(|(id, grant)| (grant.expires.unwrap_or(Duration::MAX), (*id).clone()));
        for (_, grant) in order {
            let taken = amount.min(grant.left);
            grant.left = grant.left.saturating_sub(taken);
            amount = amount.saturating_sub(taken);
        }
    }
}

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
    /// What of `used` was refunded.
    pub(super) refunded: Credits,
    /// The terms of the month: those of its last renewal before it ended.
    pub(super) agreed: Option<Agreed>,
    /// What of `used` stands in no line, because a failover forgot the batch.
    pub(super) recovered: Credits,
    pub(super) lines: BTreeMap<LineKey, Usage>,
    pub(super) entries: BTreeMap<LeaseId, Entry>,
    pub(super) refunds: BTreeMap<Name, Refund>,
    /// Thresholds that were reached, and who says so to the host.
    pub(super) claims: BTreeMap<Name, LeaseId>,
}

/// What an account may use in a month, seats counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) included: Credits,
    pub(super) pay_as_you_go: Credits,
    pub(super) seats: NonZeroU32,
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

    /// What the lines and the line of recovered usage add up to: always [`Book::used`].
    pub fn itemised(&self) -> Credits {
        self.lines.values().fold(self.recovered, |sum, usage| sum.saturating_add(usage.cost))
    }

    /// Renews a lease. `now` is the ledger's clock and `not_after` the last moment at which the renewal may act, both since the Unix epoch in
    /// whole milliseconds.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the lines cost more than what is newly settled, [`LedgerError::TooLarge`] where the total would be more than
    /// [`Credits::MAX`]. Nothing has changed then.
    pub fn renew(&mut self, record: &mut Record, renewal: &Renewal, not_after: Duration, now: Duration) -> Result<Answer, LedgerError> {
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

        let known = self.entries.get(&renewal.lease).copied();
        let unknown_goodbye = renewal.forget && known.is_none();
        let entry = known.unwrap_or_default();
        let news = !unknown_goodbye && renewal.seq > entry.seq;
        let (mut delta, mut itemised) = (Credits::ZERO, Credits::ZERO);
        if news {
            delta = renewal.settled.saturating_sub(entry.settled);
            if renewal.batch > entry.batch {
                itemised = renewal.lines.iter().fold(Credits::ZERO, |sum, line| sum.saturating_add(line.usage.cost));
            }
            if itemised > delta {
                return Err(LedgerError::Refused("lines cost more than what is newly settled".into()));
            }
            if record.is_closed(self.period) {
                record.late.cost.checked_add(delta)?;
            } else {
                self.used.checked_add(delta)?.checked_add(self.late(record, now).cost)?;
            }
        }

        self.release(now);
        if unknown_goodbye {
            return answer(Outcome::Forgotten);
        }
        if renewal.seq < entry.seq {
            return answer(Outcome::Superseded);
        }
        if news {
            self.agreed = Some(self.terms(record, Some(renewal.terms), now));
            self.settle(record, renewal, entry.batch, delta, itemised, now);
            let hold = self.hold(record, renewal, delta, now);
            if renewal.forget && hold.is_zero() && delta.is_zero() {
                self.entries.remove(&renewal.lease);
                return answer(Outcome::Forgotten);
            }
        }
        let hold = self.entries.get(&renewal.lease).map_or(Credits::ZERO, |entry| entry.hold);
        answer(Outcome::Renewed { hold, standing: self.standing(record, Some(renewal.terms), now) })
    }

    /// How the account stands. A month that has ended keeps its own terms; the current one has those given, or those it had last.
    pub fn standing(&self, record: &Record, terms: Option<Terms>, now: Duration) -> Standing {
        let Agreed { included, pay_as_you_go, .. } = self.terms(record, terms, now);
        let beyond = record.spending_limit.map_or(pay_as_you_go, |own| own.min(pay_as_you_go));
        let limit = included.saturating_add(self.drawn).saturating_add(record.purchased(self.period, now, now)).saturating_add(beyond);
        Standing {
            used: self.net(),
            held: self.held,
            limit,
            included,
            limited_by_owner: beyond < pay_as_you_go,
            ended: now >= self.period.ends(),
        }
    }

    pub(super) fn terms(&self, record: &Record, terms: Option<Terms>, now: Duration) -> Agreed {
        let given = terms.filter(|_| now < self.period.ends() || self.agreed.is_none());
        let now = given.map(|terms| Agreed { included: record.included(terms), pay_as_you_go: terms.pay_as_you_go, seats: record.seats });
        now.or(self.agreed).unwrap_or(Agreed { included: Credits::ZERO, pay_as_you_go: Credits::ZERO, seats: record.seats })
    }

    /// What the month costs: what was used, less what was refunded.
    pub(super) fn net(&self) -> Credits {
        self.used.saturating_sub(self.refunded)
    }

    /// Refunds part of what the month cost: of pay-as-you-go first, then of purchased credits, which go back to where they were drawn from, then of
    /// included ones. Answers `false` where the id is known already: it changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the month is closed, or did not cost as much. Nothing has changed then.
    pub fn refund(&mut self, record: &mut Record, id: Name, refund: Refund) -> Result<bool, LedgerError> {
        if self.refunds.contains_key(&id) {
            return Ok(false);
        }
        if record.is_closed(self.period) {
            return Err(LedgerError::Refused(format!("{} is closed: refund in a later month, or grant credits", self.period)));
        }
        if refund.amount > self.net() || self.refunds.len() >= MOST_LINES {
            return Err(LedgerError::Refused(
                "the month did not cost as much as is to be refunded, or has 2 000 refunds: grant credits".into(),
            ));
        }
        self.refunded = self.refunded.saturating_add(refund.amount);
        let included = self.agreed.map_or(Credits::ZERO, |agreed| agreed.included);
        let returned = self.drawn.saturating_sub(self.net().saturating_sub(included));
        record.give_back(returned);
        self.drawn = self.drawn.saturating_sub(returned);
        self.refunds.insert(id, refund);
        Ok(true)
    }

    /// Closes the month, and all before: its statement stays as it is from now on. Answers `false` where it is closed already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it has not ended. Nothing has changed then.
    pub fn close(&mut self, record: &mut Record, now: Duration) -> Result<bool, LedgerError> {
        if now < self.period.ends() {
            return Err(LedgerError::Refused(format!("{} has not ended: close it from {}", self.period, self.period.resets_at())));
        }
        if record.is_closed(self.period) {
            return Ok(false);
        }
        self.used.checked_add(record.late.cost)?;
        self.add_late(record, now, now);
        record.closed = Some(self.period);
        Ok(true)
    }

    /// Says whether it is for `by` to tell the host that a threshold was reached: for whoever asks first, and again for the same one.
    pub fn claim(&mut self, threshold: Name, by: LeaseId) -> bool {
        *self.claims.entry(threshold).or_insert(by) == by
    }

    /// What of closed months is to be debited here.
    fn late(&self, record: &Record, now: Duration) -> Usage {
        if (self.period.begins()..self.period.ends()).contains(&now) { record.late } else { Usage::default() }
    }

    /// Brings up to date what statements show: as the next renewal will.
    pub(super) fn refresh(&mut self, record: &mut Record, terms: Option<Terms>, now: Duration) {
        self.release(now);
        self.agreed = Some(self.terms(record, terms, now));
        let late = self.late(record, now);
        if late != Usage::default() && self.used.checked_add(late.cost).is_ok() {
            self.add_late(record, now, now);
        }
    }

    fn add_late(&mut self, record: &mut Record, grace: Duration, now: Duration) {
        let late = std::mem::take(&mut record.late);
        if late != Usage::default() {
            self.lines.entry(LineKey::Late).or_default().add(late);
            self.debit(record, late.cost, grace, now);
        }
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

    fn add_lines(&mut self, renewal: &Renewal) {
        for line in renewal.lines.iter() {
            let room = self.lines.contains_key(&line.key) || self.lines.len() < MOST_LINES;
            let key = if room { line.key.clone() } else { LineKey::Other };
            self.lines.entry(key).or_default().add(line.usage);
        }
    }

    /// Debits what is newly settled, here or, where the month is closed, in a later one.
    fn settle(&mut self, record: &mut Record, renewal: &Renewal, batch: u64, delta: Credits, itemised: Credits, now: Duration) {
        let lines = if renewal.batch > batch { &*renewal.lines } else { &[] };
        if record.is_closed(self.period) {
            let unpriced = lines.iter().map(|line| Usage { cost: Credits::ZERO, ..line.usage });
            unpriced.for_each(|usage| record.late.add(usage));
            record.late.cost = record.late.cost.saturating_add(delta);
            return;
        }
        if !lines.is_empty() {
            self.add_lines(renewal);
        }
        // What was admitted on a grant before it expired may still be drawn from it.
        let grace = now.saturating_sub(renewal.ttl);
        if self.late(record, now) != Usage::default() {
            self.add_late(record, grace, now);
        }
        self.debit(record, delta, grace, now);
        self.recovered = self.recovered.saturating_add(delta.saturating_sub(itemised));
    }

    /// Debits: included credits first, then purchased ones that had not expired by `grace`, then pay-as-you-go.
    fn debit(&mut self, record: &mut Record, delta: Credits, grace: Duration, now: Duration) {
        let drawn = delta.saturating_sub(self.included_left()).min(record.purchased(self.period, grace, now));
        record.draw(drawn, grace);
        self.drawn = self.drawn.saturating_add(drawn);
        self.used = self.used.saturating_add(delta);
    }

    fn included_left(&self) -> Credits {
        let included = self.agreed.map_or(Credits::ZERO, |agreed| agreed.included);
        included.saturating_sub(self.net().saturating_sub(self.drawn))
    }

    /// Sets the lease's hold to what it keeps by right and what more there is for it.
    fn hold(&mut self, record: &mut Record, renewal: &Renewal, delta: Credits, now: Duration) -> Credits {
        let entry = self.entries.get(&renewal.lease).copied().unwrap_or_default();
        let others = self.held.saturating_sub(entry.hold);
        let standing = self.standing(record, Some(renewal.terms), now);
        let kept = renewal.keep.min(entry.hold.saturating_sub(delta));
        let free = standing.limit.saturating_sub(standing.used).saturating_sub(others).saturating_sub(kept);
        // What is settled of a closed month is paid in another.
        let available = if record.is_closed(self.period) { Credits::ZERO } else { free };
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
