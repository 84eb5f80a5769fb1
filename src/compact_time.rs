//! Times in eight bytes, for what is kept of each account and of each request. A [`Duration`] takes
//! sixteen.

use std::{cmp::Ordering, fmt, num::NonZeroU64, time::Duration};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A [`Duration`] in whole nanoseconds. An `Option` of it takes eight bytes, too. What is longer
/// than 584 years is endless, as [`Duration::MAX`] is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CompactTime {
    /// All bits inverted, which leaves 0 to an `Option`: endless is 1.
    inverted: NonZeroU64,
}

impl CompactTime {
    pub(crate) const ZERO: Self = Self { inverted: NonZeroU64::MAX };

    /// Returns the same time as a [`Duration`].
    pub(crate) const fn get(self) -> Duration {
        match self.inverted.get() {
            1 => Duration::MAX,
            inverted => Duration::from_nanos(!inverted),
        }
    }
}

impl Default for CompactTime {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<Duration> for CompactTime {
    fn from(time: Duration) -> Self {
        let nanos = time
            .as_secs()
            .checked_mul(NANOS_PER_SECOND)
            .and_then(|nanos| nanos.checked_add(time.subsec_nanos().into()))
            .unwrap_or(u64::MAX);
        Self { inverted: NonZeroU64::new(!nanos).unwrap_or(NonZeroU64::MIN) }
    }
}

impl PartialOrd for CompactTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CompactTime {
    fn cmp(&self, other: &Self) -> Ordering {
        other.inverted.cmp(&self.inverted)
    }
}

impl fmt::Debug for CompactTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_takes_eight_bytes_and_so_does_an_option_of_it() {
        assert_eq!((size_of::<CompactTime>(), size_of::<Option<CompactTime>>()), (8, 8));
        assert_eq!(CompactTime::default().get(), Duration::ZERO);
        assert_eq!(format!("{:?}", CompactTime::from(Duration::from_millis(5))), "5ms");
    }

    proptest! {
        #[test]
        fn times_stay_as_they_are_and_in_their_order(one in 0..u64::MAX - 1, other: u64) {
            let (one, other) = (Duration::from_nanos(one), Duration::from_nanos(other));
            prop_assert_eq!(CompactTime::from(one).get(), one);
            prop_assert_eq!(one.cmp(&other.min(Duration::from_nanos(u64::MAX - 1))),
                CompactTime::from(one).cmp(&CompactTime::from(other)));
        }

        #[test]
        fn what_is_too_long_is_endless(seconds in u64::MAX / 1_000_000_000 + 1..) {
            for time in [Duration::from_secs(seconds), Duration::MAX] {
                prop_assert_eq!(CompactTime::from(time).get(), Duration::MAX);
            }
        }
    }
}
