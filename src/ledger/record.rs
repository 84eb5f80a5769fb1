//! What an account keeps across periods: its seats, its owner's limit, purchased credits, and which
//! months are closed.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{LATE, agreed::Agreed, holds::is_live, whole_millis};
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
    /// Purchased credits that are used up or expired, so that their ids still count once; a refund
    /// may give some of them back.
    pub spent: BTreeMap<Name, Grant>,
    /// The last month that is closed, and with it all before: what comes late of them is settled in
    /// a later one.
    pub closed: Option<Period>,
    /// What holds of a period may yet draw from the grants, and until when those holds can last:
    /// periods overlap at a month's end, and no credit is held twice.
    pub(super) pledges: BTreeMap<Period, Pledge>,
    /// What each period drew from the grants, as its book has it too: where they differ, one of the
    /// two was lost or torn.
    pub(super) drawn: BTreeMap<Period, Credits>,
    /// When the account was erased, since the Unix epoch in whole milliseconds.
    pub(super) erased: Option<Duration>,
}

/// For how many periods is known what they drew.
const MOST_DRAWN: usize = 14;

/// How long an account stays erased: longer than any node may still report of it.
pub(super) const ERASED_FOR: Duration = Duration::from_secs(31 * 24 * 60 * 60).saturating_add(LATE);

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
            spent: BTreeMap::new(),
            closed: None,
            pledges: BTreeMap::new(),
            drawn: BTreeMap::new(),
            erased: None,
        }
    }
}

impl Record {
    /// Adds purchased credits. Answers `false` where the id is known already: it changed nothing.
    pub fn grant(&mut self, id: Name, amount: Credits, expires: Option<Duration>) -> bool {
        if self.grants.contains_key(&id) || self.spent.contains_key(&id) {
            return false;
        }
        self.grants.insert(id, Grant { amount, left: amount, expires: expires.map(whole_millis) });
        true
    }

    /// What is left of an account that was erased at `now`.
    pub(super) fn of_erased(now: Duration) -> Self {
        Self { erased: Some(now), ..Self::default() }
    }

    /// Says if the account was erased, so lately that nodes may still report of it.
    pub fn is_erased(&self, now: Duration) -> bool {
        self.erased.is_some_and(|at| now < at.saturating_add(ERASED_FOR))
    }

    /// The most that may be charged on top: as the terms and the owner say.
    pub(super) fn most_on_top(&self, agreed: Agreed) -> Credits {
        let most = agreed.terms.pay_as_you_go;
        self.spending_limit.map_or(most, |own| own.min(most))
    }

    /// Says if a month is closed. One that has not ended is not, even if it was closed by a clock
    /// that was ahead.
    pub(super) fn is_closed(&self, period: Period, now: Duration) -> bool {
        now >= period.ends() && self.closed.is_some_and(|closed| period <= closed)
    }

    /// What is left of the grants that have not expired by `at`, but for what holds of other
    /// periods may draw.
    pub(super) fn purchased(&self, period: Period, at: Duration, now: Duration) -> Credits {
        let alive = |grant: &&Grant| grant.expires.is_none_or(|expires| expires > at);
        let left = self
            .grants
            .values()
            .filter(alive)
            .fold(Credits::ZERO, |sum, grant| sum.saturating_add(grant.left));
        let others =
            |(other, pledge): &(&Period, &Pledge)| **other != period && is_live(pledge.until, now);
        let pledged = self
            .pledges
            .iter()
            .filter(others)
            .fold(Credits::ZERO, |sum, (_, pledge)| sum.saturating_add(pledge.amount));
        left.saturating_sub(pledged)
    }

    /// What is left of the grants that have not expired, on hold or not.
    pub(super) fn purchased_left(&self, now: Duration) -> Credits {
        let alive =
            self.grants.values().filter(|grant| grant.expires.is_none_or(|expires| expires > now));
        alive.fold(Credits::ZERO, |sum, grant| sum.saturating_add(grant.left))
    }

    /// Gives up to `amount` of what a period drew back to grants that have not expired, the last to
    /// expire first. Answers how much they took.
    pub(super) fn give_back(&mut self, period: Period, amount: Credits, now: Duration) -> Credits {
        let is_alive = |grant: &Grant| grant.expires.is_none_or(|expires| expires > now);
        // One that stands in both was being put aside when something was lost.
        let spent = self.spent.iter().filter(|(id, _)| !self.grants.contains_key(*id));
        let mut order: Vec<_> =
            self.grants.iter().chain(spent).filter(|(_, grant)| is_alive(grant)).collect();
        order.sort_by_key(|(id, grant)| {
            std::cmp::Reverse((grant.expires.unwrap_or(Duration::MAX), *id))
        });
        let mut rest = amount;
        let mut given = Vec::new();
        for (id, grant) in order {
            let taken = rest.min(grant.amount.saturating_sub(grant.left));
            rest = rest.saturating_sub(taken);
            if !taken.is_zero() {
                given
                    .push((id.clone(), Grant { left: grant.left.saturating_add(taken), ..*grant }));
            }
        }
        for (id, grant) in given {
            if self.grants.insert(id.clone(), grant).is_none() {
                self.spent.remove(&id);
            }
        }
        let taken = amount.saturating_sub(rest);
        if !taken.is_zero() {
            let drawn = self.drawn.get(&period).copied().unwrap_or_default();
            self.note_drawn(period, drawn.saturating_sub(taken));
        }
        taken
    }

    /// Takes up to `amount` for a period from the grants that have not expired by `at`, the first
    /// to expire first. Answers how much it got.
    pub(super) fn draw(&mut self, period: Period, amount: Credits, at: Duration) -> Credits {
        if amount.is_zero() {
            return amount;
        }
        let is_alive = |grant: &Grant| {
            grant.expires.is_none_or(|expires| expires > at) && !grant.left.is_zero()
        };
        let mut order: Vec<_> =
            self.grants.iter_mut().filter(|(_, grant)| is_alive(grant)).collect();
        order.sort_by_key(|(id, grant)| (grant.expires.unwrap_or(Duration::MAX), (*id).clone()));
        let mut rest = amount;
        for (_, grant) in order {
            let taken = rest.min(grant.left);
            grant.left = grant.left.saturating_sub(taken);
            rest = rest.saturating_sub(taken);
        }
        let taken = amount.saturating_sub(rest);
        if !taken.is_zero() {
            let drawn = self.drawn.get(&period).copied().unwrap_or_default();
            self.note_drawn(period, drawn.saturating_add(taken));
        }
        taken
    }

    /// Makes the grants and a period's book agree on what was drawn: what either knows was.
    pub(super) fn match_drawn(&mut self, period: Period, drawn: &mut Credits, at: Duration) {
        let noted = self.drawn.get(&period).copied().unwrap_or_default();
        *drawn = noted.max(*drawn);
        self.draw(period, drawn.saturating_sub(noted), at);
    }

    fn note_drawn(&mut self, period: Period, drawn: Credits) {
        self.drawn.insert(period, drawn);
        while self.drawn.len() > MOST_DRAWN {
            self.drawn.pop_first();
        }
    }

    /// Puts aside the grants of which nothing is left to draw by `at`, so that renewals need not
    /// look at them.
    pub(super) fn put_spent_aside(&mut self, at: Duration) {
        let is_spent = |grant: &Grant| {
            grant.left.is_zero() || grant.expires.is_some_and(|expires| expires <= at)
        };
        if self.grants.values().any(is_spent) {
            let (spent, grants) = std::mem::take(&mut self.grants)
                .into_iter()
                .partition(|(_, grant)| is_spent(grant));
            self.grants = grants;
            self.spent.extend::<BTreeMap<_, _>>(spent);
        }
    }
}
