//! One node's share of an account's credits in a period: arithmetic only. Time is a `Duration`
//! since any fixed moment.
//!
//! The rules that make it exact when messages are lost, repeated or late are marked where they are
//! kept: (1) what is given up is given up when it is sent, (3) admit briefly, (4) a batch is resent
//! unchanged, (5) every open lease speaks, (6) forget last, (8) superseded means abandoned, (9)
//! what runs is settled as it goes, (10) nobody is refused or cut but by an answer.

mod renewal;

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use slab::Slab;

use super::{
    batch::{Batch, Tally},
    rules::{Burn, LeaseRules},
};
use crate::{
    Credits,
    ledger::{LeaseId, LineKey, Standing, Usage},
};

/// A request as its lease sees it.
pub(crate) trait Run {
    /// What it has used so far.
    fn accrued(&self, now: Duration) -> Credits;
    /// The soonest that it can have used `cost`, from now.
    fn runway(&self, cost: Credits, now: Duration) -> Duration;
    /// Tells it how much it may use in all.
    fn granted(&mut self, slice: Credits, now: Duration);
    /// It used more than it was granted, and that is settled: what it may use in all grew by this
    /// debt.
    fn owed(&mut self, _slice: Credits) {}
    /// Tells it that it needed more, and that the ledger had less.
    fn denied(&mut self, denial: Denial);
    /// It was admitted as soon as it asked, and begins now.
    fn begins(&mut self, _now: Duration) {}
    /// `true` if it is billed no more than its slice.
    fn stops(&self) -> bool;
    /// What it used so far, if that can be settled before it ends.
    fn settleable(&self, now: Duration) -> Option<Usage>;
    /// Ends it, and answers all that it used; nothing if it never began or is not billed. It counts
    /// no further: asked again, it answers the same.
    fn end(&mut self, now: Duration) -> Option<Usage>;
    /// What its usage is for.
    fn line(&self) -> LineKey;
    /// Requests whose numbers are the same have the same line.
    fn line_number(&self) -> u64;
}

/// The ledger was asked for more after a request had come to need it, and did not give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// When it was asked.
    pub(crate) asked_at: Duration,
    /// `true` if it answered. If not, its deadline has passed.
    pub(crate) answered: bool,
}

/// What a request asks for at its admission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// The slice it takes where there is enough, and is refilled to while it runs.
    pub(crate) hold: Credits,
    /// Less than this counts as nothing.
    pub(crate) least: Credits,
    /// After how long one that took all of it needs a refill, at the soonest.
    pub(crate) lasts: Duration,
    /// Where so many of the account's requests run or wait already, it may not even ask.
    pub(crate) most_running: Option<NonZeroU32>,
}

/// Names a running request. No two requests of an account ever have the same, so that nobody takes
/// one for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId {
    slot: usize,
    serial: u64,
}

/// Those who waited and got their answer. `W` is how to tell them.
#[derive(Debug)]
pub(crate) struct Served<W, R> {
    /// Admitted, each as the request of this name.
    pub(crate) admitted: Vec<(W, RunId)>,
    /// Asked for, and there was not enough.
    pub(crate) refused: Vec<W>,
    /// Requests that ended earlier with more used than their slices, and what they were billed.
    pub(crate) settled: Vec<(R, Option<Usage>)>,
}

/// What became of a request that ended.
#[derive(Debug)]
pub(crate) enum Closing<R> {
    /// It was billed this; nothing if it never began or is not billed.
    Settled(R, Option<Usage>),
    /// It used more than its slice. The ledger is asked for the rest before it is billed.
    Pending,
}

/// A lease. `R` is a request that runs on it, `W` one that waits.
#[derive(Debug)]
pub(crate) struct Lease<W, R> {
    id: LeaseId,
    seq: u64,
    /// All that was used by requests that ended.
    spent: Credits,
    /// What may be spent and sliced in all.
    budget: Credits,
    /// The sum of the running requests' slices.
    slices: Credits,
    running: Slab<Running<R>>,
    /// How many of these have ended: they wait for the ledger, or for their owner to learn it.
    ended: usize,
    /// How many of those wait for the ledger.
    pending: usize,
    /// How many requests were ever admitted.
    admitted: u64,
    waiting: VecDeque<Waiting<W, R>>,
    tally: Tally,
    batch: u64,
    unacknowledged: Option<Batch>,
    acknowledged: Credits,
    in_flight: Option<Flight>,
    admit_until: Duration,
    /// When the ledger last answered.
    told_at: Option<Duration>,
    used_at: Duration,
    /// When the ledger last acknowledged that more was settled.
    news_at: Duration,
    /// Since when there is something to report or to give back.
    dirty_since: Option<Duration>,
    /// After a failure, the earliest next try.
    retry_at: Duration,
    failures: u32,
    /// Until when a renewal that was sent may still act.
    acts_until: Duration,
    /// Somebody was denied without the ledger being asked: it is asked for that reason alone, so
    /// that the next one need not be.
    inquires: bool,
    /// A goodbye was sent: nothing else may follow, unless its answer says that it brought news.
    leaving: bool,
    gone: bool,
    /// Granted without the ledger during outages.
    trusted: Credits,
    burn: Burn,
    /// With less than this to spare, a lease that holds ahead asks for more before anybody has to
    /// wait.
    low: Credits,
    standing: Standing,
}

#[derive(Debug)]
struct Running<R> {
    run: R,
    /// No other request of this account has it.
    serial: u64,
    state: State,
    /// All that it was granted; what is settled already is a part of this.
    slice: Credits,
    /// What of its usage is settled already.
    settled: Usage,
    hold: Credits,
    /// After a short grant, the earliest next refill.
    ask_at: Duration,
    /// How much more the renewal that is under way asks for.
    asked: Credits,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    /// It ended with more used than its slice. The ledger is asked for the rest.
    Pending {
        used: Usage,
        owned: bool,
    },
    /// It was billed this before its owner ended it.
    Over(Option<Usage>),
}

#[derive(Debug)]
struct Waiting<W, R> {
    want: Want,
    run: R,
    tell: W,
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    sent_at: Duration,
    batch: u64,
    settled: Credits,
    goodbye: bool,
    /// The process was suspended since it was sent: nobody is admitted on its answer.
    overslept: bool,
}

/// Renewals in a row without an answer, after which nobody waits for the next.
const FAILURES: u32 = 3;

/// What a lease wants to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send a renewal now.
    Renew,
    /// Nothing before this moment, or before something happens.
    Wait(Duration),
    /// Nothing ever again.
    Gone,
}

impl<W, R: Run> Lease<W, R> {
    pub(crate) fn new(id: LeaseId, now: Duration) -> Self {
        Self {
            id,
            seq: 0,
            spent: Credits::ZERO,
            budget: Credits::ZERO,
            slices: Credits::ZERO,
            running: Slab::new(),
            ended: 0,
            pending: 0,
            admitted: 0,
            waiting: VecDeque::new(),
            tally: Tally::default(),
            batch: 0,
            unacknowledged: None,
            acknowledged: Credits::ZERO,
            in_flight: None,
            admit_until: Duration::ZERO,
            told_at: None,
            used_at: now,
            news_at: now,
            dirty_since: None,
            retry_at: Duration::ZERO,
            failures: 0,
            acts_until: Duration::ZERO,
            inquires: false,
            leaving: false,
            gone: false,
            trusted: Credits::ZERO,
            burn: Burn::new(now),
            low: Credits::ZERO,
            standing: Standing::default(),
        }
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// `true` if it said goodbye: requests need a new lease.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving || self.gone
    }

    /// How the account stood when the ledger last answered.
    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// What the ledger has acknowledged of what is spent here.
    pub(crate) fn acknowledged(&self) -> Credits {
        self.acknowledged
    }

    /// What is spent here and may not be in `standing` yet.
    pub(crate) fn unreported(&self) -> Credits {
        self.spent.saturating_sub(self.acknowledged)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.len() > self.ended
    }

    /// How many requests run or wait.
    pub(crate) fn engaged(&self) -> usize {
        self.running.len() - self.ended + self.waiting.len()
    }

    /// A request, until its owner ends it.
    pub(crate) fn run_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).map(|running| &mut running.run)
    }

    /// The same, if it has not ended before its owner said so.
    pub(crate) fn live_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).filter(|running| running.is_running()).map(|running| &mut running.run)
    }

    fn named_mut(&mut self, id: RunId) -> Option<&mut Running<R>> {
        self.running.get_mut(id.slot).filter(|running| running.serial == id.serial)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// `true` if the keeper has yet to hear that there is something to report.
    pub(crate) fn is_newly_dirty(&self, now: Duration) -> bool {
        self.in_flight.is_none() && self.dirty_since == Some(now)
    }

    /// What was granted before the process was suspended may have been given to others since:
    /// nobody is admitted on it.
    pub(crate) fn distrust(&mut self, rules: &LeaseRules, woke_at: Duration) {
        if self.admit_until < woke_at + rules.admit_for {
            self.admit_until = Duration::ZERO;
        }
        if let Some(flight) = &mut self.in_flight
            && flight.sent_at < woke_at
        {
            flight.overslept = true;
        }
    }

    /// Admits a request here and now, without asking the ledger, or gives it back.
    pub(crate) fn admit(&mut self, want: Want, mut run: R, now: Duration) -> Result<RunId, R> {
        let first_come_first_served = self.waiting.is_empty();
        match self.slice_for(want, now) {
            Some(slice) if first_come_first_served => {
                run.begins(now);
                Ok(self.start(slice, want.hold, run, now))
            }
            _ => Err(run),
        }
    }

    /// When the request that was just admitted needs more, at the soonest.
    pub(crate) fn due_of(&self, id: RunId, want: Want, now: Duration) -> Duration {
        match self.running.get(id.slot) {
            Some(running) if running.slice >= want.hold => now.saturating_add(want.lasts),
            Some(running) => running.due_at(now),
            None => Duration::MAX,
        }
    }

    /// `true` if so much of what was held ahead is taken that the ledger is to be asked for more.
    pub(crate) fn is_low(&self) -> bool {
        // After a failure, the next try asks for more anyway.
        self.spare() < self.low && self.unacknowledged.is_none()
    }

    /// Queues a request until the ledger answers.
    pub(crate) fn wait(&mut self, want: Want, run: R, tell: W) {
        self.waiting.push_back(Waiting { want, run, tell, asked: false });
        self.burn.asks(want.hold);
    }

    /// Admits a request that the ledger did not answer for, as long as all of these stay within
    /// `allowance`.
    pub(crate) fn trust(
        &mut self,
        want: Want,
        run: R,
        allowance: Credits,
        now: Duration,
    ) -> Result<RunId, R> {
        let trusted = self.trusted.saturating_add(want.hold);
        if trusted > allowance {
            return Err(run);
        }
        if allowance < Credits::MAX {
            self.trusted = trusted;
        }
        Ok(self.start(want.hold, want.hold, run, now))
    }

    /// What counts on when an account's lease is replaced: what was granted without the ledger, for
    /// one.
    pub(crate) fn inherit(&mut self, old: &Self) {
        self.trusted = old.trusted;
        // No serial number is used twice.
        self.admitted = old.admitted;
    }

    /// If the ledger has not answered for this lease for a while: nobody needs to wait to learn
    /// that.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures >= FAILURES
    }

    /// Has the ledger asked for its own sake, because somebody was denied without.
    pub(crate) fn inquire(&mut self) {
        self.inquires = true;
    }

    /// Says if the ledger is to be asked for its own sake alone.
    pub(crate) fn only_inquires(&self) -> bool {
        self.inquires && self.failures == 0 && self.waiting.is_empty()
    }

    /// The ledger answers others: nothing needs to be found out.
    pub(crate) fn forget_inquiry(&mut self) {
        self.inquires = false;
    }

    pub(crate) fn has_trusted(&self) -> bool {
        !self.trusted.is_zero()
    }

    /// Ends a request: what it cost is spent, the rest of its slice is free. With `ask`, one that
    /// stops at its slice and used more is billed as far as the account can pay, once the ledger
    /// has said how far that is.
    pub(crate) fn end(&mut self, id: RunId, ask: bool, now: Duration) -> Option<Closing<R>> {
        match self.named_mut(id)?.state {
            State::Running => {}
            State::Pending { used, .. } => {
                self.named_mut(id)?.state = State::Pending { used, owned: false };
                return Some(Closing::Pending);
            }
            State::Over(_) => {
                return self.take_over(id.slot).map(|(run, billed)| Closing::Settled(run, billed));
            }
        }
        if let Some(used) = self.close(id.slot, ask, now) {
            self.named_mut(id)?.state = State::Pending { used, owned: false };
            return Some(Closing::Pending);
        }
        self.take_over(id.slot).map(|(run, billed)| Closing::Settled(run, billed))
    }

    /// Ends all requests, as if each ended now. Their owners learn it when they end them.
    pub(crate) fn end_all(&mut self, now: Duration) {
        for slot in self.slots(Running::is_running) {
            if let (Some(used), Some(running)) =
                (self.close(slot, true, now), self.running.get_mut(slot))
            {
                running.state = State::Pending { used, owned: true };
            }
        }
    }

    /// Bills those that wait for the ledger no more than their slices: there will be no answer.
    pub(crate) fn give_up(&mut self) -> Vec<(R, Option<Usage>)> {
        self.slots(Running::is_pending).into_iter().filter_map(|slot| self.resolve(slot)).collect()
    }

    fn slots(&self, which: impl Fn(&Running<R>) -> bool) -> Vec<usize> {
        self.running.iter().filter(|(_, running)| which(running)).map(|(slot, _)| slot).collect()
    }

    /// Ends a request, and settles it, or answers what it used if the ledger is to be asked for
    /// more first.
    fn close(&mut self, slot: usize, ask: bool, now: Duration) -> Option<Usage> {
        let spare = self.spare();
        let running = self.running.get_mut(slot)?;
        let used = running.run.end(now);
        self.ended += 1;
        self.used_at = now;
        self.dirty_since.get_or_insert(now);
        (running.hold, running.asked) = (Credits::ZERO, Credits::ZERO);
        if let Some(used) = used.filter(|used| running.run.stops() && used.cost > running.slice) {
            let more = used.cost.saturating_sub(running.slice).min(spare);
            self.slices = self.slices.saturating_add(running.grant(more, now));
            if ask && used.cost > running.slice {
                running.ask_at = Duration::ZERO;
                self.pending += 1;
                return Some(used);
            }
        }
        self.settle(slot, used);
        None
    }

    /// Spends what a request used that has ended, as far as it is not settled already; one that
    /// stops at its slice, no more than that.
    fn settle(&mut self, slot: usize, used: Option<Usage>) {
        let Some(running) = self.running.get_mut(slot) else { return };
        self.slices = self.slices.saturating_sub(running.open());
        let used = used.map(|used| running.within_slice(used));
        running.slice = Credits::ZERO;
        let billed = used.map(|used| Usage {
            compute_micros: used.compute_micros.max(running.settled.compute_micros),
            cost: used.cost.max(running.settled.cost),
            ..used
        });
        if let Some(billed) = billed {
            let rest = billed.less(running.settled);
            let spent = self.spent.saturating_add(rest.cost);
            // Past the largest amount nothing is added, and lines add up to what is.
            let rest = Usage { cost: spent.saturating_sub(self.spent), ..rest };
            self.spent = spent;
            self.tally.add(running.run.line_number(), || running.run.line(), rest);
        }
        running.state = State::Over(billed);
    }

    /// Settles one that waits for the ledger, with the slice that it has by now; answers it if its
    /// owner has ended it already.
    fn resolve(&mut self, slot: usize) -> Option<(R, Option<Usage>)> {
        let State::Pending { used, owned } = self.running.get(slot)?.state else { return None };
        self.pending -= 1;
        self.settle(slot, Some(used));
        if owned { None } else { self.take_over(slot) }
    }

    fn take_over(&mut self, slot: usize) -> Option<(R, Option<Usage>)> {
        let State::Over(billed) = self.running.get(slot)?.state else { return None };
        self.ended -= 1;
        self.running.try_remove(slot).map(|running| (running.run, billed))
    }

    /// (9) Spends what running requests have used so far, as far as that can be settled before they
    /// end: what a node that dies then loses is little.
    fn settle_running(&mut self, now: Duration) {
        for (_, running) in &mut self.running {
            let Some(used) = running.run.settleable(now).filter(|_| running.is_running()) else {
                continue;
            };
            let more = Usage { requests: 0, ..running.within_slice(used).less(running.settled) };
            if more.cost.is_zero() {
                continue;
            }
            self.slices = self.slices.saturating_sub(running.open());
            running.settled.add(more);
            if running.settled.cost > running.slice {
                running.slice = running.settled.cost;
                running.run.owed(running.slice);
            }
            self.slices = self.slices.saturating_add(running.open());
            let spent = self.spent.saturating_add(more.cost);
            let more = Usage { cost: spent.saturating_sub(self.spent), ..more };
            self.spent = spent;
            self.tally.add(running.run.line_number(), || running.run.line(), more);
        }
    }

    /// A request needs nothing more, and what it holds is free.
    pub(crate) fn release(&mut self, id: RunId, now: Duration) {
        if let Some(running) = self.named_mut(id).filter(|running| running.is_running()) {
            let open = running.open();
            (running.slice, running.hold, running.asked) =
                (running.settled.cost, Credits::ZERO, Credits::ZERO);
            self.slices = self.slices.saturating_sub(open);
            self.dirty_since.get_or_insert(now);
        }
    }

    /// Has the ledger asked at once for what a request needs beyond its slice, though it was told
    /// lately that there is not enough.
    pub(crate) fn ask_now(&mut self, id: RunId) {
        if let Some(running) = self.named_mut(id) {
            running.ask_at = Duration::ZERO;
        }
    }

    /// The ledger is known to be away: those that need more are told so.
    pub(crate) fn deny_due(&mut self, now: Duration) {
        for (_, running) in &mut self.running {
            if running.is_running() && running.is_due(running.run.accrued(now), now) {
                running.run.denied(Denial { asked_at: now, answered: false });
            }
        }
    }

    /// Gives what is free to running requests that need more, then to those who wait.
    pub(crate) fn share_out(
        &mut self,
        has_left: impl Fn(&W) -> bool,
        now: Duration,
    ) -> Served<W, R> {
        self.serve(now, None, has_left)
    }

    /// Those who wait give up waiting for the ledger, all of them.
    pub(crate) fn dismiss(&mut self) -> Vec<W> {
        self.waiting.drain(..).map(|waiting| waiting.tell).collect()
    }

    /// Those who wait and satisfy `left` no longer do.
    pub(crate) fn forget_waiting(&mut self, left: impl Fn(&W) -> bool) {
        self.waiting.retain(|waiting| !left(&waiting.tell));
    }

    fn start(&mut self, slice: Credits, hold: Credits, mut run: R, now: Duration) -> RunId {
        run.granted(slice, now);
        self.slices = self.slices.saturating_add(slice);
        self.burn.asks(hold);
        self.used_at = now;
        let short = slice < hold;
        // Where there was not enough just now, there will not be at once.
        let ask_at =
            if short { now.saturating_add(run.runway(slice.half(), now)) } else { Duration::ZERO };
        if self.running.capacity() == 0 {
            // Most accounts have one at a time.
            self.running.reserve_exact(1);
        }
        self.admitted += 1;
        let serial = self.admitted;
        let settled = Usage::default();
        let running = Running {
            run,
            serial,
            state: State::Running,
            slice,
            settled,
            hold,
            ask_at,
            asked: Credits::ZERO,
        };
        RunId { slot: self.running.insert(running), serial }
    }

    fn spare(&self) -> Credits {
        self.budget.saturating_sub(self.spent).saturating_sub(self.slices)
    }

    /// (3) Admissions end a while after the renewal was sent, long before the ledger releases the
    /// hold.
    fn slice_for(&self, want: Want, now: Duration) -> Option<Credits> {
        if want.hold.is_zero() {
            return Some(Credits::ZERO);
        }
        let slice = self.spare().min(want.hold);
        (now < self.admit_until && !self.is_leaving() && slice >= want.least).then_some(slice)
    }

    /// Gives what is free: to those the ledger was just asked for first, so that nobody else takes
    /// what it gave them, then to running requests that need more, then to those who wait.
    /// `answered` is when a renewal was sent that was answered now.
    fn serve(
        &mut self,
        now: Duration,
        answered: Option<(&LeaseRules, Duration)>,
        has_left: impl Fn(&W) -> bool,
    ) -> Served<W, R> {
        let mut served = Served::nobody();
        if let Some((rules, asked_at)) = answered {
            served.settled = self.serve_asked(rules, asked_at, now);
            self.serve_waiting(true, &mut served, &has_left, now);
        }
        served.settled.extend(self.serve_due(now));
        self.serve_waiting(false, &mut served, has_left, now);
        served
    }

    /// (10) Gives running requests what a renewal asked for them, or tells them that it was not to
    /// be had.
    fn serve_asked(
        &mut self,
        rules: &LeaseRules,
        asked_at: Duration,
        now: Duration,
    ) -> Vec<(R, Option<Usage>)> {
        let mut spare = self.spare();
        let mut resolved = Vec::new();
        for (slot, running) in &mut self.running {
            let asked = std::mem::take(&mut running.asked);
            if asked.is_zero() {
                continue;
            }
            let asked = asked.min(running.missing(running.run.accrued(now)));
            let more = asked.min(spare);
            spare = spare.saturating_sub(more);
            self.slices = self.slices.saturating_add(running.grant(more, now));
            let is_denied = more < asked;
            if running.is_pending() {
                if is_denied || running.missing(Credits::ZERO).is_zero() {
                    resolved.push(slot);
                }
            } else if is_denied {
                running.run.denied(Denial { asked_at, answered: true });
                let runway = running.run.runway(running.slice, now);
                running.ask_at = now + rules.pause().max(runway / 2);
            }
        }
        resolved.into_iter().filter_map(|slot| self.resolve(slot)).collect()
    }

    /// Gives running requests that need more what is there.
    fn serve_due(&mut self, now: Duration) -> Vec<(R, Option<Usage>)> {
        let mut spare = self.spare();
        let mut resolved = Vec::new();
        for (slot, running) in &mut self.running {
            if spare.is_zero() {
                break;
            }
            let accrued = running.run.accrued(now);
            if running.is_due(accrued, now) {
                let more = running.missing(accrued).min(spare);
                spare = spare.saturating_sub(more);
                self.slices = self.slices.saturating_add(running.grant(more, now));
                if running.missing(accrued).is_zero() {
                    // What the ledger says to a question that is under way is no answer to its next
                    // need.
                    running.asked = Credits::ZERO;
                    if running.is_pending() {
                        resolved.push(slot);
                    }
                }
            }
        }
        resolved.into_iter().filter_map(|slot| self.resolve(slot)).collect()
    }

    /// Admits those who wait, first come, first served. `answered` ones were asked for, and are
    /// refused if there is not enough; else nobody passes one who still waits.
    fn serve_waiting(
        &mut self,
        answered: bool,
        served: &mut Served<W, R>,
        has_left: impl Fn(&W) -> bool,
        now: Duration,
    ) {
        while let Some(waiting) = self.waiting.pop_front() {
            if has_left(&waiting.tell) {
                continue;
            }
            if answered && !waiting.asked {
                self.waiting.push_front(waiting);
                break;
            }
            match self.slice_for(waiting.want, now) {
                Some(slice) => {
                    let id = self.start(slice, waiting.want.hold, waiting.run, now);
                    served.admitted.push((waiting.tell, id));
                }
                None if answered => served.refused.push(waiting.tell),
                None => {
                    self.waiting.push_front(waiting);
                    break;
                }
            }
        }
    }
}

impl<R: Run> Running<R> {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. })
    }

    /// What of its usage is billed, with the slice that it has.
    fn within_slice(&self, used: Usage) -> Usage {
        if self.run.stops() { Usage { cost: used.cost.min(self.slice), ..used } } else { used }
    }

    /// Adds to its slice; answers how much of that is not settled yet.
    fn grant(&mut self, more: Credits, now: Duration) -> Credits {
        if more.is_zero() {
            return Credits::ZERO;
        }
        let open = self.open();
        self.slice = self.slice.saturating_add(more);
        self.run.granted(self.slice, now);
        self.open().saturating_sub(open)
    }

    /// What of its slice is not settled yet.
    fn open(&self) -> Credits {
        self.slice.saturating_sub(self.settled.cost)
    }

    /// When only half of what it asks for is left, it needs more.
    fn is_due(&self, accrued: Credits, now: Duration) -> bool {
        self.is_pending()
            || (!self.hold.is_zero() && now >= self.ask_at && accrued >= self.refill_at())
    }

    fn refill_at(&self) -> Credits {
        self.slice.saturating_sub(self.hold.half())
    }

    fn due_at(&self, now: Duration) -> Duration {
        if self.is_pending() {
            return now;
        }
        if self.hold.is_zero() {
            return Duration::MAX;
        }
        let refill = now.saturating_add(self.run.runway(self.refill_at(), now)).max(self.ask_at);
        // However it was refilled: so much is settled at the latest, or lost with a node that is
        // killed.
        let settle_at = self.settled.cost.saturating_add(self.hold.half().max(Credits::SMALLEST));
        let Some(used) = self.run.settleable(now).filter(|_| self.is_running()) else {
            return refill;
        };
        let is_spent = self.run.stops() && settle_at > self.slice;
        let after = self.run.runway(settle_at, now);
        // What is beyond its slice, or beyond the most that it may cost, cannot be settled, and
        // keeps nobody busy.
        if is_spent || (after.is_zero() && used.cost < settle_at) {
            refill
        } else {
            refill.min(now.saturating_add(after))
        }
    }

    fn missing(&self, accrued: Credits) -> Credits {
        match self.state {
            State::Running => accrued.saturating_add(self.hold).saturating_sub(self.slice),
            State::Pending { used, .. } => used.cost.saturating_sub(self.slice),
            State::Over(_) => Credits::ZERO,
        }
    }
}

impl<W, R> Served<W, R> {
    pub(crate) const fn nobody() -> Self {
        Self { admitted: Vec::new(), refused: Vec::new(), settled: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
