//! The states of the model, and the steps from one to the next.

use std::collections::BTreeMap;

use super::{
    DEADLINE, JOURNAL_STALL, MESSAGE_LIFE, SETTLES_WITHIN, SLEEP, TICK, TTL, at,
    node::{Node, Tally},
    scene::{Faults, Scene, first_month},
};
use crate::{
    Account, Credits, Period,
    clock::UnixTime,
    ledger::{AccountState, Amendment, Answer, Book, LeaseId, Outcome, Renewal, Statement},
};

/// State of the model.
#[expect(clippy::derived_hash_with_manual_eq, reason = "both are of all that there is")]
#[derive(Clone, Debug, Hash)]
pub(super) struct World {
    pub(super) tick: u64,
    pub(super) nodes: Vec<Node>,
    ledger: AccountState,
    /// States of the ledger before its last writes, the latest last. A failover goes back to one of
    /// these.
    before: Vec<AccountState>,
    /// Messages on their way. Any of them may be the next to arrive.
    messages: Vec<Message>,
    /// The number of leases that there were.
    names: u128,
    /// Tick at which the ledger last acted on a renewal of each lease.
    acted: BTreeMap<LeaseId, u64>,
    pub(super) left: Faults,
    /// The limit may be passed: a failover forgot holds, or a lease that owed something was silent
    /// for longer than its hold lasts.
    is_excused: bool,
}

#[derive(Clone, Debug, Hash)]
struct Message {
    node: usize,
    lease: LeaseId,
    seq: u64,
    sent_at: u64,
    /// Another one like it has arrived.
    is_copy: bool,
    content: Content,
}

#[derive(Clone, Debug, Hash)]
enum Content {
    Renewal(Period, Box<Renewal>),
    Answer(Box<Answer>),
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A tenth of a second passes.
    Tick,
    /// A request comes to a node, that takes this long.
    Begin {
        node: usize,
        length: i64,
    },
    /// The message at this place arrives.
    Deliver(usize),
    /// It arrives, and a copy of it stays on its way.
    DeliverCopy(usize),
    Lose(usize),
    Sleep(usize),
    Kill(usize),
    StallJournal(usize),
    Restart(usize),
    ShutDown(usize),
    /// The ledger forgets this many of its last writes.
    FailOver(usize),
    CloseMonth,
}

impl World {
    pub(super) fn new(scene: &Scene) -> Self {
        Self {
            tick: 0,
            nodes: (0..scene.nodes)
                .map(|node| Node::new(scene.parts_of(node), scene.requests))
                .collect(),
            ledger: AccountState::default(),
            before: Vec::new(),
            messages: Vec::new(),
            names: 0,
            acted: BTreeMap::new(),
            left: scene.faults,
            is_excused: false,
        }
    }

    /// The steps that may be next.
    pub(super) fn actions(&self, scene: &Scene, actions: &mut Vec<Action>) {
        if self.tick >= scene.ticks {
            return;
        }
        actions.push(Action::Tick);
        for (at, message) in self.messages.iter().enumerate() {
            let is_answer = matches!(message.content, Content::Answer(_));
            let waits = is_answer && self.nodes[message.node].is_asleep();
            if waits || self.messages[..at].iter().any(|other| other.is_like(message)) {
                continue;
            }
            actions.push(Action::Deliver(at));
            if self.left.copied > 0 {
                actions.push(Action::DeliverCopy(at));
            }
            if self.left.lost > 0 {
                actions.push(Action::Lose(at));
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            // One of two nodes that are alike is the first to have a request.
            let is_next = !scene.is_symmetric()
                || self.nodes[..at].iter().all(|before| before.to_come < scene.requests);
            if node.takes_requests() && is_next {
                let begin = |length: &i64| Action::Begin { node: at, length: *length };
                actions.extend(scene.lengths.iter().map(begin));
            }
            if node.is_down {
                actions.push(Action::Restart(at));
            }
            if self.left.slept > 0 && node.may_be_killed() {
                actions.push(Action::Sleep(at));
            }
            if self.left.killed > 0 && node.may_be_killed() {
                actions.push(Action::Kill(at));
            }
            if self.left.stalled > 0 && node.may_be_killed() {
                actions.push(Action::StallJournal(at));
            }
            if self.left.shut_down > 0 && node.may_shut_down() {
                actions.push(Action::ShutDown(at));
            }
        }
        // No failover after a shutdown has begun: nobody would repair what it forgets.
        let ends = self.left.shut_down < scene.faults.shut_down;
        if self.left.failed_over > 0 && !ends {
            actions.extend((1..=self.before.len()).map(Action::FailOver));
        }
        if self.left.closed > 0 && scene.period(self.tick) > first_month() {
            actions.push(Action::CloseMonth);
        }
    }

    /// Takes a step.
    pub(super) fn step(&mut self, scene: &Scene, action: Action) {
        match action {
            Action::Tick => self.pass_time(scene),
            Action::Begin { node, length } => {
                self.nodes[node].begin(scene, length, &mut self.names, self.tick);
                self.speak(scene, node);
            }
            Action::Deliver(at) => {
                let message = self.messages.remove(at);
                self.deliver(scene, message);
            }
            Action::DeliverCopy(at) => {
                self.left.copied -= 1;
                let message = self.messages.remove(at);
                self.send(Message { is_copy: true, ..message.clone() });
                self.deliver(scene, message);
            }
            Action::Lose(at) => {
                self.left.lost -= 1;
                self.messages.remove(at);
            }
            Action::Sleep(node) => {
                self.left.slept -= 1;
                self.nodes[node].sleep_until(self.tick + SLEEP);
            }
            Action::Kill(node) => {
                self.left.killed -= 1;
                self.nodes[node].kill(scene);
                // Nobody is there to take an answer.
                self.messages.retain(|message| {
                    message.node != node || matches!(message.content, Content::Renewal(..))
                });
            }
            Action::StallJournal(node) => {
                self.left.stalled -= 1;
                self.nodes[node].stall_journal_until(self.tick + JOURNAL_STALL);
            }
            Action::Restart(node) => {
                self.nodes[node].restart(scene, self.tick);
                self.speak(scene, node);
            }
            Action::ShutDown(node) => {
                self.left.shut_down -= 1;
                self.nodes[node].shut_down(self.tick);
                self.speak(scene, node);
            }
            Action::FailOver(writes) => {
                self.left.failed_over -= 1;
                self.is_excused = true;
                self.ledger = self.before[self.before.len() - writes].clone();
                self.before.clear();
            }
            Action::CloseMonth => {
                self.left.closed -= 1;
                self.note_write();
                let close = Amendment::Close(first_month());
                let clock = self.clock(scene);
                self.ledger.amend(close, clock).unwrap();
            }
        }
    }

    fn pass_time(&mut self, scene: &Scene) {
        self.tick += 1;
        let tick = self.tick;
        // The ledger refuses what is older, and nobody waits for answers for so long. Copies may
        // arrive at any time.
        let nodes = &self.nodes;
        self.messages.retain(|message| {
            let waits =
                matches!(message.content, Content::Answer(_)) && nodes[message.node].is_asleep();
            waits || message.is_copy || tick - message.sent_at <= MESSAGE_LIFE
        });
        for node in 0..self.nodes.len() {
            // A request may come before a node that wakes does anything else.
            let has_just_woken = self.nodes[node].wake(scene, tick);
            if self.nodes[node].is_awake() && !has_just_woken {
                self.nodes[node].run_requests(tick);
                self.speak(scene, node);
            }
        }
        let is_silent =
            |lease: LeaseId| self.acted.get(&lease).is_some_and(|acted| tick - acted == TTL);
        self.is_excused |= self.nodes.iter().flat_map(Node::indebted).any(is_silent);
    }

    fn speak(&mut self, scene: &Scene, node: usize) {
        for (period, renewal) in self.nodes[node].speak(scene, self.tick) {
            self.send(Message {
                node,
                lease: renewal.lease,
                seq: renewal.seq,
                sent_at: self.tick,
                is_copy: false,
                content: Content::Renewal(period, Box::new(renewal)),
            });
        }
    }

    /// The order in which they were sent does not matter.
    fn send(&mut self, message: Message) {
        let at = self.messages.partition_point(|other| other.key() <= message.key());
        self.messages.insert(at, message);
    }

    fn deliver(&mut self, scene: &Scene, message: Message) {
        let Message { node, lease, seq, .. } = message;
        match message.content {
            Content::Renewal(period, renewal) => {
                let now = self.clock(scene);
                let sent_at = now - TICK * u32::try_from(self.tick - message.sent_at).unwrap();
                let not_after = sent_at + at(MESSAGE_LIFE);
                self.note_write();
                let answer = self.ledger.renew(period, &renewal, not_after, now).unwrap();
                // A copy has no effect.
                if matches!(answer.outcome, Outcome::Renewed { .. }) && !message.is_copy {
                    self.acted.insert(lease, self.tick);
                }
                let content = Content::Answer(Box::new(answer));
                self.send(Message { sent_at: self.tick, is_copy: false, content, ..message });
            }
            Content::Answer(answer) => {
                self.nodes[node].receive(scene, lease, (seq, &answer), self.tick);
                self.speak(scene, node);
            }
        }
    }

    /// Keeps what the ledger is before a write, as long as a failover may come.
    fn note_write(&mut self) {
        if self.left.failed_over > 0 {
            if self.before.len() == super::FORGETTABLE {
                self.before.remove(0);
            }
            self.before.push(self.ledger.clone());
        }
    }

    /// The clock of the ledger, and of the nodes.
    fn clock(&self, scene: &Scene) -> UnixTime {
        let ends = scene.month_ends.unwrap_or(10 * scene.ticks + 100);
        first_month().ends() - at(ends) + at(self.tick)
    }

    /// Lets everything come to its end without faults.
    pub(super) fn settled(&self, scene: &Scene) -> Self {
        let mut world = self.clone();
        (world.left, world.before) = (Faults::default(), Vec::new());
        for node in 0..world.nodes.len() {
            world.nodes[node].to_come = 0;
            if world.nodes[node].is_down {
                world.step(scene, Action::Restart(node));
            }
        }
        for _ in 0..SETTLES_WITHIN {
            // Copies come last, when everybody has forgotten what they say.
            while world.messages.iter().any(|message| !message.is_copy) {
                world.step(scene, Action::Deliver(0));
            }
            if world.nodes.iter().all(Node::is_idle) {
                break;
            }
            world.step(scene, Action::Tick);
        }
        while !world.messages.is_empty() {
            world.step(scene, Action::Deliver(0));
        }
        world
    }

    /// Returns `true` if nothing is under way any more.
    pub(super) fn is_over(&self) -> bool {
        self.messages.is_empty() && self.nodes.iter().all(Node::is_idle)
    }

    pub(super) fn tally(&self) -> Tally {
        self.nodes.iter().fold(Tally::default(), |sum, node| sum.add(node.tally))
    }

    /// Returns the statements of both months.
    pub(super) fn statements(&self, scene: &Scene) -> [Statement; 2] {
        let (alice, now) = (Account::user("alice").unwrap(), self.clock(scene));
        // What nodes held that were killed is free in time.
        let now = now + at(TTL + DEADLINE);
        [first_month(), first_month().next()]
            .map(|month| self.ledger.statement(&alice, month, Some(scene.terms()), now))
    }

    /// Returns `true` if the lines of each month cost what was used in it.
    pub(super) fn lines_add_up(&self) -> bool {
        let months = [first_month(), first_month().next()];
        let mut books = months.iter().filter_map(|month| self.ledger.book(*month));
        books.all(|book| book.lines_cost() == book.used())
    }

    /// Returns what the ledger has debited.
    pub(super) fn debited(&self) -> i64 {
        let months = [first_month(), first_month().next()];
        let books = months.iter().filter_map(|month| self.ledger.book(*month));
        books.map(|book| book.used().as_nano_usd()).sum()
    }

    /// Returns by how much more is used, by all nodes or one of them, than may be.
    pub(super) fn overspent(&self, scene: &Scene) -> i64 {
        if self.is_excused {
            return 0;
        }
        let months = if scene.month_ends.is_some() { 2 } else { 1 };
        let used = |node: &Node| {
            let Tally { billed, debt, unwritten, .. } = node.tally;
            billed - debt - unwritten + node.unbilled(self.tick).1
        };
        let all = self.nodes.iter().map(used).sum::<i64>() - months * scene.limit;
        let of_parts = scene.part_limit.map(|limit| {
            self.nodes.iter().map(|node| used(node) - months * limit).max().unwrap_or(0)
        });
        all.max(of_parts.unwrap_or(all))
    }

    /// Returns `true` if the ledger has on hold whatever leases own and have not settled there.
    pub(super) fn is_backed(&self, scene: &Scene) -> bool {
        let now = self.clock(scene);
        let is_backed = |(period, lease, claimed): (_, _, Credits)| {
            let known = self.ledger.book(period).and_then(|book| book.lease(lease, now));
            let (settled, hold) = known.unwrap_or_default();
            claimed <= settled.saturating_add(hold)
        };
        self.is_excused || self.nodes.iter().flat_map(Node::claims).all(is_backed)
    }

    /// Returns the cost of usage whose details are lost.
    pub(super) fn recovered(&self) -> i64 {
        let months = [first_month(), first_month().next()];
        let books = months.iter().filter_map(|month| self.ledger.book(*month));
        books.map(|book| book.recovered().as_nano_usd()).sum()
    }

    /// Returns what all nodes' requests have used so far.
    pub(super) fn used_by_requests(&self) -> i64 {
        let unbilled: i64 = self.nodes.iter().map(|node| node.unbilled(self.tick).0).sum();
        self.tally().billed + unbilled
    }

    /// Returns how many leases the ledger remembers.
    pub(super) fn remembered(&self) -> usize {
        let months = [first_month(), first_month().next()];
        months.iter().filter_map(|month| self.ledger.book(*month)).map(Book::leases).sum()
    }
}

impl Message {
    fn key(&self) -> (bool, usize, LeaseId, u64, bool, u64) {
        let is_answer = matches!(self.content, Content::Answer(_));
        (self.is_copy, self.node, self.lease, self.seq, is_answer, self.sent_at)
    }

    /// Returns `true` if it makes no difference which of the two arrives.
    fn is_like(&self, other: &Self) -> bool {
        self.key() == other.key() && matches!(self.content, Content::Renewal(..))
    }
}

/// For paths that are found.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
