//! [`Period`]: the calendar month (UTC) to which credits and usage belong.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::unix_time::UnixTime;

/// A calendar month in UTC, of the years 1970 to 9998. It is written `2026-11`.
///
/// ```
/// use tower_credits::Period;
///
/// let november: Period = "2026-11".parse()?;
/// assert_eq!(november.next().to_string(), "2026-12");
/// assert_eq!(november.name(), "November 2026");
/// assert_eq!(november.resets_at(), "2026-12-01T00:00:00Z");
/// # Ok::<(), tower_credits::PeriodError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    year: i16,
    month: i8,
}

impl Period {
    /// Returns the month of a moment. A moment after the year 9998 belongs to the last month of
    /// that year.
    pub fn containing(moment: UnixTime) -> Self {
        let date = date(moment);
        Self { year: date.year(), month: date.month() }
    }

    /// Returns the next month. The next month of the last one is itself.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self { year: 9998, month: 12 } => self,
            Self { year, month: 12 } => Self { year: year + 1, month: 1 },
            Self { year, month } => Self { year, month: month + 1 },
        }
    }

    /// Returns the previous month. The previous month of the first one is itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        match self {
            Self { year: 1970, month: 1 } => self,
            Self { year, month: 1 } => Self { year: year - 1, month: 12 },
            Self { year, month } => Self { year, month: month - 1 },
        }
    }

    /// Returns the name for people: `November 2026`.
    pub fn name(self) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let month = usize::from(self.month.unsigned_abs())
            .checked_sub(1)
            .and_then(|month| MONTHS.get(month))
            .unwrap_or(&"");
        format!("{month} {}", self.year)
    }

    /// Returns the first moment of the month.
    pub fn begins(self) -> UnixTime {
        UnixTime::from_secs(seconds(jiff::civil::date(self.year, self.month, 1)))
    }

    /// Returns the end of the month, at which the next one begins.
    pub fn ends(self) -> UnixTime {
        let first = jiff::civil::date(self.year, self.month, 1);
        let days = u64::from(first.days_in_month().unsigned_abs());
        UnixTime::from_secs(seconds(first) + days * 24 * 60 * 60)
    }

    /// Returns the end of the month as an RFC 3339 timestamp: `2026-12-01T00:00:00Z`.
    pub fn resets_at(self) -> String {
        let next = self.next();
        format!("{:04}-{:02}-01T00:00:00Z", next.year, next.month)
    }

    /// Packs a day into a number of 23 bits.
    pub(crate) const fn pack((Self { year, month }, day): (Self, u8)) -> u64 {
        (year.unsigned_abs() as u64) << 9 | (month.unsigned_abs() as u64) << 5 | day as u64
    }

    /// Unpacks a day that was [packed](Self::pack).
    pub(crate) const fn unpack(packed: u64) -> (Self, u8) {
        (Self { year: (packed >> 9) as i16, month: (packed >> 5 & 15) as i8 }, (packed & 31) as u8)
    }

    /// Returns the day of the month of a moment, 1 to 31.
    pub(crate) fn day(moment: UnixTime) -> u8 {
        date(moment).day().unsigned_abs()
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let digits =
            |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('-') {
            Some((year, month)) if digits(year, 4) && digits(month, 2) => {
                let period = Self {
                    year: year.parse().map_err(|_| PeriodError)?,
                    month: month.parse().map_err(|_| PeriodError)?,
                };
                let is_valid =
                    (1970..=9998).contains(&period.year) && (1..=12).contains(&period.month);
                if is_valid { Ok(period) } else { Err(PeriodError) }
            }
            _ => Err(PeriodError),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Error that a text is not a month of the years 1970 to 9998.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a month: write a year from 1970 to 9998 and a month, as in 2026-11")]
pub struct PeriodError;

fn date(moment: UnixTime) -> Date {
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .map(|moment| TimeZone::UTC.to_datetime(moment).date())
        .ok()
        .filter(|date| date.year() <= 9998)
        .unwrap_or(jiff::civil::date(9998, 12, 31))
}

fn seconds(date: Date) -> u64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    let days = date.duration_since(epoch).as_secs();
    days.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_moment_of_a_month_belongs_to_it() {
        let november: Period = "2026-11".parse().unwrap();
        assert_eq!(november.begins(), UnixTime::from_secs(1_793_491_200));
        assert_eq!(november.ends(), UnixTime::from_secs(1_796_083_200));
        let last = Period::containing(UnixTime::MAX);
        assert!(last.next() == last && last.ends() > last.begins(), "{last}");
        assert_eq!(Period::containing(november.ends() - Duration::from_millis(1)), november);
        assert_eq!(Period::containing(november.ends()), november.next());
        assert_eq!(Period::day(november.ends() - Duration::from_millis(1)), 30);
        assert_eq!(november.resets_at(), "2026-12-01T00:00:00Z");
        assert_eq!(november.next().next().to_string(), "2027-01");
        for day in [(november, 1), (november, 30), (last, 31), ("1970-01".parse().unwrap(), 1)] {
            assert!(
                Period::unpack(Period::pack(day)) == day && Period::pack(day) < 1 << 23,
                "{day:?}"
            );
        }
    }

    #[test]
    fn every_moment_has_a_month() {
        assert_eq!(Period::containing(UnixTime::EPOCH).to_string(), "1970-01");
        assert_eq!(Period::containing(UnixTime::MAX).to_string(), "9998-12");
        assert_eq!(Period::containing(UnixTime::MAX).next().to_string(), "9998-12");
    }

    #[test]
    fn text_that_is_not_a_month_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13",
            "2026-00",
            "26-11",
            "2026-1",
            "1969-12",
            "9999-01",
            "2026-+1",
            "2026-11-01",
        ] {
            assert_eq!(text.parse::<Period>(), Err(PeriodError), "{text:?}");
        }
    }
}
