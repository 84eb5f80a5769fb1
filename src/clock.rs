//! The two clocks that decide what is billed: compute time is monotonic, the month is the calendar's.
//!
//! Waiting (deadlines, renewals) is not here: it is tokio's time, which tests pause.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Where time is read. Production uses [`SystemClock`], tests [`ManualClock`].
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since a moment that is the same for the whole process; never goes back.
    fn monotonic(&self) -> Duration;

    /// The calendar's time, since the Unix epoch.
    fn unix_time(&self) -> Duration;
}

/// The system's own clocks. Under tokio's paused time, compute time is paused with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        // The standard clock's own now: tokio's may be paused and far ahead in one test's runtime.
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = ORIGIN.get_or_init(|| std::time::Instant::now().into());
        Instant::now().saturating_duration_since(*origin)
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that stands until it is moved. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::{Clock, ManualClock};
///
/// let clock = ManualClock::at("2026-11".parse()?);
/// clock.advance(Duration::from_secs(10));
/// assert_eq!(clock.monotonic(), Duration::from_secs(10));
/// # Ok::<(), tower_credits::PeriodError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<(Duration, Duration)>>);

impl ManualClock {
    /// A clock at the first moment of a month.
    pub fn at(period: crate::Period) -> Self {
        Self(Arc::new(Mutex::new((Duration::ZERO, period.begins()))))
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *time = (time.0.saturating_add(by), time.1.saturating_add(by));
    }

    /// Sets the calendar's clock alone, as an operator or NTP would.
    pub fn set_unix_time(&self, unix_time: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = unix_time;
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn unix_time(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
