//! Request rates over all nodes: permits that leases ask for in their renewals.
//!
//! A bucket is a GCRA cell (ITU-T I.371), of which the theoretical arrival time is stored; a fixed
//! window is a count. All times are whole microseconds.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A request rate of an account over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountRate {
    /// Requests in each `per`.
    pub count: NonZeroU32,
    /// The time in which `count` requests may come.
    pub per: Duration,
    /// Requests that may come at once; `None` for windows of `per` that begin at multiples of it
    /// since 1970, each with `count` requests.
    pub burst: Option<NonZeroU32>,
}

/// The longest time in which a used-up burst is full again: no plan has a longer one.
pub(super) const MAX_TOLERANCE: u64 = 366 * 86_400_000_000;

/// Asks for permits in a [`Renewal`](super::Renewal): one lets one request begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct PermitRequest {
    /// The rate by the account's tier.
    pub rate: AccountRate,
    /// The number of permits.
    pub wanted: u32,
}

/// The answer to a [`PermitRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Permits {
    /// Permits that are granted now. Unused ones are not handed back.
    pub granted: u32,
    /// More that would be granted.
    pub remaining: u32,
    /// Time until another one would be; zero if `remaining` is not 0.
    pub next_after: Duration,
    /// Time until all of them would be.
    pub reset_after: Duration,
}

/// Stored state of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct RateCell {
    /// The theoretical arrival time of a bucket, in microseconds since 1970, or the number of a
    /// window.
    pub(super) at: u64,
    /// Permits that were granted in the window.
    pub(super) used: u64,
}

impl AccountRate {
    fn per_micros(&self) -> u64 {
        u64::try_from(self.per.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Takes up to `wanted` permits of a cell.
    pub(super) fn take(&self, cell: &mut RateCell, wanted: u32, now: u64) -> Permits {
        let (per, count) = (self.per_micros(), u64::from(self.count.get()));
        let micros = Duration::from_micros;
        let (available, next_after, reset_after, granted);
        match self.burst {
            Some(burst) => {
                let interval = per.div_ceil(count);
                let tolerance = interval.saturating_mul(burst.get().into()).min(MAX_TOLERANCE);
                // A cell that is farther ahead was written by a clock that was.
                let at = cell.at.clamp(now, now + tolerance);
                available = (now + tolerance - at) / interval;
                granted = available.min(u64::from(wanted));
                *cell = RateCell { at: at + granted * interval, used: 0 };
                reset_after = cell.at - now;
                next_after = (reset_after + interval).saturating_sub(tolerance);
            }
            None => {
                let window = now / per;
                if cell.at != window {
                    *cell = RateCell { at: window, used: 0 };
                }
                available = count.saturating_sub(cell.used);
                granted = available.min(u64::from(wanted));
                cell.used += granted;
                reset_after = (window + 1) * per - now;
                next_after = reset_after;
            }
        }
        let remaining = available - granted;
        Permits {
            granted: u32::try_from(granted).unwrap_or(u32::MAX),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            next_after: if remaining > 0 { Duration::ZERO } else { micros(next_after) },
            reset_after: micros(reset_after),
        }
    }

    /// `true` if a cell says nothing that a new one does not.
    pub(super) fn is_over(&self, cell: RateCell, now: u64) -> bool {
        match self.burst {
            Some(_) => cell.at <= now,
            None => cell.at != now / self.per_micros(),
        }
    }
}

/// `count/microseconds/burst`, or for windows `count/microseconds`.
impl fmt::Display for AccountRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per_micros())?;
        self.burst.map_or(Ok(()), |burst| write!(f, "/{burst}"))
    }
}

impl FromStr for AccountRate {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (count, per) = (next().parse()?, Duration::from_micros(next().parse()?));
        let burst = parts.next().map(str::parse).transpose()?;
        Ok(Self { count, per, burst })
    }
}

impl Serialize for AccountRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccountRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, seconds: u64, burst: Option<u32>) -> AccountRate {
        AccountRate {
            count: count.try_into().unwrap(),
            per: Duration::from_secs(seconds),
            burst: burst.map(|burst| burst.try_into().unwrap()),
        }
    }

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let rate = rate(60, 60, Some(5));
        let (mut cell, mut now) = (RateCell::default(), 1_000_000_000);
        let all = rate.take(&mut cell, 9, now);
        assert_eq!((all.granted, all.remaining), (5, 0));
        assert_eq!(all.next_after, Duration::from_secs(1));
        assert_eq!(all.reset_after, Duration::from_secs(5));
        now += 999_999;
        assert_eq!(rate.take(&mut cell, 1, now).granted, 0);
        now += 1;
        assert_eq!(rate.take(&mut cell, 9, now).granted, 1);
        now += 60_000_000;
        assert_eq!(rate.take(&mut cell, 9, now).granted, 5, "no more than the burst is saved");
        // A clock that was ahead costs a burst, and not for ever.
        cell.at = now * 2;
        assert_eq!(rate.take(&mut cell, 1, now).granted, 0);
        assert_eq!(rate.take(&mut cell, 1, now + 1_000_000).granted, 1);
    }

    #[test]
    fn a_window_gives_its_count_and_begins_anew() {
        let rate = rate(10, 300, None);
        let (mut cell, start) = (RateCell::default(), 300_000_000 * 1_000);
        let first = rate.take(&mut cell, 8, start + 1_000_000);
        assert_eq!((first.granted, first.remaining, first.next_after), (8, 2, Duration::ZERO));
        let rest = rate.take(&mut cell, 8, start + 2_000_000);
        assert_eq!((rest.granted, rest.next_after), (2, Duration::from_secs(298)));
        assert_eq!(rate.take(&mut cell, 8, start + 300_000_000).granted, 8);
        assert_eq!("10/300000000".parse(), Ok(rate));
    }
}
