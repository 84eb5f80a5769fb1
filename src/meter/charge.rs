//! The guard that holds a request's slice from its admission until its response ends, however it ends.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::StatusCode;
use tokio::time::{Instant, Sleep};

use super::compute::Compute;
use crate::{
    Clock, Credits, Identity, Midway, Period, RequestCap, Tier, Workload,
    lease::{Ended, Place, Run, Seat, Want},
    ledger::{LineKey, Standing, Usage},
    limit::{RateState, RequestRate},
    observe,
    rejection::Rejection,
};

/// The least compute time that a request is admitted for.
const LEAST: Duration = Duration::from_millis(50);

/// How a metered response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Its body was complete.
    Complete,
    /// The service or its body failed.
    Failed,
    /// It was dropped first: the client went away, a timeout struck, or the service panicked.
    Dropped,
    /// Its credits ended.
    CutOff,
}

impl End {
    /// Its name as a label of metrics.
    #[cfg(feature = "metrics")]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::CutOff => "cut_off",
        }
    }
}

/// What is known of a metered request when it ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ending {
    /// The response's status; `None` where there was none.
    pub status: Option<StatusCode>,
    /// The status of a gRPC call, as its trailers say it: 0 is OK. `None` of other requests, and of calls that ended without.
    pub grpc_status: Option<u8>,
    /// How it ended.
    pub end: End,
}

/// Decides which requests are billed, by how they ended.
pub(crate) type Billable = Arc<dyn Fn(&Ending) -> bool + Send + Sync>;

/// What a request is metered by. Shared with the lease, which reads what it has used.
#[derive(Debug)]
pub(crate) struct Metering {
    clock: Arc<dyn Clock>,
    compute: Mutex<Compute>,
    billed: Mutex<Option<Usage>>,
    slice: AtomicI64,
    forgiven: AtomicBool,
    /// Nothing of this layer's is between the service and its client any more.
    unstoppable: AtomicBool,
    /// It only looks as if it were metered: in shadow mode there is always more.
    shadow: AtomicBool,
    pub(crate) workload: Workload,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tier: Arc<Tier>,
    pub(super) period: Period,
    day: u8,
    /// The most compute time that it may use.
    cap: Option<Duration>,
    pub(super) want: Want,
}

impl Metering {
    /// `hold` is the least compute time that a tier may put on hold.
    pub(super) fn new(
        clock: &Arc<dyn Clock>,
        hold: Duration,
        workload: Workload,
        identity: Arc<Identity>,
        tier: Arc<Tier>,
        period: Period,
    ) -> Self {
        // A request that another month admits after all stands on that month's first or last day.
        let now = clock.unix_time().clamp(period.begins(), period.ends() - Duration::from_millis(1));
        let price = workload.price;
        let cap = tier.most_per_request.map(|cap| match cap {
            RequestCap::Compute(time) => time,
            RequestCap::Cost(cost) => price.runway(cost),
        });
        let hold = cap.unwrap_or(Duration::MAX).min(tier.hold.max(hold));
        // Where a second costs anything, so does a request, however short it has to be.
        let floor = if price.a_second().is_zero() { Credits::ZERO } else { Credits::SMALLEST };
        let cost = |time: Duration| price.cost_or_max(time).max(floor);
        let want = Want { hold: cost(hold), least: cost(LEAST.min(hold)), most_running: tier.most_running };
        Self {
            clock: Arc::clone(clock),
            compute: Mutex::default(),
            billed: Mutex::default(),
            slice: AtomicI64::new(0),
            forgiven: AtomicBool::new(false),
            unstoppable: AtomicBool::new(false),
            shadow: AtomicBool::new(false),
            workload,
            identity,
            tier,
            period,
            day: Period::day(now),
            cap,
            want,
        }
    }

    /// The same request, admitted anew.
    pub(super) fn in_period(&self, hold: Duration, period: Period) -> Self {
        let again = Self::new(&self.clock, hold, self.workload.clone(), Arc::clone(&self.identity), Arc::clone(&self.tier), period);
        if self.is_shadow() {
            again.shadow();
        }
        again
    }

    /// In shadow mode nothing stops it, and it is told so.
    pub(super) fn shadow(&self) {
        self.shadow.store(true, Ordering::Release);
        self.never_stop();
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.shadow.load(Ordering::Acquire)
    }

    /// Nothing that this layer could do may stop it.
    pub(super) fn never_stop(&self) {
        self.unstoppable.store(true, Ordering::Release);
    }

    fn cap(&self) -> Option<Duration> {
        self.cap.filter(|_| !self.unstoppable.load(Ordering::Acquire))
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Compute, Duration) -> T) -> T {
        let now = self.now();
        change(&mut self.lock(), now)
    }

    fn lock(&self) -> MutexGuard<'_, Compute> {
        self.compute.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn compute(&self) -> Duration {
        self.with(|compute, now| compute.so_far(now))
    }

    fn stops(&self) -> bool {
        self.tier.midway == Midway::Stop && !self.unstoppable.load(Ordering::Acquire)
    }

    /// How much longer its slice lasts, as that is now.
    pub(super) fn left(&self) -> Duration {
        let slice = Credits::clamped(self.slice.load(Ordering::Acquire));
        self.workload.price.runway(slice).saturating_sub(self.compute())
    }

    /// How much longer it may run; `None` where nothing stops it.
    fn remaining(&self) -> Option<Duration> {
        let capped = self.cap().map(|cap| cap.saturating_sub(self.compute()));
        let stopped = self.stops().then(|| self.left());
        capped.into_iter().chain(stopped).min()
    }
}

impl Run for Metering {
    fn accrued(&self, _: Duration) -> Credits {
        self.workload.price.cost_or_max(self.compute())
    }

    fn runway(&self, cost: Credits, _: Duration) -> Duration {
        self.workload.price.runway(cost).saturating_sub(self.compute())
    }

    fn granted(&self, slice: Credits, _: Duration) {
        self.slice.store(slice.as_nano_usd(), Ordering::Release);
    }

    fn bill(&self, slice: Credits, _: Duration) -> Option<(LineKey, Usage)> {
        let compute = self.with(|compute, now| {
            compute.has_begun().then(|| {
                compute.end(now);
                compute.so_far(now)
            })
        })?;
        if self.forgiven.load(Ordering::Acquire) {
            return None;
        }
        let cost = self.workload.price.cost_or_max(compute);
        let cost = if self.stops() { cost.min(slice) } else { cost };
        let cost = self.cap().map_or(cost, |cap| cost.min(self.workload.price.cost_or_max(cap)));
        let Workload { model, hardware, feature, .. } = self.workload.clone();
        let line = LineKey::Of { day: self.day, model, hardware, feature, subject: self.identity.subject.clone() };
        let compute_micros = u64::try_from(compute.as_micros()).unwrap_or(u64::MAX);
        let usage = Usage { requests: 1, compute_micros, cost };
        *self.billed.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
        Some((line, usage))
    }
}

/// Holds a request's slice from its admission until its response ends, and is closed exactly once: here, or when it is dropped.
pub(crate) struct Charge {
    place: Option<Place<RequestRate>>,
    metering: Arc<Metering>,
    billable: Billable,
    pub(super) rate: Option<RateState>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    when_dropped: End,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Charge {
    pub(super) fn new(place: Place<RequestRate>, metering: Arc<Metering>, billable: Billable, rate: Option<RateState>) -> Self {
        Self { place: Some(place), metering, billable, rate, status: None, grpc_status: None, when_dropped: End::Dropped, timer: None }
    }

    pub(super) fn metering(&self) -> &Arc<Metering> {
        &self.metering
    }

    /// The account's seat, while the charge is open.
    pub(super) fn seat(&self) -> Option<Seat<RequestRate>> {
        self.place.as_ref().and_then(Place::seat)
    }

    /// What the account has left, as far as this node knows.
    pub(super) fn left(&self) -> Option<Credits> {
        self.place.as_ref().and_then(Place::left)
    }

    /// The inner service is called now.
    pub(super) fn begin(&self) {
        self.metering.with(Compute::begin);
    }

    /// The response's head is there.
    pub(super) fn responded(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.metering.with(Compute::hand_over);
    }

    /// A gRPC call's status is there.
    pub(super) fn stated(&mut self, status: Option<u8>) {
        self.grpc_status = status;
    }

    /// What the request was billed, once it was: here, or by a shutdown.
    pub(super) fn billed(&self) -> Option<Usage> {
        *self.metering.billed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing of the slice is left, for a request that stops there.
    pub(super) fn is_exhausted(&self) -> bool {
        self.metering.remaining().is_some_and(|remaining| remaining.is_zero())
    }

    /// Ready once nothing of the slice is left, for a request that stops there. The slice may grow meanwhile.
    pub(super) fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(remaining) = self.metering.remaining() else { return Poll::Pending };
            if remaining.is_zero() {
                return Poll::Ready(());
            }
            // Timers count whole milliseconds; a billing clock that stands still must not make this spin.
            let Some(at) = Instant::now().checked_add(remaining.max(Duration::from_millis(1))) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.is_elapsed() || timer.deadline() > at + Duration::from_millis(1) {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.place.is_none()
    }

    /// Ends where its slice ended and nothing more was to be had, and says why that was.
    pub(super) fn cut_off(&mut self) -> Rejection {
        let capped = self.metering.cap().is_some_and(|cap| self.metering.compute() >= cap);
        match self.close(End::CutOff) {
            _ if capped => Rejection::RequestCap,
            Some(ended) if ended.ledger_answers => {
                let used = ended.standing.used.saturating_add(ended.unreported);
                let Metering { want, period, tier, .. } = &*self.metering;
                Rejection::of(&Standing { used, ..ended.standing }, want.least, *period, tier.hint.as_deref())
            }
            _ => Rejection::LedgerUnreachable,
        }
    }

    /// Nobody will read the body: that it is dropped is how it completes.
    pub(super) fn completes_when_dropped(&mut self) {
        self.when_dropped = End::Complete;
    }

    /// Settles, and says so in the log.
    pub(super) fn close(&mut self, end: End) -> Option<Ended> {
        let place = self.place.take()?;
        self.timer = None;
        let ending = Ending { status: self.status, grpc_status: self.grpc_status, end };
        if !(self.billable)(&ending) {
            self.metering.forgiven.store(true, Ordering::Release);
        }
        let slice = Credits::clamped(self.metering.slice.load(Ordering::Acquire));
        let ended = place.end()?;
        observe::ended(&self.metering, &ending, &ended, self.metering.workload.price.runway(slice));
        Some(ended)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.close(self.when_dropped);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("metering", &self.metering).field("open", &self.place.is_some()).finish_non_exhaustive()
    }
}
