//! The shares that leases have of the requests of an account that may run at the same time over all
//! nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Concurrency, ConcurrencyRequest, LeaseId, SHARE_LIFETIME};
use crate::clock::UnixTime;

/// A lease's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Share {
    pub(crate) count: u32,
    pub(super) expires: UnixTime,
}

/// Answers a request for a share, which is set if it `is_news`. In another month than the current
/// one, nothing begins.
pub(super) fn share(
    shares: &mut BTreeMap<LeaseId, Share>,
    lease: LeaseId,
    request: Option<ConcurrencyRequest>,
    (is_news, is_current): (bool, bool),
    now: UnixTime,
) -> Option<Concurrency> {
    if request.is_none() && !shares.contains_key(&lease) {
        return None;
    }
    // Once a clock that was ahead goes back, none lasts longer.
    let is_share_live =
        |share: &Share| now < share.expires && share.expires <= now + SHARE_LIFETIME;
    let before = shares.get(&lease).copied().filter(is_share_live).map_or(0, |share| share.count);
    if is_news {
        shares.retain(|_, share| is_share_live(share));
        shares.remove(&lease);
    }
    let ConcurrencyRequest { most, running, wanted } = request?;
    let others = shares
        .iter()
        .filter(|(other, share)| **other != lease && is_share_live(share))
        .fold(0_u32, |sum, (_, share)| sum.saturating_add(share.count));
    let wanted = if is_current { wanted } else { wanted.min(running) };
    let left = most.get().saturating_sub(others);
    let granted = if is_news { running.min(before).max(wanted.min(left)) } else { before };
    if is_news && granted > 0 {
        shares.insert(lease, Share { count: granted, expires: now + SHARE_LIFETIME });
    }
    Some(Concurrency { granted, remaining: left.saturating_sub(granted) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_share_that_is_not_renewed_lapses_after_thirty_seconds() {
        let begun = UnixTime::from_millis(1_800_000_000_000);
        for (millis, others_get) in [(29_999, 3), (30_000, 8)] {
            let mut shares = BTreeMap::new();
            let mut ask = |lease: u128, wanted, millis| {
                let most = 8.try_into().unwrap();
                let request = ConcurrencyRequest { most, running: 0, wanted };
                let lease = LeaseId::from_bits(lease);
                let now = begun + Duration::from_millis(millis);
                share(&mut shares, lease, Some(request), (true, true), now).unwrap().granted
            };
            assert_eq!(ask(1, 5, 0), 5);
            assert_eq!(ask(2, 8, millis), others_get, "after {millis} ms");
        }
    }

    #[test]
    fn shares_are_within_the_limit_and_lapse() {
        let (mut shares, now) = (BTreeMap::new(), UnixTime::from_secs(1_800_000_000));
        let mut ask = |lease: u128, running, wanted, seconds| {
            let request = ConcurrencyRequest { most: 8.try_into().unwrap(), running, wanted };
            let now = now + Duration::from_secs(seconds);
            let answer =
                share(&mut shares, LeaseId::from_bits(lease), Some(request), (true, true), now)
                    .unwrap();
            (answer.granted, answer.remaining)
        };
        assert_eq!(ask(1, 0, 5, 0), (5, 3));
        assert_eq!(ask(2, 0, 5, 1), (3, 0), "what is left");
        assert_eq!(ask(1, 4, 9, 2), (5, 0), "it keeps what it has, and there is no more");
        assert_eq!(ask(1, 1, 1, 3), (1, 4), "what it does not ask for again is free");
        assert_eq!(ask(2, 3, 9, 4), (7, 0));
        assert_eq!(ask(3, 0, 1, 5), (0, 0));
        // The first two were not heard of for 30 s.
        assert_eq!(ask(3, 0, 9, 40), (8, 0));
        assert_eq!(ask(2, 7, 7, 41), (0, 0), "what lapsed is not kept by right");
    }
}
