//! Request rate: how many requests an account may make on this node, by its tier.
//!
//! A token bucket of `governor`'s for each account, kept beside the account's lease. The
//! `RateLimit` and `RateLimit-Policy` fields follow draft-ietf-httpapi-ratelimit-headers-11.

use std::{
    fmt,
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

use crate::plan::RequestQuota;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// An account's request rate: a bucket for each quota that its callers' tiers have. Almost all have
/// one.
#[derive(Default)]
pub(crate) struct RequestRate(Mutex<Option<Box<Filling>>>);

struct Filling {
    quota: RequestQuota,
    bucket: Bucket,
    /// From then on it is as good as new.
    full_at: Duration,
    next: Option<Box<Self>>,
}

/// The most quotas of one account.
const MOST_QUOTAS: usize = 16;

/// How an account's request rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateState {
    pub(crate) quota: RequestQuota,
    /// Requests that may come at once.
    pub(crate) remaining: u32,
    /// When `remaining` is larger: full again, or, where it is none, one.
    pub(crate) reset: Duration,
}

impl RequestRate {
    /// Counts a request. `Err` where it is one too many.
    pub(crate) fn count(&self, quota: RequestQuota, now: Duration) -> Result<RateState, RateState> {
        let interval = quota.per / quota.count.get();
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Filling { bucket, full_at, .. } = Filling::find(&mut first, quota, now);
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
}

impl RequestRate {
    /// `true` if it is as good as new.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::successors(first.as_deref(), |filling| filling.next.as_deref())
            .all(|filling| now >= filling.full_at)
    }
}

impl Filling {
    /// The bucket of a quota, in front of the others; it is made if there is none. Those that are
    /// as good as new make room.
    fn find(first: &mut Option<Box<Self>>, quota: RequestQuota, now: Duration) -> &mut Self {
        let found = match first.take() {
            Some(found) if found.quota == quota => found,
            others => Self::to_front(others, quota, now),
        };
        first.insert(found)
    }

    fn to_front(mut others: Option<Box<Self>>, quota: RequestQuota, now: Duration) -> Box<Self> {
        let (mut kept, mut found) = (Vec::new(), None);
        while let Some(mut filling) = others {
            others = filling.next.take();
            if filling.quota == quota {
                found = Some(filling);
            } else if now < filling.full_at {
                kept.push(filling);
            }
        }
        // Plans have few tiers; what is the most used up is the last to go.
        kept.sort_by_key(|filling| std::cmp::Reverse(filling.full_at));
        kept.truncate(MOST_QUOTAS - 1);
        let mut found = found.unwrap_or_else(|| Box::new(Self::new(quota, now)));
        for filling in kept {
            let next = found.next.replace(filling);
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

impl RateState {
    /// Tells the caller, unless the service itself did.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in [(RATE_LIMIT, self.field()), (RATE_LIMIT_POLICY, self.policy())] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.entry(name).or_insert(value);
            }
        }
    }

    /// `RateLimit: "requests";r=50;t=30`
    fn field(&self) -> String {
        format!("\"requests\";r={};t={}", self.remaining, self.reset_seconds())
    }

    /// `RateLimit-Policy: "requests";q=600;w=60`
    fn policy(&self) -> String {
        format!("\"requests\";q={};w={}", self.quota.count, whole_seconds(self.quota.per))
    }

    /// Rounded up, so that nobody comes too early.
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
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_told_when_to_come() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let quota =
            RequestQuota { count: number(6), per: Duration::from_secs(60), burst: number(2) };
        let rate = RequestRate::default();
        assert_eq!(rate.count(quota, Duration::ZERO).unwrap().remaining, 1);
        let last = rate.count(quota, Duration::ZERO).unwrap();
        assert_eq!(
            (last.field().as_str(), last.policy().as_str()),
            ("\"requests\";r=0;t=20", "\"requests\";q=6;w=60")
        );
        let denied = rate.count(quota, Duration::ZERO).unwrap_err();
        assert!((9..=10).contains(&denied.reset_seconds()), "{denied:?}");
        assert!(
            !rate.is_full(Duration::from_secs(19))
                && rate.is_full(Duration::from_secs(20))
                && RequestRate::default().is_full(Duration::ZERO),
            "what is used up is remembered until it is full again"
        );
        let wider = RequestQuota { burst: number(3), ..quota };
        assert_eq!(
            rate.count(wider, Duration::ZERO).unwrap().remaining,
            2,
            "another quota has a bucket of its own"
        );
    }

    /// Two tokens of one account may have different tiers.
    #[test]
    fn quotas_that_take_turns_do_not_begin_anew() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let quota = |burst| RequestQuota {
            count: number(6),
            per: Duration::from_secs(3600),
            burst: number(burst),
        };
        let rate = RequestRate::default();
        let passed =
            (0..100).filter(|turn| rate.count(quota(2 + turn % 3), Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 2 + 3 + 4);
        assert!(!rate.is_full(Duration::ZERO));
        // As many as there may be, and more than are kept.
        let passed = (0..1_000)
            .filter(|turn| rate.count(quota(2 + turn % 16), Duration::ZERO).is_ok())
            .count();
        assert_eq!(passed, (2..18).sum::<usize>() - 9);
        for burst in 2..100 {
            let _ = rate.count(quota(burst), Duration::ZERO);
        }
        let kept = std::iter::successors(rate.0.lock().unwrap().as_deref(), |filling| {
            filling.next.as_deref()
        })
        .count();
        assert_eq!(kept, MOST_QUOTAS);
    }
}
