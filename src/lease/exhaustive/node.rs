//! A node of the model: its leases of one account, its journal, and what its requests were billed.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DEADLINE, HOLD, PATIENCE, at, nanos,
    request::{Request, Step},
    scene::Scene,
};
use crate::{
    Credits, Period,
    lease::{
        RunId, SliceRequest,
        lease::{Lease, Next},
        record::LeaseRecord,
        rules::LeaseRules,
        run::{Closing, Served},
    },
    ledger::{Answer, LeaseId, PartTerms, Renewal},
};

/// The handle of a request that waits: when it came.
type Waiter = u64;

type NodeLease = Lease<Waiter, Request>;

#[derive(Clone, Debug, Hash)]
pub(super) struct Node {
    /// Its leases, each of a month. Requests go to the last that is open and not in `recovered`.
    leases: Vec<(Period, NodeLease)>,
    /// Leases of a killed process, from its journal. They settle, and take no requests.
    recovered: Vec<LeaseId>,
    running: Vec<(LeaseId, RunId)>,
    /// Renewals that are not answered: lease, number, and when they were sent.
    awaited: Vec<(LeaseId, u64, u64)>,
    journal: BTreeMap<LeaseId, (Period, LeaseRecord)>,
    pub(super) parts: Arc<[PartTerms]>,
    pub(super) is_down: bool,
    /// The tick until which its journal is not written.
    journal_stalls_until: u64,
    /// It is suspended: it does nothing, and its clock goes on.
    asleep_until: Option<u64>,
    /// It is shutting down: nothing new begins, its leases settle and say goodbye.
    is_closing: bool,
    /// Requests that may still come.
    pub(super) to_come: u8,
    pub(super) tally: Tally,
}

/// The sums of what the requests of a node were billed and used.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) billed: i64,
    pub(super) debt: i64,
    /// Spent by processes that were killed before their journal had it: it is debited, or not.
    pub(super) unwritten: i64,
    pub(super) wronged: u32,
}

impl Tally {
    pub(super) fn add(self, other: Self) -> Self {
        Self {
            billed: self.billed + other.billed,
            debt: self.debt + other.debt,
            unwritten: self.unwritten + other.unwritten,
            wronged: self.wronged + other.wronged,
        }
    }
}

impl Node {
    pub(super) fn new(parts: Arc<[PartTerms]>, to_come: u8) -> Self {
        Self {
            leases: Vec::new(),
            recovered: Vec::new(),
            running: Vec::new(),
            awaited: Vec::new(),
            journal: BTreeMap::new(),
            parts,
            is_down: false,
            journal_stalls_until: 0,
            asleep_until: None,
            is_closing: false,
            to_come,
            tally: Tally::default(),
        }
    }

    pub(super) fn takes_requests(&self) -> bool {
        self.is_awake() && !self.is_closing && self.to_come > 0
    }

    pub(super) fn may_shut_down(&self) -> bool {
        self.is_awake() && !self.is_closing && !self.leases.is_empty()
    }

    /// Returns `true` if it has something that a crash would lose.
    pub(super) fn may_be_killed(&self) -> bool {
        self.is_awake() && !self.leases.is_empty()
    }

    pub(super) fn is_awake(&self) -> bool {
        !self.is_down && !self.is_asleep()
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep_until.is_some()
    }

    pub(super) fn sleep_until(&mut self, tick: u64) {
        self.asleep_until = Some(tick);
    }

    pub(super) fn stall_journal_until(&mut self, tick: u64) {
        self.journal_stalls_until = tick;
    }

    /// Goes on if its time has come, as a process does that was suspended.
    pub(super) fn wake(&mut self, scene: &Scene, tick: u64) -> bool {
        let wakes = self.asleep_until.take_if(|until| *until <= tick).is_some();
        if wakes {
            for (_, lease) in &mut self.leases {
                lease.mark_suspended(&scene.rules(), at(tick));
            }
        }
        wakes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.journal.is_empty()
    }

    /// Returns what is not billed yet: the cost so far, and the part of it that was granted.
    pub(super) fn unbilled(&self, tick: u64) -> (i64, i64) {
        let leases = self.leases.iter().map(|(_, lease)| lease);
        leases.flat_map(Lease::unfinished).fold((0, 0), |(cost, used), (request, settled)| {
            let settled = settled.as_nano_usd();
            (cost + request.cost(at(tick)).max(settled), used + request.used_of_slice(at(tick)))
        })
    }

    /// Returns the leases that run something, or have something that the ledger has not
    /// acknowledged, and those of a process that was killed.
    pub(super) fn indebted(&self) -> impl Iterator<Item = LeaseId> {
        let owes = |lease: &&NodeLease| {
            lease.unfinished().next().is_some() || !lease.unreported().is_zero()
        };
        let killed = self.journal.keys().filter(|_| self.is_down).copied();
        self.leases.iter().map(|(_, lease)| lease).filter(owes).map(Lease::id).chain(killed)
    }

    /// Returns the leases, and what each has spent and owns beyond that. One that says goodbye and
    /// owes nothing has no claim: the ledger may have forgotten it.
    pub(super) fn claims(&self) -> impl Iterator<Item = (Period, LeaseId, Credits)> {
        let claims = |(_, lease): &&(Period, NodeLease)| {
            !lease.is_leaving() || !lease.unreported().is_zero()
        };
        self.leases
            .iter()
            .filter(claims)
            .map(|(period, lease)| (*period, lease.id(), lease.claimed()))
    }

    /// A request comes.
    pub(super) fn begin(&mut self, scene: &Scene, length: i64, names: &mut u128, tick: u64) {
        self.to_come -= 1;
        let period = scene.period(tick);
        let recovered = &self.recovered;
        let is_current = |(month, lease): &&mut (Period, NodeLease)| {
            *month == period && !lease.is_leaving() && !recovered.contains(&lease.id())
        };
        if self.leases.iter_mut().rev().find(is_current).is_none() {
            *names += 1;
            let lease = Lease::new(LeaseId::from_bits(*names), at(tick));
            self.leases.push((period, lease));
        }
        let Some((_, lease)) = self.leases.iter_mut().rev().find(is_current) else { return };
        let want = SliceRequest {
            hold: nanos(HOLD),
            min_slice: nanos(1),
            first_refill_after: at(1),
            max_concurrent: None,
            rate: None,
            most_running: None,
        };
        match lease.admit(want, Request::new(scene.stop, length), at(tick)) {
            Ok(id) => self.running.push((lease.id(), id)),
            Err(run) => lease.enqueue(want, run, tick),
        }
    }

    /// Takes an answer.
    pub(super) fn receive(
        &mut self,
        scene: &Scene,
        id: LeaseId,
        (seq, answer): (u64, &Answer),
        tick: u64,
    ) {
        let rules = self.rules(scene);
        let lease = self.leases.iter_mut().find(|(_, lease)| lease.id() == id);
        if let Some((_, lease)) = lease.filter(|_| !self.is_down) {
            let served = lease.answered(&rules, seq, answer, |_| false, at(tick));
            self.serve(id, served);
        }
    }

    fn serve(&mut self, lease: LeaseId, served: Served<Waiter, Request>) {
        self.running.extend(served.admitted.into_iter().map(|(_, id)| (lease, id)));
        for (request, billed) in served.settled {
            self.tally.billed += billed.unwrap().cost.as_nano_usd();
            self.tally.wronged += u32::from(request.is_wronged);
        }
    }

    /// Lets requests go on, and ends those that are over.
    pub(super) fn run_requests(&mut self, tick: u64) {
        for (lease_id, id) in std::mem::take(&mut self.running) {
            let of_id = |(_, lease): &&mut (Period, NodeLease)| lease.id() == lease_id;
            let Some((_, lease)) = self.leases.iter_mut().find(of_id) else { continue };
            let Some(request) = lease.run_mut(id) else { continue };
            match request.step(at(tick)) {
                Step::Runs => self.running.push((lease_id, id)),
                Step::AskNow => {
                    lease.refill_now(id);
                    self.running.push((lease_id, id));
                }
                Step::Ends { ask } => self.end(lease_id, id, ask, tick),
            }
        }
        for at_lease in 0..self.leases.len() {
            let lease = &mut self.leases[at_lease].1;
            let (id, served) = (lease.id(), lease.grant_spare(|_| false, at(tick)));
            self.serve(id, served);
        }
    }

    fn end(&mut self, lease_id: LeaseId, id: RunId, ask: bool, tick: u64) {
        let of_id = |(_, lease): &&mut (Period, NodeLease)| lease.id() == lease_id;
        let Some((_, lease)) = self.leases.iter_mut().find(of_id) else { return };
        let debt = lease.run_mut(id).unwrap().debt(at(tick));
        self.tally.debt += debt;
        match lease.close(id, ask, at(tick)).unwrap() {
            Closing::Settled(billed) => {
                let request = lease.take(id).unwrap();
                self.tally.billed += billed.unwrap().cost.as_nano_usd();
                self.tally.wronged += u32::from(request.is_wronged);
            }
            // It is billed once the ledger has said how much of it can be paid.
            Closing::Pending(_) => {}
        }
    }

    /// `kill -9`: of what runs no more is billed than was settled, as far as the journal has it.
    pub(super) fn kill(&mut self, scene: &Scene) {
        self.running.clear();
        self.awaited.clear();
        for (_, lease) in std::mem::take(&mut self.leases) {
            for (request, settled) in lease.unfinished() {
                self.tally.billed += settled.as_nano_usd();
                self.tally.debt += request.debt_of_settled(settled);
            }
            let record = self.journal.get(&lease.id());
            let written = record.map_or(Credits::ZERO, |(_, record)| record.spent());
            let known = written.max(lease.acknowledged());
            self.tally.unwritten += lease.spent().saturating_sub(known).as_nano_usd();
        }
        if !scene.journal {
            self.journal.clear();
        }
        (self.is_down, self.is_closing, self.journal_stalls_until) = (true, false, 0);
    }

    /// Another process takes its place, with its journal.
    pub(super) fn restart(&mut self, scene: &Scene, tick: u64) {
        self.is_down = false;
        let rules = self.rules(scene);
        let recovered = self.journal.values().cloned();
        self.leases = recovered
            .map(|(period, record)| (period, Lease::recovered(record, &rules, at(tick))))
            .collect();
        self.recovered = self.journal.keys().copied().collect();
    }

    /// Ends the requests that run with what they used so far, and sends those away that wait.
    pub(super) fn shut_down(&mut self, tick: u64) {
        self.is_closing = true;
        for (_, lease) in &mut self.leases {
            drop(lease.drain_queue());
        }
        for (lease, id) in std::mem::take(&mut self.running) {
            self.end(lease, id, false, tick);
        }
    }

    fn write_journal(&mut self, tick: u64) {
        let mut journal = BTreeMap::new();
        for (period, lease) in &mut self.leases {
            match lease.store(at(tick)) {
                Some(record) => drop(journal.insert(lease.id(), (*period, record))),
                None => {
                    lease.removed_from_journal();
                }
            }
        }
        self.journal = journal;
    }

    /// The rules: without goodbyes while something is owed, where the node ends.
    fn rules(&self, scene: &Scene) -> LeaseRules {
        let farewell = self.leases.iter().all(|(_, lease)| lease.owes_nothing());
        LeaseRules { farewell, ..scene.rules() }
    }

    /// Does what its leases want to be done, and returns what they send.
    pub(super) fn speak(&mut self, scene: &Scene, tick: u64) -> Vec<(Period, Renewal)> {
        if !self.is_awake() {
            return Vec::new();
        }
        let (now, flush, rules) = (at(tick), self.is_closing, self.rules(scene));
        let mut sent = Vec::new();
        for (period, lease) in &mut self.leases {
            lease.remove_waiting(|since| tick - since >= PATIENCE);
            let id = lease.id();
            let given_up = |(of, _, sent_at): &mut _| *of == id && tick - *sent_at >= DEADLINE;
            for (_, seq, _) in self.awaited.extract_if(.., given_up).collect::<Vec<_>>() {
                lease.unanswered(&rules, seq, now);
            }
            match lease.next(&rules, flush, now) {
                Next::LeaveJournal => lease.leave_journal(),
                Next::Renew => {
                    let renewal = Renewal {
                        parts: Arc::clone(&self.parts),
                        ..lease.renew(&rules, scene.terms(), flush, now)
                    };
                    self.awaited.retain(|(of, ..)| *of != id);
                    self.awaited.push((id, renewal.seq, tick));
                    sent.push((*period, renewal));
                }
                Next::Wait(_) | Next::Gone => {}
            }
        }
        if scene.journal && tick >= self.journal_stalls_until {
            self.write_journal(tick);
        }
        self.leases.retain(|(_, lease)| lease.next(&rules, flush, now) != Next::Gone);
        if self.leases.is_empty() {
            // Another process takes its place.
            self.is_closing = false;
        }
        sent
    }
}
