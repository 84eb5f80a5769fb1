//! The credits of a lease, and the requests that share them.

use std::time::Duration;

use super::{
    batch::Batch,
    concurrency::ConcurrencyPool,
    hold::Hold,
    memory::ReusesMemory,
    outbox::Outbox,
    permits::{PermitAnswer, PermitPool},
    queue::Queue,
    rules::LeaseRules,
    run::{Billed, Closing, RunId, Served, SliceRequest},
    slices::Slices,
    surplus::{Surplus, is_twice},
};
use crate::{
    Credits,
    ledger::{AccountRate, Concurrency, ConcurrencyRequest, PermitRequest, Permits},
};

/// The credits of a lease, and the requests that share them: which are admitted, refilled, billed.
///
/// Always `spent + slices <= budget`, but for debt (see [`Hold`]). The parts hold one side each:
/// [`Outbox`] what is spent, [`Slices`] what running requests own, [`Hold`] the budget. What of the
/// budget is neither spent nor sliced is *spare*. A slice is only ever cut from what is spare, in
/// this type.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Pool<W, R> {
    slices: Slices<R>,
    queue: Queue<W, R>,
    outbox: Outbox,
    hold: Hold,
    surplus: Surplus,
    /// (14) In a box, as few accounts have a rate over all nodes.
    permits: Option<Box<PermitPool>>,
    /// (15) The same.
    concurrency: Option<Box<ConcurrencyPool>>,
    /// The ledger had not as much as this for a request. (14, 15) Neither permits nor shares are
    /// asked for while that is so: a request that is denied for it would use them.
    dry_below: Option<Credits>,
    /// (15) As many ran as may. (14) No permits are asked for while that is so.
    is_full: bool,
    /// The most that may stay unsaid for `report_within`: with more, it matters to others.
    slack: Credits,
}

/// The part of what an account has left that may stay unsaid for long, as a divisor.
const SLACK_DIVISOR: i64 = 8;

/// The pool's part of a renewal.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) batch: Batch,
    /// Credits that must stay on hold.
    pub(super) keep: Credits,
    /// More for running requests.
    pub(super) refill: Credits,
    /// More for requests that wait.
    pub(super) need: Credits,
    /// More for requests to come.
    pub(super) extra: Credits,
    /// Permits for requests that wait, and for those to come.
    pub(super) permits: Option<PermitRequest>,
    /// A share of the requests that may run at the same time.
    pub(super) concurrency: Option<ConcurrencyRequest>,
}

impl<W, R: ReusesMemory> Pool<W, R> {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            slices: Slices::new(),
            queue: Queue::new(),
            outbox: Outbox::new(),
            hold: Hold::new(),
            surplus: Surplus::new(now),
            permits: None,
            concurrency: None,
            dry_below: None,
            is_full: false,
            slack: Credits::ZERO,
        }
    }

    /// A pool of a process that died, in which nothing runs.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn of_outbox(outbox: Outbox, now: Duration) -> Self {
        Self { outbox, ..Self::new(now) }
    }

    /// Settles what running requests have used so far.
    pub(super) fn settle_running(&mut self, now: Duration) {
        self.slices.settle_running(&mut self.outbox, now);
    }

    pub(super) fn slices(&self) -> &Slices<R> {
        &self.slices
    }

    pub(super) fn slices_mut(&mut self) -> &mut Slices<R> {
        &mut self.slices
    }

    pub(super) fn queue(&self) -> &Queue<W, R> {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut Queue<W, R> {
        &mut self.queue
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Returns `true` if part of an outage's allowance was granted.
    pub(super) fn has_granted_unbacked(&self) -> bool {
        self.hold.has_granted_unbacked()
    }

    /// Returns what can still be sliced.
    pub(super) fn spare(&self) -> Credits {
        self.hold.spare(self.outbox.spent(), self.slices.total())
    }

    /// Returns `true` if so much of the surplus is taken that the ledger is to be asked for more.
    pub(super) fn is_low(&self) -> bool {
        // After a failure, the next try asks for more anyway.
        self.surplus.is_low(self.spare()) && !self.outbox.has_frozen()
    }

    /// Returns `true` if nothing was ever used, and nothing is.
    pub(super) fn is_untouched(&self) -> bool {
        self.slices.running() == 0 && !self.slices.has_pending() && self.outbox.spent().is_zero()
    }

    /// Returns the last use if the lease rests: nothing runs or waits, nothing is owed or on hold.
    pub(super) fn resting_since(&self) -> Option<Duration> {
        let rests = self.slices.running() == 0
            && !self.slices.has_pending()
            && self.queue.is_empty()
            && self.outbox.is_settled()
            && self.spare().is_zero();
        rests.then_some(self.surplus.used_at())
    }

    /// Returns when a renewal is due for what is reported, asked for or given back. `flush` says
    /// that the node ends: all of it is due at once.
    pub(super) fn due(&self, rules: &LeaseRules, flush: bool, now: Duration) -> Duration {
        let spare = self.spare();
        let give_back_at = match spare.is_zero() {
            true => Duration::MAX,
            false if flush => now,
            false => self.surplus.give_back_at(spare, rules),
        };
        let fill_at = if self.is_low() { now } else { Duration::MAX };
        let report_at = match self.outbox.has_frozen() {
            true => Some(now),
            false if flush => self.outbox.dirty_since(),
            false => self.report_at(rules),
        };
        let running = self.slices.running();
        let share_at =
            self.concurrency.as_ref().map_or(Duration::MAX, |share| share.due(rules, running));
        self.queue
            .due(now)
            .min(report_at.unwrap_or(Duration::MAX))
            .min(self.slices.due(now))
            .min(give_back_at)
            .min(fill_at)
            .min(share_at)
    }

    /// Returns when what is to be reported has to be, if that is known by now. It is soon if the
    /// ledger does not know of so much that others would be denied for it, or learn it too late; if
    /// part of a share is free again; and if it counts permits, which are brought along.
    pub(super) fn report_at(&self, rules: &LeaseRules) -> Option<Duration> {
        let since = self.outbox.dirty_since()?;
        let unsaid = self.outbox.unreported().saturating_add(self.spare());
        let running = self.slices.running();
        let has_share = self.concurrency.as_ref().is_some_and(|share| share.is_unused(running));
        let is_urgent = unsaid >= self.slack || has_share || self.permits.is_some();
        Some(if is_urgent || rules.report_within <= rules.report_soon {
            since.saturating_add(rules.report_soon)
        } else {
            rules.report_with_others(since)
        })
    }

    /// Notes that something happens once so much more is spent: half of it may stay unsaid.
    pub(super) fn note_threshold(&mut self, distance: Credits) {
        self.slack = self.slack.min(distance.half());
    }

    /// Admits a request at once, without the ledger, or returns it. It does not
    /// pass one that waits.
    pub(super) fn admit(
        &mut self,
        want: SliceRequest,
        mut run: R,
        now: Duration,
    ) -> Result<RunId, R> {
        let Some(slice) = self.slice_for(want, now).filter(|_| self.queue.is_empty()) else {
            return Err(run);
        };
        if let Some(most) = want.most_running {
            self.concurrency.get_or_insert_default().set_limit(most);
        }
        // Last, so that nothing else keeps a request from beginning that has a permit.
        if !self.has_room(want, now)
            || want.rate.is_some_and(|rate| self.permits().take(rate, now) != PermitAnswer::AtHand)
        {
            return Err(run);
        }
        run.admitted_at_once(now);
        Ok(self.begin(slice, want.hold, run, now))
    }

    /// (15) Returns `true` if a request may begin beside those that run on all nodes.
    fn has_room(&self, want: SliceRequest, now: Duration) -> bool {
        let running = self.slices.running();
        want.most_running.is_none_or(|most| {
            self.concurrency.as_ref().is_some_and(|share| share.has_room(most, running, now))
        })
    }

    fn permits(&mut self) -> &mut PermitPool {
        self.permits.get_or_insert_default()
    }

    /// Queues a request until the ledger answers.
    pub(super) fn enqueue(&mut self, want: SliceRequest, run: R, handle: W) {
        self.queue.push(want, run, handle);
        self.surplus.wants(want.hold);
    }

    /// Admits a request without the ledger, if all of these stay within `allowance`, or gives it
    /// back.
    pub(super) fn grant_unbacked(
        &mut self,
        want: SliceRequest,
        run: R,
        allowance: Credits,
        now: Duration,
    ) -> Result<RunId, R> {
        if !self.hold.grant_unbacked(want.hold, allowance) {
            return Err(run);
        }
        Ok(self.begin(want.hold, want.hold, run, now))
    }

    /// Takes part of an outage's allowance, if there is so much left of it.
    pub(super) fn take_allowance(&mut self, hold: Credits, allowance: Credits) -> bool {
        self.hold.grant_unbacked(hold, allowance)
    }

    /// Goes on counting what counts beyond the lease that this one replaces: granted allowances and
    /// requests' names.
    pub(super) fn inherit(&mut self, old: &Self) {
        self.hold.continue_allowance(&old.hold);
        self.slices.continue_serials(&old.slices);
    }

    fn begin(&mut self, slice: Credits, hold: Credits, run: R, now: Duration) -> RunId {
        self.surplus.wants(hold);
        self.surplus.used(now);
        if let Some(share) = &mut self.concurrency {
            share.note_running(self.slices.running() + 1);
        }
        self.slices.begin(slice, hold, run, now)
    }

    /// Returns the slice that a request begins with, if there is enough for it. What costs nothing
    /// needs no hold.
    fn slice_for(&self, want: SliceRequest, now: Duration) -> Option<Credits> {
        if want.hold.is_zero() {
            return Some(Credits::ZERO);
        }
        self.hold.slice_for(want, self.spare(), now)
    }

    /// Ends a request, as [`Slices::end`] does.
    pub(super) fn end(&mut self, id: RunId, ask: bool, now: Duration) -> Option<Closing> {
        if self.slices.running_mut(id).is_some() {
            self.note_end(now);
        }
        self.slices.end(id, ask, self.spare(), &mut self.outbox, now)
    }

    /// Ends all requests, as if each ended now. Their owners learn it when they end them.
    pub(super) fn end_all(&mut self, now: Duration) {
        for slot in self.slices.running_slots() {
            self.note_end(now);
            self.slices.close(slot, true, self.spare(), &mut self.outbox, now);
        }
    }

    fn note_end(&mut self, now: Duration) {
        self.surplus.used(now);
        self.outbox.mark_dirty(now);
    }

    /// Bills requests that have ended and wait for the ledger no more than their slices: there will
    /// be no answer.
    pub(super) fn give_up_pending(&mut self) -> Vec<Billed<R>> {
        self.slices.give_up_pending(&mut self.outbox)
    }

    /// Frees what a request holds: it needs nothing more.
    pub(super) fn release(&mut self, id: RunId, now: Duration) {
        if self.slices.release(id) {
            self.outbox.mark_dirty(now);
        }
    }

    /// Composes what a renewal says, and gives up what it gives up.
    pub(super) fn report(&mut self, rules: &LeaseRules, now: Duration) -> Report {
        if !self.outbox.has_frozen() {
            self.settle_running(now);
        }
        let batch = self.outbox.freeze();
        let holds = self.slices.holds().saturating_add(self.queue.holds());
        self.surplus.sample(holds, rules, now);
        let surplus = self.surplus_target(rules, now);
        let ahead = self.spare().min(surplus);
        let unsent = self.outbox.spent().saturating_sub(batch.settled);
        let keep = self.slices.total().saturating_add(unsent).saturating_add(ahead);
        let refill = self.slices.request_refills(now);
        let need = self.queue.request_all();
        let is_dry = self.dry_below.is_some();
        if let Some(most) = self.queue.most_running() {
            self.concurrency.get_or_insert_default().set_limit(most);
        }
        let waiting = if is_dry || self.is_full { 0 } else { self.queue.permits_needed() };
        let permits = self.permits.as_mut();
        let permits = permits.and_then(|permits| permits.request(waiting, rules, now));
        let running = self.slices.running();
        let waiting = if is_dry { 0 } else { self.queue.shares_needed() };
        let concurrency = self.concurrency.as_mut();
        let concurrency = concurrency.and_then(|share| share.request(running, waiting, rules, now));
        // Once in a report, not with each request: an account that rests takes little memory.
        self.slices.free_memory();
        self.queue.free_memory();
        // (1) Given up when it is sent.
        self.hold.lower_to(batch.settled.saturating_add(keep));
        let extra = surplus.saturating_sub(ahead);
        Report { batch, keep, refill, need, extra, permits, concurrency }
    }

    /// Takes the hold that the ledger's answer grants, beyond the total that was `settled`. `left`
    /// is what the account has left.
    pub(super) fn take_hold(
        &mut self,
        settled: Credits,
        hold: Credits,
        left: Credits,
        admit_until: Duration,
    ) {
        self.hold.renew(settled.saturating_add(hold), admit_until);
        self.slack = left.part(SLACK_DIVISOR);
        self.dry_below = self.dry_below.filter(|least| left < *least);
        self.surplus.note_left(left);
    }

    /// (10) Gives what an answer granted first to the requests that the renewal asked for, so that
    /// no other takes it: to running ones, then to waiting ones. What is left is free for all
    /// requests; what none of them took is given back. The renewal was sent at `requested_at`.
    pub(super) fn serve_answered(
        &mut self,
        rules: &LeaseRules,
        requested_at: Duration,
        is_gone: impl Fn(&W) -> bool,
        now: Duration,
    ) -> Served<W, R> {
        let mut served = Served::none();
        let spare = self.spare();
        served.settled =
            self.slices.serve_requested(spare, &mut self.outbox, rules, requested_at, now);
        self.serve_waiting(true, &mut served, &is_gone, now);
        if let Some(permits) = &mut self.permits {
            permits.keep_landed(rules);
        }
        self.serve_free(&mut served, is_gone, now);
        let target = self.surplus_target(rules, now);
        self.surplus.renewed(self.spare(), target);
        if is_twice(self.spare(), target) || self.outbox.has_unsent_usage() {
            self.outbox.mark_dirty(now);
        }
        served
    }

    /// Gives what is free to running requests that need more, then to waiting ones.
    pub(super) fn serve_free(
        &mut self,
        served: &mut Served<W, R>,
        is_gone: impl Fn(&W) -> bool,
        now: Duration,
    ) {
        let spare = self.spare();
        served.settled.extend(self.slices.serve_due(spare, &mut self.outbox, now));
        self.serve_waiting(false, served, is_gone, now);
    }

    /// Admits waiting requests, first come, first served. (10) With `requested`, only those that
    /// the ledger was asked for: they are refused if there is not enough. Without, the first
    /// request for which there is not enough goes on waiting, and so do those behind it.
    fn serve_waiting(
        &mut self,
        requested: bool,
        served: &mut Served<W, R>,
        is_gone: impl Fn(&W) -> bool,
        now: Duration,
    ) {
        while let Some(want) = self.queue.first(requested, &is_gone) {
            let (slice, has_room) = (self.slice_for(want, now), self.has_room(want, now));
            if !requested && (slice.is_none() || !has_room) {
                break;
            }
            self.dry_below = slice.is_none().then_some(want.min_slice);
            let Some(slice) = slice else {
                served.refused.extend(self.queue.pop().map(|(handle, _)| handle));
                continue;
            };
            // The ledger was not asked for those that wait.
            let was_asked =
                self.concurrency.as_ref().is_some_and(|share| share.asked_for_waiting());
            if !has_room && !was_asked && self.queue.ask_again() {
                self.is_full = false;
                break;
            }
            self.is_full = !has_room;
            if !has_room {
                served.too_many.extend(self.queue.pop().map(|(handle, _)| handle));
                continue;
            }
            // Last, so that what is denied for another reason uses no permit.
            if let Some(rate) = want.rate {
                let permit = if requested {
                    self.permits().take_landed(rate, now)
                } else {
                    self.permits().take(rate, now)
                };
                match permit {
                    PermitAnswer::AtHand => {}
                    _ if !requested => break,
                    // The ledger was asked for permits of another rate, or its answer came too
                    // late to count.
                    PermitAnswer::Ask if self.queue.ask_again() => break,
                    _ => {
                        served.beyond_rate.extend(self.queue.pop().map(|(handle, _)| handle));
                        continue;
                    }
                }
            }
            let Some((handle, run)) = self.queue.pop() else { break };
            served.admitted.push((handle, self.begin(slice, want.hold, run, now)));
        }
    }

    /// (14) Looks for a permit. There is none at hand while requests wait for theirs.
    pub(super) fn find_permit(&mut self, rate: AccountRate, now: Duration) -> PermitAnswer {
        if self.queue.needs_permits() {
            return PermitAnswer::Ask;
        }
        self.permits().find(rate, now)
    }

    /// (15) Takes the share that an answer grants to the renewal that was sent at `sent_at`.
    pub(super) fn take_share(&mut self, rules: &LeaseRules, share: Concurrency, sent_at: Duration) {
        if let Some(concurrency) = &mut self.concurrency {
            concurrency.granted(share, rules, sent_at);
        }
    }

    /// (14) Takes the permits that an answer grants.
    pub(super) fn take_permits(&mut self, rules: &LeaseRules, permits: Permits, sent_at: Duration) {
        self.permits().granted(permits, rules, sent_at);
    }

    /// (14) Returns the permits that are left, and the time until all are there again.
    pub(super) fn permit_state(&self, now: Duration) -> (u32, Duration) {
        self.permits.as_ref().map_or((0, Duration::ZERO), |permits| permits.state(now))
    }

    /// (14) Returns the time for which the ledger has no permit.
    pub(super) fn no_permit_for(&self, now: Duration) -> Duration {
        self.permits.as_ref().map_or(Duration::ZERO, |permits| permits.none_for(now))
    }

    /// Admits no request on what was granted before the process was suspended, until `woke_at`.
    pub(super) fn mark_suspended(&mut self, rules: &LeaseRules, woke_at: Duration) {
        if let Some(permits) = &mut self.permits {
            permits.mark_suspended(woke_at);
        }
        if let Some(share) = &mut self.concurrency {
            share.mark_suspended(rules, woke_at);
        }
        self.hold.mark_suspended(rules, woke_at);
    }

    /// Notes that the ledger has the batch of this number. Returns `true` if its total grew by it.
    pub(super) fn acknowledge(&mut self, batch: u64) -> bool {
        self.outbox.acknowledge(batch)
    }

    /// (8) Goes on under a new name of the lease with what is not acknowledged.
    pub(super) fn rename(&mut self) {
        self.outbox.rename();
        self.hold.rename(self.outbox.spent());
        self.surplus.rename();
        self.slack = Credits::ZERO;
        if let Some(share) = &mut self.concurrency {
            share.rename();
        }
    }

    fn surplus_target(&self, rules: &LeaseRules, now: Duration) -> Credits {
        self.surplus.target(rules, !self.queue.is_empty(), self.spare(), now)
    }
}
