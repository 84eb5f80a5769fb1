//! [`Unit`]: what time on some hardware is counted in.

use std::{num::NonZeroU32, time::Duration};

use crate::Name;

/// Unit in which the billing page counts the time on some hardware, for services that report what
/// they did as time: a model that makes a token's work a microsecond has a million tokens a second.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::plan::Unit;
///
/// let tokens = Unit::new("tokens".parse()?, 1_000_000.try_into()?);
/// assert_eq!(tokens.count(Duration::from_micros(1_234)), 1_234);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unit {
    /// Name of the unit, in the plural.
    pub name: Name,
    /// Number of units that are a second.
    pub per_second: NonZeroU32,
}

impl Unit {
    /// Returns a unit of which so many are a second.
    pub const fn new(name: Name, per_second: NonZeroU32) -> Self {
        Self { name, per_second }
    }

    /// Returns the number of units that a time is, to the nearest.
    pub fn count(&self, time: Duration) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let units = time.as_nanos().saturating_mul(self.per_second.get().into());
        u64::try_from((units + SECOND / 2) / SECOND).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_to_the_nearest_unit() {
        let unit =
            |per_second: u32| Unit::new("t".parse().unwrap(), per_second.try_into().unwrap());
        assert_eq!(unit(1_000_000).count(Duration::from_secs(3)), 3_000_000);
        assert_eq!(unit(3).count(Duration::from_millis(500)), 2);
        assert_eq!(unit(1).count(Duration::from_millis(499)), 0);
        assert_eq!(unit(u32::MAX).count(Duration::MAX), u64::MAX);
    }
}
