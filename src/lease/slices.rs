//! The requests that run on a lease, and the sum of their slices.

use std::{fmt, time::Duration};

use slab::Slab;

use super::{
    memory::{ReusesMemory, RunMemory},
    outbox::Outbox,
    rules::LeaseRules,
    run::{Billed, Closing, RunId, SliceRequest},
    running::Running,
};
use crate::{Credits, ledger::Usage};

/// The requests of a lease that were admitted and are not handed back yet.
///
/// * [`total`](Self::total) is always the sum of what is open in the slices: granted, and not
///   settled yet. What is settled leaves it in the same step in which it enters the [`Outbox`].
/// * A request runs, then is billed, then is handed back to its owner. Between its end and its bill
///   it may be *pending*: it used more than its slice, and the ledger is asked for the rest.
/// * No serial number is used twice, so a name never means another request.
///
/// The credits that can be granted are passed in as `spare`: this part does not know the budget.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Slices<R> {
    running: Slab<Running<R>>,
    total: Credits,
    /// Number of requests that have ended and are not handed back yet, pending ones included.
    ended: usize,
    pending: usize,
    /// The last serial number that was given.
    last_serial: u64,
}

/// The most requests at a time that leave their memory to those of other leases.
const MAX_LEFT: usize = 4;

/// With its requests, which a slab shows only where `#` is given.
impl<R: fmt::Debug> fmt::Debug for Slices<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { running, total, ended, pending, last_serial } = self;
        f.debug_struct("Slices")
            .field("running", &running.iter().collect::<Vec<_>>())
            .field("total", total)
            .field("ended", ended)
            .field("pending", pending)
            .field("last_serial", last_serial)
            .finish()
    }
}

#[cfg(test)]
impl<R: std::hash::Hash> std::hash::Hash for Slices<R> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let Self { running, total, ended, pending, last_serial } = self;
        running.iter().for_each(|running| running.hash(state));
        (total, ended, pending, last_serial).hash(state);
    }
}

impl<R: ReusesMemory> Slices<R> {
    pub(super) fn new() -> Self {
        Self { running: Slab::new(), total: Credits::ZERO, ended: 0, pending: 0, last_serial: 0 }
    }

    /// Returns the sum of what is open in the slices.
    pub(super) fn total(&self) -> Credits {
        self.total
    }

    /// Returns how many requests run.
    pub(super) fn running(&self) -> usize {
        self.running.len() - self.ended
    }

    /// Returns `true` if a request has ended and waits for the ledger to be billed.
    pub(super) fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Returns the sum of what the requests want to have on hold.
    pub(super) fn holds(&self) -> Credits {
        self.running
            .iter()
            .fold(Credits::ZERO, |sum, (_, running)| sum.saturating_add(running.hold()))
    }

    /// Returns a request that is not handed back yet.
    pub(super) fn run_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).map(Running::run_mut)
    }

    /// Returns the requests that were billed and that their owners have not ended, and what each
    /// was billed.
    pub(super) fn unclaimed_mut(&mut self) -> impl Iterator<Item = (&mut R, Option<Usage>)> {
        self.running.iter_mut().filter_map(|(_, running)| {
            let billed = running.billed()?;
            Some((running.run_mut(), billed))
        })
    }

    /// Returns a request that still runs.
    pub(super) fn running_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).filter(|running| running.is_running()).map(Running::run_mut)
    }

    fn named_mut(&mut self, id: RunId) -> Option<&mut Running<R>> {
        self.running.get_mut(id.slot).filter(|running| running.serial() == id.serial)
    }

    fn slots(&self, which: impl Fn(&Running<R>) -> bool) -> Vec<usize> {
        self.running.iter().filter(|(_, running)| which(running)).map(|(slot, _)| slot).collect()
    }

    /// Goes on counting from the last serial number of the lease before this one.
    pub(super) fn continue_serials(&mut self, before: &Self) {
        self.last_serial = before.last_serial;
    }

    /// Begins a request with a slice, of the `hold` that it wants.
    pub(super) fn begin(&mut self, slice: Credits, hold: Credits, run: R, now: Duration) -> RunId {
        if self.running.capacity() == 0 {
            self.running = R::take_memory().0;
            // Most accounts have one request at a time.
            self.running.reserve_exact(1);
        }
        self.last_serial += 1;
        self.total = self.total.saturating_add(slice);
        let serial = self.last_serial;
        let slot = self.running.insert(Running::new(serial, slice, hold, run, now));
        RunId { slot, serial }
    }

    /// Ends a request for its owner, who [takes](Self::take) it out then: what it cost is spent,
    /// the rest of its slice is free. `None` if it was handed back already.
    ///
    /// A request that stops at its slice and used more takes from `spare` first. If that is not
    /// enough and `ask` is set, it is pending from now on; otherwise it is billed its slice.
    pub(super) fn end(
        &mut self,
        id: RunId,
        ask: bool,
        spare: Credits,
        outbox: &mut Outbox,
        now: Duration,
    ) -> Option<Closing> {
        if self.named_mut(id)?.is_running() {
            self.close(id.slot, ask, spare, outbox, now);
        }
        let running = self.named_mut(id)?;
        if let Some((used, _)) = running.pending() {
            running.claim();
            return Some(Closing::Pending(used));
        }
        running.billed().map(Closing::Settled)
    }

    /// Takes out a request that was billed.
    pub(super) fn take(&mut self, id: RunId) -> Option<R> {
        self.named_mut(id)?;
        self.remove(id.slot)
    }

    /// Removes a request that was billed.
    fn remove(&mut self, slot: usize) -> Option<R> {
        self.running.get(slot)?.billed()?;
        self.ended -= 1;
        let run = self.running.try_remove(slot).map(Running::into_run);
        if self.running.is_empty() && self.running.capacity() <= MAX_LEFT {
            let mut memory = std::mem::take(&mut self.running);
            memory.clear();
            R::leave_memory(RunMemory(memory));
        }
        run
    }

    /// Returns the slots of the requests that run.
    pub(super) fn running_slots(&self) -> Vec<usize> {
        self.slots(Running::is_running)
    }

    /// Ends the use of a request that runs, and bills it unless it is pending. Its owner collects
    /// it with [`end`](Self::end).
    pub(super) fn close(
        &mut self,
        slot: usize,
        ask: bool,
        spare: Credits,
        outbox: &mut Outbox,
        now: Duration,
    ) {
        let Some(running) = self.running.get_mut(slot) else { return };
        let used = running.end(now);
        self.ended += 1;
        if let Some(used) = used {
            let more = running.uncovered(used).min(spare);
            self.total = self.total.saturating_add(running.grant(more, now));
            if ask && !running.uncovered(used).is_zero() {
                running.wait_for_rest(used);
                self.pending += 1;
                return;
            }
        }
        self.settle(slot, used, outbox);
    }

    /// Bills a request that has ended.
    fn settle(&mut self, slot: usize, used: Option<Usage>, outbox: &mut Outbox) {
        let Some(running) = self.running.get_mut(slot) else { return };
        self.total = self.total.saturating_sub(running.open());
        if let Some(rest) = running.settle(used) {
            let run = running.run();
            outbox.spend(run.line_number(), || run.line(), rest);
        }
    }

    /// Bills a pending request with the slice that it has by now, and hands it back if its owner
    /// has ended it already.
    fn resolve(&mut self, slot: usize, outbox: &mut Outbox) -> Option<Billed<R>> {
        let (used, is_claimed) = self.running.get(slot)?.pending()?;
        self.pending -= 1;
        self.settle(slot, Some(used), outbox);
        if is_claimed { self.hand_back(slot) } else { None }
    }

    fn resolve_all(&mut self, slots: Vec<usize>, outbox: &mut Outbox) -> Vec<Billed<R>> {
        slots.into_iter().filter_map(|slot| self.resolve(slot, outbox)).collect()
    }

    fn hand_back(&mut self, slot: usize) -> Option<Billed<R>> {
        let billed = self.running.get(slot)?.billed()?;
        Some((self.remove(slot)?, billed))
    }

    /// Bills pending requests no more than their slices: there will be no answer. Returns the
    /// requests whose owners have ended them.
    pub(super) fn give_up_pending(&mut self, outbox: &mut Outbox) -> Vec<Billed<R>> {
        self.resolve_all(self.slots(Running::is_pending), outbox)
    }

    /// (9) Settles what running requests have used so far, as far as that can be settled before
    /// they end, so that a node that dies loses little.
    pub(super) fn settle_running(&mut self, outbox: &mut Outbox, now: Duration) {
        for (_, running) in &mut self.running {
            let open = running.open();
            if let Some(more) = running.settle_so_far(now) {
                self.total = self.total.saturating_sub(open).saturating_add(running.open());
                let run = running.run();
                outbox.spend(run.line_number(), || run.line(), more);
            }
        }
    }

    /// Frees what a running request holds: it needs nothing more. Returns `true` if it runs.
    pub(super) fn release(&mut self, id: RunId) -> bool {
        let Some(running) = self.named_mut(id).filter(|running| running.is_running()) else {
            return false;
        };
        let open = running.open();
        running.release();
        self.total = self.total.saturating_sub(open);
        true
    }

    /// Lets a request ask for a refill now, though it was refused one just before.
    pub(super) fn refill_now(&mut self, id: RunId) {
        if let Some(running) = self.named_mut(id) {
            running.refill_now();
        }
    }

    /// Returns when a request needs a renewal, at the soonest.
    pub(super) fn due(&self, now: Duration) -> Duration {
        self.running.iter().map(|(_, running)| running.due_at(now)).min().unwrap_or(Duration::MAX)
    }

    /// Returns when a request that was just admitted with this `want` needs a renewal.
    pub(super) fn first_due_of(&self, id: RunId, want: SliceRequest, now: Duration) -> Duration {
        self.running
            .get(id.slot)
            .filter(|running| running.serial() == id.serial)
            .map_or(Duration::MAX, |running| running.first_due_at(want, now))
    }

    /// Notes what each request asks for in the renewal that is being composed, and returns the sum.
    pub(super) fn request_refills(&mut self, now: Duration) -> Credits {
        self.running.iter_mut().fold(Credits::ZERO, |sum, (_, running)| {
            sum.saturating_add(running.request_refill(now))
        })
    }

    /// (10) Gives requests what the renewal that was sent at `requested_at` asked for them, or
    /// tells them that the ledger had less. Returns requests that are billed now.
    pub(super) fn serve_requested(
        &mut self,
        mut spare: Credits,
        outbox: &mut Outbox,
        rules: &LeaseRules,
        requested_at: Duration,
        now: Duration,
    ) -> Vec<Billed<R>> {
        let mut resolved = Vec::new();
        for (slot, running) in &mut self.running {
            let requested = running.take_request();
            if requested.is_zero() {
                continue;
            }
            let requested = requested.min(running.missing(now));
            let more = requested.min(spare);
            spare = spare.saturating_sub(more);
            self.total = self.total.saturating_add(running.grant(more, now));
            let is_denied = more < requested;
            if running.is_pending() {
                if is_denied || running.missing(now).is_zero() {
                    resolved.push(slot);
                }
            } else if is_denied {
                running.refuse_refill(requested_at, rules.retry_delay(), now);
            }
        }
        self.resolve_all(resolved, outbox)
    }

    /// Gives requests that are due for more what is there. Returns requests that are billed now.
    pub(super) fn serve_due(
        &mut self,
        mut spare: Credits,
        outbox: &mut Outbox,
        now: Duration,
    ) -> Vec<Billed<R>> {
        let mut resolved = Vec::new();
        for (slot, running) in &mut self.running {
            if spare.is_zero() {
                break;
            }
            let Some(needed) = running.due_refill(now) else { continue };
            let more = needed.min(spare);
            spare = spare.saturating_sub(more);
            self.total = self.total.saturating_add(running.grant(more, now));
            if more == needed {
                // It was served. The answer to a renewal in flight says nothing of its next need.
                running.take_request();
                if running.is_pending() {
                    resolved.push(slot);
                }
            }
        }
        self.resolve_all(resolved, outbox)
    }

    /// (10) Tells requests that the renewal asked for that no answer came.
    pub(super) fn deny_requested(&mut self, requested_at: Duration) {
        for (_, running) in &mut self.running {
            if !running.take_request().is_zero() && running.is_running() {
                running.deny_unanswered(requested_at);
            }
        }
    }

    /// Forgets what the renewal in flight asks for: its answer denies no request anything.
    pub(super) fn forget_requests(&mut self) {
        for (_, running) in &mut self.running {
            running.take_request();
        }
    }

    /// Tells requests that are due for more that the ledger cannot be asked.
    pub(super) fn deny_unanswered(&mut self, now: Duration) {
        for (_, running) in &mut self.running {
            if running.is_running() && running.due_refill(now).is_some() {
                running.deny_unanswered(now);
            }
        }
    }

    /// Frees the memory of requests that ran; does nothing if there still is one, be it one that
    /// waits to be handed back.
    pub(super) fn free_memory(&mut self) {
        if self.running.is_empty() {
            self.running = Slab::new();
        }
    }

    /// Returns requests that are not billed yet, and what of each is settled.
    #[cfg(test)]
    pub(super) fn unbilled(&self) -> impl Iterator<Item = (&R, Credits)> {
        let unbilled = |running: &&Running<R>| running.billed().is_none();
        self.running
            .iter()
            .map(|(_, running)| running)
            .filter(unbilled)
            .map(|running| (running.run(), running.settled_cost()))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.running.capacity()
    }

    #[cfg(test)]
    pub(super) fn slice_of(&self, id: RunId) -> Credits {
        self.running[id.slot].slice()
    }
}
