//! The costs of single requests, by their ids: kept for some days, beside the balances, which do
//! not depend on them.
//!
//! In memory and in a file, costs are kept by account and by the day, UTC, on which they came. A
//! day's costs go together, once the last of them has been kept for long enough. In Redis they are
//! kept in smaller buckets (`redis/buckets.rs`).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{Account, Credits, RequestId, clock::UnixTime};

/// The longest time for which costs are kept.
pub(crate) const MAX_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The most ids that are asked for at once.
pub(crate) const MAX_REQUEST_IDS: usize = 10_000;

/// The days of which costs may be there: those of the longest time, today, and the next for a clock
/// that was set back.
#[cfg(any(feature = "redis", feature = "embedded"))]
const KEPT_DAYS: u64 = 9;

/// Cost of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCost {
    /// Name of the request.
    pub id: RequestId,
    /// Cost that was debited; zero for a request that was forgiven.
    pub cost: Credits,
}

/// Returns the days, as numbers since 1970, of which costs may be there: the newest first.
#[cfg(any(feature = "redis", feature = "embedded"))]
pub(super) fn days(now: UnixTime) -> impl Iterator<Item = u64> {
    let last = now.days() + 1;
    (0..=KEPT_DAYS).map_while(move |ago| last.checked_sub(ago))
}

/// Returns the moment at which the costs of today go.
pub(super) fn kept_until(now: UnixTime, keep_for: Duration) -> UnixTime {
    now.next_day() + keep_for
}

/// The costs of one process.
#[derive(Debug, Default)]
pub(super) struct DayCosts(BTreeMap<u64, DayOfCosts>);

#[derive(Debug, Default)]
struct DayOfCosts {
    until: UnixTime,
    accounts: HashMap<Account, HashMap<RequestId, Credits>>,
}

impl DayCosts {
    pub(super) fn keep(
        &mut self,
        account: &Account,
        costs: &[RequestCost],
        keep_for: Duration,
        now: UnixTime,
    ) {
        self.0.retain(|_, day| day.until > now);
        let day = self.0.entry(now.days()).or_default();
        day.until = day.until.max(kept_until(now, keep_for));
        let known = day.accounts.entry(account.clone()).or_default();
        known.extend(costs.iter().map(|RequestCost { id, cost }| (id.clone(), *cost)));
    }

    pub(super) fn find(
        &self,
        account: &Account,
        ids: &[RequestId],
        now: UnixTime,
    ) -> Vec<RequestCost> {
        let days = self.0.values().rev().filter(|day| day.until > now);
        let known: Vec<_> = days.filter_map(|day| day.accounts.get(account)).collect();
        let cost = |id: &RequestId| known.iter().find_map(|known| known.get(id));
        let found = |id: &RequestId| Some(RequestCost { id: id.clone(), cost: *cost(id)? });
        ids.iter().filter_map(found).collect()
    }

    pub(super) fn erase(&mut self, account: &Account) {
        for day in self.0.values_mut() {
            day.accounts.remove(account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Noon of the 100th day.
    fn noon() -> UnixTime {
        UnixTime::EPOCH + DAY * 100 + DAY / 2
    }

    #[test]
    fn costs_go_so_long_after_the_end_of_their_day() {
        let end_of_day = UnixTime::EPOCH + DAY * 101;
        assert_eq!(kept_until(noon(), Duration::ZERO), end_of_day);
        assert_eq!(kept_until(noon(), DAY * 3), end_of_day + DAY * 3);
    }

    #[cfg(any(feature = "redis", feature = "embedded"))]
    #[test]
    fn costs_may_be_of_tomorrow_and_of_all_days_that_are_kept() {
        assert_eq!(days(noon()).collect::<Vec<_>>(), (92..=101).rev().collect::<Vec<_>>());
        assert_eq!(days(UnixTime::EPOCH).collect::<Vec<_>>(), [1, 0]);
        let oldest = noon() - MAX_KEPT_FOR - DAY;
        assert!(days(noon()).any(|day| day == oldest.days()));
    }

    #[test]
    fn days_that_are_over_take_no_memory() {
        let (mut costs, alice) = (DayCosts::default(), Account::user("alice").unwrap());
        let id = RequestId::now();
        let cost = [RequestCost { id: id.clone(), cost: Credits::SMALLEST }];
        costs.keep(&alice, &cost, DAY, noon());
        let gone = kept_until(noon(), DAY);
        let last = gone - Duration::from_millis(1);
        costs.keep(&alice, &[], DAY, last);
        assert_eq!(costs.find(&alice, std::slice::from_ref(&id), last), cost);
        assert_eq!(costs.0.len(), 2);
        costs.keep(&alice, &[], DAY, gone);
        assert_eq!(costs.find(&alice, &[id], last), [], "its day is gone");
        assert_eq!(costs.0.len(), 2);
    }
}
