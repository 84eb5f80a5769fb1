//! What an account keeps across periods: its seats, its owner's limit, purchased credits, and which months are closed.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{book::Agreed, whole_millis};
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
        Self { seats: NonZeroU32::MIN, spending_limit: None, grants: BTreeMap::new(), closed: None, pledges: BTreeMap::new() }
    }
}

impl Record {
    /// Adds purchased credits. Answers `false` where the id is known already: it changed nothing.
    pub fn grant(&mut self, id: Name, amount: Credits, expires: Option<Duration>) -> bool {
        let known = self.grants.contains_key(&id);
        self.grants.entry(id).or_insert(Grant { amount, left: amount, expires: expires.map(whole_millis) });
        !known
    }

    /// The most that may be charged on top: as the terms and the owner say.
    pub(super) fn most_on_top(&self, agreed: Agreed) -> Credits {
        let most = agreed.terms.pay_as_you_go;
        self.spending_limit.map_or(most, |own| own.min(most))
    }

    pub(super) fn is_closed(&self, period: Period) -> bool {
        self.closed.is_some_and(|closed| period <= closed)
    }

    /// What is left of the grants that have not expired by `at`, but for what holds of other periods may draw.
    pub(super) fn purchased(&self, period: Period, at: Duration, now: Duration) -> Credits {
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

    /// Gives up to `amount` of what was drawn back to grants that have not expired, the last to expire first. Answers how much they took.
    pub(super) fn give_back(&mut self, amount: Credits, now: Duration) -> Credits {
        let alive = |grant: &Grant| grant.expires.is_none_or(|expires| expires > now);
        let mut order: Vec<_> = self.grants.iter_mut().filter(|(_, grant)| alive(grant)).collect();
        order.sort_by_key(|(id, grant)| std::cmp::Reverse((grant.expires.unwrap_or(Duration::MAX), (*id).clone())));
        let mut rest = amount;
        for (_, grant) in order {
            let given = rest.min(grant.amount.saturating_sub(grant.left));
            grant.left = grant.left.saturating_add(given);
            rest = rest.saturating_sub(given);
        }
        amount.saturating_sub(rest)
    }

    /// Takes `amount` from the grants that have not expired by `at`, the first to expire first.
    pub(super) fn draw(&mut self, mut amount: Credits, at: Duration) {
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
