//! The part of an account that outlives its periods: its seats, its owner's limit, purchased
//! credits, and which months are closed.

use std::{cmp::Reverse, collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    AccountRate, Concurrency, LeaseId, LedgerError, PermitRequest, Permits, Renewal,
    SETTLEMENT_WINDOW,
    day_credits::DayCredits,
    holds::is_live,
    parts::DayTotal,
    rates::RateCell,
    shares::{Share, share},
    terms_in_force::TermsInForce,
};
use crate::names::GrantId;
use crate::{Credits, Limits, Part, Period, clock::UnixTime};

/// The number of periods of which is known what they used of purchased credits.
pub(super) const MAX_PURCHASED_USED_PERIODS: usize = 14;

/// The most limits of parts, and counts of what parts used on a day, beside which a limit of
/// another part is set.
pub(super) const MAX_PART_FIELDS: usize = 10_000;

/// The days for which it is stored what a part used on a day: a clock that is ahead for a while
/// must not remove that of the real day.
pub(super) const PART_DAYS: u64 = 31;

/// The reason why no more are set.
pub(super) const TOO_MANY_PARTS: &str =
    "the account has too many parts: take limits of others away, or set one of a larger part";

/// The time that an account stays erased: longer than any node may still report of it. A month has
/// 31 days at most, and is settled for 62 more.
pub(super) const ERASED_FOR: Duration =
    Duration::from_secs(31 * 24 * 60 * 60).saturating_add(SETTLEMENT_WINDOW);

/// The part of an account that outlives its periods. [`AccountState`](super::AccountState) changes
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Record {
    pub(crate) seats: NonZeroU32,
    pub(crate) spending_limit: Option<Credits>,
    /// Grants that are in use.
    pub(super) grants: BTreeMap<GrantId, Grant>,
    /// Grants that are used up or expired, so that their ids still count once. A refund may give
    /// some of the credits back.
    pub(super) spent: BTreeMap<GrantId, Grant>,
    /// The last month that is closed, and with it all before: late usage of them is settled in a
    /// later one.
    pub(super) closed: Option<Period>,
    /// The part of the grants that holds of a period may still use: periods overlap at a month's
    /// end, and no credit is held twice.
    pub(super) reserved: BTreeMap<Period, Reservation>,
    /// Used of the grants by each period, as its book has it too. If the two differ, one was lost
    /// or torn.
    pub(super) purchased_used: BTreeMap<Period, Credits>,
    /// Moment at which the account was erased.
    pub(super) erased: Option<UnixTime>,
    /// The account's own limit for a day.
    #[serde(default)]
    pub(super) per_day: Option<Credits>,
    /// Usage of the account on the day of the last debit. Counted while the day has a limit.
    #[serde(default)]
    pub(super) today: DayTotal,
    /// The limits of parts that were set.
    #[serde(default)]
    pub(super) part_limits: BTreeMap<Part, Limits>,
    /// Usage of each part on the day of its last debit.
    #[serde(default)]
    pub(super) part_days: BTreeMap<Part, DayTotal>,
    /// The last day on which old ones were removed from `part_days`.
    #[serde(default)]
    pub(super) parts_day: u64,
    /// Request rates of the account, as far as they are not unused.
    #[serde(default)]
    pub(super) rates: BTreeMap<AccountRate, RateCell>,
    /// Shares that leases have of the requests that may run at the same time.
    #[serde(default)]
    pub(crate) shares: BTreeMap<LeaseId, Share>,
    /// Credits that are included each day, by month.
    #[serde(default)]
    pub(super) day_credits: BTreeMap<Period, DayCredits>,
}

/// Purchased credits. They are used after the included ones, the first to expire first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Grant {
    /// Purchased.
    pub amount: Credits,
    /// Left of it.
    pub left: Credits,
    /// The moment from which no request is admitted on it; `None` if it does not expire.
    pub expires: Option<UnixTime>,
}

/// Purchased credits that a period's holds may use, and the moment until which those holds last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Reservation {
    pub(super) amount: Credits,
    pub(super) until: UnixTime,
}

impl Grant {
    /// `true` if requests may be admitted on it at `moment`.
    fn is_valid(&self, moment: UnixTime) -> bool {
        self.expires.is_none_or(|expires| expires > moment)
    }

    /// Grants that expire first come first.
    fn order<'a>(&self, id: &'a GrantId) -> (bool, Option<UnixTime>, &'a GrantId) {
        (self.expires.is_none(), self.expires, id)
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            seats: NonZeroU32::MIN,
            spending_limit: None,
            grants: BTreeMap::new(),
            spent: BTreeMap::new(),
            closed: None,
            reserved: BTreeMap::new(),
            purchased_used: BTreeMap::new(),
            erased: None,
            per_day: None,
            today: DayTotal::default(),
            part_limits: BTreeMap::new(),
            part_days: BTreeMap::new(),
            parts_day: 0,
            rates: BTreeMap::new(),
            shares: BTreeMap::new(),
            day_credits: BTreeMap::new(),
        }
    }
}

impl Record {
    /// Seats, for each of which a tier may include credits.
    pub const fn seats(&self) -> NonZeroU32 {
        self.seats
    }

    /// The most that the account's owner will pay beyond included and purchased credits in a
    /// period; `None` if they set no limit.
    pub const fn spending_limit(&self) -> Option<Credits> {
        self.spending_limit
    }

    /// The limits of the account's own day, or of a part, as they were set.
    pub fn limits(&self, part: Option<&Part>) -> Limits {
        match part {
            None => Limits { per_month: None, per_day: self.per_day },
            Some(part) => self.part_limits.get(part).copied().unwrap_or_default(),
        }
    }

    /// The most that the account may use on a day: [`Credits::MAX`] if there is no limit.
    pub(super) fn most_per_day(&self, renewal: &Renewal) -> Credits {
        [self.per_day, renewal.most_per_day].into_iter().flatten().min().unwrap_or(Credits::MAX)
    }

    /// Answers a request for permits, which are granted if it `is_news`.
    pub(super) fn permits(
        &mut self,
        request: PermitRequest,
        is_news: bool,
        now: UnixTime,
    ) -> Permits {
        let micros = now.as_millis() * 1_000;
        let PermitRequest { rate, wanted } = request;
        let mut cell = self.rates.get(&rate).copied().unwrap_or_default();
        if !is_news {
            return rate.take(&mut cell, 0, micros);
        }
        let permits = rate.take(&mut cell, wanted, micros);
        self.rates.insert(rate, cell);
        self.rates.retain(|other, cell| !other.is_over(*cell, micros));
        permits
    }

    /// Answers a renewal's request for a share of the requests that may run at the same time, which
    /// is set if it `is_news`.
    pub(super) fn share(
        &mut self,
        renewal: &Renewal,
        (is_news, is_current): (bool, bool),
        now: UnixTime,
    ) -> Option<Concurrency> {
        let how = (is_news, is_current);
        share(&mut self.shares, renewal.lease, renewal.concurrency, how, now)
    }

    /// Returns the credits that are included each day of a month.
    pub(super) fn day_credits(&self, period: Period) -> DayCredits {
        self.day_credits.get(&period).copied().unwrap_or_default()
    }

    /// Notes the credits that are included each day of a month.
    pub(super) fn note_day_credits(&mut self, period: Period, day_credits: DayCredits) {
        if self.day_credits(period) == day_credits {
            return;
        }
        self.day_credits.insert(period, day_credits);
        while self.day_credits.len() > MAX_PURCHASED_USED_PERIODS {
            self.day_credits.pop_first();
        }
    }

    /// Limits of parts, counts of what parts used on a day, and the day of these.
    fn part_fields(&self) -> usize {
        self.part_limits.len() + self.part_days.len() + usize::from(self.parts_day > 0)
    }

    /// Sets or removes limits.
    pub(crate) fn set_limits(
        &mut self,
        part: Option<Part>,
        limits: Limits,
    ) -> Result<(), LedgerError> {
        if let Some(part) = &part
            && !limits.is_none()
            && !self.part_limits.contains_key(part)
            && self.part_fields() >= MAX_PART_FIELDS
        {
            return Err(LedgerError::Refused(TOO_MANY_PARTS.into()));
        }
        match part {
            None => self.per_day = limits.per_day,
            Some(part) if limits.is_none() => drop(self.part_limits.remove(&part)),
            Some(part) => drop(self.part_limits.insert(part, limits)),
        }
        Ok(())
    }

    /// All grants, those that are used up or expired included.
    pub fn grants(&self) -> impl Iterator<Item = (&GrantId, &Grant)> {
        let spent = self.spent.iter().filter(|(id, _)| !self.grants.contains_key(*id));
        self.grants.iter().chain(spent)
    }

    /// The last month that is closed, and with it all before.
    pub const fn closed(&self) -> Option<Period> {
        self.closed
    }

    /// `true` if the account was erased less than 93 days ago: nodes may still report of it.
    pub fn is_erased(&self, now: UnixTime) -> bool {
        self.erased.is_some_and(|at| now < at + ERASED_FOR)
    }

    /// `true` if a month is closed. A month that has not ended is not closed, even if it was closed
    /// by a clock that was ahead.
    pub fn is_closed(&self, period: Period, now: UnixTime) -> bool {
        now >= period.ends() && self.closed.is_some_and(|closed| period <= closed)
    }

    /// Purchased credits that are left, on hold or not.
    pub fn purchased_left(&self, now: UnixTime) -> Credits {
        self.grants
            .values()
            .filter(|grant| grant.is_valid(now))
            .fold(Credits::ZERO, |sum, grant| sum.saturating_add(grant.left))
    }

    /// The record of an account that was erased at `now`.
    pub(super) fn of_erased(now: UnixTime) -> Self {
        Self { erased: Some(now), ..Self::default() }
    }

    /// Adds purchased credits. Returns `false` if the id is known already: nothing changed.
    pub(crate) fn grant(
        &mut self,
        id: GrantId,
        amount: Credits,
        expires: Option<UnixTime>,
    ) -> bool {
        if self.grants.contains_key(&id) || self.spent.contains_key(&id) {
            return false;
        }
        self.grants.insert(id, Grant { amount, left: amount, expires });
        true
    }

    /// The most that may be charged as pay-as-you-go, by the terms and the owner's limit.
    pub(super) fn max_pay_as_you_go(&self, terms: TermsInForce) -> Credits {
        let max = terms.terms.pay_as_you_go;
        self.spending_limit.map_or(max, |own| own.min(max))
    }

    /// Purchased credits that are left of grants valid at `valid_at`, without those that holds of
    /// other periods may use.
    pub(super) fn purchased_available(
        &self,
        period: Period,
        valid_at: UnixTime,
        now: UnixTime,
    ) -> Credits {
        let reserved = self
            .reserved
            .iter()
            .filter(|(other, reservation)| **other != period && is_live(reservation.until, now))
            .fold(Credits::ZERO, |sum, (_, reservation)| sum.saturating_add(reservation.amount));
        self.purchased_left(valid_at).saturating_sub(reserved)
    }

    /// Uses up to `amount` of the grants valid at `valid_at` for a period, the first to expire
    /// first. Returns how much they had.
    pub(super) fn use_grants(
        &mut self,
        period: Period,
        amount: Credits,
        valid_at: UnixTime,
    ) -> Credits {
        if amount.is_zero() {
            return amount;
        }
        let is_usable = |grant: &Grant| grant.is_valid(valid_at) && !grant.left.is_zero();
        let mut order: Vec<_> =
            self.grants.iter_mut().filter(|(_, grant)| is_usable(grant)).collect();
        order.sort_by(|(id, grant), (other_id, other)| grant.order(id).cmp(&other.order(other_id)));
        let mut rest = amount;
        for (_, grant) in order {
            let taken = rest.min(grant.left);
            grant.left = grant.left.saturating_sub(taken);
            rest = rest.saturating_sub(taken);
        }
        let taken = amount.saturating_sub(rest);
        if !taken.is_zero() {
            self.note_purchased_used(period, self.purchased_used_by(period).saturating_add(taken));
        }
        taken
    }

    /// Gives up to `amount` of what a period used back to valid grants, the last to expire first.
    /// Returns how much they took.
    pub(super) fn give_back(&mut self, period: Period, amount: Credits, now: UnixTime) -> Credits {
        // A grant that is in both maps was being moved when something was lost.
        let mut order: Vec<_> = self.grants().filter(|(_, grant)| grant.is_valid(now)).collect();
        order.sort_by_key(|(id, grant)| Reverse(grant.order(id)));
        let mut rest = amount;
        let mut changed = Vec::new();
        for (id, grant) in order {
            let given = rest.min(grant.amount.saturating_sub(grant.left));
            rest = rest.saturating_sub(given);
            if !given.is_zero() {
                let left = grant.left.saturating_add(given);
                changed.push((id.clone(), Grant { left, ..*grant }));
            }
        }
        for (id, grant) in changed {
            if self.grants.insert(id.clone(), grant).is_none() {
                self.spent.remove(&id);
            }
        }
        let given = amount.saturating_sub(rest);
        if !given.is_zero() {
            self.note_purchased_used(period, self.purchased_used_by(period).saturating_sub(given));
        }
        given
    }

    /// Makes the grants and a period's book agree on what the period used of them: the larger of
    /// the two is right.
    pub(super) fn match_purchased_used(
        &mut self,
        period: Period,
        purchased_used: &mut Credits,
        valid_at: UnixTime,
    ) {
        let noted = self.purchased_used_by(period);
        *purchased_used = noted.max(*purchased_used);
        self.use_grants(period, purchased_used.saturating_sub(noted), valid_at);
    }

    /// Moves the grants of which nothing is left to use at `valid_at` to the spent ones, so that
    /// renewals need not read them.
    pub(super) fn set_spent_aside(&mut self, valid_at: UnixTime) {
        let is_spent = |grant: &Grant| grant.left.is_zero() || !grant.is_valid(valid_at);
        if self.grants.values().any(is_spent) {
            let (spent, grants) = std::mem::take(&mut self.grants)
                .into_iter()
                .partition(|(_, grant)| is_spent(grant));
            self.grants = grants;
            self.spent.extend::<BTreeMap<_, _>>(spent);
        }
    }

    fn purchased_used_by(&self, period: Period) -> Credits {
        self.purchased_used.get(&period).copied().unwrap_or_default()
    }

    fn note_purchased_used(&mut self, period: Period, amount: Credits) {
        self.purchased_used.insert(period, amount);
        while self.purchased_used.len() > MAX_PURCHASED_USED_PERIODS {
            self.purchased_used.pop_first();
        }
    }
}
