//! A node of the simulation: one account's leases, and the requests that run on them.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use fastrand::Rng;

use super::{
    HOLD, LEAST, Setting, at, nanos,
    oracle::Tally,
    request::{Request, Step},
};
use crate::{
    Credits,
    lease::{
        RunId, SliceRequest,
        lease::{Lease, Next},
        record::LeaseRecord,
        rules::LeaseRules,
        run::{Closing, Served},
    },
    ledger::{Answer, LeaseId, PartTerms, Renewal, Terms},
};

/// The longest time of a renewal, in ticks.
pub(super) const DEADLINE: u64 = 4;

/// The longest wait of a request for its admission, in ticks.
const PATIENCE: u64 = 12;

/// A request that waits, and since when.
pub(super) type Waiter = (Rc<Request>, u64);

#[derive(Default)]
pub(super) struct Node {
    lease: Option<Lease<Waiter, Rc<Request>>>,
    /// Leases that say goodbye, and those of killed processes.
    old: Vec<Lease<Waiter, Rc<Request>>>,
    running: Vec<(Rc<Request>, RunId)>,
    /// Requests that ended, and are billed once the ledger has said how much of it can be paid.
    pending: Vec<Rc<Request>>,
    /// Renewals that are not answered: lease, number, and when they were sent.
    awaited: Vec<(LeaseId, u64, u64)>,
    down_until: u64,
    /// It is suspended: what comes meanwhile is looked at when it goes on.
    asleep_until: u64,
    mail: Vec<(Renewal, Answer)>,
    /// Its journal, as it was last written.
    journal: BTreeMap<LeaseId, LeaseRecord>,
    /// The parts of the account that its requests are of.
    pub(super) parts: Arc<[PartTerms]>,
    /// It is shutting down: nothing new begins, and its leases settle and say goodbye.
    is_closing: bool,
}

impl Node {
    pub(super) fn is_down(&self, tick: u64) -> bool {
        self.down_until > tick
    }

    pub(super) fn is_asleep(&self, tick: u64) -> bool {
        self.asleep_until > tick
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn sleep_until(&mut self, tick: u64) {
        self.asleep_until = tick;
    }

    /// Faults end: it goes on.
    pub(super) fn recover(&mut self) {
        (self.down_until, self.asleep_until) = (0, 0);
    }

    /// Returns requests that are not billed yet.
    pub(super) fn unbilled(&self) -> impl Iterator<Item = &Request> {
        let running = self.running.iter().map(|(request, _)| request);
        running.chain(&self.pending).map(|request| &**request)
    }

    fn leases_mut(&mut self) -> impl Iterator<Item = &mut Lease<Waiter, Rc<Request>>> {
        self.lease.iter_mut().chain(&mut self.old)
    }

    /// Takes an answer, now or when it goes on.
    pub(super) fn receive(
        &mut self,
        renewal: &Renewal,
        answer: Answer,
        rules: &LeaseRules,
        tally: &mut Tally,
        tick: u64,
    ) {
        if self.is_down(tick) {
            return;
        }
        if self.is_asleep(tick) {
            self.mail.push((renewal.clone(), answer));
            return;
        }
        let served = self
            .leases_mut()
            .find(|lease| lease.id() == renewal.lease)
            .map(|lease| lease.answered(rules, renewal.seq, &answer, |_| false, at(tick)));
        if let Some(served) = served {
            self.serve(served, tally);
        }
    }

    pub(super) fn open_mail(&mut self, rules: &LeaseRules, tally: &mut Tally, tick: u64) {
        for (renewal, answer) in std::mem::take(&mut self.mail) {
            self.receive(&renewal, answer, rules, tally, tick);
        }
    }

    fn serve(&mut self, served: Served<Waiter, Rc<Request>>, tally: &mut Tally) {
        self.running.extend(served.admitted.into_iter().map(|((request, _), id)| (request, id)));
        for (request, billed) in served.settled {
            self.pending.retain(|pending| !Rc::ptr_eq(pending, &request));
            tally.billed(billed);
        }
    }

    /// `kill -9`: of what runs no more is billed than was settled, as far as the journal has it.
    pub(super) fn kill(
        &mut self,
        setting: &Setting,
        rules: &LeaseRules,
        down: u64,
        tally: &mut Tally,
        tick: u64,
    ) {
        self.running.clear();
        self.pending.clear();
        self.mail.clear();
        self.asleep_until = 0;
        if setting.journal == 0 {
            self.write_journal(tick);
        }
        let old = std::mem::take(&mut self.old).into_iter().chain(self.lease.take());
        for lease in old {
            for (request, settled) in lease.unfinished() {
                tally.killed(request, settled, at(tick));
            }
            let record = self.journal.get(&lease.id());
            let known = record.map_or_else(|| lease.acknowledged(), LeaseRecord::spent);
            tally.unwritten(lease.spent().saturating_sub(known));
        }
        let records = self.journal.values().cloned();
        self.old = records.map(|record| Lease::recovered(record, rules, at(tick + down))).collect();
        self.down_until = tick + down;
    }

    /// `true` if a lease is to leave the journal.
    pub(super) fn is_journal_due(&self) -> bool {
        self.lease.iter().chain(&self.old).any(Lease::needs_removal)
    }

    /// Writes the journal.
    pub(super) fn write_journal(&mut self, tick: u64) {
        let mut journal = BTreeMap::new();
        for lease in self.lease.iter_mut().chain(&mut self.old) {
            match lease.store(at(tick)) {
                Some(record) => drop(journal.insert(lease.id(), record)),
                None => {
                    lease.removed_from_journal();
                }
            }
        }
        self.journal = journal;
    }

    /// Ends the requests that run with what they used so far, and sends those away that wait.
    pub(super) fn shut_down(&mut self, tally: &mut Tally, tick: u64) {
        self.is_closing = true;
        for lease in self.leases_mut() {
            drop(lease.drain_queue());
        }
        if self.lease.is_some() {
            for (request, id) in std::mem::take(&mut self.running) {
                self.end(request, id, false, tally, tick);
            }
        }
    }

    fn end(&mut self, request: Rc<Request>, id: RunId, ask: bool, tally: &mut Tally, tick: u64) {
        tally.ended(&request, at(tick));
        match self.lease.as_mut().unwrap().end(id, ask, at(tick)).unwrap() {
            Closing::Settled(billed) => tally.billed(billed),
            Closing::Pending(_) => self.pending.push(request),
        }
    }

    /// Lets requests go on, and ends those that are over.
    pub(super) fn run_requests(
        &mut self,
        rng: &mut Rng,
        setting: &Setting,
        tally: &mut Tally,
        tick: u64,
    ) {
        if self.lease.is_none() {
            return;
        }
        for (request, id) in std::mem::take(&mut self.running) {
            if setting.jolts && rng.f64() < 0.005 && !request.has_report() {
                request.report(rng, at(tick));
            }
            match request.step(at(tick)) {
                Step::Ends { ask } => {
                    self.end(request, id, ask, tally, tick);
                    continue;
                }
                Step::AskNow => self.lease.as_mut().unwrap().refill_now(id),
                Step::Runs => {}
            }
            self.running.push((request, id));
        }
        let served = self.lease.as_mut().unwrap().grant_spare(|_| false, at(tick));
        self.serve(served, tally);
    }

    /// Requests come. `names` counts the leases of all nodes.
    pub(super) fn begin_requests(
        &mut self,
        rng: &mut Rng,
        stop: bool,
        names: &mut u128,
        tick: u64,
    ) {
        let want = SliceRequest {
            hold: nanos(HOLD),
            min_slice: nanos(LEAST),
            first_refill_after: at(HOLD.unsigned_abs() / 2),
            max_concurrent: None,
            rate: None,
            most_running: None,
        };
        if let Some(lease) = &mut self.lease {
            // Somebody reads the bill, or a threshold is near: neither may change any total.
            if rng.u8(0..8) == 0 {
                lease.report_now();
            }
            if rng.u8(0..8) == 0 {
                lease.note_threshold(nanos(rng.i64(0..4 * HOLD)));
            }
        }
        for _ in 0..[1, 1, 5][rng.usize(0..3)] {
            let length = [1, 3, 10, 60, 150][rng.usize(0..5)];
            let settles = rng.u8(0..4) > 0;
            let request = Rc::new(Request::new(stop, length, settles));
            if self.lease.as_ref().is_some_and(Lease::is_leaving) {
                self.old.extend(self.lease.take());
            }
            let lease = self.lease.get_or_insert_with(|| {
                *names += 1;
                Lease::new(LeaseId::from_bits(*names), at(tick))
            });
            match lease.admit(want, Rc::clone(&request), at(tick)) {
                Ok(id) => self.running.push((request, id)),
                Err(run) => lease.enqueue(want, run, (request, tick)),
            }
        }
    }

    /// Does what its leases want to be done, and returns what they send.
    pub(super) fn speak(
        &mut self,
        rules: &LeaseRules,
        (terms, most_per_day): (Terms, Option<Credits>),
        tick: u64,
    ) -> Vec<Renewal> {
        let (now, flush) = (at(tick), self.is_closing);
        let farewell =
            self.leases_mut().all(|lease| lease.owes_nothing()) && self.pending.is_empty();
        let rules = if flush { LeaseRules { ahead: None, farewell, ..*rules } } else { *rules };
        let mut sent = Vec::new();
        for lease in self.lease.iter_mut().chain(&mut self.old) {
            lease.remove_waiting(|(_, since)| tick - since >= PATIENCE);
            let given_up =
                |(id, _, sent_at): &mut _| *id == lease.id() && tick - *sent_at >= DEADLINE;
            for (_, seq, _) in self.awaited.extract_if(.., given_up).collect::<Vec<_>>() {
                lease.unanswered(&rules, seq, now);
            }
            let next = lease.next(&rules, flush, now);
            if next == Next::LeaveJournal {
                lease.leave_journal();
            }
            if next == Next::Renew {
                let renewal = Renewal {
                    most_per_day,
                    parts: Arc::clone(&self.parts),
                    ..lease.renew(&rules, terms, flush, now)
                };
                self.awaited.retain(|(id, ..)| *id != renewal.lease);
                self.awaited.push((renewal.lease, renewal.seq, tick));
                sent.push(renewal);
            }
        }
        self.old.retain(|lease| lease.next(&rules, flush, now) != Next::Gone);
        self.lease.take_if(|lease| lease.next(&rules, flush, now) == Next::Gone);
        if self.lease.is_none() && self.old.is_empty() {
            // Another process takes its place.
            self.is_closing = false;
        }
        sent
    }
}
