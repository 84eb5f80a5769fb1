//! What a lease says to the ledger, and when, and what it makes of the answers.

use std::{collections::VecDeque, time::Duration};

use slab::Slab;

use super::{Denial, Flight, Lease, LeaseRules, Next, Run, Served};
use crate::{
    Credits,
    clock::UnixTime,
    lease::{batch::Batch, rules::A_LITTLE},
    ledger::{Answer, LeaseId, Outcome, Renewal, SURPLUS_DIVISOR, Terms},
};

impl<W, R: Run> Lease<W, R> {
    /// What to do next. `flush` says that nothing is waited for any more: report and give back at
    /// once.
    pub(crate) fn next(&self, rules: &LeaseRules, flush: bool, now: Duration) -> Next {
        if self.gone
            || (self.seq == 0 && self.is_at_rest() && (flush || now >= self.quiet_at(rules)))
        {
            return Next::Gone;
        }
        if self.in_flight.is_some() {
            return Next::Wait(Duration::MAX);
        }
        let due = self.due(rules, flush, now).max(self.retry_at);
        if due <= now { Next::Renew } else { Next::Wait(due) }
    }

    /// Says if nothing is owed to the ledger, and nothing on hold there that this lease knows of.
    pub(crate) fn is_settled(&self) -> bool {
        self.gone || (self.is_at_rest() && self.in_flight.is_none())
    }

    /// Says if nothing is owed to the ledger; or it fails, and all that it was not told is what is
    /// to be given back, which will expire.
    pub(crate) fn owes_nothing(&self) -> bool {
        let has_lines = self.unacknowledged.as_ref().is_some_and(|batch| !batch.lines.is_empty());
        let is_owed = self.pending > 0
            || self.unreported() > Credits::ZERO
            || has_lines
            || !self.tally.is_empty();
        self.is_settled() || (self.is_failing() && !is_owed && self.waiting.is_empty())
    }

    /// Says if it is settled and has said goodbye, or could not.
    pub(crate) fn has_left(&self) -> bool {
        self.gone || (self.is_settled() && (self.seq == 0 || self.failures > 0))
    }

    /// Composes the next renewal and gives up what it gives up. `flush` as in [`next`](Self::next).
    pub(crate) fn renew(
        &mut self,
        rules: &LeaseRules,
        terms: Terms,
        flush: bool,
        now: Duration,
    ) -> Renewal {
        // (6) Once sent, a goodbye is all that may be sent.
        self.leaving |= self.may_leave(rules, flush, now);
        let reported = self.unacknowledged.as_ref().map_or(self.acknowledged, |batch| {
            if self.seq == 0 { Credits::ZERO } else { batch.settled }
        });
        if self.unacknowledged.is_none() {
            self.settle_running(now);
        }
        let batch = self.freeze();
        let slices = self.slices;
        let holds = self
            .running
            .iter()
            .map(|(_, running)| running.hold)
            .chain(self.waiting.iter().map(|waiting| waiting.want.hold));
        self.burn.sample(holds.fold(Credits::ZERO, Credits::saturating_add), rules.lull(), now);
        let pending = self.spent.saturating_sub(batch.settled);
        let surplus = self.surplus(rules, now);
        let ahead = self.spare().min(surplus);
        let keep = slices.saturating_add(pending).saturating_add(ahead);

        let mut refill = Credits::ZERO;
        for (_, running) in &mut self.running {
            let accrued = running.run.accrued(now);
            running.asked =
                if running.is_due(accrued, now) { running.missing(accrued) } else { Credits::ZERO };
            refill = refill.saturating_add(running.asked);
        }
        let mut need = Credits::ZERO;
        for waiting in &mut self.waiting {
            waiting.asked = true;
            need = need.saturating_add(waiting.want.hold);
        }

        if keep.is_zero() && self.running.is_empty() && self.waiting.is_empty() {
            // What holds nothing takes little memory.
            (self.running, self.waiting) = (Slab::new(), VecDeque::new());
        }
        self.seq += 1;
        // (1) Given up when it is sent; only this renewal's answer sets it again.
        self.budget = self.budget.min(batch.settled.saturating_add(keep));
        self.in_flight = Some(Flight {
            sent_at: now,
            batch: batch.number,
            settled: batch.settled,
            goodbye: self.leaving,
            overslept: false,
        });
        (self.dirty_since, self.inquires) = (None, false);
        Renewal {
            lease: self.id,
            seq: self.seq,
            batch: batch.number,
            settled: batch.settled,
            reported,
            lines: batch.lines,
            keep,
            refill,
            need,
            extra: surplus.saturating_sub(ahead),
            terms,
            terms_at: UnixTime::EPOCH,
            ttl: rules.ttl,
            forget: self.leaving,
        }
    }

    /// Takes the answer to the renewal numbered `seq`. Nothing is given to those who waited and
    /// have left.
    pub(crate) fn answered(
        &mut self,
        rules: &LeaseRules,
        seq: u64,
        answer: &Answer,
        has_left: impl Fn(&W) -> bool,
        now: Duration,
    ) -> Served<W, R> {
        let Some(flight) = self.in_flight.take_if(|_| seq == self.seq) else {
            // An answer to an older renewal says nothing.
            return Served::nobody();
        };
        match answer.outcome {
            Outcome::Renewed { hold, standing } => {
                self.acknowledge(flight.batch, now);
                self.heard(rules, now);
                // A copy of it, that something on the way sent again, may come yet. It was sent as
                // late as now, perhaps.
                self.acts_until = now + rules.deadline + A_LITTLE;
                self.budget = flight.settled.saturating_add(hold);
                self.admit_until = if flight.overslept {
                    Duration::ZERO
                } else {
                    flight.sent_at + rules.admit_for
                };
                if flight.overslept {
                    // Those who wait are asked for again.
                    self.waiting.iter_mut().for_each(|waiting| waiting.asked = false);
                }
                self.standing = standing;
                // (6) A goodbye that brought news is none.
                self.leaving = false;
                let served = self.serve(now, Some((rules, flight.sent_at)), has_left);
                let half = self.surplus(rules, now).half();
                // Where there was not even half of it to be had, there will not be at once.
                self.low = if self.spare() < half { Credits::ZERO } else { half };
                // What nobody took is given back.
                if self.has_surplus(rules, now)
                    || self.unreported() > Credits::ZERO
                    || !self.tally.is_empty()
                {
                    self.dirty_since.get_or_insert(now);
                }
                served
            }
            Outcome::Forgotten => {
                self.acknowledge(flight.batch, now);
                self.heard(rules, now);
                self.gone = flight.goodbye;
                Served::nobody()
            }
            Outcome::Closed | Outcome::Erased => {
                self.gone = true;
                Served { settled: self.give_up(), ..Served::nobody() }
            }
            Outcome::NotBegun
                if !self.is_running() && self.pending == 0 && self.spent.is_zero() =>
            {
                // It never had an effect, and there is nothing to say once the month has begun.
                self.gone = true;
                Served::nobody()
            }
            Outcome::Superseded | Outcome::Late | Outcome::NotBegun => {
                self.fail(rules, now);
                Served::nobody()
            }
        }
    }

    /// No answer came, or none that counts.
    pub(crate) fn unanswered(&mut self, rules: &LeaseRules, seq: u64, now: Duration) {
        if let Some(flight) = self.in_flight.take_if(|_| seq == self.seq) {
            self.fail(rules, now);
            // It was sent as late as now, perhaps.
            self.acts_until = now + rules.deadline + A_LITTLE;
            for (_, running) in &mut self.running {
                let asked = std::mem::take(&mut running.asked);
                if !asked.is_zero() && running.is_running() {
                    running.run.denied(Denial { asked_at: flight.sent_at, answered: false });
                }
            }
        }
    }

    /// What is under way is not waited for any more: nobody looks at its answer, and that denies
    /// nobody anything.
    pub(crate) fn abandon(&mut self, rules: &LeaseRules, now: Duration) {
        for (_, running) in &mut self.running {
            running.asked = Credits::ZERO;
        }
        self.unanswered(rules, self.seq, now);
    }

    /// (8) Abandons the name: what the ledger has not acknowledged goes on under a new one.
    pub(crate) fn rename(&mut self, id: LeaseId) {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        self.id = id;
        self.seq = 0;
        self.spent = self.spent.saturating_sub(acknowledged);
        self.budget = self.spent;
        self.batch = 0;
        if let Some(batch) = &mut self.unacknowledged {
            self.batch = 1;
            *batch = Batch {
                number: 1,
                settled: batch.settled.saturating_sub(acknowledged),
                lines: batch.lines.clone(),
            };
        }
        self.in_flight = None;
        self.leaving = false;
        self.told_at = None;
        self.retry_at = Duration::ZERO;
    }

    /// Requests that are not billed yet, and what of each is settled.
    #[cfg(test)]
    pub(in crate::lease) fn unfinished(&self) -> impl Iterator<Item = (&R, Credits)> {
        let open =
            self.running.iter().filter(|(_, running)| running.is_running() || running.is_pending());
        open.map(|(_, running)| (&running.run, running.settled.cost))
    }

    /// What is left of a lease when its process was killed and its journal read back: nothing runs
    /// any more.
    #[cfg(test)]
    pub(in crate::lease) fn killed(mut self, now: Duration) -> Self {
        self.running.clear();
        (self.ended, self.pending) = (0, 0);
        self.waiting.clear();
        self.slices = Credits::ZERO;
        self.in_flight = None;
        self.dirty_since = Some(now);
        self
    }

    fn due(&self, rules: &LeaseRules, flush: bool, now: Duration) -> Duration {
        let mut due = Duration::MAX;
        if self.leaving || self.inquires {
            return now;
        }
        if self.waiting.iter().any(|waiting| !waiting.asked) {
            return now;
        }
        if let Some(since) = self.dirty_since {
            due = due.min(if flush { now } else { since + rules.flush });
        }
        if self.unacknowledged.is_some() {
            due = due.min(now);
        }
        for (_, running) in &self.running {
            due = due.min(running.due_at(now));
        }
        if self.is_low() {
            due = due.min(now);
        }
        let spare = self.spare();
        if !spare.is_zero() {
            // What was held ahead is given back some time after the last use.
            let much =
                rules.ahead.is_some_and(|ahead| is_twice(spare, ahead.least(self.burn.hold())));
            due = due.min(if flush {
                now
            } else {
                self.used_at + if much { rules.lull() } else { rules.admit_for }
            });
        }
        if flush && rules.farewell && self.seq > 0 && self.is_at_rest() {
            return self.acts_until.max(now);
        }
        let Some(told_at) = self.told_at else {
            // Nothing came of it yet; if nothing does, it goes.
            return if self.seq == 0 && self.is_at_rest() {
                due.min(self.quiet_at(rules))
            } else {
                due
            };
        };
        // (5) Every open lease speaks: that is what repairs a failover.
        let heartbeat = told_at + rules.ttl / 3;
        due.min(match (self.is_at_rest(), self.is_quiet(rules)) {
            (_, true) => told_at + rules.ttl,
            (true, false) => heartbeat.min(self.quiet_at(rules)),
            (false, false) => heartbeat,
        })
    }

    /// Nothing runs, nobody waits, nothing is owed.
    fn is_at_rest(&self) -> bool {
        !self.is_running()
            && self.pending == 0
            && self.waiting.is_empty()
            && self.unacknowledged.is_none()
            && self.spent == self.acknowledged
            && self.dirty_since.is_none()
            && self.spare().is_zero()
    }

    /// At rest for a while, and the ledger was told so: once more after the last news, in case a
    /// failover forgot that.
    fn is_quiet(&self, rules: &LeaseRules) -> bool {
        self.is_at_rest() && self.told_at.is_some_and(|told_at| told_at >= self.quiet_at(rules))
    }

    fn quiet_at(&self, rules: &LeaseRules) -> Duration {
        self.used_at.max(self.news_at) + rules.idle()
    }

    /// (6) A lease that rested for a whole `ttl` since the ledger's last answer: nothing older is
    /// under way any more. One whose node ends cannot wait for what a failover may forget; it
    /// leaves as soon as nothing older is under way.
    fn may_leave(&self, rules: &LeaseRules, flush: bool, now: Duration) -> bool {
        if flush {
            return rules.farewell && self.is_at_rest() && now >= self.acts_until;
        }
        self.is_quiet(rules) && self.told_at.is_some_and(|told_at| now >= told_at + rules.ttl)
    }

    /// The surplus to ask for, and to keep of what is there.
    fn surplus(&self, rules: &LeaseRules, now: Duration) -> Credits {
        let Some(ahead) = rules.ahead.filter(|_| !self.leaving) else { return Credits::ZERO };
        let unused_for =
            if self.waiting.is_empty() { now.saturating_sub(self.used_at) } else { Duration::ZERO };
        let surplus = match unused_for {
            unused_for if unused_for < rules.lull() => {
                ahead.surplus(self.burn.hold(), self.burn.together())
            }
            unused_for if unused_for < rules.admit_for => ahead.least(self.burn.hold()),
            _ => return Credits::ZERO,
        };
        // What is held ahead is kept by right: asked for again and again, shares of the rest would
        // add up to all of it.
        let left = self.standing.available().saturating_add(self.spare());
        if self.told_at.is_some() { surplus.min(left.part(SURPLUS_DIVISOR)) } else { surplus }
    }

    /// `true` if there is so much more than the surplus that it is worth a renewal.
    fn has_surplus(&self, rules: &LeaseRules, now: Duration) -> bool {
        is_twice(self.spare(), self.surplus(rules, now))
    }

    /// (4) The batch that is not acknowledged yet, or else a new one of all that was tallied since.
    fn freeze(&mut self) -> Batch {
        if self.unacknowledged.is_none() {
            self.batch += 1;
            self.unacknowledged =
                Some(Batch { number: self.batch, settled: self.spent, lines: self.tally.take() });
        }
        let spent = self.spent;
        let number = self.batch;
        self.unacknowledged.clone().unwrap_or_else(|| Batch {
            number,
            settled: spent,
            lines: [].into(),
        })
    }

    fn acknowledge(&mut self, number: u64, now: Duration) {
        if let Some(batch) = self.unacknowledged.take_if(|batch| batch.number == number) {
            if batch.settled > self.acknowledged {
                self.news_at = now;
            }
            self.acknowledged = batch.settled;
        }
    }

    fn heard(&mut self, rules: &LeaseRules, now: Duration) {
        if self.told_at.is_none_or(|told_at| now > told_at + rules.ttl / 2) {
            // After a silence, what was acknowledged before it may have been forgotten in it, and
            // been news just now.
            self.news_at = now;
        }
        self.told_at = Some(now);
        self.failures = 0;
        self.retry_at = Duration::ZERO;
    }

    /// Tries again after a pause that doubles, up to a second.
    fn fail(&mut self, rules: &LeaseRules, now: Duration) {
        let pause = rules.pause() / 4 * 2_u32.saturating_pow(self.failures.min(8));
        let longest = Duration::from_secs(1).min(rules.ttl / 60);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + pause.min(longest);
    }
}

/// More than twice as much.
fn is_twice(this: Credits, that: Credits) -> bool {
    this > that.saturating_add(that)
}
