//! The two clocks that decide what is billed: compute time is monotonic, the month is the
//! calendar's.
//!
//! What leases wait for is a third one: on the [`SystemClock`] it is the same reading, so that a
//! request is worth few of them; under any other clock it is tokio's time, which tests pause.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use crate::unix_time::UnixTime;
use crate::{Period, contained::contained};

/// Where time is read. Production uses [`SystemClock`], tests [`ManualClock`] or [`TokioClock`].
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since a moment that is the same for the whole process; never goes back.
    fn monotonic(&self) -> Duration;

    /// The calendar's time.
    fn unix_time(&self) -> UnixTime;
}

/// The system's own clocks.
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

/// The operating system's own: counters of the processor are read faster, and may be scaled wrongly
/// or begin anew without a word.
fn monotonic() -> Duration {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let now = std::time::Instant::now();
    now.saturating_duration_since(*ORIGIN.get_or_init(|| now))
}

/// The system's clocks, but for compute time, which is tokio's: for tests on paused time
/// (`#[tokio::test(start_paused = true)]`).
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        // The standard clock's own now: tokio's may be paused and far ahead in one test's runtime.
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = ORIGIN.get_or_init(|| std::time::Instant::now().into());
        Instant::now().saturating_duration_since(*origin)
    }

    fn unix_time(&self) -> UnixTime {
        UnixTime::now()
    }
}

/// A clock that stands until it is moved. Clones are the same clock.
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
pub struct ManualClock(Arc<Mutex<(Duration, UnixTime)>>);

impl ManualClock {
    /// A clock at the first moment of a month.
    pub fn at(period: crate::Period) -> Self {
        Self(Arc::new(Mutex::new((Duration::ZERO, period.begins()))))
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *time = (time.0.saturating_add(by), time.1 + by);
    }

    /// Sets the calendar's clock alone, as an operator or NTP would.
    pub fn set_unix_time(&self, unix_time: UnixTime) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = unix_time;
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn unix_time(&self) -> UnixTime {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A timer that fires this late was held up, and so was all else in the process.
const HELD_UP: Duration = Duration::from_millis(25);

/// For so long after that, what came meanwhile may be looked at.
const CATCHING_UP: Duration = Duration::from_millis(100);

/// Waits for `future` until `at`. A process that stood still when that moment came (it was
/// suspended, or its threads were blocked) gives it a little longer: the answer may be there, and
/// nobody has had the time to look.
pub(crate) async fn until<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Ok(output) = timeout_at(at, &mut future).await {
        return Some(output);
    }
    let now = Instant::now();
    if now.saturating_duration_since(at) < HELD_UP {
        return None;
    }
    timeout_at(now + CATCHING_UP, future).await.ok()
}

/// One reading of a meter's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// What compute time is counted in.
    pub(crate) compute: Duration,
    /// What leases wait in.
    pub(crate) lease: Duration,
}

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// By so much the calendar's clock runs ahead of the monotonic one where the process was suspended,
/// in nanoseconds.
const SUSPENDED: i64 = 2_000_000_000;

/// A meter's clocks. Clones read the same.
#[derive(Clone, Debug)]
pub(crate) struct Time(Arc<Source>);

#[derive(Debug)]
struct Source {
    /// `None` for the system's own.
    other: Option<Arc<dyn Clock>>,
    origin: Instant,
    /// The day that it was last, counted from the epoch and from 1, and its date: in one word, so
    /// that nobody sees one of another.
    dated: AtomicU64,
    /// By how much the calendar's clock was ahead of the monotonic one when both were last read, in
    /// nanoseconds.
    ahead: AtomicI64,
    /// When the process was last seen to go on after it was suspended, in nanoseconds of the
    /// leases' time and one more; 0 for never.
    woke_at: AtomicU64,
}

/// A clock of the host's, which may panic, and is read in drops, too: time goes on by the system's
/// clocks then.
#[derive(Debug)]
struct Steady {
    clock: Arc<dyn Clock>,
    /// What it said last, and the system's clock then.
    last: Mutex<(Duration, Duration)>,
}

impl Steady {
    fn of(clock: Arc<dyn Clock>) -> Self {
        let steady = Self { clock, last: Mutex::default() };
        // There is something to go on from.
        steady.monotonic();
        steady
    }
}

impl Clock for Steady {
    fn monotonic(&self) -> Duration {
        let said = contained("the clock", || self.clock.monotonic());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
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

/// The upper bits of a word are a day's number, the lower ones its date.
const DAY_BITS: u32 = 23;

impl Time {
    /// The system's clocks.
    pub(crate) fn system() -> Self {
        Self::from(None)
    }

    pub(crate) fn of(clock: Arc<dyn Clock>) -> Self {
        Self::from(Some(Arc::new(Steady::of(clock))))
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

    /// The clock that compute time is counted by, where that is not the one that leases wait by.
    pub(crate) fn other(&self) -> Option<&Arc<dyn Clock>> {
        self.0.other.as_ref()
    }

    pub(crate) fn unix_time(&self) -> UnixTime {
        self.0.other.as_ref().map_or_else(|| SystemClock.unix_time(), |clock| clock.unix_time())
    }

    /// The month, and the day of it. Notes if the process was suspended, too: monotonic time stands
    /// still then, and what a node was granted before may have been given to others since.
    pub(crate) fn date(&self, now: Now) -> (Period, u8) {
        let unix_time = self.unix_time();
        self.compare(now, unix_time);
        let day = unix_time.as_secs() / SECONDS_A_DAY + 1;
        let dated = self.0.dated.load(Ordering::Relaxed);
        if dated >> DAY_BITS == day {
            return Period::unpack(dated & ((1 << DAY_BITS) - 1));
        }
        let date = (Period::containing(unix_time), Period::day(unix_time));
        if day <= u64::MAX >> DAY_BITS {
            self.0.dated.store(day << DAY_BITS | Period::pack(date), Ordering::Relaxed);
        }
        date
    }

    /// Reads the clocks, to find out if the process was suspended; answers what
    /// [`woke_at`](Self::woke_at) does then.
    pub(crate) fn notice(&self) -> Option<Duration> {
        self.compare(self.now(), self.unix_time());
        self.woke_at()
    }

    /// When the process was last seen to go on after it was suspended, by the leases' time.
    pub(crate) fn woke_at(&self) -> Option<Duration> {
        self.0.woke_at.load(Ordering::Acquire).checked_sub(1).map(Duration::from_nanos)
    }

    fn compare(&self, now: Now, unix_time: UnixTime) {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let ahead = nanos(unix_time.since_epoch()).saturating_sub(nanos(now.compute));
        let before = self.0.ahead.load(Ordering::Acquire);
        if before != i64::MAX && ahead.saturating_sub(before) > SUSPENDED {
            // Before others see that it was noticed.
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
    fn the_date_is_found_out_once_a_day() {
        let time = Time::system();
        let now = time.now();
        let date = time.date(now);
        assert_eq!(
            date,
            (Period::containing(SystemClock.unix_time()), Period::day(SystemClock.unix_time()))
        );
        let day = time.0.dated.load(Ordering::Relaxed) >> DAY_BITS;
        time.0.dated.store(
            day << DAY_BITS | Period::pack(("2001-09".parse().unwrap(), 9)),
            Ordering::Relaxed,
        );
        assert_eq!(time.date(now), ("2001-09".parse().unwrap(), 9), "as it was found out");
        time.0.dated.store(
            (day - 1) << DAY_BITS | Period::pack(("2001-09".parse().unwrap(), 9)),
            Ordering::Relaxed,
        );
        assert_eq!(time.date(now), date);

        let clock = ManualClock::at("2026-11".parse().unwrap());
        let time = Time::of(Arc::new(clock.clone()));
        assert_eq!(time.date(time.now()), ("2026-11".parse().unwrap(), 1));
        clock.set_unix_time("2026-12".parse::<Period>().unwrap().begins());
        assert_eq!(time.date(time.now()), ("2026-12".parse().unwrap(), 1));
        clock.advance(Duration::MAX);
        assert_eq!(time.date(time.now()), ("9998-12".parse().unwrap(), 31), "however far it goes");
    }

    /// One that panics now and then bills neither what was before nor nothing at all.
    #[test]
    fn a_clock_that_panics_goes_on_by_the_systems() {
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
            time.date(time.now());
            time.woke_at().is_some()
        };
        clock.advance(Duration::from_secs(3_600));
        assert!(!looks());
        clock.advance(Duration::from_secs(3_600));
        assert!(!looks(), "both went on");
        clock.set_unix_time(clock.unix_time() - Duration::from_secs(3_600));
        assert!(!looks(), "it was set back");
        clock.set_unix_time(clock.unix_time() + Duration::from_secs(3));
        assert!(looks());
    }
}
