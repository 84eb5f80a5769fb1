//! Request rate: limits how many requests an account may make on this node, by its tier.
//!
//! Each account has a token bucket of `governor`'s, stored with the account's lease. The fields
//! `RateLimit` and `RateLimit-Policy` follow draft-ietf-httpapi-ratelimit-headers-11.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{header_text::header_text, plan::RequestQuota};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// An account's request rate: a bucket for each quota of its callers' tiers. Almost all accounts
/// have one quota, so that the buckets are a linked list.
#[derive(Default)]
pub(crate) struct RequestRate(Mutex<Option<Box<QuotaBucket>>>);

struct QuotaBucket {
    quota: RequestQuota,
    bucket: Bucket,
    /// From this moment on it is full, like a new one.
    full_at: Duration,
    next: Option<Box<Self>>,
}

/// Maximum number of quotas of one account.
const MAX_QUOTAS: usize = 16;

/// State of an account's request rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateState {
    pub(crate) quota: RequestQuota,
    /// Requests that are accepted at once.
    pub(crate) remaining: u32,
    /// Time until the bucket is full again or, after a denial, until one request is accepted.
    pub(crate) reset: Duration,
}

impl RequestRate {
    /// Counts a request. `Err` if it exceeds the quota.
    pub(crate) fn count(&self, quota: RequestQuota, now: Duration) -> Result<RateState, RateState> {
        let interval = quota.per / quota.count.get();
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let QuotaBucket { bucket, full_at, .. } = QuotaBucket::find(&mut first, quota, now);
        match bucket.check() {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let reset = interval.saturating_mul(quota.burst.get().saturating_sub(remaining));
                *full_at = now.saturating_add(reset);
                Ok(RateState { quota, remaining, reset })
            }
            Err(not_yet) => Err(RateState {
                quota,
                remaining: 0,
                reset: not_yet.wait_time_from(bucket.clock().now()),
            }),
        }
    }

    /// `true` if all buckets are full, as those of a new one are.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::successors(first.as_deref(), |bucket| bucket.next.as_deref())
            .all(|bucket| now >= bucket.full_at)
    }
}

impl QuotaBucket {
    /// Moves the bucket of a quota to the front, or creates it there. Full buckets are removed.
    fn find(first: &mut Option<Box<Self>>, quota: RequestQuota, now: Duration) -> &mut Self {
        let found = match first.take() {
            Some(found) if found.quota == quota => found,
            others => Self::to_front(others, quota, now),
        };
        first.insert(found)
    }

    fn to_front(mut others: Option<Box<Self>>, quota: RequestQuota, now: Duration) -> Box<Self> {
        let (mut in_use, mut found) = (Vec::new(), None);
        while let Some(mut bucket) = others {
            others = bucket.next.take();
            if bucket.quota == quota {
                found = Some(bucket);
            } else if now < bucket.full_at {
                in_use.push(bucket);
            }
        }
        // Plans have few tiers. The emptiest buckets stay.
        in_use.sort_by_key(|bucket| std::cmp::Reverse(bucket.full_at));
        in_use.truncate(MAX_QUOTAS - 1);
        let mut found = found.unwrap_or_else(|| Box::new(Self::new(quota, now)));
        for bucket in in_use {
            let next = found.next.replace(bucket);
            if let Some(first) = &mut found.next {
                first.next = next;
            }
        }
        found
    }

    fn new(quota: RequestQuota, now: Duration) -> Self {
        let rule = Quota::with_period(quota.per / quota.count.get())
            .unwrap_or(Quota::per_second(quota.count))
            .allow_burst(quota.burst);
        Self {
            quota,
            bucket: RateLimiter::direct(rule).with_middleware(),
            full_at: now,
            next: None,
        }
    }
}

/// The header fields in which a response says its account's request rate. It travels with every
/// request, so it is small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateFields {
    count: NonZeroU32,
    per_seconds: u32,
    remaining: u32,
    reset_seconds: u32,
}

impl From<RateState> for RateFields {
    fn from(state: RateState) -> Self {
        let RateState { quota, remaining, .. } = state;
        let seconds = |seconds| u32::try_from(seconds).unwrap_or(u32::MAX);
        let per_seconds = seconds(whole_seconds(quota.per));
        let reset_seconds = seconds(state.reset_seconds());
        Self { count: quota.count, per_seconds, remaining, reset_seconds }
    }
}

impl RateFields {
    /// Adds the fields, unless the service itself has set them.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        for (name, value) in [(RATE_LIMIT, self.rate_limit()), (RATE_LIMIT_POLICY, self.policy())] {
            if let Some(value) = value {
                headers.entry(name).or_insert(value);
            }
        }
    }

    /// `RateLimit: "requests";r=50;t=30`
    fn rate_limit(self) -> Option<HeaderValue> {
        let Self { remaining, reset_seconds, .. } = self;
        header_text(format_args!("\"requests\";r={remaining};t={reset_seconds}"))
    }

    /// `RateLimit-Policy: "requests";q=600;w=60`
    fn policy(self) -> Option<HeaderValue> {
        let Self { count, per_seconds, .. } = self;
        header_text(format_args!("\"requests\";q={count};w={per_seconds}"))
    }
}

impl RateState {
    /// Returns `reset` in whole seconds, rounded up, so that no client comes too early.
    pub(crate) fn reset_seconds(&self) -> u64 {
        whole_seconds(self.reset)
    }
}

impl fmt::Debug for RequestRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestRate")
    }
}

fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_accepted_and_the_next_request_gets_a_time() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let quota = RequestQuota::new(number(6), Duration::from_secs(60)).burst(number(2));
        let rate = RequestRate::default();
        assert_eq!(rate.count(quota, Duration::ZERO).unwrap().remaining, 1);
        let last = RateFields::from(rate.count(quota, Duration::ZERO).unwrap());
        assert_eq!(last.rate_limit().unwrap(), "\"requests\";r=0;t=20");
        assert_eq!(last.policy().unwrap(), "\"requests\";q=6;w=60");
        let denied = rate.count(quota, Duration::ZERO).unwrap_err();
        assert!((9..=10).contains(&denied.reset_seconds()), "{denied:?}");
        assert!(
            !rate.is_full(Duration::from_secs(19))
                && rate.is_full(Duration::from_secs(20))
                && RequestRate::default().is_full(Duration::ZERO),
            "a bucket is remembered until it is full again"
        );
        let wider = RequestQuota { burst: number(3), ..quota };
        assert_eq!(
            rate.count(wider, Duration::ZERO).unwrap().remaining,
            2,
            "another quota has a bucket of its own"
        );
    }

    #[test]
    fn times_for_clients_are_rounded_up_to_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
        let second = Duration::from_secs(1);
        assert_eq!(whole_seconds(second + Duration::from_nanos(1)), 2);
    }

    /// Two tokens of one account may have different tiers.
    #[test]
    fn quotas_that_alternate_do_not_start_again() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let quota =
            |burst| RequestQuota::new(number(6), Duration::from_secs(3600)).burst(number(burst));
        let rate = RequestRate::default();
        let passed =
            (0..100).filter(|turn| rate.count(quota(2 + turn % 3), Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 2 + 3 + 4);
        assert!(!rate.is_full(Duration::ZERO));
        // The maximum number of quotas, then more.
        let passed = (0..1_000)
            .filter(|turn| rate.count(quota(2 + turn % 16), Duration::ZERO).is_ok())
            .count();
        assert_eq!(passed, (2..18).sum::<usize>() - 9);
        for burst in 2..100 {
            let _ = rate.count(quota(burst), Duration::ZERO);
        }
        let count = std::iter::successors(rate.0.lock().unwrap().as_deref(), |bucket| {
            bucket.next.as_deref()
        })
        .count();
        assert_eq!(count, MAX_QUOTAS);
    }
}
