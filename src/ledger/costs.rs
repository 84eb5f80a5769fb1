//! The costs of single requests, by their ids: kept for some days, beside the balances, which do
//! not depend on them.
//!
//! In memory and in a file, costs are kept by account and by the day, UTC, on which they came. A
//! day's costs go together, once the last of them has been kept for long enough. In Redis they are
//! kept in smaller [`Bucket`]s, because a key goes at once: one with a day's costs would keep the
//! server busy for too long.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use crate::{Account, Credits, RequestId, clock::UnixTime};

/// The longest time for which costs are kept.
pub(crate) const MAX_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The most ids that are asked for at once.
pub(crate) const MAX_REQUEST_IDS: usize = 10_000;

/// The days of which costs may be there: those of the longest time, today, and the next for a clock
/// that was set back.
pub(super) const KEPT_DAYS: u64 = 9;

/// Cost of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCost {
    /// Name of the request.
    pub id: RequestId,
    /// Cost that was debited; zero for a request that was forgiven.
    pub cost: Credits,
}

/// Returns the days, as numbers since 1970, of which costs may be there: the newest first.
pub(super) fn days(now: UnixTime) -> impl Iterator<Item = u64> {
    let last = now.days() + 1;
    (0..=KEPT_DAYS).map_while(move |ago| last.checked_sub(ago))
}

/// Returns the moment at which the costs of today go.
pub(super) fn kept_until(now: UnixTime, keep_for: Duration) -> UnixTime {
    now.next_day() + keep_for
}

/// The time whose costs are in one bucket.
const BUCKET: Duration = Duration::from_secs(5 * 60);

/// The buckets of a day in which ids are that do not say when they were made.
const GIVEN_BUCKETS: u64 = 16;

/// The costs of a key in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    /// Of ids that were made in this time, counted from 1970.
    Made(u64),
    /// Of other ids: the day on which they came, and a number by their hash.
    Given(u64, u64),
}

impl Bucket {
    /// Returns the bucket in which the cost of a request is written.
    pub(super) fn of(id: &RequestId, now: UnixTime) -> Self {
        Self::made(id).unwrap_or_else(|| Self::Given(now.days(), hash(id)))
    }

    /// Returns the buckets in which the cost of a request may be: the likeliest first.
    pub(super) fn all_of(id: &RequestId, now: UnixTime) -> Vec<Self> {
        match Self::made(id) {
            Some(bucket) => vec![bucket],
            None => days(now).map(|day| Self::Given(day, hash(id))).collect(),
        }
    }

    fn made(id: &RequestId) -> Option<Self> {
        let millis = u64::try_from(BUCKET.as_millis()).unwrap_or(u64::MAX);
        id.made_at().map(|at| Self::Made(at.as_millis() / millis))
    }

    /// Returns all buckets that an account may have.
    pub(super) fn all(now: UnixTime) -> impl Iterator<Item = Self> {
        let buckets_of_day = 86_400 / BUCKET.as_secs();
        days(now).flat_map(move |day| {
            let made = (day * buckets_of_day..(day + 1) * buckets_of_day).map(Self::Made);
            made.chain((0..GIVEN_BUCKETS).map(move |hash| Self::Given(day, hash)))
        })
    }
}

fn hash(id: &RequestId) -> u64 {
    // FNV-1a, the same on every node.
    let hash = id.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash % GIVEN_BUCKETS
}

/// As its key ends: `5978304` or `20786:7`.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(number) => write!(f, "{number}"),
            Self::Given(day, hash) => write!(f, "{day}:{hash}"),
        }
    }
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
