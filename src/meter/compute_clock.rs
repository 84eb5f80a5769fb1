//! What a service says of its compute time itself.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::charge::{Charge, Kept, Metering};
use crate::{
    clock::Now,
    lease::{RunId, Seat},
};

/// A service's own word on its compute time, for services that know when their hardware was busy.
/// It is in the request's extensions.
///
/// Once started, it takes the place of the layer's measuring: what is billed is the time between
/// [`start`](Self::start) and [`pause`](Self::pause). A time that is [reported](Self::report) takes
/// precedence over both. Nothing counts once the response has ended.
///
/// It is one stopwatch: work that overlaps in several tasks is reported, not started and paused by
/// each.
///
/// On a tier that stops requests, what is reported is billed as far as the account can pay: if it
/// is more than what is on hold for the request, the ledger is asked first.
///
/// What a request has used is settled while it runs, so that little is lost with a node that dies;
/// what is settled is not taken back by a report that says less. So a service that reports does it
/// early and again, or not before its end: as long as a clock is kept, and nothing was said of any
/// request for the same model, nothing is settled in advance. See
/// [`CreditMeter`](crate::CreditMeter).
///
/// A handler that switches protocols (101, or a WebSocket's CONNECT) keeps a clone for as long as
/// the connection is to be charged; the charge ends when the last clone is dropped. Nothing of this
/// layer stands in such a connection's way, so nothing stops it but the handler, which can look at
/// what is [left](Self::left); what it uses beyond that is owed.
#[derive(Clone, Debug)]
pub struct ComputeClock(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    /// Where the request runs, and its name there; `None` where nothing is metered.
    request: Option<(Seat<Kept>, RunId)>,
    /// The charge of a connection that outlives its response.
    parked: Mutex<Option<Charge>>,
}

/// Finds out whether a handler kept its clock.
#[derive(Clone, Debug)]
pub(crate) struct ClockKept(Weak<Handle>);

impl ComputeClock {
    pub(super) fn new(charge: &Charge) -> Self {
        Self(Arc::new(Handle { request: charge.whereabouts(), parked: Mutex::default() }))
    }

    /// A clock that counts for nothing, for handlers that expect one.
    pub(super) fn detached() -> Self {
        Self(Arc::new(Handle { request: None, parked: Mutex::default() }))
    }

    pub(super) fn watch(&self) -> ClockKept {
        ClockKept(Arc::downgrade(&self.0))
    }

    /// The request, while its charge is open.
    fn with<T>(&self, look: impl FnOnce(&mut Metering, Now) -> T) -> Option<T> {
        let (seat, id) = self.0.request.as_ref()?;
        let now = seat.now();
        seat.with(*id, |metering| look(metering, now))
    }

    /// The hardware begins to work for this request.
    pub fn start(&self) {
        self.with(|metering, now| metering.start(now.compute));
    }

    /// The hardware has stopped working for this request; it may be started again.
    pub fn pause(&self) {
        self.with(|metering, now| metering.compute().pause(now.compute));
    }

    /// Says what the compute time is, all in all. The last report counts. More than 31 days is not
    /// believed, and logged.
    pub fn report(&self, total: Duration) {
        let believed = self.with(|metering, now| {
            metering
                .report(total, now)
                .then_some(())
                .ok_or_else(|| metering.usual.workload.model.clone())
        });
        if let Some(Err(model)) = believed {
            tracing::error!(target: "tower_credits", ?total, %model, "a reported compute time of more than 31 days is not believed");
        }
        if let Some((seat, _)) = &self.0.request {
            // The lease looks whether it needs more.
            seat.attend();
        }
    }

    /// How much more compute time is on hold for this request. While there are credits it is
    /// refilled before it ends; where it reaches zero, there are none, or the request has ended.
    /// [`Duration::MAX`] where nothing is metered, and in shadow mode.
    pub fn left(&self) -> Duration {
        if self.0.request.is_none() {
            return Duration::MAX;
        }
        self.with(
            |metering, now| {
                if metering.is_shadow() { Duration::MAX } else { metering.left(now.compute) }
            },
        )
        .unwrap_or_default()
    }

    /// Compute time so far, as it would be billed now; zero once the request has ended.
    pub fn so_far(&self) -> Duration {
        self.with(|metering, now| metering.compute().so_far(now.compute)).unwrap_or_default()
    }
}

impl ClockKept {
    /// `true` if anybody has the clock.
    pub(super) fn is_kept(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Leaves the charge with the handler's clock, or gives it back where the handler kept none.
    pub(super) fn park(&self, charge: Charge) -> Option<Charge> {
        let Some(handle) = self.0.upgrade() else { return Some(charge) };
        charge.with(|metering, _| metering.never_stop());
        *handle.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(charge);
        None
    }
}

/// A response extension with which a service reports its compute time once its head is ready. It
/// takes precedence over what the layer measures. What [`ComputeClock`] says of reports holds here
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeTime(pub Duration);
