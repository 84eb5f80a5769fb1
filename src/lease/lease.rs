//! A lease's conversation with the ledger: when it speaks, what it says, what it makes of the
//! answers.

use std::{sync::Arc, time::Duration};

use super::{
    exchange::{Exchange, Flight},
    last_standing::LastStanding,
    life::Life,
    memory::ReusesMemory,
    permits::PermitAnswer,
    pool::{Pool, Report},
    record::Stored,
    rules::LeaseRules,
    run::{Closing, RunId, Served, SliceRequest},
};
use crate::{
    Credits,
    clock::UnixTime,
    ledger::{AccountRate, Answer, LeaseId, Outcome, Renewal, Standing, Terms, Usage},
};

/// One node's share of an account's credits in a period: requests are admitted, refilled and billed
/// on it, and renewals tell the ledger what became of them.
///
/// `R` is a request that runs on it. `W` is the handle of a request that waits, by which its owner
/// is told what became of it.
///
/// It is arithmetic only. It has no clock: time is passed in, as a `Duration` since any fixed
/// moment. It does no I/O: its owner sends a renewal when [`next`](Self::next) says so, and hands
/// in what came of it with [`answered`](Self::answered) or [`unanswered`](Self::unanswered).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(crate) struct Lease<W, R> {
    id: LeaseId,
    pub(super) pool: Pool<W, R>,
    pub(super) exchange: Exchange,
    pub(super) life: Life,
    /// `true` if a request was denied while the ledger was known to be away: it is asked for that
    /// reason alone, so that the next one need not be denied.
    probes: bool,
    /// `true` if somebody waits until all that is spent is reported.
    is_awaited: bool,
    /// Standing of the account when the ledger last answered.
    standing: LastStanding,
    /// (13) What a journal has of it.
    pub(super) stored: Stored,
}

/// Next step of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send a renewal now.
    Renew,
    /// Have the journal remove its record, and then renew.
    LeaveJournal,
    /// Nothing before this moment, or before something happens.
    Wait(Duration),
    /// Nothing ever again.
    Gone,
}

impl<W, R: ReusesMemory> Lease<W, R> {
    /// Returns a lease that the ledger has not heard of yet, and that has nothing on hold.
    pub(crate) fn new(id: LeaseId, now: Duration) -> Self {
        let (pool, life) = (Pool::new(now), Life::new(now));
        Self::from_parts(id, pool, Exchange::new(), life, Standing::default(), Stored::No)
    }

    pub(super) fn from_parts(
        id: LeaseId,
        pool: Pool<W, R>,
        exchange: Exchange,
        life: Life,
        standing: Standing,
        stored: Stored,
    ) -> Self {
        let standing = standing.into();
        Self { id, pool, exchange, life, probes: false, is_awaited: false, standing, stored }
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns `true` if it said goodbye: requests need a new lease.
    pub(crate) fn is_leaving(&self) -> bool {
        !self.life.is_open()
    }

    /// Returns how the account stood when the ledger last answered.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Returns what the ledger has acknowledged of what is spent here.
    pub(crate) fn acknowledged(&self) -> Credits {
        self.pool.outbox().acknowledged()
    }

    /// Returns what is spent here and may not be in [`standing`](Self::standing) yet.
    pub(crate) fn unreported(&self) -> Credits {
        self.pool.outbox().unreported()
    }

    /// Returns `true` if a request runs.
    pub(crate) fn is_running(&self) -> bool {
        self.pool.slices().running() > 0
    }

    /// Returns how many requests run or wait.
    pub(crate) fn running_and_waiting(&self) -> usize {
        self.pool.slices().running() + self.pool.queue().len()
    }

    /// Returns how many requests run, how many wait, and the credits that the ledger has on hold
    /// for them and for others to come, as far as they are not spent.
    #[cfg(feature = "metrics")]
    pub(crate) fn load(&self) -> (usize, usize, Credits) {
        let slices = self.pool.slices();
        let held = self.pool.spare().saturating_add(slices.total());
        (slices.running(), self.pool.queue().len(), held)
    }

    /// Returns a request that its owner has not ended.
    pub(crate) fn run_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.pool.slices_mut().run_mut(id)
    }

    /// Returns a request that runs: neither its owner nor the end of its node has ended it.
    pub(crate) fn running_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.pool.slices_mut().running_mut(id)
    }

    /// Returns `true` if a request waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.pool.queue().is_empty()
    }

    /// Returns when what is to be reported has to be; [`Duration::MAX`] if there is nothing, or if
    /// the lease is examined before, because a renewal is under way.
    pub(crate) fn report_at(&self, rules: &LeaseRules) -> Duration {
        match self.pool.report_at(rules) {
            Some(at) if !self.exchange.is_in_flight() => at.max(self.exchange.retry_at()),
            _ => Duration::MAX,
        }
    }

    /// Notes that something happens once so much more is spent: that is reported soon then.
    pub(crate) fn note_threshold(&mut self, distance: Credits) {
        self.pool.note_threshold(distance);
    }

    /// Has all that is spent reported now, because somebody waits for that. Returns the number of
    /// the batch that brings it; `None` if the ledger knows it.
    pub(crate) fn report_now(&mut self) -> Option<u64> {
        let is_known = self.pool.outbox().is_settled() && !self.is_running();
        if is_known || !self.life.is_open() {
            return None;
        }
        self.is_awaited = true;
        Some(self.pool.outbox().next_batch())
    }

    /// Returns `true` if the ledger has acknowledged the batch of this number.
    pub(crate) fn has_reported(&self, batch: u64) -> bool {
        self.pool.outbox().has_acknowledged(batch)
    }

    /// Admits no request on what was granted before the process was suspended, until `woke_at`: the
    /// ledger may have granted it to others since.
    pub(crate) fn mark_suspended(&mut self, rules: &LeaseRules, woke_at: Duration) {
        self.pool.mark_suspended(rules, woke_at);
        self.exchange.mark_suspended(woke_at);
    }

    /// Admits a request here and now, without asking the ledger, or gives it back. It does not
    /// pass one that waits.
    pub(crate) fn admit(&mut self, want: SliceRequest, run: R, now: Duration) -> Result<RunId, R> {
        if self.life.is_open() { self.pool.admit(want, run, now) } else { Err(run) }
    }

    /// Returns when the request that was just admitted needs a renewal.
    pub(crate) fn due_of(&self, id: RunId, want: SliceRequest, now: Duration) -> Duration {
        self.pool.slices().first_due_of(id, want, now)
    }

    /// Returns `true` if so much of the surplus is taken that the ledger is to be asked for more.
    pub(crate) fn is_low(&self) -> bool {
        self.pool.is_low()
    }

    /// (14) Looks for a permit of a rate over all nodes, which is not taken yet.
    pub(crate) fn find_permit(&mut self, rate: AccountRate, now: Duration) -> PermitAnswer {
        self.pool.find_permit(rate, now)
    }

    /// (14) Returns the permits that are left as far as this node knows, and the time until all are
    /// there again.
    pub(crate) fn permit_state(&self, now: Duration) -> (u32, Duration) {
        self.pool.permit_state(now)
    }

    /// (14) Returns the time for which the ledger has no permit.
    pub(crate) fn no_permit_for(&self, now: Duration) -> Duration {
        self.pool.no_permit_for(now)
    }

    /// Queues a request until the ledger answers.
    pub(crate) fn enqueue(&mut self, want: SliceRequest, run: R, handle: W) {
        self.pool.enqueue(want, run, handle);
    }

    /// Admits a request that the ledger did not answer for, if all of these stay within
    /// `allowance`, or gives it back.
    pub(crate) fn grant_unbacked(
        &mut self,
        want: SliceRequest,
        run: R,
        allowance: Credits,
        now: Duration,
    ) -> Result<RunId, R> {
        self.pool.grant_unbacked(want, run, allowance, now)
    }

    /// Takes `hold` of the allowance for what is granted without the ledger, for another lease of
    /// the account. Returns `false` if that is more than is left of it.
    pub(crate) fn take_allowance(&mut self, hold: Credits, allowance: Credits) -> bool {
        self.pool.take_allowance(hold, allowance)
    }

    /// Returns `true` if part of an allowance was granted without the ledger.
    pub(crate) fn has_granted_unbacked(&self) -> bool {
        self.pool.has_granted_unbacked()
    }

    /// Goes on counting what counts beyond the lease that this one replaces: granted allowances and
    /// requests' names.
    pub(crate) fn inherit(&mut self, old: &Self) {
        self.pool.inherit(&old.pool);
    }

    /// Returns `true` if the ledger has not answered for this lease for a while: no request need
    /// wait to learn that.
    pub(crate) fn is_failing(&self) -> bool {
        self.exchange.is_failing()
    }

    /// Has the ledger asked for its own sake, because a request was denied without.
    pub(crate) fn probe(&mut self) {
        self.probes = true;
    }

    /// Returns `true` if the ledger is to be asked for its own sake alone.
    pub(crate) fn only_probes(&self) -> bool {
        self.probes && !self.exchange.has_failed() && !self.has_waiting()
    }

    /// Notes that the ledger answers others: nothing needs to be found out.
    pub(crate) fn cancel_probe(&mut self) {
        self.probes = false;
    }

    /// Ends a request, which its owner [takes](Self::take) out then: what it cost is spent, the
    /// rest of its slice is free. `None` if it was ended before.
    ///
    /// With `ask`, one that stops at its slice and used more is billed as far as the account can
    /// pay, once the ledger has said how far that is. Without, it is billed its slice.
    pub(crate) fn close(&mut self, id: RunId, ask: bool, now: Duration) -> Option<Closing> {
        self.pool.end(id, ask, now)
    }

    /// Takes out a request that was billed as it ended.
    pub(crate) fn take(&mut self, id: RunId) -> Option<R> {
        self.pool.slices_mut().take(id)
    }

    /// Ends all requests, as if each ended now. Their owners learn it when they end them.
    pub(crate) fn end_all(&mut self, now: Duration) {
        self.pool.end_all(now);
    }

    /// Bills requests that have ended and wait for the ledger no more than their slices: there will
    /// be no answer.
    pub(crate) fn settle_pending(&mut self) -> Vec<(R, Option<Usage>)> {
        self.pool.give_up_pending()
    }

    /// Returns the requests that were billed and that their owners have not ended, and what each
    /// was billed.
    pub(crate) fn unclaimed_mut(&mut self) -> impl Iterator<Item = (&mut R, Option<Usage>)> {
        self.pool.slices_mut().unclaimed_mut()
    }

    /// Frees what a request holds: it needs nothing more.
    pub(crate) fn release(&mut self, id: RunId, now: Duration) {
        self.pool.release(id, now);
    }

    /// Has the ledger asked at once for what a request needs beyond its slice, though it said just
    /// before that there is not enough.
    pub(crate) fn refill_now(&mut self, id: RunId) {
        self.pool.slices_mut().refill_now(id);
    }

    /// Tells requests that need more that the ledger is known to be away.
    pub(crate) fn deny_unanswered(&mut self, now: Duration) {
        self.pool.slices_mut().deny_unanswered(now);
    }

    /// Gives what is free to running requests that need more, then to waiting ones. Those whose
    /// handles satisfy `is_gone` get nothing.
    pub(crate) fn grant_spare(
        &mut self,
        is_gone: impl Fn(&W) -> bool,
        now: Duration,
    ) -> Served<W, R> {
        let mut served = Served::none();
        self.pool.serve_free(&mut served, is_gone, now);
        served
    }

    /// Removes all waiting requests, and returns their handles.
    pub(crate) fn drain_queue(&mut self) -> Vec<W> {
        self.pool.queue_mut().drain_queue()
    }

    /// Removes waiting requests whose handles satisfy `left`.
    pub(crate) fn remove_waiting(&mut self, left: impl Fn(&W) -> bool) {
        self.pool.queue_mut().forget(left);
    }

    /// Returns what to do next. `flush` says that the node ends: report and give back at once.
    pub(crate) fn next(&self, rules: &LeaseRules, flush: bool, now: Duration) -> Next {
        if self.life.is_gone()
            || (!self.exchange.has_spoken()
                && self.life.is_over(rules, self.pool.resting_since(), flush, now))
        {
            return Next::Gone;
        }
        if self.exchange.is_in_flight() {
            return Next::Wait(Duration::MAX);
        }
        let due = self.due(rules, flush, now).max(self.exchange.retry_at());
        if due > now {
            return Next::Wait(due);
        }
        // (13) Nothing may be sent about a lease that said goodbye, also not by who reads the
        // journal.
        match self.stored {
            Stored::Yes if self.may_leave(rules, flush, now) => Next::LeaveJournal,
            Stored::Leaving if self.may_leave(rules, flush, now) => Next::Wait(Duration::MAX),
            _ => Next::Renew,
        }
    }

    /// (13) Asks for the removal of its record, before it says goodbye.
    pub(crate) fn leave_journal(&mut self) {
        if self.stored == Stored::Yes {
            self.stored = Stored::Leaving;
        }
    }

    /// Returns when the next renewal is due, retries apart.
    fn due(&self, rules: &LeaseRules, flush: bool, now: Duration) -> Duration {
        if self.life.is_leaving() || self.probes || self.is_awaited {
            return now;
        }
        let resting_since = self.pool.resting_since();
        if flush && rules.farewell && resting_since.is_some() && self.exchange.has_spoken() {
            // (6) The total once more, then the goodbye.
            let goodbye_at = self.exchange.acts_until().max(now);
            return if self.life.is_confirmed(rules, now) { goodbye_at } else { now };
        }
        self.pool.due(rules, flush, now).min(self.life.speaks_at(rules, resting_since))
    }

    /// (6) Returns `true` if the next renewal says goodbye. If the node ends, the lease cannot wait
    /// for what a failover may still forget. It leaves as soon as nothing older can act, but not
    /// before the ledger has answered it once more, if it had news lately: so what was forgotten
    /// until then is repaired.
    fn may_leave(&self, rules: &LeaseRules, flush: bool, now: Duration) -> bool {
        let resting_since = self.pool.resting_since();
        if flush {
            let may_act = now < self.exchange.acts_until();
            let is_confirmed = self.life.is_confirmed(rules, now);
            return rules.farewell && resting_since.is_some() && is_confirmed && !may_act;
        }
        self.life.may_leave(rules, resting_since, now)
    }

    /// Returns `true` if nothing is owed to the ledger, and nothing is on hold there that this
    /// lease knows of.
    pub(crate) fn is_settled(&self) -> bool {
        self.life.is_gone()
            || (self.pool.resting_since().is_some() && !self.exchange.is_in_flight())
    }

    /// Returns `true` if nothing is owed to the ledger. While the ledger does not answer, what is
    /// only to be given back is not owed: it expires there.
    pub(crate) fn owes_nothing(&self) -> bool {
        let is_owed = self.pool.slices().has_pending() || self.pool.outbox().has_usage();
        self.is_settled() || (self.is_failing() && !is_owed && !self.has_waiting())
    }

    /// Returns `true` if nothing is left to do at a shutdown: it has said goodbye, or the ledger
    /// never heard of it.
    pub(crate) fn is_closed(&self) -> bool {
        self.life.is_gone() || (self.is_settled() && !self.exchange.has_spoken())
    }

    /// Returns `true` if the ledger did not answer the last renewal, and no other is under way.
    pub(crate) fn has_failed(&self) -> bool {
        self.exchange.has_failed() && !self.exchange.is_in_flight()
    }

    /// Forgets earlier failures, so that a shutdown tries again at once.
    pub(crate) fn forget_failures(&mut self) {
        self.exchange.forget_failures();
    }

    /// Composes the next renewal, and gives up what it gives up. `flush` as in
    /// [`next`](Self::next).
    pub(crate) fn renew(
        &mut self,
        rules: &LeaseRules,
        terms: Terms,
        flush: bool,
        now: Duration,
    ) -> Renewal {
        if self.may_leave(rules, flush, now) {
            self.life.leave();
        }
        let forget = self.life.is_leaving();
        let is_resent = self.pool.outbox().has_frozen();
        let reported =
            if self.exchange.has_spoken() { self.pool.outbox().reported() } else { Credits::ZERO };
        // A lease that leaves holds nothing ahead.
        let ahead = rules.ahead.filter(|_| !forget);
        let Report { batch, keep, refill, need, extra, permits, concurrency } =
            self.pool.report(&LeaseRules { ahead, ..*rules }, now);
        self.probes = false;
        // A batch that is sent again brings nothing that was spent since.
        self.is_awaited &= is_resent;
        let seq = self.exchange.send(Flight {
            sent_at: now.into(),
            batch: batch.number,
            settled: batch.settled,
            is_goodbye: forget,
            is_of_closing: flush && rules.farewell,
            overslept: false,
        });
        Renewal {
            lease: self.id,
            seq,
            batch: batch.number,
            settled: batch.settled,
            reported,
            lines: batch.lines,
            keep,
            refill,
            need,
            extra,
            terms,
            terms_at: UnixTime::EPOCH,
            ttl: rules.ttl,
            forget,
            most_per_day: None,
            parts: Arc::default(),
            permits,
            concurrency,
        }
    }

    /// Takes the answer to the renewal numbered `seq`. Waiting requests whose handles
    /// satisfy `is_gone` get nothing.
    pub(crate) fn answered(
        &mut self,
        rules: &LeaseRules,
        seq: u64,
        answer: &Answer,
        is_gone: impl Fn(&W) -> bool,
        now: Duration,
    ) -> Served<W, R> {
        let Some(flight) = self.exchange.land(seq) else { return Served::none() };
        match answer.outcome {
            Outcome::Renewed { hold, standing, permits, concurrency, .. } => {
                self.acknowledge(rules, &flight, now);
                if let Some(permits) = permits.filter(|_| !flight.overslept) {
                    self.pool.take_permits(rules, permits, flight.sent_at.get());
                }
                if let Some(share) = concurrency.filter(|_| !flight.overslept) {
                    self.pool.take_share(rules, share, flight.sent_at.get());
                }
                // A copy of the renewal, that something on the way sent again, may come yet.
                self.exchange.may_act_again(rules, now);
                // (6) A goodbye that brought news is none.
                self.life.reopen();
                if flight.is_of_closing {
                    self.life.confirm();
                }
                self.standing = standing.into();
                self.take_hold(rules, &flight, hold);
                self.pool.serve_answered(rules, flight.sent_at.get(), is_gone, now)
            }
            Outcome::Forgotten => {
                self.acknowledge(rules, &flight, now);
                if flight.is_goodbye {
                    self.life.end();
                }
                Served::none()
            }
            Outcome::Closed | Outcome::Erased => {
                self.life.end();
                Served { settled: self.settle_pending(), ..Served::none() }
            }
            Outcome::NotBegun if self.pool.is_untouched() => {
                // There is nothing to say once the month has begun.
                self.life.end();
                Served::none()
            }
            Outcome::Superseded | Outcome::Late | Outcome::NotBegun => {
                self.exchange.failed(rules, now);
                Served::none()
            }
        }
    }

    fn acknowledge(&mut self, rules: &LeaseRules, flight: &Flight, now: Duration) {
        let brought_news = self.pool.acknowledge(flight.batch);
        self.life.answered(rules, brought_news, now);
        self.exchange.succeeded();
    }

    /// (3) Takes what the ledger has on hold. Requests are admitted on it for a while from the
    /// sending of the renewal, so that the ledger's hold lasts longer however long the answer took.
    fn take_hold(&mut self, rules: &LeaseRules, flight: &Flight, hold: Credits) {
        let admit_until = if flight.overslept {
            self.pool.queue_mut().forget_requests();
            Duration::ZERO
        } else {
            flight.sent_at.get() + rules.admit_for
        };
        self.pool.take_hold(
            flight.settled,
            hold,
            self.standing.get().available_to_lease(),
            admit_until,
        );
    }

    /// Notes that no answer came to the renewal numbered `seq`, or none that counts.
    pub(crate) fn unanswered(&mut self, rules: &LeaseRules, seq: u64, now: Duration) {
        if let Some(flight) = self.exchange.land(seq) {
            self.exchange.failed(rules, now);
            self.exchange.may_act_again(rules, now);
            self.pool.slices_mut().deny_requested(flight.sent_at.get());
        }
    }

    /// Gives up the renewal in flight: its answer is not taken, and no request is denied anything.
    pub(crate) fn abandon_in_flight(&mut self, rules: &LeaseRules, now: Duration) {
        self.pool.slices_mut().forget_requests();
        self.unanswered(rules, self.exchange.seq(), now);
    }

    /// (8) Abandons the name: what the ledger has not acknowledged goes on under a new one.
    pub(crate) fn rename(&mut self, id: LeaseId) {
        self.id = id;
        self.pool.rename();
        self.exchange.rename();
        self.life.rename();
    }
}

/// Access for tests.
#[cfg(test)]
impl<W, R: ReusesMemory> Lease<W, R> {
    /// Ends a request and takes it out, as its owner does in one step.
    pub(super) fn end(&mut self, id: RunId, ask: bool, now: Duration) -> Option<Closing> {
        let closing = self.close(id, ask, now)?;
        if matches!(closing, Closing::Settled(_)) {
            assert!(self.take(id).is_some(), "it was billed and is there");
        }
        Some(closing)
    }

    /// Returns requests that are not billed yet, and what of each is settled.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (&R, Credits)> {
        self.pool.slices().unbilled()
    }

    pub(super) fn slice_of(&self, id: RunId) -> Credits {
        self.pool.slices().slice_of(id)
    }

    pub(super) fn spent(&self) -> Credits {
        self.pool.outbox().spent()
    }

    /// Returns what is spent, and what running requests own beyond that.
    pub(super) fn claimed(&self) -> Credits {
        self.spent().saturating_add(self.pool.slices().total())
    }
}
