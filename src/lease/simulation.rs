//! The protocol under random faults: the crate's own [`Book`] and [`Lease`], with messages lost,
//! repeated and delayed past newer ones, nodes killed and brought back with their journals, or shut
//! down with a goodbye, a ledger that fails over and forgets its last writes, one whose storage
//! loses a part, and one whose clock is wrong for a while. Meanwhile credits are granted, and some
//! expire, seats and limits change, and refunds are made.
//!
//! One tick is a millisecond, one tick of compute costs one nano-dollar. `SIMULATION_SEEDS` sets
//! how many runs each setting gets.

mod scale;

use std::{cell::Cell, collections::VecDeque, rc::Rc, time::Duration};

use fastrand::Rng;

use super::{
    lease::{Closing, Denial, Lease, Next, Run, RunId, Served, Want},
    rules::{HoldAhead, LeaseRules},
};
use crate::{
    Account, Credits, Period,
    clock::UnixTime,
    ledger::{
        Answer, Book, LeaseId, LineKey, Outcome as Came, Record, Refund, Renewal, Statement,
        StatementLine, Terms, Usage,
    },
};

const HOLD: i64 = 20;
const LEAST: i64 = 2;
const WORK: u64 = 900;
const END: u64 = 3_000;
/// In ticks.
const HOUR: u64 = 3_600_000;

/// One row of the table of faults.
#[derive(Clone, Copy, Debug)]
struct Setting {
    stop: bool,
    ahead: bool,
    /// How long killed nodes stay down: one of these, in ticks.
    down: &'static [u64],
    failover: bool,
    loss: f64,
    /// `true` if nodes stand still now and then, and services report what was not measured.
    jolts: bool,
    /// `true` if the ledger's storage loses its book, its leases or its holds now and then, or what
    /// was written to them last.
    losses: bool,
    /// `true` if nodes are shut down now and then, and the ledger's clock is up to an hour off for
    /// a while.
    glitches: bool,
}

#[derive(Debug)]
struct Outcome {
    used: i64,
    debited: i64,
    itemised: i64,
    recovered: i64,
    held: i64,
    leases: usize,
    overspent: i64,
    /// The most that one request lost with its node.
    lost: i64,
}

/// A request: it runs for `length` ticks.
#[derive(Debug, Default)]
struct Request {
    stop: bool,
    length: i64,
    /// `true` if it is settled as it goes.
    goes: bool,
    start: Cell<Option<Duration>>,
    end: Cell<Option<Duration>>,
    /// What its service reported on top of what is measured, and when.
    jump: Cell<(i64, Duration)>,
    slice: Cell<i64>,
    /// What of that is debt.
    owed: Cell<i64>,
    denied: Cell<Option<Denial>>,
    /// Its slice is used up, and the ledger was asked since.
    overdue: Cell<bool>,
    /// When a report made it need more at once.
    needed_at: Cell<Duration>,
    /// Since when it needs more.
    needs_since: Cell<Option<Duration>>,
}

impl Request {
    fn cost(&self, now: Duration) -> i64 {
        let now = self.end.get().unwrap_or(now);
        self.start.get().map_or(0, |start| ticks(now.saturating_sub(start)) + self.jump.get().0)
    }

    fn needs_more(&self, now: Duration) -> bool {
        self.cost(now) >= self.slice.get() - HOLD / 2
    }
}

impl Run for Rc<Request> {
    fn accrued(&self, now: Duration) -> Credits {
        nanos(self.cost(now))
    }

    fn runway(&self, cost: Credits, now: Duration) -> Duration {
        Duration::from_millis((cost.as_nano_usd() - self.cost(now)).max(0).unsigned_abs())
    }

    fn granted(&mut self, slice: Credits, now: Duration) {
        if self.start.get().is_none() {
            self.start.set(Some(now));
        }
        self.slice.set(slice.as_nano_usd());
        self.denied.set(None);
        self.overdue.set(false);
        // One that got less than it asked for needs more all the while.
        if self.slice.get() - self.cost(now) >= HOLD {
            self.needs_since.set(None);
        }
    }

    fn owed(&mut self, slice: Credits) {
        let slice = slice.as_nano_usd();
        self.owed.set(self.owed.get() + slice - self.slice.replace(slice));
    }

    fn denied(&mut self, denial: Denial) {
        self.denied.set(Some(denial));
        // It asked because it needed more, and still does.
        self.needs_since.set(self.needs_since.get().or(Some(denial.asked_at)));
    }

    fn stops(&self) -> bool {
        self.stop
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        self.goes.then(|| Usage {
            requests: 1,
            compute_micros: self.cost(now).unsigned_abs(),
            cost: nanos(self.cost(now)),
        })
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        self.end.set(Some(self.end.get().unwrap_or(now)));
        Some(Usage {
            requests: 1,
            compute_micros: self.cost(now).unsigned_abs(),
            cost: nanos(self.cost(now)),
        })
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}

/// One who waits, since when.
type Waiter = (Rc<Request>, u64);

#[derive(Default)]
struct Node {
    lease: Option<Lease<Waiter, Rc<Request>>>,
    old: Vec<Lease<Waiter, Rc<Request>>>,
    running: Vec<(Rc<Request>, RunId)>,
    /// Ended, and billed once the ledger has said how much of it can be paid.
    pending: Vec<Rc<Request>>,
    down_until: u64,
    /// It stands still: what comes meanwhile is looked at when it goes on.
    asleep_until: u64,
    mail: Vec<(Renewal, Answer)>,
    /// It is shutting down: nothing new begins, and its leases settle and say goodbye.
    is_closing: bool,
}

struct Message {
    arrives: u64,
    node: usize,
    renewal: Renewal,
    not_after: UnixTime,
}

struct World {
    setting: Setting,
    rng: Rng,
    rules: LeaseRules,
    terms: Terms,
    /// The most that the account might use at any time so far, refunds included.
    limit: i64,
    ledger: (Book, Record),
    /// An older state of the ledger, of which a part may come back.
    saved: Book,
    /// Where messages are lost, too, the storage loses something once.
    has_lost: bool,
    /// What the ledger lost is mended.
    is_whole: bool,
    history: VecDeque<(u64, (Book, Record))>,
    nodes: Vec<Node>,
    net: Vec<Message>,
    sent_at: Vec<(LeaseId, u64, u64)>,
    names: u128,
    debited: i64,
    debt: i64,
    overspent: i64,
    lost: i64,
    /// What the ledger's clock adds to the tick: an hour where it is right.
    ahead: u64,
}

fn nanos(n: i64) -> Credits {
    Credits::from_nano_usd(n).unwrap()
}

fn ticks(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap()
}

fn at(tick: u64) -> Duration {
    Duration::from_millis(tick)
}

impl World {
    fn new(seed: u64, setting: Setting) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limit = rng.i64(100..=1500);
        let period: Period = "2026-11".parse().unwrap();
        let mut ledger = (Book::new(period), Record::default());
        // Part of the credits may be purchased ones.
        let purchased = if rng.bool() { rng.i64(0..=limit) } else { 0 };
        if purchased > 0 {
            ledger.1.grant("order-1".parse().unwrap(), nanos(purchased), None);
        }
        let nodes = (0..rng.usize(1..=4)).map(|_| Node::default()).collect();
        let rules = LeaseRules {
            deadline: at(4),
            flush: at(3),
            admit_for: at(60),
            ttl: at(200),
            ahead: setting.ahead.then(|| HoldAhead::default().at_least(3.try_into().unwrap())),
            farewell: true,
        };
        Self {
            setting,
            rng,
            rules,
            terms: Terms {
                included: nanos((limit - purchased) / 2),
                per_seat: true,
                pay_as_you_go: nanos((limit - purchased) / 2),
            },
            limit: 0,
            history: VecDeque::from([(0, ledger.clone())]),
            saved: ledger.0.clone(),
            has_lost: false,
            is_whole: true,
            ledger,
            nodes,
            net: Vec::new(),
            sent_at: Vec::new(),
            names: 0,
            debited: 0,
            debt: 0,
            overspent: 0,
            lost: 0,
            ahead: HOUR,
        }
    }

    fn run(mut self) -> Outcome {
        let arrivals = [0.003, 0.02, 0.1, 0.4][self.rng.usize(0..4)];
        for tick in 0..END {
            let working = tick < WORK;
            if !working {
                self.setting.loss = 0.0;
                self.nodes
                    .iter_mut()
                    .for_each(|node| (node.down_until, node.asleep_until) = (0, 0));
                self.ahead = HOUR;
            }
            // While a loss is mended an hour counts, and a message that is repeated late dies by
            // the clock: two faults at once cannot be mended.
            if working
                && self.setting.glitches
                && !self.setting.losses
                && self.setting.loss == 0.0
                && self.rng.f64() < 0.01
            {
                self.ahead = self.rng.u64(0..=2 * HOUR);
            }
            if working && self.setting.failover && self.rng.f64() < 0.004 {
                self.fail_over(tick);
            }
            if working && self.rng.f64() < 0.01 {
                self.amend(tick);
            }
            if working && self.setting.losses && self.rng.f64() < 0.02 {
                self.lose();
            }
            self.deliver(tick);
            for node in 0..self.nodes.len() {
                if self.nodes[node].down_until > tick {
                    continue;
                }
                if working && !self.setting.down.is_empty() && self.rng.f64() < 0.002 {
                    self.kill(node, tick);
                    continue;
                }
                if self.nodes[node].asleep_until > tick {
                    continue;
                }
                if working && self.setting.jolts && self.rng.f64() < 0.01 {
                    self.nodes[node].asleep_until = tick + self.rng.u64(1..60);
                    continue;
                }
                self.end_requests(node, tick);
                self.open_mail(node, tick);
                if working && self.setting.glitches && self.rng.f64() < 0.005 {
                    self.shut_down(node, tick);
                }
                if tick < 700 && !self.nodes[node].is_closing && self.rng.f64() < arrivals {
                    self.begin_requests(node, tick);
                }
                self.speak(node, tick);
            }
            self.audit(tick);
        }
        let (book, record) = &self.ledger;
        // As people read it: what was lost when nobody was left to report is there, too. A hold
        // that was made by a clock that was ahead lasts as long.
        let clock = self.clock(END) + if self.setting.glitches { at(HOUR) } else { at(0) };
        let statement = Statement::from_book(
            &Account::user("alice").unwrap(),
            book,
            record,
            Some(self.terms),
            clock,
        );
        let sum = |lines: &mut dyn Iterator<Item = &StatementLine>| {
            lines.map(|line| line.usage.cost.as_nano_usd()).sum()
        };
        Outcome {
            used: statement.used.as_nano_usd(),
            debited: self.debited,
            itemised: sum(&mut statement.lines.iter()),
            recovered: sum(&mut statement
                .lines
                .iter()
                .filter(|line| line.model.as_str() == "recovered")),
            held: statement.held.as_nano_usd(),
            leases: book.leases(),
            overspent: self.overspent,
            lost: self.lost,
        }
    }

    fn period(&self) -> Period {
        "2026-11".parse().unwrap()
    }

    /// The ledger's clock: well inside of the period.
    fn clock(&self, tick: u64) -> UnixTime {
        self.period().begins() + Duration::from_secs(864_000) + at(tick + self.ahead)
    }

    /// The operator and the account's owner change something.
    fn amend(&mut self, tick: u64) {
        let (clock, id) = (self.clock(tick), format!("id {tick}"));
        let amount = nanos(self.rng.i64(0..150));
        let (book, record) = &mut self.ledger;
        match self.rng.u8(0..5) {
            0 => drop(record.grant(id.parse().unwrap(), amount, None)),
            1 => {
                let expires = clock + at(self.rng.u64(0..500));
                record.grant(id.parse().unwrap(), amount, Some(expires));
            }
            2 => record.seats = self.rng.u32(1..=3).try_into().unwrap(),
            3 => record.spending_limit = self.rng.bool().then_some(amount),
            _ => {
                let refund = Refund {
                    amount: amount.min(book.used().saturating_sub(book.refunded())),
                    reason: "a test".parse().unwrap(),
                };
                if !refund.amount.is_zero() {
                    assert!(book.refund(record, id.parse().unwrap(), refund, clock).unwrap());
                }
            }
        }
        self.history.push_back((tick, self.ledger.clone()));
    }

    /// Replication lags by up to 30 ticks: what was written since is forgotten.
    fn fail_over(&mut self, tick: u64) {
        let recent: Vec<_> =
            self.history.iter().filter(|(written, _)| tick - written < 30).collect();
        if !recent.is_empty() {
            self.ledger = recent[self.rng.usize(0..recent.len())].1.clone();
        }
        self.history = VecDeque::from([(tick, self.ledger.clone())]);
    }

    /// A key is gone, or is again what it was. Two at once cannot be mended.
    fn lose(&mut self) {
        if self.rng.bool() {
            self.saved = self.ledger.0.clone();
        } else if std::mem::take(&mut self.is_whole)
            && (self.setting.loss == 0.0 || !std::mem::replace(&mut self.has_lost, true))
        {
            let with = if self.rng.bool() { self.saved.clone() } else { Book::new(self.period()) };
            let part = self.rng.usize(0..3);
            // A book that is lost while no lease is remembered is lost.
            if part > 0 || self.ledger.0.leases() > 0 {
                self.ledger.0.lose(part, with);
            }
        }
    }

    fn deliver(&mut self, tick: u64) {
        let (mut due, net): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.net).into_iter().partition(|message| message.arrives <= tick);
        self.net = net;
        self.rng.shuffle(&mut due);
        for message in due {
            let clock = self.clock(tick);
            let (book, record) = &mut self.ledger;
            let answer =
                book.renew(record, &message.renewal, None, message.not_after, clock).unwrap();
            self.is_whole |= answer.outcome != Came::Late && book.is_whole();
            if self.setting.failover {
                self.history.push_back((tick, self.ledger.clone()));
                if self.history.len() > 30 {
                    self.history.pop_front();
                }
            }
            if self.rng.f64() >= self.setting.loss {
                self.answer(message.node, &message.renewal, answer, tick);
            }
        }
    }

    fn answer(&mut self, node: usize, renewal: &Renewal, answer: Answer, tick: u64) {
        let rules = self.rules;
        let node = &mut self.nodes[node];
        if node.down_until > tick {
            return;
        }
        if node.asleep_until > tick {
            node.mail.push((renewal.clone(), answer));
            return;
        }
        let lease =
            node.lease.iter_mut().chain(&mut node.old).find(|lease| lease.id() == renewal.lease);
        if let Some(lease) = lease {
            let served = lease.answered(&rules, renewal.seq, &answer, |_| false, at(tick));
            self.serve(
                served,
                self.nodes.iter().position(|node| {
                    node.lease.iter().chain(&node.old).any(|lease| lease.id() == renewal.lease)
                }),
            );
        }
    }

    fn open_mail(&mut self, node: usize, tick: u64) {
        for (renewal, answer) in std::mem::take(&mut self.nodes[node].mail) {
            self.answer(node, &renewal, answer, tick);
        }
    }

    fn serve(&mut self, served: Served<Waiter, Rc<Request>>, node: Option<usize>) {
        let Some(node) = node.map(|node| &mut self.nodes[node]) else { return };
        node.running.extend(served.admitted.into_iter().map(|((request, _), id)| (request, id)));
        for (request, billed) in served.settled {
            node.pending.retain(|pending| !Rc::ptr_eq(pending, &request));
            self.debited += billed.unwrap().cost.as_nano_usd();
        }
    }

    /// `kill -9`: of what runs no more is billed than was settled, the journal keeps the rest.
    fn kill(&mut self, node: usize, tick: u64) {
        let down = self.setting.down[self.rng.usize(0..self.setting.down.len())];
        let node = &mut self.nodes[node];
        node.running.clear();
        node.pending.clear();
        node.mail.clear();
        node.asleep_until = 0;
        let old: Vec<_> =
            std::mem::take(&mut node.old).into_iter().chain(node.lease.take()).collect();
        for (request, settled) in old.iter().flat_map(Lease::unfinished) {
            self.debited += settled.as_nano_usd();
            self.debt += (settled.as_nano_usd() - request.slice.get()).max(0) + request.owed.get();
            let used = if request.stop {
                request.cost(at(tick)).min(request.slice.get())
            } else {
                request.cost(at(tick))
            };
            if request.goes && request.jump.get().0 == 0 {
                self.lost = self.lost.max(used - settled.as_nano_usd());
            }
        }
        node.old = old.into_iter().map(|lease| lease.killed(at(tick))).collect();
        node.down_until = tick + down;
    }

    /// What runs ends with what it used so far, and who waits is sent away.
    fn shut_down(&mut self, node: usize, tick: u64) {
        let node = &mut self.nodes[node];
        node.is_closing = true;
        for lease in node.lease.iter_mut().chain(&mut node.old) {
            drop(lease.dismiss());
        }
        let Some(lease) = &mut node.lease else { return };
        for (request, key) in std::mem::take(&mut node.running) {
            let owed = if request.stop {
                0
            } else {
                (request.cost(at(tick)) - request.slice.get()).max(0)
            };
            self.debt += owed + request.owed.get();
            match lease.end(key, false, at(tick)).unwrap() {
                Closing::Settled(_, billed) => self.debited += billed.unwrap().cost.as_nano_usd(),
                Closing::Pending => node.pending.push(request),
            }
        }
    }

    fn end_requests(&mut self, node: usize, tick: u64) {
        let now = at(tick);
        let index = node;
        let node = &mut self.nodes[node];
        let Some(lease) = &mut node.lease else { return };
        for (request, key) in std::mem::take(&mut node.running) {
            if self.setting.jolts && self.rng.f64() < 0.005 && request.jump.get().0 == 0 {
                let was_over = request.cost(now) >= request.slice.get();
                request.jump.set((self.rng.i64(1..3 * HOLD), now));
                if !was_over && request.cost(now) >= request.slice.get() {
                    request.needed_at.set(now);
                    request.needs_since.set(None);
                }
            }
            if request.needs_since.get().is_none() && request.needs_more(now) {
                request.needs_since.set(Some(now));
            }
            let cost = request.cost(now);
            let is_over = request.stop && cost >= request.slice.get();
            let in_time = cost - request.slice.get() <= 2;
            if request.denied.get().is_some_and(|denial| denial.asked_at < request.needed_at.get())
            {
                request.denied.set(None);
                request.overdue.set(false);
            }
            let denied = request.denied.get().filter(|denial| {
                request.overdue.get() || (in_time && now <= denial.asked_at + at(16))
            });
            if cost >= request.length || (is_over && denied.is_some()) {
                if let Some(denial) = denied.filter(|_| is_over && cost < request.length) {
                    assert!(
                        denial.asked_at >= request.needs_since.get().unwrap(),
                        "cut before the ledger was asked: {request:?}, {now:?}"
                    );
                }
                let owed = if request.stop { 0 } else { (cost - request.slice.get()).max(0) };
                self.debt += owed + request.owed.get();
                match lease.end(key, denied.is_none(), now).unwrap() {
                    Closing::Settled(_, billed) => {
                        self.debited += billed.unwrap().cost.as_nano_usd();
                    }
                    Closing::Pending => node.pending.push(request),
                }
                continue;
            }
            if is_over && !request.overdue.replace(true) {
                request.denied.set(None);
                lease.ask_now(key);
            }
            node.running.push((request, key));
        }
        let served = lease.share_out(|_| false, now);
        self.serve(served, Some(index));
    }

    fn begin_requests(&mut self, node: usize, tick: u64) {
        let want = Want {
            hold: nanos(HOLD),
            least: nanos(LEAST),
            lasts: Duration::from_millis(HOLD.unsigned_abs() / 2),
            most_running: None,
        };
        for _ in 0..[1, 1, 5][self.rng.usize(0..3)] {
            let length = [1, 3, 10, 60, 150][self.rng.usize(0..5)];
            let goes = self.rng.u8(0..4) > 0;
            let request =
                Rc::new(Request { stop: self.setting.stop, length, goes, ..Request::default() });
            let node = &mut self.nodes[node];
            if node.lease.as_ref().is_some_and(Lease::is_leaving) {
                node.old.extend(node.lease.take());
            }
            let names = &mut self.names;
            let lease = node.lease.get_or_insert_with(|| {
                *names += 1;
                Lease::new(LeaseId::from_bits(*names), at(tick))
            });
            match lease.admit(want, Rc::clone(&request), at(tick)) {
                Ok(key) => node.running.push((request, key)),
                Err(run) => lease.wait(want, run, (request, tick)),
            }
        }
    }

    fn speak(&mut self, node: usize, tick: u64) {
        let (now, clock) = (at(tick), self.clock(tick));
        let (rules, terms, loss) = (self.rules, self.terms, self.setting.loss);
        let index = node;
        let node = &mut self.nodes[node];
        let owes_nothing =
            node.lease.iter().chain(&node.old).all(Lease::owes_nothing) && node.pending.is_empty();
        let flush = node.is_closing;
        let rules =
            if flush { LeaseRules { ahead: None, farewell: owes_nothing, ..rules } } else { rules };
        for lease in node.lease.iter_mut().chain(&mut node.old) {
            lease.forget_waiting(|(_, since)| tick - since >= 12);
            if let Some(position) = self.sent_at.iter().position(|(id, ..)| *id == lease.id())
                && tick - self.sent_at[position].2 >= 4
            {
                let (_, seq, _) = self.sent_at.swap_remove(position);
                lease.unanswered(&rules, seq, now);
            }
            if lease.next(&rules, flush, now) != Next::Renew {
                continue;
            }
            let renewal = lease.renew(&rules, terms, flush, now);
            self.sent_at.retain(|(id, ..)| *id != renewal.lease);
            self.sent_at.push((renewal.lease, renewal.seq, tick));
            for _ in 0..=usize::from(self.rng.f64() < loss) {
                if self.rng.f64() >= loss {
                    let delays: &[u64] =
                        if loss > 0.0 { &[1, 1, 1, 2, 3, 40] } else { &[1, 1, 1, 2, 3] };
                    let arrives = tick + delays[self.rng.usize(0..delays.len())];
                    self.net.push(Message {
                        arrives,
                        node: index,
                        renewal: renewal.clone(),
                        not_after: clock + at(6),
                    });
                }
            }
        }
        node.old.retain(|lease| lease.next(&rules, flush, now) != Next::Gone);
        if node.lease.as_ref().is_some_and(|lease| lease.next(&rules, flush, now) == Next::Gone) {
            node.lease = None;
        }
        if node.lease.is_none() && node.old.is_empty() {
            // Another process takes its place.
            node.is_closing = false;
        }
    }

    fn audit(&mut self, tick: u64) {
        let (book, record) = &self.ledger;
        let allowed = book
            .standing(record, Some(self.terms), self.clock(tick))
            .limit
            .saturating_add(book.refunded());
        self.limit = self.limit.max(allowed.as_nano_usd());
        let now = at(tick);
        let running = self
            .nodes
            .iter()
            .flat_map(|node| node.running.iter().map(|(request, _)| request).chain(&node.pending));
        let used: i64 = running
            .map(|request| request.cost(now).min(request.slice.get()) - request.owed.get())
            .sum();
        self.overspent = self.overspent.max(self.debited - self.debt + used - self.limit);
    }
}

/// Every total and line exact, nothing held or remembered at the end; and no overspending where the
/// design promises none.
fn run(seeds: u64, setting: Setting) {
    let (mut worst, mut lost, mut inexact) = (0, 0, 0);
    for seed in 0..seeds {
        let result = World::new(seed, setting).run();
        let exact =
            (result.used, result.itemised, result.held) == (result.debited, result.debited, 0);
        // Of a renewal whose answer was lost just before its lease was, nobody can tell any more if
        // it was debited.
        let exact = exact || (setting.losses && setting.loss > 0.0 && result.held == 0);
        assert_eq!(result.itemised, result.used, "{setting:?}, seed {seed}");
        inexact += u64::from(result.used != result.debited);
        // A failover may forget a goodbye, and a clock that steps lets one come late: that entry,
        // which holds nothing, stays until the period's leases expire.
        let tidy = result.leases == 0 || setting.failover || setting.losses || setting.glitches;
        let nothing_forgotten = result.recovered == 0 || setting.failover || setting.losses;
        assert!(exact && tidy && nothing_forgotten, "{setting:?}, seed {seed}: {result:?}");
        worst = worst.max(result.overspent);
        lost = lost.max(result.lost);
    }
    if setting.loss == 0.0 && !setting.jolts {
        // Half a hold, and what it takes to ask and to be answered.
        assert!(lost <= HOLD / 2 + 8, "{setting:?}: a request lost {lost} with its node");
    }
    let silent_beyond_ttl = setting.down.contains(&300);
    // Whose holds are lost, or expire by a clock that was ahead, cannot be kept for them.
    let clock_steps = setting.glitches && setting.loss == 0.0;
    if !(setting.failover || silent_beyond_ttl || setting.losses || clock_steps) {
        assert!(worst <= 0, "{setting:?} overspent by {worst}");
    }
    assert!(inexact * 20 <= seeds.max(20), "{setting:?}: {inexact} of {seeds} inexact");
    eprintln!(
        "{setting:?}: {seeds} runs, {inexact} not exact, worst overspending {worst}, most lost by a request {lost}"
    );
}

/// `lease_model`'s table, and a row in which nodes come back within `ttl`: with those, 10 000 runs
/// by default.
fn table(stop: bool) {
    let seeds = std::env::var("SIMULATION_SEEDS")
        .map_or(97, |seeds| seeds.parse().expect("SIMULATION_SEEDS is a number"));
    for ahead in [false, true] {
        let faults: [(&[u64], bool, f64); 7] = [
            (&[], false, 0.0),
            (&[5, 50], false, 0.0),
            (&[], false, 0.05),
            (&[5, 50], false, 0.05),
            (&[5, 50, 300], false, 0.05),
            (&[], true, 0.05),
            (&[5, 50, 300], true, 0.05),
        ];
        for (down, failover, loss) in faults {
            for (jolts, losses, glitches) in [
                (false, false, false),
                (true, false, false),
                (true, true, false),
                (true, false, true),
                (true, true, true),
            ] {
                // A node that ended cannot repair what a failover forgets of it, nor what the
                // storage lost just after its last answer was.
                if !((losses || glitches) && failover) && !(losses && glitches && loss > 0.0) {
                    run(
                        seeds,
                        Setting { stop, ahead, down, failover, loss, jolts, losses, glitches },
                    );
                }
            }
        }
    }
}

#[test]
fn totals_are_exact_under_random_faults_when_requests_stop() {
    table(true);
}

#[test]
fn totals_are_exact_under_random_faults_when_requests_finish() {
    table(false);
}
