//! The ledger's rule as a pure function over plain data: no I/O, no clock.
//!
//! A [`Book`] is one account's ledger of one period, a [`Record`] what the account keeps across periods. `redis/renew.lua` is the same function,
//! line for line, and the two are compared state for state on random histories: change both or neither.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{
    Amendment, Answer, EARLY, LATE, LeaseId, LedgerError, LineKey, MOST_LINES, Outcome, Renewal, SHARE, Standing, Terms, Usage,
    whole_millis,
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
        Self { seats: NonZeroU32::MIN, spending_limit: None, grants: BTreeMap::new(), pledges: BTreeMap::new() }
    }
}

impl Record {
    /// Makes a change. Answers `false` for a grant whose id is known already: it changed nothing.
    pub fn amend(&mut self, amendment: Amendment) -> bool {
        match amendment {
            Amendment::Grant { id, amount, expires } => {
                let known = self.grants.contains_key(&id);
                self.grants.entry(id).or_insert(Grant { amount, left: amount, expires: expires.map(whole_millis) });
                return !known;
            }
            Amendment::Seats(seats) => self.seats = seats,
            Amendment::SpendingLimit(limit) => self.spending_limit = limit,
        }
        true
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
    /// What of `used` was paid from purchased credits.
    pub(super) drawn: Credits,
    /// What of `used` stands in no line, because a failover forgot the batch.
    pub(super) recovered: Credits,
    pub(super) lines: BTreeMap<LineKey, Usage>,
    pub(super) entries: BTreeMap<LeaseId, Entry>,
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
            recovered: Credits::ZERO,
            lines: BTreeMap::new(),
            entries: BTreeMap::new(),
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
            self.used.checked_add(delta)?;
        }

        self.release(now);
        if unknown_goodbye {
            return answer(Outcome::Forgotten);
        }
        if renewal.seq < entry.seq {
            return answer(Outcome::Superseded);
        }
        if news {
            if renewal.batch > entry.batch {
                self.add_lines(renewal);
            }
            self.settle(record, renewal, delta, itemised, now);
            let hold = self.hold(record, renewal, delta, now);
            if renewal.forget && hold.is_zero() && delta.is_zero() {
                self.entries.remove(&renewal.lease);
                return answer(Outcome::Forgotten);
            }
        }
        let hold = self.entries.get(&renewal.lease).map_or(Credits::ZERO, |entry| entry.hold);
        answer(Outcome::Renewed { hold, standing: self.standing(record, renewal.terms, now) })
    }

    /// How the account stands.
    pub fn standing(&self, record: &Record, terms: Terms, now: Duration) -> Standing {
        let included = record.included(terms);
        let beyond = record.spending_limit.map_or(terms.pay_as_you_go, |own| own.min(terms.pay_as_you_go));
        let limit = included.saturating_add(self.drawn).saturating_add(record.purchased(self.period, now, now)).saturating_add(beyond);
        Standing {
            used: self.used,
            held: self.held,
            limit,
            included,
            limited_by_owner: beyond < terms.pay_as_you_go,
            ended: now >= self.period.ends(),
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

    /// Debits: included credits first, then purchased ones, then pay-as-you-go.
    fn settle(&mut self, record: &mut Record, renewal: &Renewal, delta: Credits, itemised: Credits, now: Duration) {
        let included_left = record.included(renewal.terms).saturating_sub(self.used.saturating_sub(self.drawn));
        // What was admitted on a grant before it expired may still be drawn from it.
        let grace = now.saturating_sub(renewal.ttl);
        let drawn = delta.saturating_sub(included_left).min(record.purchased(self.period, grace, now));
        record.draw(drawn, grace);
        self.drawn = self.drawn.saturating_add(drawn);
        self.used = self.used.saturating_add(delta);
        self.recovered = self.recovered.saturating_add(delta.saturating_sub(itemised));
    }

    /// Sets the lease's hold to what it keeps by right and what more there is for it.
    fn hold(&mut self, record: &mut Record, renewal: &Renewal, delta: Credits, now: Duration) -> Credits {
        let entry = self.entries.get(&renewal.lease).copied().unwrap_or_default();
        let others = self.held.saturating_sub(entry.hold);
        let standing = self.standing(record, renewal.terms, now);
        let kept = renewal.keep.min(entry.hold.saturating_sub(delta));
        let available = standing.limit.saturating_sub(self.used).saturating_sub(others).saturating_sub(kept);
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
        self.pledge(record, standing.included, expires, now);
        hold
    }

    /// Notes what this period's holds may draw from purchased credits, so that another period does not hold it too.
    fn pledge(&self, record: &mut Record, included: Credits, until: Duration, now: Duration) {
        let included_left = included.saturating_sub(self.used.saturating_sub(self.drawn));
        let amount = self.held.saturating_sub(included_left).min(record.purchased(self.period, now, now));
        record.pledges.retain(|period, pledge| *period != self.period && pledge.until > now);
        if !amount.is_zero() {
            record.pledges.insert(self.period, Pledge { amount, until });
        }
    }
}

#[cfg(test)]
mod tests;
