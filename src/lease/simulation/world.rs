//! One run of the simulation: nodes, a ledger, the messages between them, and what befalls them.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::{
    Setting, at,
    ledger::{FaultyLedger, HOUR},
    nanos,
    node::{DEADLINE, Node},
    oracle::{Oracle, Outcome, Tally},
};
use crate::{
    Credits, HoldAhead, Limits, Part,
    lease::rules::LeaseRules,
    ledger::{PartTerms, Renewal, Terms},
};

/// Until when requests come, until when there are faults, and until when it runs on, in ticks.
const ARRIVALS_END: u64 = 700;
const FAULTS_END: u64 = 900;
const END: u64 = 3_000;

/// The longest delay after which a message may act, in ticks.
const MESSAGE_LIFE: u64 = DEADLINE + 2;

struct Message {
    arrives: u64,
    node: usize,
    renewal: Renewal,
    not_after: crate::clock::UnixTime,
}

pub(super) struct World {
    setting: Setting,
    rng: Rng,
    rules: LeaseRules,
    terms: Terms,
    ledger: FaultyLedger,
    nodes: Vec<Node>,
    /// Renewals on their way to the ledger.
    messages: Vec<Message>,
    /// The number of leases that there were.
    names: u128,
    /// The bills of each node.
    tallies: Vec<Tally>,
    oracle: Oracle,
    /// The same of each part of the account.
    parts: Vec<(Part, Oracle)>,
    /// The tier's limit for a day.
    most_per_day: Option<Credits>,
}

impl World {
    pub(super) fn new(seed: u64, setting: Setting) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limit = rng.i64(100..=1500);
        // Part of the credits may be purchased ones.
        let purchased = if rng.bool() { rng.i64(0..=limit) } else { 0 };
        let mut nodes: Vec<_> = (0..rng.usize(1..=4)).map(|_| Node::default()).collect();
        let mut parts = BTreeSet::new();
        // Half of the runs have parts, at up to three levels.
        let mut most_per_day = None;
        if rng.bool() {
            most_per_day = rng.bool().then(|| nanos(rng.i64(50..=1500)));
            let mut paths = ["a/b/c", "a/d", "e", ""];
            rng.shuffle(&mut paths);
            for (node, path) in nodes.iter_mut().zip(paths) {
                let path = path.parse::<Part>().ok();
                let path = path.iter().flat_map(Part::path);
                let limit = |rng: &mut Rng| rng.bool().then(|| nanos(rng.i64(30..=800)));
                node.parts = path
                    .map(|part| {
                        parts.insert(part.clone());
                        let limits =
                            Limits { per_month: limit(&mut rng), per_day: limit(&mut rng) };
                        PartTerms { part, limits }
                    })
                    .collect();
            }
        }
        // In half of the runs a day ends, unless the clock may go back to it.
        let midnight = (!setting.glitches && rng.bool()).then(|| rng.u64(100..700));
        // In half of the runs reports wait, and are early so that they come together.
        let report_within = if rng.bool() { 3 } else { 30 };
        let included_per_day = if rng.bool() { nanos(rng.i64(50..=500)) } else { Credits::ZERO };
        Self {
            setting,
            rng,
            rules: LeaseRules {
                deadline: at(DEADLINE),
                report_soon: at(3),
                report_within: at(report_within),
                early: at(report_within / 4),
                admit_for: at(60),
                ttl: at(200),
                ahead: setting.ahead.then(|| HoldAhead::default().at_least(3.try_into().unwrap())),
                farewell: true,
            },
            terms: Terms {
                included: nanos((limit - purchased) / 2),
                included_per_day,
                per_seat: true,
                pay_as_you_go: nanos((limit - purchased) / 2),
            },
            ledger: FaultyLedger::new(purchased, midnight),
            tallies: vec![Tally::default(); nodes.len()],
            parts: parts.into_iter().map(|part| (part, Oracle::default())).collect(),
            most_per_day,
            nodes,
            messages: Vec::new(),
            names: 0,
            oracle: Oracle::default(),
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let arrivals = [0.003, 0.02, 0.1, 0.4][self.rng.usize(0..4)];
        for tick in 0..END {
            if tick < FAULTS_END {
                self.harm_ledger(tick);
            } else {
                self.setting.loss = 0.0;
                self.nodes.iter_mut().for_each(Node::recover);
                self.ledger.mend_clock();
            }
            self.deliver(tick);
            for node in 0..self.nodes.len() {
                self.run_node(node, arrivals, tick);
            }
            self.audit(tick);
        }
        // What was lost when no node was left to report is on the statement, too. A hold that was
        // made by a clock that was ahead lasts as long.
        let later = if self.setting.glitches { at(HOUR) } else { at(0) };
        let statement = self.ledger.statement(self.terms, END, later);
        let parts = std::mem::take(&mut self.parts).into_iter().filter_map(|(part, oracle)| {
            let of_statement = statement.parts.iter().find(|other| other.part == part)?;
            let children =
                statement.parts.iter().filter(|other| other.part.parent() == Some(part.clone()));
            let children =
                children.fold(Credits::ZERO, |sum, child| sum.saturating_add(child.used));
            let tally = self.nodes_of(Some(&part)).map(|(_, tally)| *tally).sum();
            Some(oracle.part_outcome(tally, of_statement, children))
        });
        let parts = parts.collect();
        let tally = self.tallies.iter().copied().sum();
        self.oracle.outcome(tally, &statement, self.ledger.leases(), parts)
    }

    /// Returns the nodes whose requests are of a part, or all.
    fn nodes_of<'a>(
        &'a self,
        part: Option<&'a Part>,
    ) -> impl Iterator<Item = (&'a Node, &'a Tally)> {
        self.nodes.iter().zip(&self.tallies).filter(move |(node, _)| {
            part.is_none_or(|part| node.parts.iter().any(|terms| terms.part == *part))
        })
    }

    /// Compares what is used with what may be, of the account and of each part.
    fn audit(&mut self, tick: u64) {
        let allowed = self.ledger.allowed(self.terms, tick);
        let (mut oracle, mut parts) =
            (std::mem::take(&mut self.oracle), std::mem::take(&mut self.parts));
        let tally = self.tallies.iter().copied().sum();
        oracle.audit(allowed, tally, self.nodes.iter().flat_map(Node::unbilled), at(tick));
        for (part, oracle) in &mut parts {
            let limits = self.nodes_of(Some(part)).flat_map(|(node, _)| node.parts.iter());
            let limits = limits.filter(|terms| terms.part == *part);
            let limits: Vec<_> = limits.map(|terms| self.ledger.limits(terms)).collect();
            let most_of = |limit: &dyn Fn(&Limits) -> Option<Credits>| {
                let limits = limits.iter().map(|limits| limit(limits).unwrap_or(Credits::MAX));
                limits.max().unwrap_or(Credits::MAX)
            };
            oracle.note_day(self.ledger.days(tick), most_of(&|limits| limits.per_day));
            let most = most_of(&|limits| limits.per_month).min(oracle.most_on_all_days());
            let tally = self.nodes_of(Some(part)).map(|(_, tally)| *tally).sum();
            let unbilled = self.nodes_of(Some(part)).flat_map(|(node, _)| node.unbilled());
            oracle.audit(most, tally, unbilled, at(tick));
        }
        (self.oracle, self.parts) = (oracle, parts);
    }

    fn harm_ledger(&mut self, tick: u64) {
        let Self { setting, rng, ledger, .. } = self;
        // While a loss is mended an hour counts, and a message that is repeated late dies by the
        // clock: two faults at once cannot be mended.
        let clock_steps = setting.glitches && !setting.storage_losses && setting.loss == 0.0;
        if clock_steps && rng.f64() < 0.01 {
            ledger.step_clock(rng);
        }
        if setting.failover && rng.f64() < 0.004 {
            ledger.fail_over(rng, tick);
        }
        if rng.f64() < 0.01 {
            ledger.amend(rng, tick);
        }
        if setting.storage_losses && rng.f64() < 0.02 {
            ledger.lose(rng, setting.loss > 0.0);
        }
    }

    /// Delivers what has arrived by now, in any order, and its answers unless they are lost.
    fn deliver(&mut self, tick: u64) {
        let (mut due, messages): (Vec<_>, Vec<_>) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| message.arrives <= tick);
        self.messages = messages;
        self.rng.shuffle(&mut due);
        for Message { node, renewal, not_after, .. } in due {
            let answer = self.ledger.renew(&renewal, not_after, self.setting.failover, tick);
            if self.rng.f64() >= self.setting.loss {
                let tally = &mut self.tallies[node];
                self.nodes[node].receive(&renewal, answer, &self.rules, tally, tick);
            }
        }
    }

    fn run_node(&mut self, index: usize, arrivals: f64, tick: u64) {
        let Self { setting, rng, rules, tallies, .. } = self;
        let tally = &mut tallies[index];
        let node = &mut self.nodes[index];
        let faults = tick < FAULTS_END;
        if node.is_down(tick) {
            return;
        }
        if faults && !setting.down.is_empty() && rng.f64() < 0.002 {
            let down = setting.down[rng.usize(0..setting.down.len())];
            node.kill(setting, rules, down, tally, tick);
            return;
        }
        if node.is_asleep(tick) {
            return;
        }
        if faults && setting.jolts && rng.f64() < 0.01 {
            node.sleep_until(tick + rng.u64(1..60));
            return;
        }
        node.run_requests(rng, setting, tally, tick);
        node.open_mail(rules, tally, tick);
        if faults && setting.glitches && rng.f64() < 0.005 {
            node.shut_down(tally, tick);
        }
        if tick < ARRIVALS_END && !node.is_closing() && rng.f64() < arrivals {
            node.begin_requests(rng, setting.stop, &mut self.names, tick);
        }
        let is_due = setting.journal > 0 && tick.is_multiple_of(setting.journal);
        if is_due || (setting.journal == 0 && node.is_journal_due()) {
            node.write_journal(tick);
        }
        for renewal in node.speak(rules, (self.terms, self.most_per_day), tick) {
            self.send(index, &renewal, tick);
        }
    }

    /// Sends a renewal, perhaps twice; each copy may be lost, or overtaken by newer ones.
    fn send(&mut self, node: usize, renewal: &Renewal, tick: u64) {
        let loss = self.setting.loss;
        let delays: &[u64] = if loss > 0.0 { &[1, 1, 1, 2, 3, 40] } else { &[1, 1, 1, 2, 3] };
        for _ in 0..=usize::from(self.rng.f64() < loss) {
            if self.rng.f64() >= loss {
                self.messages.push(Message {
                    arrives: tick + delays[self.rng.usize(0..delays.len())],
                    node,
                    renewal: renewal.clone(),
                    not_after: self.ledger.clock(tick) + at(MESSAGE_LIFE),
                });
            }
        }
    }
}
