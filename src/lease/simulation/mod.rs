//! The protocol under random faults: the crate's own `Book` and `Lease`, with messages lost,
//! repeated and delayed past newer ones; nodes suspended, killed and brought back with their
//! journals, or shut down with a goodbye; a ledger that fails over and forgets its last writes, one
//! whose storage loses a part, and one whose clock is wrong for a while. Meanwhile credits are
//! granted and some expire, seats and limits change, and refunds are made.
//!
//! One tick is a millisecond, one tick of compute costs one nano-dollar. `SIMULATION_SEEDS` sets
//! how many runs each row of the table gets.
//!
//! A `World` is one run. It has `Node`s, on which `Request`s run, and a `FaultyLedger`. The
//! `Oracle` counts what each request was billed, and compares it with the ledger's statement.

mod concurrency;
mod ledger;
mod node;
mod oracle;
mod rates;
mod request;
mod scale;
mod world;

use std::time::Duration;

use self::{oracle::Outcomes, world::World};
use crate::Credits;

/// The hold that a request wants, and the least that it begins with.
const HOLD: i64 = 20;
const LEAST: i64 = 2;

/// One row of the table of faults.
#[derive(Clone, Copy, Debug)]
struct Setting {
    /// `true` if requests stop at their slices, `false` if they finish.
    stop: bool,
    /// `true` if leases hold a surplus.
    ahead: bool,
    /// Times for which killed nodes stay down, in ticks. Empty if none is killed.
    down: &'static [u64],
    /// `true` if the ledger forgets its last writes now and then.
    failover: bool,
    /// The part of the messages that is lost, and of those that are sent twice.
    loss: f64,
    /// `true` if nodes are suspended now and then, and services report what was not measured.
    jolts: bool,
    /// `true` if the ledger's storage loses its book, its leases or its holds now and then, or what
    /// was written to them last.
    storage_losses: bool,
    /// The ticks between two writes of a node's journal; 0 if it is up to date whenever the node is
    /// killed.
    journal: u64,
    /// `true` if nodes are shut down now and then, and the ledger's clock is up to an hour off for
    /// a while.
    glitches: bool,
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

fn run(seeds: u64, setting: Setting) {
    let mut outcomes = Outcomes::default();
    for seed in 0..seeds {
        outcomes.add(&World::new(seed, setting).run(), &setting, seed);
    }
    outcomes.check(&setting);
}

/// Runs all combinations of faults that can be mended: more than 10 000 runs by default.
fn run_table(stop: bool) {
    let seeds = std::env::var("SIMULATION_SEEDS")
        .map_or(97, |seeds| seeds.parse().expect("SIMULATION_SEEDS is a number"));
    for ahead in [false, true] {
        let quiet = Setting {
            stop,
            ahead,
            down: &[],
            failover: false,
            loss: 0.0,
            jolts: false,
            storage_losses: false,
            journal: 0,
            glitches: false,
        };
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
            for (jolts, storage_losses, glitches) in [
                (false, false, false),
                (true, false, false),
                (true, true, false),
                (true, false, true),
                (true, true, true),
            ] {
                // A node that ended cannot repair what a failover forgets of it, nor what the
                // storage lost just after its last answer.
                if ((storage_losses || glitches) && failover)
                    || (storage_losses && glitches && loss > 0.0)
                {
                    continue;
                }
                let setting = Setting { down, failover, loss, jolts, storage_losses, ..quiet };
                run(seeds, Setting { glitches, ..setting });
            }
        }
        // What was spent after the last write is debited once, or not.
        for (loss, glitches) in [(0.0, false), (0.05, false), (0.0, true), (0.05, true)] {
            let down = &[5, 50];
            run(seeds, Setting { down, journal: 25, loss, jolts: true, glitches, ..quiet });
        }
    }
}

#[test]
fn totals_are_exact_under_random_faults_when_requests_stop() {
    run_table(true);
}

#[test]
fn totals_are_exact_under_random_faults_when_requests_finish() {
    run_table(false);
}
