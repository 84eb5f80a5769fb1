//! The protocol in every order: small scenes of the crate's own `Lease` and `AccountState`, of
//! which a model checker visits each state that can be reached. The [simulation](super::simulation)
//! draws larger runs at random.
//!
//! A [`Scene`] has one or two nodes that take one or two requests of one account each, for some
//! ticks, and a few kinds of fault, once or twice each:
//!
//! * messages that are lost or copied (all are late and out of order),
//! * nodes that are suspended, that shut down, or that are killed and restarted, without a journal
//!   or with one that may be out of date,
//! * a ledger that fails over and forgets up to two writes,
//! * a month that ends and is closed.
//!
//! In each state the [`PROPERTIES`] must hold. When the time of the scene is over, all that is
//! under way comes to its end without faults, and every debit must be exact, apart from what a
//! process that was killed had not written.
//!
//! One tick is 100 ms. A request costs one nano-dollar a tick. Nodes and ledger have one clock.
//! Permits, concurrent shares, purchased and daily credits, outage allowances and losses of the
//! storage are not modelled.
//!
//! `scripts/exhaustive` visits larger scenes. `scripts/remove-rules` breaks each rule of the
//! protocol in turn, and expects a failing test.

mod node;
mod request;
mod scene;
mod world;

use std::time::Duration;

use stateright::{Checker, Model, Property};

pub(super) use self::request::Request;
use self::{
    scene::{Faults, Scene},
    world::{Action, World},
};
use crate::Credits;

const TICK: Duration = Duration::from_millis(100);

/// The hold that a request wants, in ticks.
const HOLD: i64 = 2;

/// Times in ticks: a renewal's deadline, until when it may act, for how long a request waits for
/// its admission, for how long requests are admitted on an answer, for how long a hold lasts.
const DEADLINE: u64 = 1;
const MESSAGE_LIFE: u64 = 2;
const PATIENCE: u64 = 3;
const ADMIT_FOR: u64 = 2;
const TTL: u64 = 4;

/// Time for which a node is suspended, in ticks: as long as a hold lasts.
const SLEEP: u64 = 4;

/// Time for which a journal is not written, in ticks.
const JOURNAL_STALL: u64 = 2;

/// The most of its last writes that the ledger forgets.
const FORGETTABLE: usize = 2;

/// Time in which everything is settled once there are no faults any more, in ticks.
const SETTLES_WITHIN: u64 = 60;

fn nanos(n: i64) -> Credits {
    Credits::from_nano_usd(n).unwrap()
}

fn at(tick: u64) -> Duration {
    TICK * u32::try_from(tick).unwrap()
}

impl Model for Scene {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(self, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        PROPERTIES.map(|(name, holds)| Property::always(name, holds)).to_vec()
    }
}

type Condition = fn(&Scene, &World) -> bool;

const PROPERTIES: [(&str, Condition); 6] = [
    ("usage lines cost what is debited", |_, world| world.lines_add_up()),
    ("never more is debited than was used", |_, world| world.debited() <= world.used_by_requests()),
    ("the limit is kept", |scene, world| world.overspent(scene) <= 0),
    ("what a lease owns is on hold", |scene, world| !scene.stop || world.is_backed(scene)),
    ("nobody is cut before the ledger was asked", |_, world| world.tally().wronged == 0),
    ("in the end every debit is exact, and nothing is on hold or remembered", |scene, world| {
        world.tick < scene.ticks || ends_well(scene, world)
    }),
];

fn ends_well(scene: &Scene, world: &World) -> bool {
    let end = world.settled(scene);
    let tally = end.tally();
    let exact = tally.billed - tally.unwritten..=tally.billed;
    let faults = scene.faults;
    // A failover may forget a goodbye, and a process may be killed before its own: an entry that
    // holds nothing stays until the month's leases expire.
    let may_remain = faults.failed_over > 0 || faults.killed > 0;
    let statements = end.statements(scene);
    let parts = statements.iter().flat_map(|statement| &statement.parts);
    let parts_add_up = scene.part_limit.is_none()
        || parts
            .filter(|part| part.part.parent().is_none())
            .map(|part| part.used.as_nano_usd())
            .sum::<i64>()
            == end.debited();
    // A batch of a journal may have reached the ledger with less than the journal has.
    let may_recover = faults.failed_over > 0 || scene.journal;
    end.is_over()
        && end.overspent(scene) <= 0
        && exact.contains(&end.debited())
        && end.lines_add_up()
        && parts_add_up
        && statements.iter().all(|statement| statement.held.is_zero())
        && (end.remembered() == 0 || may_remain)
        && (end.recovered() == 0 || may_recover)
}

/// Visits all states of a scene.
fn check(scene: Scene) {
    let more = std::env::var("EXHAUSTIVE_TICKS").map_or(0, |more| more.parse().unwrap());
    let scene = Scene { ticks: scene.ticks.saturating_add_signed(more), ..scene };
    let began = std::time::Instant::now();
    let checker = scene.checker().threads(2).spawn_dfs().join();
    eprintln!(
        "| {} | {} | {} | {} | {:.1} s |",
        scene.name,
        scene.ticks,
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    let found: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| format!("not so: {property}: {:?}", path.into_actions()))
        .collect();
    assert!(found.is_empty(), "{scene:?}: {}", found.join("\n"));
}

const NONE: Faults = Scene::BASE.faults;

#[test]
fn messages_that_are_lost_copied_late_and_out_of_order() {
    let faults = Faults { lost: 1, copied: 1, ..NONE };
    check(Scene { name: "messages lost and copied", ticks: 2, faults, ..Scene::BASE });
}

#[test]
fn requests_that_finish() {
    let faults = Faults { lost: 1, ..NONE };
    check(Scene { name: "requests that finish", ticks: 3, stop: false, faults, ..Scene::BASE });
}

#[test]
fn holds_that_are_ahead_of_requests() {
    let base = Scene { requests: 2, lengths: &[1], limit: 9, ahead: true, ..Scene::BASE };
    check(Scene { name: "a surplus ahead", ticks: 3, ..base });
}

#[test]
fn requests_that_follow_each_other() {
    let base = Scene { requests: 2, lengths: &[1], limit: 2, ..Scene::BASE };
    check(Scene { name: "requests one after another", ticks: 3, ..base });
}

#[test]
fn a_node_that_sleeps_until_its_hold_is_gone() {
    let faults = Faults { slept: 1, ..NONE };
    check(Scene { name: "a node sleeps", ticks: 4, lengths: &[3], faults, ..Scene::BASE });
}

#[test]
fn a_node_that_sleeps_until_its_surplus_is_gone() {
    let faults = Faults { slept: 1, ..NONE };
    let base = Scene { nodes: 1, requests: 2, lengths: &[1], limit: 9, ahead: true, ..Scene::BASE };
    check(Scene { name: "a node sleeps on a surplus", ticks: 6, faults, ..base });
}

#[test]
fn a_node_that_is_killed() {
    let faults = Faults { killed: 1, lost: 1, ..NONE };
    check(Scene { name: "a node is killed", ticks: 3, lengths: &[3], faults, ..Scene::BASE });
}

#[test]
fn a_node_that_is_killed_and_has_a_journal() {
    let faults = Faults { killed: 1, ..NONE };
    let base = Scene { lengths: &[3], journal: true, ..Scene::BASE };
    check(Scene { name: "the same, with a journal", ticks: 3, faults, ..base });
}

#[test]
fn a_node_that_is_killed_and_has_an_outdated_journal() {
    let faults = Faults { killed: 1, stalled: 1, ..NONE };
    let base = Scene { nodes: 1, requests: 2, lengths: &[3], journal: true, ..Scene::BASE };
    check(Scene { name: "a node is killed, its journal outdated", ticks: 3, faults, ..base });
}

#[test]
fn a_node_that_is_killed_in_a_shutdown_and_has_an_outdated_journal() {
    let faults = Faults { shut_down: 1, killed: 1, stalled: 1, ..NONE };
    let base = Scene { nodes: 1, lengths: &[1], journal: true, ..Scene::BASE };
    check(Scene { name: "a node is killed in a shutdown", ticks: 7, faults, ..base });
}

#[test]
fn a_node_that_shuts_down() {
    let faults = Faults { shut_down: 1, copied: 1, ..NONE };
    let base = Scene { nodes: 1, requests: 2, ..Scene::BASE };
    check(Scene { name: "a node shuts down", ticks: 4, lengths: &[2], faults, ..base });
}

#[test]
fn a_ledger_that_forgets_its_last_writes() {
    let faults = Faults { failed_over: 1, lost: 1, ..NONE };
    check(Scene { name: "the ledger fails over", ticks: 3, lengths: &[2], faults, ..Scene::BASE });
}

#[test]
fn a_node_that_shuts_down_after_a_failover() {
    let faults = Faults { failed_over: 1, shut_down: 1, ..NONE };
    let base = Scene { nodes: 1, requests: 2, lengths: &[1], ..Scene::BASE };
    check(Scene { name: "a node shuts down after a failover", ticks: 4, faults, ..base });
}

#[test]
fn parts_of_an_account() {
    let faults = Faults { lost: 1, ..NONE };
    let base = Scene { part_limit: Some(2), lengths: &[3], ..Scene::BASE };
    check(Scene { name: "parts of the account", ticks: 3, faults, ..base });
}

#[test]
fn a_month_that_ends_and_is_closed() {
    let faults = Faults { lost: 1, closed: 1, ..NONE };
    let base = Scene { lengths: &[2], month_ends: Some(2), ..Scene::BASE };
    check(Scene { name: "a month ends and is closed", ticks: 3, faults, ..base });
}
