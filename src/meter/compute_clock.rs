//! The compute time that a service measures itself.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::charge::Charge;
use crate::{Credits, clock::Now, keeper::RunRef, metering::RunningRequest, plan::Workload};

/// A stopwatch with which a service measures its own compute time, for services that know when
/// their hardware was busy. It is in the request's extensions.
///
/// Once it was started, it replaces the layer's measurement: the time between
/// [`start`](Self::start) and [`pause`](Self::pause) is billed. A time that is
/// [reported](Self::report) takes precedence over both. Nothing counts once the response has ended.
///
/// There is one stopwatch for a request. If several tasks work on a request at the same time,
/// report the total instead of starting and pausing the stopwatch from each.
///
/// If the tier stops requests when credits end, a report is billed as far as the account can pay:
/// the ledger is asked first if the report is more than the request has on hold.
///
/// Usage is settled while a request runs, so that little is lost with a node that dies, and settled
/// usage is not taken back by a lower report. So report early and often, or only at the end. As
/// long as a handler keeps its clock, and no earlier request for the same model was seen to report
/// nothing, nothing is settled in advance.
///
/// A handler that switches protocols (101, or a WebSocket's CONNECT) keeps a clone for as long as
/// the connection is to be charged; the charge ends when the last clone is dropped. The layer
/// cannot stop such a connection. The handler can: it looks at the time that is [left](Self::left),
/// and what it uses beyond that is owed.
///
/// ```
/// use tower_credits::ComputeClock;
///
/// async fn infer(request: http::Request<String>) -> http::Response<String> {
///     let clock = request.extensions().get::<ComputeClock>().cloned();
///     // Wait for the GPU here: that is not billed.
///     if let Some(clock) = &clock {
///         clock.start();
///     }
///     let answer = request.into_body(); // and compute
///     if let Some(clock) = &clock {
///         clock.pause();
///     }
///     http::Response::new(answer)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ComputeClock(Arc<Shared>);

/// The state that all clones of a clock share.
#[derive(Debug)]
struct Shared {
    /// `None` if nothing is metered.
    run: Option<RunRef>,
    /// The charge of a connection that outlives its response.
    parked: Mutex<Option<Charge>>,
}

/// Weak handle to a handler's clock.
#[derive(Clone, Debug)]
pub(super) struct WeakComputeClock(Weak<Shared>);

impl ComputeClock {
    pub(super) fn new(charge: &Charge) -> Self {
        Self(Arc::new(Shared { run: charge.run_ref(), parked: Mutex::default() }))
    }

    /// A clock that counts for nothing, for handlers that expect one.
    pub(super) fn detached() -> Self {
        Self(Arc::new(Shared { run: None, parked: Mutex::default() }))
    }

    /// Lets the request know that its service can report, as long as this clock lives.
    pub(super) fn attach(&self, charge: &Charge) -> WeakComputeClock {
        let weak = Arc::downgrade(&self.0);
        charge.with_request(|request| request.set_clock(Weak::<Shared>::clone(&weak)));
        WeakComputeClock(weak)
    }

    /// Returns what `look` makes of the request, while its charge is open.
    fn with<T>(&self, look: impl FnOnce(&mut RunningRequest, Now) -> T) -> Option<T> {
        let run = self.0.run.as_ref()?;
        let now = run.now();
        run.with(|request| look(request, now))
    }

    /// Starts the stopwatch: the hardware works for this request from now on.
    pub fn start(&self) {
        self.with(|request, now| request.start_stopwatch(now.compute));
    }

    /// Pauses the stopwatch: the hardware has stopped working for this request. It can be started
    /// again.
    pub fn pause(&self) {
        self.with(|request, now| request.pause_stopwatch(now.compute));
    }

    /// Reports the request's total compute time. The last report counts. A report of more than 31
    /// days is ignored, and logged.
    pub fn report(&self, total: Duration) {
        let ignored = self.with(|request, now| {
            (!request.report(total, now)).then(|| request.context.plan.workload.model.clone())
        });
        if let Some(Some(model)) = ignored {
            tracing::error!(
                target: "tower_credits", ?total, %model,
                "a reported compute time of more than 31 days is ignored"
            );
        }
        if let Some(run) = &self.0.run {
            run.attend();
        }
    }

    /// Adds to what the request costs, beside its compute time: a price for each image or token,
    /// for example. The amount is billed as it is, without the tier's [price
    /// factor](crate::plan::Tier::price_factor). Amounts add up. Nothing counts once the response
    /// has ended. [Report](Self::report) a compute time as well, so that what is added is settled
    /// while the request runs.
    ///
    /// ```
    /// use tower_credits::ComputeClock;
    ///
    /// # fn example(clock: &ComputeClock) -> Result<(), tower_credits::MoneyError> {
    /// clock.add("0.04".parse()?); // an image
    /// # Ok(())
    /// # }
    /// ```
    pub fn add(&self, credits: Credits) {
        self.with(|request, now| request.add(credits, now));
        if let Some(run) = &self.0.run {
            run.attend();
        }
    }

    /// Returns the compute time that is still on hold for this request. It is refilled before it
    /// ends, as long as the account has credits. Zero means that it has none, or that the request
    /// has ended. [`Duration::MAX`] if nothing is metered, and in shadow mode.
    pub fn left(&self) -> Duration {
        if self.0.run.is_none() {
            return Duration::MAX;
        }
        let left =
            self.with(
                |request, now| {
                    if request.is_shadow() { Duration::MAX } else { request.left(now.compute) }
                },
            );
        left.unwrap_or_default()
    }

    /// Returns what the request is billed as. `None` if nothing is metered, and once the request
    /// has ended.
    ///
    /// A service that runs several models runs this one: a second reading of the request could
    /// lead to another.
    pub fn workload(&self) -> Option<Arc<Workload>> {
        self.0.run.as_ref()?.with(|request| Arc::clone(&request.context.plan.workload))
    }

    /// Returns the compute time so far, as it would be billed now; zero once the request has ended.
    pub fn so_far(&self) -> Duration {
        self.with(|request, now| request.compute_so_far(now.compute)).unwrap_or_default()
    }
}

impl WeakComputeClock {
    /// Leaves the charge with the handler's clock, or returns it if the handler has dropped that.
    pub(super) fn park(&self, charge: Charge) -> Option<Charge> {
        let Some(shared) = self.0.upgrade() else { return Some(charge) };
        charge.with_request(RunningRequest::set_unstoppable);
        *shared.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(charge);
        None
    }
}

/// Response extension with which a service reports its compute time once its head is ready. It
/// takes precedence over the layer's measurement. All that [`ComputeClock`] says of reports holds
/// here, too.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::ComputeTime;
///
/// let mut response = http::Response::new("answer");
/// response.extensions_mut().insert(ComputeTime(Duration::from_millis(120)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeTime(pub Duration);
