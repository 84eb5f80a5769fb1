//! Moments of a monotonic clock in eight bytes, for structures that every request moves.

use std::time::Duration;

/// Nanoseconds of the monotonic clock; [`NEVER`] if it has not happened.
pub(super) type Moment = u64;

pub(super) const NEVER: Moment = u64::MAX;

pub(super) fn moment(time: Duration) -> Moment {
    nanos(time).min(NEVER - 1)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
