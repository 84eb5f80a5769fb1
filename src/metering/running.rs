//! One request while it runs: its compute time, its slice, and the time that it has left.

use std::{
    any::Any,
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use super::{
    compute::Compute,
    context::BillingContext,
    end::{End, FinishedRequest},
    moment::{Moment, NEVER, moment},
    origin::Origin,
    refill::{Overdue, Refill},
    shared_clock::SharedTime,
};
use crate::{
    Credits, Period, RequestId,
    clock::Now,
    lease::{RefillDenial, ReusesMemory, Run, RunMemory},
    ledger::{LineKey, Usage},
    plan::{Midway, RequestCap},
};

/// A request that runs on a slice of its account's lease.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    pub(crate) context: Arc<BillingContext>,
    pub(crate) origin: Origin,
    /// The moment at which its service was called.
    began: Moment,
    compute: Compute,
    /// Its time on hardware that requests share. Compute time is measured in that time then.
    shared: Option<Box<SharedTime>>,
    slice: Credits,
    refill: Refill,
    /// The task to wake when the slice has changed, or is not going to.
    waker: Option<Waker>,
    /// Day of the month of its admission.
    day: u8,
    forgiven: bool,
    /// `true` if its end decides if it is billed.
    is_undecided: bool,
    /// The handler's [`ComputeClock`](crate::ComputeClock): while it lives, the service can report.
    clock: Option<Weak<dyn Any + Send + Sync>>,
    /// The head of its response is there.
    is_streaming: bool,
    /// This layer is no longer between the service and its client, or may not stop it.
    is_unstoppable: bool,
    /// Nothing stops it, and its `ComputeClock` says so.
    is_shadow: bool,
    finished: Option<FinishedRequest>,
    is_shut_down: bool,
    /// Usage beyond its slice was settled.
    is_in_debt: bool,
    /// The service's answer may report compute time, at its head or at its end.
    awaits_report: bool,
    /// The cost that the service added.
    added: Credits,
    /// The `Inference-Id` that the service set.
    service_id: Option<Box<RequestId>>,
    /// The number of its account's requests in parts, in which it counts.
    counted: Option<Counted>,
}

/// A place in a number of requests.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The limit at which shadow mode let a request go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    RequestCap,
    ClientCap,
    Credits,
}

/// The time for which a request may go on.
pub(crate) enum RemainingTime {
    /// It never has to end.
    Unlimited,
    /// Its compute time stands still.
    Frozen,
    /// So much, unless its slice grows.
    For(Duration),
    /// Until the ledger has answered, which is to be asked now.
    Ask,
    /// Until the ledger has answered.
    Wait,
    /// It ends now.
    None,
}

impl RunningRequest {
    /// A request that has not begun. `today` is the month by this node's clock, and the day of it.
    /// `is_undecided` says that its end decides if it is billed.
    pub(crate) fn new(
        context: Arc<BillingContext>,
        origin: Origin,
        today: (Period, u8),
        is_shadow: bool,
        is_undecided: bool,
    ) -> Self {
        // A request that is admitted in another month after all is listed on that month's first or
        // last day.
        let day = match today {
            (period, day) if period == context.period => day,
            (period, _) if period < context.period => 1,
            _ => Period::day(context.period.ends() - Duration::from_millis(1)),
        };
        let shared =
            context.plan.shared_clock.as_ref().map(|clock| Box::new(SharedTime::new(clock)));
        Self {
            awaits_report: context.plan.workload.upstream_time.is_some(),
            context,
            origin,
            began: NEVER,
            compute: Compute::default(),
            shared,
            slice: Credits::ZERO,
            refill: Refill::default(),
            waker: None,
            day,
            forgiven: false,
            is_undecided,
            clock: None,
            is_streaming: false,
            is_unstoppable: is_shadow,
            is_shadow,
            finished: None,
            is_shut_down: false,
            is_in_debt: false,
            added: Credits::ZERO,
            service_id: None,
            counted: None,
        }
    }

    /// Counts it in a number of requests, until it ends.
    pub(crate) fn count_in(&mut self, number: &Arc<AtomicUsize>) {
        if self.counted.is_none() {
            number.fetch_add(1, Ordering::AcqRel);
            self.counted = Some(Counted(Arc::clone(number)));
        }
    }

    /// Returns a moment in the time that compute time is measured in.
    fn time(&self, now: Duration) -> Duration {
        self.shared.as_ref().map_or(now, |shared| shared.at(now))
    }

    /// Changes its compute time at a moment. On shared hardware, others share the time with it from
    /// then on, or do no longer.
    fn change<T>(&mut self, now: Duration, change: impl FnOnce(&mut Compute, Duration) -> T) -> T {
        let compute = &mut self.compute;
        match &mut self.shared {
            None => change(compute, now),
            Some(shared) => shared.change(now, |time| {
                let changed = change(compute, time);
                (changed, compute.is_running())
            }),
        }
    }

    /// Begins its compute time: the service is called now.
    pub(crate) fn begin(&mut self, now: Duration) {
        if self.began == NEVER {
            self.began = moment(now);
        }
        self.change(now, Compute::begin);
    }

    /// Returns how long ago its service was called; `None` before that.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        let began = (self.began != NEVER).then(|| Duration::from_nanos(self.began))?;
        Some(now.saturating_sub(began))
    }

    /// Ends its compute time.
    pub(crate) fn end_compute(&mut self, now: Duration) {
        self.change(now, Compute::end);
    }

    /// Returns its compute time so far.
    pub(crate) fn compute_so_far(&self, now: Duration) -> Duration {
        self.compute.so_far(self.time(now))
    }

    /// Holds its service back.
    pub(crate) fn hold_back(&mut self, now: Duration) {
        self.change(now, Compute::hold_back);
        if let Some(shared) = &mut self.shared {
            shared.hold_back(now);
        }
    }

    /// Lets its service go on. Returns how long it was held back.
    pub(crate) fn resume(&mut self, now: Duration) -> Duration {
        let held_back = self.change(now, Compute::resume);
        self.shared.as_mut().map_or(held_back, |shared| shared.resume(now))
    }

    /// Bills this much of the time in which its service was held back.
    pub(crate) fn bill_held_back(&mut self, computed: Duration) {
        let share = self.shared.as_ref().map_or(computed, |shared| shared.share_of(computed));
        self.compute.bill_held_back(share);
    }

    /// Starts the service's own stopwatch, which also counts while the service is held back.
    pub(crate) fn start_stopwatch(&mut self, now: Duration) {
        self.change(now, Compute::start);
        self.wake();
    }

    /// Stops the service's own stopwatch.
    pub(crate) fn pause_stopwatch(&mut self, now: Duration) {
        self.change(now, Compute::pause);
    }

    /// Notes that its answer will not report compute time any more.
    pub(crate) fn await_no_report(&mut self) {
        self.awaits_report = false;
    }

    /// Sets the total that the service reports. Returns `false` if that is not plausible.
    pub(crate) fn report(&mut self, total: Duration, now: Now) -> bool {
        let was_over = self.is_over(now.compute);
        let is_plausible = self.compute.report(total);
        if !was_over && self.is_over(now.compute) {
            self.refill.needed(now.lease);
        }
        self.wake();
        is_plausible
    }

    /// Adds to its cost.
    pub(crate) fn add(&mut self, credits: Credits, now: Now) {
        let was_over = self.is_over(now.compute);
        self.added = self.added.saturating_add(credits);
        if !was_over && self.is_over(now.compute) {
            self.refill.needed(now.lease);
        }
        self.wake();
    }

    /// Notes the id that the service has set on its response.
    pub(crate) fn set_service_id(&mut self, id: RequestId) {
        self.service_id = Some(Box::new(id));
    }

    /// Returns the id that the service has set on its response.
    pub(crate) fn service_id(&self) -> Option<&RequestId> {
        self.service_id.as_deref()
    }

    /// Notes the handler's clock: while it lives, the service can report.
    pub(crate) fn set_clock(&mut self, clock: Weak<dyn Any + Send + Sync>) {
        self.clock = Some(clock);
    }

    /// Notes that the response goes on after its head.
    pub(crate) fn set_streaming(&mut self) {
        self.is_streaming = true;
    }

    /// Sets that this layer cannot stop it any more.
    pub(crate) fn set_unstoppable(&mut self) {
        self.is_unstoppable = true;
    }

    /// Decides by its head if it is billed.
    pub(crate) fn decide_at_head(&mut self, is_billed: bool) {
        (self.forgiven, self.is_undecided) = (!is_billed, false);
    }

    /// Ends it. It is not billed if `is_billed` is `false` here or was at its head.
    pub(crate) fn finish(&mut self, finished: FinishedRequest, is_billed: bool, now: Duration) {
        self.end_compute(now);
        self.forgiven |= !is_billed;
        self.finished = Some(finished);
        let history = &self.context.plan.history;
        if self.compute.is_reported() {
            history.add_report();
        } else if finished.end == End::Complete
            && finished.status.is_some_and(|status| status.is_success())
        {
            history.add_silence();
        }
    }

    /// Takes note that the meter was shut down while it ran. `true` the first time.
    pub(crate) fn shut_down(&mut self) -> bool {
        !std::mem::replace(&mut self.is_shut_down, true)
    }

    /// `true` if the meter was shut down while it ran: it has its record.
    pub(crate) const fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// Returns its end, once it has ended.
    pub(crate) const fn finished(&self) -> Option<FinishedRequest> {
        self.finished
    }

    pub(crate) const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    pub(crate) const fn denial(&self) -> Option<RefillDenial> {
        self.refill.denial()
    }

    /// `true` if it has used the most that one request may.
    pub(crate) fn is_capped(&self, now: Duration) -> bool {
        self.cap().is_some_and(|cap| self.compute_so_far(now) >= cap)
    }

    /// `true` if it ends at its slice, and has used more.
    pub(crate) fn is_short(&self, now: Duration) -> bool {
        self.stops_at_slice() && self.used(now).is_some_and(|used| used.cost > self.slice)
    }

    /// Returns the compute time that is left of its slice, as that is now.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.runway_of_slice().saturating_sub(self.compute_so_far(now))
    }

    /// Returns the compute time that its slice pays for.
    pub(crate) fn runway_of_slice(&self) -> Duration {
        self.runway(self.slice)
    }

    /// Returns the time for which it may go on: at least this long, and on shared hardware longer
    /// if others run. `waker` is woken when that has changed. A refill that was denied at most
    /// `fresh` ago counts as an answer, if the request was polled in time.
    pub(crate) fn remaining(&mut self, now: Now, fresh: Duration, waker: &Waker) -> RemainingTime {
        let so_far = self.compute_so_far(now.compute);
        let capped = self.cap().map(|cap| cap.saturating_sub(so_far));
        // What the service adds can come at any time.
        self.watch(waker);
        if self.compute.has_ended() {
            if self.cost_cap().is_some_and(|cap| self.cost_of(so_far) > cap) {
                return RemainingTime::None;
            }
            if !self.stops_at_slice()
                || self.used(now.compute).is_none_or(|used| used.cost <= self.slice)
            {
                return RemainingTime::Unlimited;
            }
        } else if capped.is_some_and(|left| left.is_zero()) {
            return RemainingTime::None;
        }
        if !self.stops_at_slice() {
            return match capped {
                Some(_) if self.compute.is_frozen() => RemainingTime::Frozen,
                capped => capped.map_or(RemainingTime::Unlimited, RemainingTime::For),
            };
        }
        let slice = self.runway_of_slice();
        if so_far < slice && !self.compute.has_ended() {
            self.refill.not_due();
            if self.compute.is_frozen() {
                return RemainingTime::Frozen;
            }
            let left = slice.saturating_sub(so_far);
            return RemainingTime::For(capped.map_or(left, |capped| left.min(capped)));
        }
        match self.refill.decide(so_far.saturating_sub(slice), fresh, now.lease) {
            Overdue::Ask => RemainingTime::Ask,
            Overdue::Wait => RemainingTime::Wait,
            Overdue::End => RemainingTime::None,
        }
    }

    fn is_over(&self, now: Duration) -> bool {
        self.stops_at_slice() && self.left(now).is_zero()
    }

    /// The most compute time that it may use.
    fn cap(&self) -> Option<Duration> {
        if self.is_unstoppable || self.forgiven {
            return None;
        }
        let clients = self.client_caps().filter(|_| self.is_bounded_by_client());
        clients.chain(self.context.plan.cap).map(|cap| self.longest(cap)).min()
    }

    /// Returns the compute time for which it stays within a cap.
    fn longest(&self, cap: RequestCap) -> Duration {
        match cap {
            RequestCap::Compute(time) => time,
            RequestCap::Cost(cost) => self.runway(cost),
        }
    }

    /// Returns the compute time that an amount pays for, beside what the service added.
    fn runway(&self, amount: Credits) -> Duration {
        match amount >= self.added {
            true => self.context.plan.tariff.runway(amount.saturating_sub(self.added)),
            false => Duration::ZERO,
        }
    }

    /// Returns the most that it may cost.
    fn cost_cap(&self) -> Option<Credits> {
        if self.is_unstoppable || self.forgiven {
            return None;
        }
        let clients = self.client_caps().filter(|_| self.is_bounded_by_client());
        clients
            .chain(self.context.plan.cap)
            .filter_map(|cap| match cap {
                RequestCap::Cost(cost) => Some(cost),
                RequestCap::Compute(_) => None,
            })
            .min()
    }

    /// Returns the way in which shadow mode let it go on although it would have been cut off: at a
    /// cap, or because the ledger refused more.
    pub(crate) fn passed_in_shadow(&self, now: Duration) -> Option<Passed> {
        if !self.is_shadow || self.forgiven {
            return None;
        }
        let compute = self.compute_so_far(now);
        let is_beyond = |cap| compute > self.longest(cap);
        if self.client_caps().any(is_beyond) {
            return Some(Passed::ClientCap);
        }
        if self.context.plan.cap.is_some_and(is_beyond) {
            return Some(Passed::RequestCap);
        }
        let is_beyond = self.is_in_debt || self.cost_of(compute) > self.slice;
        let is_refused = self.refill.denial().is_some_and(|denial| denial.answered);
        (self.context.plan.tier.midway == Midway::Stop && is_refused && is_beyond)
            .then_some(Passed::Credits)
    }

    /// Returns the caps that its client set.
    fn client_caps(&self) -> impl Iterator<Item = RequestCap> {
        self.origin.caps.iter().flatten().flat_map(|caps| caps.caps())
    }

    /// `true` if the cap that it reached is its client's.
    pub(crate) fn is_capped_by_client(&self) -> bool {
        let longest = |caps: &mut dyn Iterator<Item = RequestCap>| {
            // If what was added is beyond both, the lower amount is reached first.
            let cost = |cap| match cap {
                RequestCap::Cost(cost) => cost,
                RequestCap::Compute(_) => Credits::MAX,
            };
            caps.map(|cap| (self.longest(cap), cost(cap))).min()
        };
        let plans = longest(&mut self.context.plan.cap.into_iter());
        let clients = longest(&mut self.client_caps());
        clients.is_some_and(|clients| plans.is_none_or(|plans| clients < plans))
    }

    /// `true` if it costs more by now than its client allows.
    pub(crate) fn is_beyond_client_caps(&self, now: Duration) -> bool {
        let compute = self.compute_so_far(now);
        !self.is_unstoppable && self.client_caps().any(|cap| compute > self.longest(cap))
    }

    /// `true` if the caps that its client set bound its bill: as long as it runs, and if it was cut
    /// off there. What was delivered in spite of them is billed.
    fn is_bounded_by_client(&self) -> bool {
        self.finished.is_none_or(|finished| finished.end == End::CutOff)
    }

    /// Returns the cost of some compute time, and of what the service added.
    fn cost_of(&self, compute: Duration) -> Credits {
        self.context.plan.tariff.cost(compute).saturating_add(self.added)
    }

    fn stops_at_slice(&self) -> bool {
        self.context.plan.tier.midway == Midway::Stop && !self.is_unstoppable && !self.forgiven
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

    /// Returns all that it used, whatever its slice; `None` if it is not billed.
    pub(crate) fn used(&self, now: Duration) -> Option<Usage> {
        if !self.compute.has_begun() || self.forgiven {
            return None;
        }
        let compute = self.compute_so_far(now);
        let cost = self.cost_of(compute);
        let cost = self.cap().map_or(cost, |cap| cost.min(self.cost_of(cap)));
        let cost = self.cost_cap().map_or(cost, |cap| cost.min(cap));
        let compute_micros = compute
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(compute.subsec_micros().into());
        Some(Usage { requests: 1, compute_micros, cost })
    }

    /// Reads the clock of compute time, when the leases' clock says `lease`.
    fn now(&self, lease: Duration) -> Duration {
        self.context.plan.clock.as_ref().map_or(lease, |clock| clock.monotonic())
    }
}

/// The most of a thread's memory for running requests that waits for others: with four of them in
/// each, 90 kB.
const MAX_SPARE: usize = 64;

thread_local! {
    /// Memory in which requests of this thread ran, the last one at the end.
    static SPARE: RefCell<Vec<RunMemory<RunningRequest>>> = const { RefCell::new(Vec::new()) };
}

/// Returns how much of it there is.
#[cfg(test)]
pub(super) fn spare_memory() -> usize {
    SPARE.with(|spare| spare.borrow().len())
}

impl ReusesMemory for RunningRequest {
    fn take_memory() -> RunMemory<Self> {
        // There is none while the thread ends.
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        spare.ok().flatten().unwrap_or_else(RunMemory::new)
    }

    fn leave_memory(memory: RunMemory<Self>) {
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(memory);
            }
        });
    }
}

impl Run for RunningRequest {
    fn accrued(&self, now: Duration) -> Credits {
        // A fee is not owed before the service is called.
        if self.forgiven || !self.compute.has_begun() {
            return Credits::ZERO;
        }
        let cost = self.cost_of(self.compute_so_far(self.now(now)));
        self.cost_cap().map_or(cost, |cap| cost.min(cap))
    }

    fn time_until(&self, cost: Credits, now: Duration) -> Duration {
        let so_far = self.compute_so_far(self.now(now));
        self.runway(cost).saturating_sub(so_far)
    }

    fn granted(&mut self, slice: Credits, _: Duration) {
        self.slice = slice;
        self.refill.granted();
        self.wake();
    }

    fn in_debt(&mut self, slice: Credits) {
        self.slice = slice;
        self.is_in_debt = true;
    }

    fn refilled_to(&self, hold: Credits) -> Credits {
        hold.min(self.context.plan.refill)
    }

    fn denied(&mut self, denial: RefillDenial) {
        self.refill.denied(denial);
        self.wake();
    }

    fn admitted_at_once(&mut self, now: Duration) {
        self.begin(self.now(now));
    }

    fn stops_at_slice(&self) -> bool {
        Self::stops_at_slice(self)
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        let can_report = || self.clock.as_ref().is_some_and(|clock| clock.strong_count() > 0);
        let is_certain = self.compute.is_reported()
            || (!can_report() && (self.is_streaming || self.context.plan.history.never_reports()));
        if self.is_undecided || self.awaits_report || !is_certain {
            None
        } else {
            self.used(self.now(now))
        }
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        self.counted = None;
        let now = self.now(now);
        self.end_compute(now);
        self.used(now)
    }

    fn line(&self) -> LineKey {
        let BillingContext { plan, subject, .. } = &*self.context;
        let workload = &plan.workload;
        LineKey::Of {
            day: self.day,
            model: workload.model.clone(),
            hardware: workload.hardware.clone(),
            feature: workload.feature.clone(),
            subject: subject.clone(),
        }
    }

    fn line_number(&self) -> u64 {
        self.context.number << 5 | u64::from(self.day)
    }
}
