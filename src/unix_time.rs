//! A moment of the calendar.

use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

/// A moment in whole milliseconds since 1970-01-01 UTC, at most 2^53 - 1 of them: what a double
/// holds exactly.
///
/// It is another type than [`Duration`], so that "30 days" cannot be taken for a moment. Sums and
/// differences stay in that range; parts of a millisecond are dropped.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::clock::UnixTime;
///
/// let in_30_days = UnixTime::now() + Duration::from_secs(30 * 24 * 60 * 60);
/// assert!(in_30_days > UnixTime::now());
/// assert_eq!(UnixTime::from_millis(1_793_491_200_000).to_string(), "2026-11-01T00:00:00Z");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// 1970-01-01 UTC.
    pub const EPOCH: Self = Self(0);

    /// The last moment: 2^53 - 1 milliseconds since 1970, in the year 287396.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Returns the system's time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns the moment that is so many milliseconds after 1970; [`UnixTime::MAX`] if that is
    /// too many.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Returns the moment that is so many seconds after 1970; [`UnixTime::MAX`] if that is too
    /// many.
    pub const fn from_secs(seconds: u64) -> Self {
        Self::from_millis(seconds.saturating_mul(1_000))
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since 1970.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// The moment `earlier` before this one; [`UnixTime::EPOCH`] if that is before 1970.
    #[must_use]
    pub fn saturating_sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(whole_millis(earlier)))
    }

    /// Time since `earlier`; nothing if that is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole days since 1970, UTC.
    pub(crate) const fn days(self) -> u64 {
        self.0 / 86_400_000
    }

    /// The end of the day that this is in, UTC.
    #[must_use]
    pub(crate) const fn next_day(self) -> Self {
        Self::from_millis((self.days() + 1).saturating_mul(86_400_000))
    }

    /// The second that this is in.
    #[must_use]
    pub(crate) const fn whole_seconds(self) -> Self {
        Self(self.0 - self.0 % 1_000)
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment before 1970 becomes [`UnixTime::EPOCH`].
impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        Self::EPOCH + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(whole_millis(later)))
    }
}

/// As [`UnixTime::saturating_sub`].
impl Sub<Duration> for UnixTime {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        self.saturating_sub(earlier)
    }
}

/// As [`UnixTime::saturating_since`].
impl Sub for UnixTime {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// As RFC 3339 has it: `2026-11-01T00:00:00Z`. After the year 9999, milliseconds since 1970.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match Timestamp::from_millisecond(millis) {
            Ok(moment) => fmt::Display::fmt(&moment, f),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

/// Text that is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no moment since 1970: write a day, 2026-12-31, or a time, 2026-12-31T18:00:00Z")]
pub struct UnixTimeError(String);

/// Reads a time as RFC 3339 has it, `2026-12-31T18:00:00Z`, or the begin of a day (UTC),
/// `2026-12-31`.
impl FromStr for UnixTime {
    type Err = UnixTimeError;

    fn from_str(text: &str) -> Result<Self, UnixTimeError> {
        let is_day = text.len() == "2026-12-31".len();
        let time = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let moment: Option<Timestamp> = time.parse().ok();
        moment
            .and_then(|moment| u64::try_from(moment.as_millisecond()).ok())
            .map(Self::from_millis)
            .ok_or_else(|| UnixTimeError(text.to_owned()))
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Milliseconds since 1970.
impl serde::Serialize for UnixTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> serde::Deserialize<'de> for UnixTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        for moment in [UnixTime::EPOCH, UnixTime::from_millis(1_793_491_200_123)] {
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
        let day: UnixTime = "2026-12-31".parse().unwrap();
        assert_eq!(day.to_string(), "2026-12-31T00:00:00Z");
        assert_eq!("2026-12-31T01:00:00+01:00".parse(), Ok(day));
        for wrong in ["", "2026-13-01", "2026-12-31T18:00", "1969-12-31", "tomorrow"] {
            assert_eq!(wrong.parse::<UnixTime>(), Err(UnixTimeError(wrong.to_owned())));
        }
    }

    #[test]
    fn moments_stay_in_range_and_in_whole_milliseconds() {
        assert_eq!(UnixTime::MAX + Duration::MAX, UnixTime::MAX);
        assert_eq!(UnixTime::EPOCH - Duration::from_secs(1), UnixTime::EPOCH);
        assert_eq!(UnixTime::from_secs(u64::MAX), UnixTime::MAX);
        let moment = UnixTime::EPOCH + Duration::from_nanos(1_999_999_999);
        assert_eq!((moment.as_millis(), moment.as_secs()), (1_999, 1));
        assert_eq!(moment.whole_seconds(), UnixTime::from_secs(1));
        assert_eq!(UnixTime::EPOCH - moment, Duration::ZERO);
        assert_eq!(UnixTime::from(UNIX_EPOCH - Duration::from_secs(1)), UnixTime::EPOCH);
    }

    #[test]
    fn any_moment_can_be_shown() {
        assert_eq!(UnixTime::from_millis(1_500).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(UnixTime::MAX.to_string(), "9007199254740991 ms since 1970");
    }
}
