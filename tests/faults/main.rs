//! The fault rig: real nodes, each a process of its own, on real Redis servers, with faults. An
//! oracle that knows what each request costs compares the bills.
//!
//! * [`scenarios`] are data: the servers, the nodes, the fault.
//! * A run is a scenario and a seed, which draws when the fault comes and how long it lasts.
//! * [`rig`] makes a run, and prints a row: what was lost, doubled, overspent, on hold at the end.
//!
//! `cargo test --all-features --test faults` makes one run of each short scenario. Long ones, and
//! those that move a clock, run if `SCENARIO` is their name, and in mixtures: `scripts/soak 10
//! faults` makes random runs for ten minutes. A run that fails prints the command that makes one
//! with the same draws.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(all(feature = "redis", feature = "journal"))]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod load;
mod node;
mod proxy;
mod rig;
mod scenarios;
mod servers;

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use self::{
    rig::{HEAD, Row, run},
    scenarios::{SCENARIOS, Scenario},
    servers::Kind,
};
use crate::support::redis_server::RedisServer;

/// Returns the scenario that has the name `SCENARIO`, or those of which the name contains it.
fn chosen() -> Vec<&'static Scenario> {
    let name = std::env::var("SCENARIO").unwrap_or_default();
    if let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) {
        return vec![scenario];
    }
    let chosen: Vec<_> =
        SCENARIOS.iter().filter(|scenario| scenario.name.contains(&name)).collect();
    assert!(!chosen.is_empty(), "no scenario has `{name}` in its name");
    chosen
}

fn seed() -> u64 {
    std::env::var("FAULT_SEED").map_or(1, |seed| seed.parse().expect("FAULT_SEED is a number"))
}

/// Makes runs, some at a time, and prints their rows. Fails with those that are wrong.
async fn all(runs: impl Iterator<Item = (&'static Scenario, u64)>, at_once: usize) {
    println!("{HEAD}");
    let rows: Vec<Row> = stream::iter(runs)
        .map(async |(scenario, seed)| (scenario, seed, tokio::spawn(run(scenario, seed)).await))
        .buffer_unordered(at_once)
        .map(|(scenario, seed, row)| {
            let row = row.unwrap_or_else(|error| {
                panic!("SCENARIO='{}' FAULT_SEED={seed}: {error}", scenario.name)
            });
            println!("{row}");
            row
        })
        .collect()
        .await;
    assert!(!rows.is_empty(), "SCENARIO is a part of long scenarios only: write one's whole name");
    let wrong: Vec<_> = rows.iter().filter_map(Row::wrong).collect();
    assert!(wrong.is_empty(), "{} of {} runs:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("{} runs", rows.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_each_scenario() {
    let quick = chosen().into_iter().filter(|scenario| scenario.is_quick || chosen().len() == 1);
    all(quick.map(|scenario| (scenario, seed())), 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it runs for MINUTES: scripts/soak 10 faults"]
async fn a_mixture() {
    let minutes: u64 = std::env::var("MINUTES").map_or(10, |minutes| minutes.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let mut scenarios = chosen();
    if scenarios.len() > 1 {
        // It takes longer than most mixtures.
        scenarios.retain(|scenario| scenario.lasts.1 < 60_000);
    }
    if !RedisServer::has_movable_clock() {
        println!("Without scenarios that move the clock: `scripts/other-servers valkey` has them.");
        scenarios.retain(|scenario| scenario.servers != Kind::Clocked);
    }
    let mut rng = fastrand::Rng::with_seed(seed());
    let runs = std::iter::from_fn(move || {
        let scenario = scenarios[rng.usize(..scenarios.len())];
        (Instant::now() < until).then(|| (scenario, rng.u64(1..1_000_000)))
    });
    all(runs, 3).await;
}
