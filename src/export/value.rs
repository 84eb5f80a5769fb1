//! [`Measure`]: the number of an event that a receiver adds up.

use std::{fmt, str::FromStr};

use super::event::UsageEvent;

/// Number of an event that a receiver adds up. All are whole numbers, so that sums are exact.
///
/// | text | number |
/// |---|---|
/// | `nano-usd` | cost in nano-dollars: the price of a unit is 0.0000001 cents |
/// | `microseconds` | compute time in microseconds |
/// | `requests` | billed requests |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// Cost in nano-dollars.
    #[default]
    NanoUsd,
    /// Compute time in microseconds.
    Microseconds,
    /// Billed requests.
    Requests,
}

/// Text that names no [`Measure`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no measure: write `nano-usd`, `microseconds` or `requests`")]
pub struct MeasureError(String);

impl Measure {
    /// Returns the number of an event.
    pub(super) const fn of(self, event: &UsageEvent) -> u64 {
        match self {
            Self::NanoUsd => event.cost.as_nano_usd().unsigned_abs(),
            Self::Microseconds => event.compute_micros,
            Self::Requests => event.requests,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::NanoUsd => "nano-usd",
            Self::Microseconds => "microseconds",
            Self::Requests => "requests",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Measure {
    type Err = MeasureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::NanoUsd, Self::Microseconds, Self::Requests]
            .into_iter()
            .find(|measure| measure.as_str() == text)
            .ok_or_else(|| MeasureError(text.to_owned()))
    }
}
