//! Clocks of a meter and a ledger, mainly for tests.
//!
//! A meter reads two times, and a [`Clock`] provides both: compute time is measured in monotonic
//! time, and the calendar's time decides the month and the day.
//!
//! * [`SystemClock`], the default, reads the operating system's clocks.
//! * [`ManualClock`] is for tests that decide how long a request computes and which month it is.
//!   The test moves both times.
//! * [`TokioClock`] is for tests on tokio's paused time. Compute time is tokio's; the calendar is
//!   the operating system's.
//!
//! In production you do not need this module. In tests, give the same clock to the meter and to the
//! memory ledger:
//!
//! ```
//! use std::time::Duration;
//! use tower_credits::{CreditMeter, MemoryLedger, clock::ManualClock};
//! # use tower_credits::{BearerTokens, Plan};
//!
//! # fn example(plan: Plan, tokens: BearerTokens) -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::at("2026-11".parse()?);
//! let meter = CreditMeter::builder(plan, MemoryLedger::with_clock(clock.clone()), tokens)
//!     .clock(clock.clone())
//!     .build()?;
//! // In the service under test: each request computes for two seconds.
//! clock.advance(Duration::from_secs(2));
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use crate::unix_time::UnixTime;
use crate::{Period, contained::contained};

/// Source of time for a meter or a ledger.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time since a fixed moment, which is the same for the whole process. It never
    /// goes back. Differences of it are billed.
    fn monotonic(&self) -> Duration;

    /// Returns the calendar's time (UTC). It decides the month and the day.
    fn unix_time(&self) -> UnixTime;
}

/// The operating system's clocks: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        monotonic()
    }

    fn unix_time(&self) -> UnixTime {
        UnixTime::now()
    }
}

/// Reads the operating system's monotonic clock. The processor's counters could be read faster, but
/// they may be scaled wrongly or restart without notice.
fn monotonic() -> Duration {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let now = std::time::Instant::now();
    now.saturating_duration_since(*ORIGIN.get_or_init(|| now))
}

/// Tokio's time as compute time, and the system's calendar: for tests on paused time.
///
/// ```
/// use tower_credits::{CreditMeter, MemoryLedger, clock::TokioClock};
/// # use tower_credits::{BearerTokens, Plan, meter::ConfigError};
///
/// # fn example(plan: Plan, tokens: BearerTokens) -> Result<(), ConfigError> {
/// // In a `#[tokio::test(start_paused = true)]`, a service that sleeps for ten seconds of tokio's
/// // time is billed for ten seconds.
/// let meter = CreditMeter::builder(plan, MemoryLedger::new(), tokens).clock(TokioClock).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        // From the standard clock: tokio's may be paused and far ahead in the runtime of one test.
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        // Or from tokio's, if that was paused before.
        let origin = || Instant::from_std(std::time::Instant::now()).min(Instant::now());
        let origin = ORIGIN.get_or_init(origin);
        Instant::now().saturating_duration_since(*origin)
    }

    fn unix_time(&self) -> UnixTime {
        UnixTime::now()
    }
}

/// A clock that stands still until it is moved. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::at("2026-11".parse()?);
/// clock.advance(Duration::from_secs(10));
/// assert_eq!(clock.monotonic(), Duration::from_secs(10));
/// # Ok::<(), tower_credits::PeriodError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<ManualTime>>);

#[derive(Debug)]
struct ManualTime {
    monotonic: Duration,
    /// Since the Unix epoch, with parts of milliseconds.
    calendar: Duration,
}

impl ManualClock {
    /// Returns a clock that is at the first moment of a month. Its monotonic time is zero.
    pub fn at(period: crate::Period) -> Self {
        let calendar = period.begins().since_epoch();
        Self(Arc::new(Mutex::new(ManualTime { monotonic: Duration::ZERO, calendar })))
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let mut time = self.lock();
        time.monotonic = time.monotonic.saturating_add(by);
        time.calendar = time.calendar.saturating_add(by);
    }

    /// Sets the calendar's time only, as an operator or NTP would.
    pub fn set_unix_time(&self, unix_time: UnixTime) {
        self.lock().calendar = unix_time.since_epoch();
    }

    fn lock(&self) -> MutexGuard<'_, ManualTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    fn unix_time(&self) -> UnixTime {
        UnixTime::EPOCH + self.lock().calendar
    }
}

/// Delay of a timer from which on the whole process is taken to have stood still.
const STALL_THRESHOLD: Duration = Duration::from_millis(25);

/// Additional time after a stall, in which answers that have arrived meanwhile are read.
const CATCH_UP_TIME: Duration = Duration::from_millis(100);

/// Waits for `future` until `at`; `None` if it is not ready by then. If the process stood still at
/// that moment (it was suspended, or its threads were blocked), it waits a little longer: the
/// answer may have arrived without being read.
pub(crate) async fn until<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Ok(output) = timeout_at(at, &mut future).await {
        return Some(output);
    }
    let now = Instant::now();
    if now.saturating_duration_since(at) < STALL_THRESHOLD {
        return None;
    }
    timeout_at(now + CATCH_UP_TIME, future).await.ok()
}

/// A reading of a meter's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Time in which compute time is measured.
    pub(crate) compute: Duration,
    /// Time by which leases wait. Under the system's clock it is the same reading, which saves one
    /// for each request; under any other clock it is tokio's, which tests can pause.
    pub(crate) lease: Duration,
}

/// A reading of all clocks of a meter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) now: Now,
    pub(crate) unix_time: UnixTime,
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// If the calendar's clock gains more than this on the monotonic one, the process was suspended. In
/// nanoseconds.
const MIN_SUSPENSION: i64 = 2_000_000_000;

/// Steps by which the lead of the calendar's clock is noted, so that requests on other cores seldom
/// have to fetch it anew. In nanoseconds.
const LEAD_STEP: u64 = 1_000_000;

/// A meter's clocks. Clones read the same.
#[derive(Clone, Debug)]
pub(crate) struct Time(Arc<Source>);

#[derive(Debug)]
struct Source {
    /// The host's clock; `None` for the system's.
    other: Option<Arc<dyn Clock>>,
    origin: Instant,
    /// The last day that was read, counted from 1 at the epoch, and its date. Both are in one word,
    /// so that they always belong together.
    dated: AtomicU64,
    /// Nanoseconds by which the calendar's clock was ahead of the monotonic one at the last
    /// reading, give or take a [`LEAD_STEP`].
    ahead: AtomicI64,
    /// The moment at which the process was last seen to continue after a suspension, in nanoseconds
    /// of the leases' time plus 1; 0 for never.
    woke_at: AtomicU64,
}

/// The host's clock, which may panic although it is also read in `Drop`. If it does, time continues
/// by the system's clocks.
#[derive(Debug)]
struct PanicSafe {
    clock: Arc<dyn Clock>,
    /// Its last reading, and the system's clock at that moment.
    last: Mutex<(Duration, Duration)>,
}

impl PanicSafe {
    fn of(clock: Arc<dyn Clock>) -> Self {
        let panic_safe = Self { clock, last: Mutex::default() };
        // The first reading to continue from.
        panic_safe.monotonic();
        panic_safe
    }
}

impl Clock for PanicSafe {
    fn monotonic(&self) -> Duration {
        let reading = contained("the clock", || self.clock.monotonic());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match reading {
            Ok(now) => {
                *last = (now, monotonic());
                now
            }
            Err(_) => last.0.saturating_add(monotonic().saturating_sub(last.1)),
        }
    }

    fn unix_time(&self) -> UnixTime {
        contained("the clock", || self.clock.unix_time())
            .unwrap_or_else(|_| SystemClock.unix_time())
    }
}

/// Bits of a date in [`Source::dated`]; the upper bits are the number of the day.
const DATE_BITS: u32 = 23;

impl Time {
    /// Returns the system's clocks.
    pub(crate) fn system() -> Self {
        Self::from(None)
    }

    pub(crate) fn of(clock: Arc<dyn Clock>) -> Self {
        Self::from(Some(Arc::new(PanicSafe::of(clock))))
    }

    fn from(other: Option<Arc<dyn Clock>>) -> Self {
        let source = Source {
            other,
            origin: Instant::now(),
            dated: AtomicU64::new(0),
            ahead: AtomicI64::new(i64::MAX),
            woke_at: AtomicU64::new(0),
        };
        Self(Arc::new(source))
    }

    pub(crate) fn now(&self) -> Now {
        match &self.0.other {
            None => {
                let now = monotonic();
                Now { compute: now, lease: now }
            }
            Some(clock) => Now { compute: clock.monotonic(), lease: self.0.origin.elapsed() },
        }
    }

    /// Returns the clock of compute time, if leases wait by another one.
    pub(crate) fn other(&self) -> Option<&Arc<dyn Clock>> {
        self.0.other.as_ref()
    }

    pub(crate) fn unix_time(&self) -> UnixTime {
        self.0.other.as_ref().map_or_else(|| SystemClock.unix_time(), |clock| clock.unix_time())
    }

    /// Reads all clocks. Also notes if the process was suspended: monotonic time stands still then,
    /// and the ledger may have granted to others what this node held.
    pub(crate) fn read(&self) -> Reading {
        let reading = Reading { now: self.now(), unix_time: self.unix_time() };
        self.compare(reading);
        reading
    }

    /// Returns the month and the day of a reading.
    pub(crate) fn date(&self, Reading { unix_time, .. }: Reading) -> (Period, u8) {
        let day = unix_time.as_secs() / SECONDS_PER_DAY + 1;
        let dated = self.0.dated.load(Ordering::Relaxed);
        if dated >> DATE_BITS == day {
            return Period::unpack(dated & ((1 << DATE_BITS) - 1));
        }
        let date = (Period::containing(unix_time), Period::day(unix_time));
        if day <= u64::MAX >> DATE_BITS {
            self.0.dated.store(day << DATE_BITS | Period::pack(date), Ordering::Relaxed);
        }
        date
    }

    /// Reads the clocks to find out if the process was suspended, and returns
    /// [`woke_at`](Self::woke_at).
    pub(crate) fn notice(&self) -> Option<Duration> {
        self.read();
        self.woke_at()
    }

    /// Returns the moment, in the leases' time, at which the process was last seen to continue
    /// after a suspension.
    pub(crate) fn woke_at(&self) -> Option<Duration> {
        self.0.woke_at.load(Ordering::Acquire).checked_sub(1).map(Duration::from_nanos)
    }

    fn compare(&self, Reading { now, unix_time }: Reading) {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let ahead = nanos(unix_time.since_epoch()).saturating_sub(nanos(now.compute));
        let before = self.0.ahead.load(Ordering::Acquire);
        if ahead.abs_diff(before) < LEAD_STEP {
            return;
        }
        if before != i64::MAX && ahead.saturating_sub(before) > MIN_SUSPENSION {
            // Before `ahead`, by which other threads see that it was noticed.
            self.0
                .woke_at
                .store(nanos(now.lease).unsigned_abs().saturating_add(1), Ordering::Release);
        }
        self.0.ahead.store(ahead, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_computed_once_a_day() {
        let time = Time::system();
        let now = time.read();
        let date = time.date(now);
        assert_eq!(
            date,
            (Period::containing(SystemClock.unix_time()), Period::day(SystemClock.unix_time()))
        );
        let day = time.0.dated.load(Ordering::Relaxed) >> DATE_BITS;
        time.0.dated.store(
            day << DATE_BITS | Period::pack(("2001-09".parse().unwrap(), 9)),
            Ordering::Relaxed,
        );
        assert_eq!(time.date(now), ("2001-09".parse().unwrap(), 9), "as it was computed");
        time.0.dated.store(
            (day - 1) << DATE_BITS | Period::pack(("2001-09".parse().unwrap(), 9)),
            Ordering::Relaxed,
        );
        assert_eq!(time.date(now), date);

        let clock = ManualClock::at("2026-11".parse().unwrap());
        let time = Time::of(Arc::new(clock.clone()));
        assert_eq!(time.date(time.read()), ("2026-11".parse().unwrap(), 1));
        clock.set_unix_time("2026-12".parse::<Period>().unwrap().begins());
        assert_eq!(time.date(time.read()), ("2026-12".parse().unwrap(), 1));
        clock.advance(Duration::MAX);
        assert_eq!(
            time.date(time.read()),
            ("9998-12".parse().unwrap(), 31),
            "however far it is moved"
        );
    }

    /// A clock that panics sometimes bills neither too much nor nothing.
    #[test]
    fn a_clock_that_panics_continues_by_the_systems_clock() {
        #[derive(Debug)]
        struct Faulty(std::sync::atomic::AtomicBool);
        impl Clock for Faulty {
            fn monotonic(&self) -> Duration {
                assert!(!self.0.load(Ordering::Relaxed), "the host's clock has a fault");
                Duration::from_secs(1_000_000)
            }
            fn unix_time(&self) -> UnixTime {
                UnixTime::EPOCH + self.monotonic()
            }
        }
        let clock = Arc::new(Faulty(false.into()));
        let time = Time::of(Arc::clone(&clock) as Arc<dyn Clock>);
        clock.0.store(true, Ordering::Relaxed);
        let (before, system) = (time.now().compute, std::time::Instant::now());
        assert!(before >= Duration::from_secs(1_000_000), "even its first reading failed");
        while system.elapsed() < Duration::from_millis(2) {}
        let passed = time.now().compute - before;
        assert!(
            passed >= Duration::from_millis(2)
                && passed <= system.elapsed() + Duration::from_millis(1),
            "{passed:?}"
        );
        assert!(time.unix_time() > UnixTime::from_secs(1_700_000_000));
    }

    #[test]
    fn a_calendar_that_runs_ahead_of_monotonic_time_says_that_the_process_was_suspended() {
        let clock = ManualClock::at("2026-11".parse().unwrap());
        let time = Time::of(Arc::new(clock.clone()));
        let looks = || {
            time.date(time.read());
            time.woke_at().is_some()
        };
        clock.advance(Duration::from_secs(3_600));
        assert!(!looks());
        clock.advance(Duration::from_secs(3_600));
        assert!(!looks(), "both have moved");
        clock.set_unix_time(clock.unix_time() - Duration::from_secs(3_600));
        assert!(!looks(), "it was set back");
        clock.set_unix_time(clock.unix_time() + Duration::from_secs(3));
        assert!(looks());
    }
}
