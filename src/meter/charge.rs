//! The guard that holds a request's slice from its admission until its response ends, however it
//! ends.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use http::{StatusCode, response::Parts};
use tokio::time::{Instant, Sleep};

use super::{
    compute::Compute,
    compute_clock::ClockKept,
    read_ahead::{Reader, Writer},
    usual::Usual,
};
use crate::{
    Credits, Period,
    clock::Now,
    contained::contained,
    lease::{self, Beside, Denial, Ended, Run, RunId, Seat},
    ledger::{LineKey, Standing, Usage},
    limit::RequestRate,
    observe::{self, MeteredRequest},
    plan::Midway,
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
    /// Nothing of it was read for too long: its service was not kept waiting any longer.
    Stalled,
}

impl End {
    /// Its name as a label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::CutOff => "cut_off",
            Self::Stalled => "stalled",
        }
    }
}

/// What is known of a metered request when it ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FinishedRequest {
    /// The response's status; `None` where there was none.
    pub status: Option<StatusCode>,
    /// The status of a gRPC call, as its trailers say it: 0 is OK. `None` of other requests, and of
    /// calls that ended without.
    pub grpc_status: Option<u8>,
    /// How it ended.
    pub end: End,
}

/// Decides which requests are billed.
#[derive(Clone)]
pub(crate) enum Billable {
    /// By how they ended.
    AtEnd(Arc<ByEnding>),
    /// By their heads; `None` if there was none.
    AtHead(Arc<ByHead>),
}

type ByEnding = dyn Fn(&FinishedRequest) -> bool + Send + Sync;
type ByHead = dyn Fn(Option<&Parts>) -> bool + Send + Sync;

/// What a meter keeps beside an account's lease.
#[derive(Debug, Default)]
pub(crate) struct Kept(pub(super) RequestRate);

impl Beside for Kept {
    type Run = Metering;

    fn is_spent(&self, now: Duration) -> bool {
        self.0.is_full(now)
    }

    fn settled(&self, ended: Ended<Metering>) {
        if let Some(ending) = ended.run.ending {
            report(&ending, &ended);
        }
    }
}

pub(super) type Place = lease::Place<Kept>;

/// What a request is metered by, kept with the slice that it runs on.
#[derive(Debug)]
pub(crate) struct Metering {
    pub(crate) usual: Arc<Usual>,
    compute: Compute,
    slice: Credits,
    /// The ledger had less than it needed.
    denied: Option<Denial>,
    /// When a report made it need more at once: what was asked before is no answer to that.
    needed_at: Duration,
    /// Its slice is used up, and the ledger was asked for more since.
    overdue: bool,
    /// Whom to wake when its slice has changed, or is not going to.
    waker: Option<Waker>,
    day: u8,
    forgiven: bool,
    /// `true` if its end decides whether it is billed.
    undecided: bool,
    /// `true` if the handler, or a task of it, can still report.
    clock: Option<ClockKept>,
    /// The head of its response is there.
    is_streaming: bool,
    /// Nothing of this layer's is between the service and its client any more.
    unstoppable: bool,
    /// It only looks as if it were metered: in shadow mode there is always more.
    shadow: bool,
    /// How it ended, once it has.
    ending: Option<FinishedRequest>,
}

/// How much longer a request may run.
enum Outlook {
    /// For ever.
    Unlimited,
    /// Until it is held back no longer, and then for a while.
    HeldBack,
    For(Duration),
    /// Until the ledger has answered. It has yet to be asked.
    Ask,
    /// Until the ledger has answered.
    Wait,
    /// No longer.
    End,
}

/// A request that is found to be over its slice by more than this was not looked at in time.
const LATE: Duration = Duration::from_millis(50);

impl Metering {
    /// `today` is the month, and the day of it, by this node's clock.
    pub(super) fn new(
        usual: Arc<Usual>,
        today: (Period, u8),
        shadow: bool,
        undecided: bool,
    ) -> Self {
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
            denied: None,
            needed_at: Duration::ZERO,
            overdue: false,
            waker: None,
            day,
            forgiven: false,
            undecided,
            clock: None,
            is_streaming: false,
            // In shadow mode nothing stops it, and it is told so.
            unstoppable: shadow,
            shadow,
            ending: None,
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
        self.usual.cap.filter(|_| !self.unstoppable && !self.forgiven)
    }

    fn stops(&self) -> bool {
        self.usual.tier.midway == Midway::Stop && !self.unstoppable && !self.forgiven
    }

    /// How much longer its slice lasts, as that is now.
    pub(super) fn left(&self, now: Duration) -> Duration {
        self.runway_of_slice().saturating_sub(self.compute.so_far(now))
    }

    /// The compute time that its slice pays for.
    pub(crate) fn runway_of_slice(&self) -> Duration {
        self.usual.workload.price.runway(self.slice)
    }

    /// The service's own stopwatch counts from now on, also while it is held back.
    pub(super) fn start(&mut self, now: Duration) {
        self.compute.start(now);
        self.wake();
    }

    /// The service said how long it computed.
    pub(super) fn report(&mut self, total: Duration, now: Now) -> bool {
        let was_over = self.is_over(now.compute);
        let believed = self.compute.report(total);
        if !was_over && self.is_over(now.compute) {
            self.needed_at = now.lease;
        }
        self.wake();
        believed
    }

    fn is_over(&self, now: Duration) -> bool {
        self.stops() && self.left(now).is_zero()
    }

    /// How much longer it may run. Whoever asks is woken when that has changed. A denial counts for
    /// as long as `fresh`, if the request was looked at in time.
    fn outlook(&mut self, now: Now, fresh: Duration, waker: &Waker) -> Outlook {
        let so_far = self.compute.so_far(now.compute);
        let capped = self.cap().map(|cap| cap.saturating_sub(so_far));
        if self.compute.has_ended() {
            if !self.stops() || self.used(now.compute).is_none_or(|used| used.cost <= self.slice) {
                return Outlook::Unlimited;
            }
        } else if capped.is_some_and(|left| left.is_zero()) {
            return Outlook::End;
        }
        self.watch(waker);
        if !self.stops() {
            return match capped {
                Some(_) if self.compute.stands() => Outlook::HeldBack,
                capped => capped.map_or(Outlook::Unlimited, Outlook::For),
            };
        }
        let slice = self.runway_of_slice();
        if so_far < slice && !self.compute.has_ended() {
            self.overdue = false;
            if self.compute.stands() {
                return Outlook::HeldBack;
            }
            let left = slice.saturating_sub(so_far);
            return Outlook::For(capped.map_or(left, |capped| left.min(capped)));
        }
        if self.denied.is_some_and(|denial| denial.asked_at < self.needed_at) {
            (self.denied, self.overdue) = (None, false);
        }
        let in_time = so_far.saturating_sub(slice) <= LATE;
        let is_fresh =
            |denial: Denial| in_time && now.lease <= denial.asked_at.saturating_add(fresh);
        if self.denied.is_some_and(|denial| self.overdue || is_fresh(denial)) {
            return Outlook::End;
        }
        if std::mem::replace(&mut self.overdue, true) {
            return Outlook::Wait;
        }
        if !in_time {
            // What is under way was asked before it stood still.
            self.needed_at = now.lease;
        }
        self.denied = None;
        Outlook::Ask
    }

    fn watch(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// All that it used, whatever its slice; nothing if it is not billed.
    fn used(&self, now: Duration) -> Option<Usage> {
        if !self.compute.has_begun() || self.forgiven {
            return None;
        }
        let compute = self.compute.so_far(now);
        let price = self.usual.workload.price;
        let cost = price.cost_or_max(compute);
        let cost = self.cap().map_or(cost, |cap| cost.min(price.cost_or_max(cap)));
        let compute_micros = compute
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(compute.subsec_micros().into());
        Some(Usage { requests: 1, compute_micros, cost })
    }

    /// The time that compute time is counted in, by the leases' time.
    fn now(&self, lease: Duration) -> Duration {
        self.usual.clock.as_ref().map_or(lease, |clock| clock.monotonic())
    }
}

impl Run for Metering {
    fn accrued(&self, now: Duration) -> Credits {
        if self.forgiven {
            Credits::ZERO
        } else {
            self.usual.workload.price.cost_or_max(self.compute.so_far(self.now(now)))
        }
    }

    fn runway(&self, cost: Credits, now: Duration) -> Duration {
        self.usual.workload.price.runway(cost).saturating_sub(self.compute.so_far(self.now(now)))
    }

    fn granted(&mut self, slice: Credits, _: Duration) {
        (self.slice, self.denied, self.overdue) = (slice, None, false);
        self.wake();
    }

    fn owed(&mut self, slice: Credits) {
        self.slice = slice;
    }

    fn denied(&mut self, denial: Denial) {
        self.denied = Some(denial);
        self.wake();
    }

    fn begins(&mut self, now: Duration) {
        self.compute.begin(self.now(now));
    }

    fn stops(&self) -> bool {
        Self::stops(self)
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        let nobody_reports = || self.clock.as_ref().is_none_or(|clock| !clock.is_kept());
        let is_certain = self.compute.is_told()
            || (nobody_reports() && (self.is_streaming || self.usual.reporting.never_reports()));
        if self.undecided || !is_certain { None } else { self.used(self.now(now)) }
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        let now = self.now(now);
        self.compute.end(now);
        self.used(now)
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

/// Holds a request's slice from its admission until its response ends, and is closed exactly once:
/// here, or when it is dropped.
pub(crate) struct Charge {
    place: Option<Place>,
    /// Frames before this moment do not look at the account, which others use too, unless somebody
    /// wakes the task.
    looks_again: Duration,
    /// `None` if everything is billed, or it is decided already.
    billable: Option<Billable>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    billed: Option<Usage>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Nobody needs to look before the timer fires, or somebody wakes the task.
    watched: bool,
    /// Notes that somebody did.
    attention: Option<(Arc<Attention>, Waker)>,
    /// Until when an answer of the ledger is waited for.
    gives_up_at: Option<Instant>,
    /// The ledger will not say more.
    decided: bool,
}

impl Charge {
    pub(super) fn new(place: Place, billable: Option<&Billable>) -> Self {
        Self {
            place: Some(place),
            looks_again: Duration::ZERO,
            billable: billable.cloned(),
            status: None,
            grpc_status: None,
            billed: None,
            timer: None,
            watched: false,
            attention: None,
            gives_up_at: None,
            decided: false,
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
        self.place
            .as_ref()
            .and_then(Place::now)
            .unwrap_or(Now { compute: Duration::ZERO, lease: Duration::ZERO })
    }

    /// What the account has left, as far as this node knows.
    pub(super) fn left(&self) -> Option<Credits> {
        self.place.as_ref().and_then(Place::left)
    }

    /// The inner service is called now.
    pub(super) fn begin(&self) {
        self.with(Metering::begin);
    }

    /// The response's head is there.
    pub(super) fn responded(&mut self, head: &Parts) {
        self.status = Some(head.status);
        if let Some(Billable::AtHead(billable)) =
            self.billable.take_if(|billable| matches!(billable, Billable::AtHead(_)))
        {
            let forgiven = !is_billed(|| billable(Some(head)));
            self.with(|metering, _| (metering.forgiven, metering.undecided) = (forgiven, false));
            if let Some(place) = self.place.as_ref().filter(|_| forgiven) {
                place.release();
            }
        }
    }

    /// A gRPC call's status is there.
    pub(super) fn stated(&mut self, status: Option<u8>) {
        self.grpc_status = status;
    }

    /// What the request was billed, once it was: here, or by a shutdown.
    pub(super) const fn billed(&self) -> Option<Usage> {
        self.billed
    }

    /// What the response is read ahead by.
    pub(super) fn queue(&self) -> Option<(Writer, Reader)> {
        let time = self.place.as_ref()?.time()?;
        self.with(|metering, _| Arc::clone(&metering.usual.read_ahead))
            .map(|read_ahead| read_ahead.queue(time))
    }

    /// How long a response is kept of which nothing is taken.
    pub(super) fn stalled_after(&self) -> Duration {
        self.with(|metering, _| metering.usual.read_ahead.limits.stalled_after)
            .unwrap_or(Duration::MAX)
    }

    /// Nobody takes what the service has made.
    pub(super) fn hold_back(&self) {
        self.with(|metering, now| metering.compute.hold_back(now));
    }

    /// There is room again. Answers for how long the service was held back.
    pub(super) fn resume(&mut self) -> Duration {
        self.watched = false;
        self.with(|metering, now| metering.compute.resume(now)).unwrap_or_default()
    }

    /// So much of that was computation after all.
    pub(super) fn bill_held_back(&mut self, computed: Duration) {
        (self.watched, self.looks_again) = (false, Duration::ZERO);
        self.with(|metering, _| metering.compute.bill_held_back(computed));
    }

    /// The handler finds this clock in its request.
    pub(super) fn hands_out(&self, clock: ClockKept) {
        if let Some(place) = &self.place {
            place.with(|metering| metering.clock = Some(clock));
        }
    }

    /// The response goes on after its head, read by a task of its own.
    pub(super) fn streams(&mut self) {
        self.watched = false;
        self.attention = Some(Attention::new());
        if let Some(place) = &self.place {
            place.with(|metering| metering.is_streaming = true);
        }
    }

    /// `true` if it is time for a look at the account, now that a frame is there.
    pub(super) fn looks_again(&self, now: Duration) -> bool {
        !self.is_closed() && (now >= self.looks_again || self.was_woken())
    }

    /// Ready once it is known whether the request ends here: it does if nothing of its slice is
    /// left, it stops there, and the ledger has no more. While the ledger is asked, the service is
    /// held back.
    pub(super) fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let now = self.now().compute;
        match self.outlook(cx) {
            None | Some(Outlook::Unlimited) => {
                self.looks_again = Duration::MAX;
                Poll::Ready(false)
            }
            Some(Outlook::HeldBack) => {
                self.looks_again = Duration::ZERO;
                Poll::Ready(false)
            }
            Some(Outlook::For(left)) => {
                // Until then it cannot be used up, unless the service says so, which wakes: its
                // slice only grows.
                self.looks_again = now.saturating_add(left);
                Poll::Ready(false)
            }
            Some(Outlook::End) => Poll::Ready(true),
            Some(Outlook::Ask | Outlook::Wait) => self.poll_patience(cx).map(|()| true),
        }
    }

    /// `true` if whoever looked last will be woken when there is something to see.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
            && !self.was_woken()
            && self.timer.as_ref().is_none_or(|timer| !timer.is_elapsed())
    }

    /// `true` if something has changed since somebody looked last.
    fn was_woken(&self) -> bool {
        self.attention.as_ref().is_none_or(|(attention, _)| attention.woken.load(Ordering::Acquire))
    }

    /// Ready once nothing of the slice is left, for a request that stops there, and the ledger has
    /// no more. The slice may grow meanwhile.
    pub(super) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.watched = false;
            let left = match self.outlook(cx) {
                None | Some(Outlook::Unlimited | Outlook::HeldBack) => {
                    self.watched = true;
                    return Poll::Pending;
                }
                Some(Outlook::For(left)) => left,
                Some(Outlook::End) => return Poll::Ready(()),
                Some(Outlook::Ask | Outlook::Wait) => return self.poll_patience(cx),
            };
            // Timers count whole milliseconds; a billing clock that stands still must not make this
            // spin.
            let at = Instant::now().checked_add(left.max(Duration::from_millis(1)));
            self.watched = at.is_none_or(|at| self.poll_timer(at, cx).is_pending());
            if self.watched {
                return Poll::Pending;
            }
        }
    }

    /// The service has ended. Ready once the request can be billed: its slice covers what it used,
    /// or the ledger has no more.
    pub(super) fn poll_paid(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.outlook(cx) {
            None | Some(Outlook::Unlimited | Outlook::HeldBack | Outlook::For(_)) => {
                Poll::Ready(())
            }
            Some(Outlook::End) => {
                self.decided = true;
                Poll::Ready(())
            }
            // Who waits no longer leaves it to the lease.
            Some(Outlook::Ask | Outlook::Wait) => self.poll_patience(cx),
        }
    }

    /// The service has ended: what comes after this moment is not billed.
    pub(super) fn ends(&self, now: Now) {
        if let Some(place) = &self.place {
            place.with(|metering| metering.compute.end(now.compute));
        }
    }

    /// `true` if what it used is more than its slice.
    pub(super) fn is_short(&self, now: Now) -> bool {
        let is_short = |metering: &mut Metering| {
            metering.stops()
                && metering.used(now.compute).is_some_and(|used| used.cost > metering.slice)
        };
        self.place.as_ref().and_then(|place| place.with(is_short)).unwrap_or_default()
    }

    fn outlook(&mut self, cx: &Context<'_>) -> Option<Outlook> {
        let place = self.place.as_ref()?;
        let (now, (deadline, pause)) = (place.now()?, place.patience()?);
        // The ledger is asked again after a pause, or half of what is left, which are two pauses at
        // most before the end.
        let fresh = deadline + pause * 4;
        let waker = self.attention.as_ref().map_or(cx.waker(), |(attention, waker)| {
            attention.look(cx.waker());
            waker
        });
        let outlook = place.with(|metering| metering.outlook(now, fresh, waker))?;
        if matches!(outlook, Outlook::Ask) {
            place.ask_now();
        }
        if !matches!(outlook, Outlook::Wait) {
            // Another question has another time.
            self.gives_up_at = None;
        }
        Some(outlook)
    }

    /// The task that asks the ledger answers in time, if only that there is no answer. This is for
    /// when it is gone.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((deadline, _)) = self.place.as_ref().and_then(Place::patience) else {
            return Poll::Ready(());
        };
        let patience = deadline * 4;
        loop {
            let at = *self.gives_up_at.get_or_insert_with(|| Instant::now() + patience);
            ready!(self.poll_timer(at, cx));
            let now = Instant::now();
            if now >= at + deadline {
                // The process stood still, and so did that task.
                self.gives_up_at = None;
            } else if now >= at {
                return Poll::Ready(());
            }
        }
    }

    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.is_elapsed() || timer.deadline() > at + Duration::from_millis(1) {
            timer.as_mut().reset(at);
        }
        // A body that used up the task's budget must not keep the timer from being armed.
        pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.place.is_none()
    }

    /// Ends where its slice ended and nothing more was to be had, and says why that was.
    pub(super) fn cut_off(&mut self) -> Rejection {
        let capped = self
            .with(|metering, now| {
                metering.cap().is_some_and(|cap| metering.compute.so_far(now) >= cap)
            })
            .unwrap_or_default();
        self.decided = true;
        match self.close(End::CutOff) {
            _ if capped => Rejection::RequestCap,
            Some(ended) if ended.run.denied.is_some_and(|denial| denial.answered) => {
                let used = ended.standing.used.saturating_add(ended.unreported);
                let Usual { want, period, tier, .. } = &*ended.run.usual;
                Rejection::of(
                    &Standing { used, ..ended.standing },
                    want.least,
                    *period,
                    tier.hint.as_deref(),
                )
            }
            _ => Rejection::LedgerUnreachable,
        }
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
        let ending = FinishedRequest { status: self.status, grpc_status: self.grpc_status, end };
        let forgiven = match self.billable.take() {
            None => false,
            Some(Billable::AtEnd(billable)) => !is_billed(|| billable(&ending)),
            Some(Billable::AtHead(billable)) => !is_billed(|| billable(None)),
        };
        let mut used = None;
        let ended = place.end(now, !self.decided, |metering| {
            metering.compute.end(now.compute);
            metering.forgiven |= forgiven;
            metering.ending = Some(ending);
            used = metering.used(now.compute);
            if metering.compute.is_told() {
                metering.usual.reporting.reports();
            } else if end == End::Complete
                && ending.status.is_some_and(|status| status.is_success())
            {
                metering.usual.reporting.reports_nothing();
            }
        });
        // If the ledger is asked first how much of it can be paid: all of it, as far as is known.
        self.billed = ended.as_ref().map_or(used, |ended| ended.billed);
        let ended = ended?;
        report(&ending, &ended);
        Some(ended)
    }
}

/// Tells the operator of a request that ended, if it was billed.
fn report(ending: &FinishedRequest, ended: &Ended<Metering>) {
    let Some(usage) = ended.billed else { return };
    let Usual { account, subject, tier, workload, .. } = &*ended.run.usual;
    let compute = Duration::from_micros(usage.compute_micros);
    observe::ended(&MeteredRequest {
        account,
        subject,
        tier: &tier.name,
        model: &workload.model,
        hardware: &workload.hardware,
        feature: &workload.feature,
        compute,
        overshoot: compute.saturating_sub(ended.run.runway_of_slice()),
        cost: usage.cost,
        left: ended.standing.left(ended.unreported),
        status: ending.status.map(|status| status.as_u16()),
        end: (&ending.end, ending.end.as_str()),
    });
}

/// What the host says, or that it is billed if that panics: in a drop while a handler panics, too,
/// where it would end the process.
fn is_billed(billable: impl FnOnce() -> bool) -> bool {
    contained("`billable`", billable).unwrap_or(true)
}

/// Wakes a task, and notes that something has changed which it has to look at.
#[derive(Debug)]
struct Attention {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Attention {
    fn new() -> (Arc<Self>, Waker) {
        let attention = Arc::new(Self { woken: AtomicBool::new(true), task: Mutex::default() });
        (Arc::clone(&attention), attention.into())
    }

    /// The task looks now.
    fn look(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
        drop(task);
        self.woken.store(false, Ordering::Release);
    }
}

impl Wake for Attention {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.close(End::Dropped);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("open", &self.place.is_some()).finish_non_exhaustive()
    }
}
