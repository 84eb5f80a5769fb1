//! One node's share of an account's credits in a period: arithmetic only. Time is a `Duration` since any fixed moment.
//!
//! The rules that make it exact when messages are lost, repeated or late are marked where they are kept: (1) what is given up is given up when
//! it is sent, (3) admit briefly, (4) a batch is resent unchanged, (5) every open lease speaks, (6) forget last, (8) superseded means abandoned.

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
    /// Tells it how much it may use.
    fn granted(&mut self, slice: Credits, now: Duration);
    /// It was admitted as soon as it asked, and begins now.
    fn begins(&mut self, _now: Duration) {}
    /// What it is billed now that it ends on a slice of this size; nothing where it never began.
    fn bill(&mut self, slice: Credits, now: Duration) -> Option<Usage>;
    /// What its usage is for.
    fn line(&self) -> LineKey;
    /// Requests whose numbers are the same have the same line.
    fn line_number(&self) -> u64;
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

/// Names a running request. No two requests of an account ever have the same, so that nobody takes one for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId {
    slot: usize,
    serial: u64,
}

/// Those who waited and got their answer. `W` is how to tell them.
#[derive(Debug)]
pub(crate) struct Served<W> {
    /// Admitted, each as the request of this name.
    pub(crate) admitted: Vec<(W, RunId)>,
    /// Asked for, and there was not enough.
    pub(crate) refused: Vec<W>,
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
    /// How many of these have ended already and wait for their owner to learn it.
    over: usize,
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
    /// A goodbye was sent: nothing else may follow, unless its answer says that it brought news.
    leaving: bool,
    gone: bool,
    /// Granted without the ledger during outages.
    trusted: Credits,
    burn: Burn,
    /// With less than this to spare, a lease that holds ahead asks for more before anybody has to wait.
    low: Credits,
    standing: Standing,
}

#[derive(Debug)]
struct Running<R> {
    run: R,
    /// No other request of this account has it.
    serial: u64,
    /// What it was billed when it ended before its owner said so.
    over: Option<Option<Usage>>,
    slice: Credits,
    hold: Credits,
    /// After a short grant, the earliest next refill.
    ask_at: Duration,
    asked: bool,
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
}

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
            over: 0,
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

    /// Whether it said goodbye: requests need a new lease.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving || self.gone
    }

    /// How the account stood when the ledger last answered.
    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// What is spent here and may not be in `standing` yet.
    pub(crate) fn unreported(&self) -> Credits {
        self.spent.saturating_sub(self.acknowledged)
    }

    /// Whether the ledger answered when it was last asked.
    pub(crate) fn is_answered(&self) -> bool {
        self.failures == 0 && self.told_at.is_some()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.len() > self.over
    }

    /// How many requests run or wait.
    pub(crate) fn engaged(&self) -> usize {
        self.running.len() - self.over + self.waiting.len()
    }

    /// A request, until its owner ends it.
    pub(crate) fn run_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).map(|running| &mut running.run)
    }

    /// The same, if it has not ended before its owner said so.
    pub(crate) fn live_mut(&mut self, id: RunId) -> Option<&mut R> {
        self.named_mut(id).filter(|running| running.over.is_none()).map(|running| &mut running.run)
    }

    fn named_mut(&mut self, id: RunId) -> Option<&mut Running<R>> {
        self.running.get_mut(id.slot).filter(|running| running.serial == id.serial)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the keeper has yet to hear that there is something to report.
    pub(crate) fn is_newly_dirty(&self, now: Duration) -> bool {
        self.in_flight.is_none() && self.dirty_since == Some(now)
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

    /// Whether so much of what was held ahead is taken that the ledger is to be asked for more.
    pub(crate) fn is_low(&self) -> bool {
        // After a failure, the next try asks for more anyway.
        self.spare() < self.low && self.unacknowledged.is_none()
    }

    /// Queues a request until the ledger answers.
    pub(crate) fn wait(&mut self, want: Want, run: R, tell: W) {
        self.waiting.push_back(Waiting { want, run, tell, asked: false });
        self.burn.asks(want.hold);
    }

    /// Admits a request that the ledger did not answer for, as long as all of these stay within `allowance`.
    pub(crate) fn trust(&mut self, want: Want, run: R, allowance: Credits, now: Duration) -> Result<RunId, R> {
        let trusted = self.trusted.saturating_add(want.hold);
        if trusted > allowance {
            return Err(run);
        }
        self.trusted = trusted;
        Ok(self.start(want.hold, want.hold, run, now))
    }

    /// What counts on when an account's lease is replaced: what was granted without the ledger, for one.
    pub(crate) fn inherit(&mut self, old: &Self) {
        self.trusted = old.trusted;
        // No serial number is used twice.
        self.admitted = old.admitted;
    }

    pub(crate) fn has_trusted(&self) -> bool {
        !self.trusted.is_zero()
    }

    /// Ends a request: what it cost is spent, the rest of its slice is free. Answers what it was billed.
    pub(crate) fn end(&mut self, id: RunId, now: Duration) -> Option<(R, Option<Usage>)> {
        self.named_mut(id)?;
        let mut ended = self.running.try_remove(id.slot)?;
        if let Some(billed) = ended.over {
            self.over -= 1;
            return Some((ended.run, billed));
        }
        let billed = self.settle(&mut ended, now);
        Some((ended.run, billed))
    }

    /// Ends all requests, as if each ended now. Their owners learn it when they end them.
    pub(crate) fn end_all(&mut self, now: Duration) {
        let mut running = std::mem::take(&mut self.running);
        for (_, ended) in running.iter_mut().filter(|(_, running)| running.over.is_none()) {
            ended.over = Some(self.settle(ended, now));
            self.over += 1;
            (ended.slice, ended.hold, ended.asked) = (Credits::ZERO, Credits::ZERO, false);
        }
        self.running = running;
    }

    fn settle(&mut self, ended: &mut Running<R>, now: Duration) -> Option<Usage> {
        self.slices = self.slices.saturating_sub(ended.slice);
        self.used_at = now;
        self.dirty_since.get_or_insert(now);
        let usage = ended.run.bill(ended.slice, now)?;
        self.spent = self.spent.saturating_add(usage.cost);
        self.tally.add(ended.run.line_number(), || ended.run.line(), usage);
        Some(usage)
    }

    /// Gives what is free to running requests that need more, then to those who wait.
    pub(crate) fn share_out(&mut self, has_left: impl Fn(&W) -> bool, now: Duration) -> Served<W> {
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
        let ask_at = if short { now.saturating_add(run.runway(slice.half(), now)) } else { Duration::ZERO };
        if self.running.capacity() == 0 {
            // Most accounts have one at a time.
            self.running.reserve_exact(1);
        }
        self.admitted += 1;
        let serial = self.admitted;
        RunId { slot: self.running.insert(Running { run, serial, over: None, slice, hold, ask_at, asked: false }), serial }
    }

    fn spare(&self) -> Credits {
        self.budget.saturating_sub(self.spent).saturating_sub(self.slices)
    }

    /// (3) Admissions end a while after the renewal was sent, long before the ledger releases the hold.
    fn slice_for(&self, want: Want, now: Duration) -> Option<Credits> {
        if want.hold.is_zero() {
            return Some(Credits::ZERO);
        }
        let slice = self.spare().min(want.hold);
        (now < self.admit_until && !self.is_leaving() && slice >= want.least).then_some(slice)
    }

    fn serve(&mut self, now: Duration, answered: Option<&LeaseRules>, has_left: impl Fn(&W) -> bool) -> Served<W> {
        let mut spare = self.spare();
        for (_, running) in &mut self.running {
            let accrued = running.run.accrued(now);
            if !running.asked && !running.is_due(accrued, now) {
                continue;
            }
            let more = running.missing(accrued).min(spare);
            spare = spare.saturating_sub(more);
            self.slices = self.slices.saturating_add(more);
            running.slice = running.slice.saturating_add(more);
            running.run.granted(running.slice, now);
            if let Some(rules) = answered
                && std::mem::take(&mut running.asked)
                && !running.missing(accrued).is_zero()
            {
                let runway = running.run.runway(running.slice, now);
                running.ask_at = now + rules.pause().max(runway / 2);
            }
        }

        let mut served = Served::nobody();
        let mut kept = VecDeque::new();
        while let Some(waiting) = self.waiting.pop_front() {
            if has_left(&waiting.tell) {
                continue;
            }
            match self.slice_for(waiting.want, now) {
                Some(slice) => {
                    let id = self.start(slice, waiting.want.hold, waiting.run, now);
                    served.admitted.push((waiting.tell, id));
                }
                None if answered.is_some() && waiting.asked => served.refused.push(waiting.tell),
                // First come, first served: nobody passes one who still waits.
                None => {
                    kept.push_back(waiting);
                    break;
                }
            }
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        served
    }
}

impl<R: Run> Running<R> {
    /// When only half of what it asks for is left, it needs more.
    fn is_due(&self, accrued: Credits, now: Duration) -> bool {
        !self.hold.is_zero() && now >= self.ask_at && accrued >= self.refill_at()
    }

    fn refill_at(&self) -> Credits {
        self.slice.saturating_sub(self.hold.half())
    }

    fn due_at(&self, now: Duration) -> Duration {
        if self.hold.is_zero() {
            return Duration::MAX;
        }
        now.saturating_add(self.run.runway(self.refill_at(), now)).max(self.ask_at)
    }

    fn missing(&self, accrued: Credits) -> Credits {
        accrued.saturating_add(self.hold).saturating_sub(self.slice)
    }
}

impl<W> Served<W> {
    pub(super) const fn nobody() -> Self {
        Self { admitted: Vec::new(), refused: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
