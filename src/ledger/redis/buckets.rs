//! The keys of the costs of requests. A key goes at once, when it expires: one with a day's costs
//! would keep the server busy for too long. So each has the ids of some minutes.

use std::{fmt, time::Duration};

use super::super::costs::days;
use crate::{RequestId, clock::UnixTime, names::fnv_1a};

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
    fnv_1a(&id.to_string()) % GIVEN_BUCKETS
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
