//! The guard that holds a request's slice from its admission until its response ends, however it ends.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::StatusCode;
use tokio::time::{Instant, Sleep};

use super::{
    compute::{Compute, Gaps},
    usual::Usual,
};
use crate::{
    Credits, Midway, Period,
    clock::Now,
    lease::{self, Beside, Ended, Run, RunId, Seat},
    ledger::{LineKey, Standing, Usage},
    limit::RequestRate,
    observe,
    rejection::Rejection,
};

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

/// What a meter keeps beside an account's lease.
#[derive(Debug, Default)]
pub(crate) struct Kept(pub(super) RequestRate);

impl Beside for Kept {
    type Run = Metering;

    fn is_spent(&self, now: Duration) -> bool {
        self.0.is_full(now)
    }
}

pub(super) type Place = lease::Place<Kept>;

/// What a request is metered by, kept with the slice that it runs on.
#[derive(Debug)]
pub(crate) struct Metering {
    pub(crate) usual: Arc<Usual>,
    compute: Compute,
    slice: Credits,
    day: u8,
    forgiven: bool,
    /// Nothing of this layer's is between the service and its client any more.
    unstoppable: bool,
    /// It only looks as if it were metered: in shadow mode there is always more.
    shadow: bool,
}

impl Metering {
    /// `today` is the month, and the day of it, by this node's clock.
    pub(super) fn new(usual: Arc<Usual>, today: (Period, u8), shadow: bool) -> Self {
        // A request that another month admits after all stands on that month's first or last day.
        let day = match today {
            (period, day) if period == usual.period => day,
            (period, _) if period < usual.period => 1,
            _ => Period::day(usual.period.ends() - Duration::from_millis(1)),
        };
        Self {
            usual,
            compute: Compute::default(),
            slice: Credits::ZERO,
            day,
            forgiven: false,
            // In shadow mode nothing stops it, and it is told so.
            unstoppable: shadow,
            shadow,
        }
    }

    /// The service is called now.
    pub(super) fn begin(&mut self, now: Duration) {
        self.compute.begin(now);
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Nothing that this layer could do may stop it.
    pub(super) fn never_stop(&mut self) {
        self.unstoppable = true;
    }

    pub(super) fn compute(&mut self) -> &mut Compute {
        &mut self.compute
    }

    fn cap(&self) -> Option<Duration> {
        self.usual.cap.filter(|_| !self.unstoppable)
    }

    fn stops(&self) -> bool {
        self.usual.tier.midway == Midway::Stop && !self.unstoppable
    }

    /// How much longer its slice lasts, as that is now.
    pub(super) fn left(&self, now: Duration) -> Duration {
        self.runway_of_slice().saturating_sub(self.compute.so_far(now))
    }

    /// The compute time that its slice pays for.
    pub(crate) fn runway_of_slice(&self) -> Duration {
        self.usual.workload.price.runway(self.slice)
    }

    /// How much longer it may run; `None` where nothing stops it.
    fn remaining(&self, now: Duration) -> Option<Duration> {
        let capped = self.cap().map(|cap| cap.saturating_sub(self.compute.so_far(now)));
        let stopped = self.stops().then(|| self.left(now));
        capped.into_iter().chain(stopped).min()
    }

    /// The time that compute time is counted in, by the leases' time.
    fn now(&self, lease: Duration) -> Duration {
        self.usual.clock.as_ref().map_or(lease, |clock| clock.monotonic())
    }
}

impl Run for Metering {
    fn accrued(&self, now: Duration) -> Credits {
        self.usual.workload.price.cost_or_max(self.compute.so_far(self.now(now)))
    }

    fn runway(&self, cost: Credits, now: Duration) -> Duration {
        self.usual.workload.price.runway(cost).saturating_sub(self.compute.so_far(self.now(now)))
    }

    fn granted(&mut self, slice: Credits, _: Duration) {
        self.slice = slice;
    }

    fn begins(&mut self, now: Duration) {
        self.compute.begin(self.now(now));
    }

    fn bill(&mut self, slice: Credits, now: Duration) -> Option<Usage> {
        if !self.compute.has_begun() {
            return None;
        }
        let now = self.now(now);
        self.compute.end(now);
        if self.forgiven {
            return None;
        }
        let compute = self.compute.so_far(now);
        let price = self.usual.workload.price;
        let cost = price.cost_or_max(compute);
        let cost = if self.stops() { cost.min(slice) } else { cost };
        let cost = self.cap().map_or(cost, |cap| cost.min(price.cost_or_max(cap)));
        let compute_micros = compute.as_secs().saturating_mul(1_000_000).saturating_add(compute.subsec_micros().into());
        Some(Usage { requests: 1, compute_micros, cost })
    }

    fn line(&self) -> LineKey {
        let Usual { workload, subject, .. } = &*self.usual;
        LineKey::Of {
            day: self.day,
            model: workload.model.clone(),
            hardware: workload.hardware.clone(),
            feature: workload.feature.clone(),
            subject: subject.clone(),
        }
    }

    fn line_number(&self) -> u64 {
        self.usual.number << 5 | u64::from(self.day)
    }
}

/// How long frames may pass without a look at the account, which others use too.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Holds a request's slice from its admission until its response ends, and is closed exactly once: here, or when it is dropped.
pub(crate) struct Charge {
    place: Option<Place>,
    gaps: Gaps,
    /// Frames before this moment do not look at the account.
    looks_again: Duration,
    /// `None` where everything is billed.
    billable: Option<Billable>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    billed: Option<Usage>,
    when_dropped: End,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Charge {
    pub(super) fn new(place: Place, billable: Option<&Billable>) -> Self {
        Self {
            place: Some(place),
            gaps: Gaps::default(),
            looks_again: Duration::ZERO,
            billable: billable.cloned(),
            status: None,
            grpc_status: None,
            billed: None,
            when_dropped: End::Dropped,
            timer: None,
        }
    }

    /// Where the request is found, while the charge is open.
    pub(super) fn whereabouts(&self) -> Option<(Seat<Kept>, RunId)> {
        self.place.as_ref().and_then(Place::whereabouts)
    }

    /// The request, while the charge is open.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Metering, Duration) -> T) -> Option<T> {
        let place = self.place.as_ref()?;
        let now = place.now()?.compute;
        place.with(|metering| look(metering, now))
    }

    /// What the clocks say, while the charge is open.
    pub(super) fn now(&self) -> Now {
        self.place.as_ref().and_then(Place::now).unwrap_or(Now { compute: Duration::ZERO, lease: Duration::ZERO })
    }

    /// What the account has left, as far as this node knows.
    pub(super) fn left(&self) -> Option<Credits> {
        self.place.as_ref().and_then(Place::left)
    }

    /// The inner service is called now.
    pub(super) fn begin(&self) {
        self.with(Metering::begin);
    }

    /// The response's head is there, and handed over to whoever reads it.
    pub(super) fn responded(&mut self, status: StatusCode, now: Now) {
        self.status = Some(status);
        self.gaps.hand_over(now.compute);
    }

    /// A gRPC call's status is there.
    pub(super) fn stated(&mut self, status: Option<u8>) {
        self.grpc_status = status;
    }

    /// What the request was billed, once it was: here, or by a shutdown.
    pub(super) const fn billed(&self) -> Option<Usage> {
        self.billed
    }

    /// The reader came back at `now`, and finds the next frame ready or not.
    pub(super) fn polled(&mut self, ready: bool, now: Now) {
        self.gaps.polled(ready, now.compute);
    }

    /// A frame that is not the last is there. Answers whether nothing of the slice is left for a request that stops there; else it is handed over.
    pub(super) fn frame(&mut self) -> bool {
        let now = self.now().compute;
        self.gaps.hand_over(now);
        if now < self.looks_again {
            return false;
        }
        let stall = self.gaps.take_stall();
        let look = |metering: &mut Metering| {
            metering.compute.stalled(stall);
            (metering.remaining(now), metering.compute.is_told())
        };
        let Some((remaining, is_told)) = self.place.as_ref().and_then(|place| place.with(look)) else { return false };
        // Until then it cannot be used up, unless the service says so: its slice only grows, and stalls only stretch it.
        let at_once = if is_told { Duration::ZERO } else { LOOK_AGAIN };
        self.looks_again = now.saturating_add(remaining.unwrap_or(Duration::MAX).min(at_once));
        remaining.is_some_and(|remaining| remaining.is_zero())
    }

    /// Ready once nothing of the slice is left, for a request that stops there. The slice may grow meanwhile.
    pub(super) fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(remaining) = self.with(|metering, now| metering.remaining(now)).flatten() else { return Poll::Pending };
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
        let capped = self.with(|metering, now| metering.cap().is_some_and(|cap| metering.compute.so_far(now) >= cap)).unwrap_or_default();
        match self.close(End::CutOff) {
            _ if capped => Rejection::RequestCap,
            Some(ended) if ended.ledger_answers => {
                let used = ended.standing.used.saturating_add(ended.unreported);
                let Usual { want, period, tier, .. } = &*ended.run.usual;
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
    pub(super) fn close(&mut self, end: End) -> Option<Ended<Metering>> {
        let now = self.now();
        self.close_at(end, now)
    }

    /// The same, at a moment that was just read.
    pub(super) fn close_at(&mut self, end: End, now: Now) -> Option<Ended<Metering>> {
        let place = self.place.take()?;
        self.timer = None;
        let ending = Ending { status: self.status, grpc_status: self.grpc_status, end };
        let forgiven = self.billable.as_ref().is_some_and(|billable| !billable(&ending));
        let stall = self.gaps.take_stall();
        let ended = place.end(now, |metering| {
            metering.compute.stalled(stall);
            metering.forgiven |= forgiven;
        })?;
        self.billed = ended.billed;
        observe::ended(&ending, &ended);
        Some(ended)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.close(self.when_dropped);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("open", &self.place.is_some()).finish_non_exhaustive()
    }
}
