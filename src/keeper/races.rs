//! Races between requests and the worker, in random orders of their steps, which shuttle draws.
//! This compiles the files of the inbox and of the phase once more, on shuttle's primitives. The
//! table and the worker are plain stand-ins.

use std::time::Duration;

use tokio::sync::Notify;

/// The primitives of the model checker, under the names that `sync.rs` has.
mod sync {
    pub(super) use shuttle::sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    };
}

/// An account's entry, as far as the inbox knows it.
mod entry {
    use shuttle::sync::atomic::AtomicBool;

    #[derive(Default)]
    pub(super) struct AccountEntry {
        pub(super) is_queued: AtomicBool,
        pub(super) number: usize,
    }
}

#[path = "inbox.rs"]
#[allow(dead_code, reason = "the races are of some of its ways")]
mod inbox;
#[path = "phase.rs"]
#[allow(dead_code, reason = "the races are of one way to end")]
mod phase;

use self::{
    entry::AccountEntry,
    inbox::Inbox,
    phase::{Phase, SharedPhase},
    sync::{Arc, Mutex},
};

/// Runs of each race.
const RUNS: usize = 3_000;

fn entry(number: usize) -> Arc<AccountEntry> {
    Arc::new(AccountEntry { number, ..AccountEntry::default() })
}

#[test]
fn an_entry_is_there_once_and_can_be_added_again_once_it_was_taken() {
    shuttle::check_random(
        || {
            let (inbox, entry) = (Inbox::new(), entry(0));
            for _ in 0..2 {
                inbox.add(&entry, Duration::ZERO);
                inbox.add(&entry, Duration::ZERO);
                // A worker that panics now has examined nothing.
                assert_eq!(inbox.take().len(), 1);
            }
            assert!(inbox.take().is_empty());
            assert!(!inbox.set_next_read(None));
            inbox.add(&entry, Duration::ZERO);
            assert!(inbox.set_next_read(None), "it was added before the worker slept");
        },
        1,
    );
}

/// Requests add entries while the worker goes to sleep: each is examined after it was added, and
/// the worker never sleeps for ever. It reads on its own at `timer`, if there is one; what is due
/// later wakes nobody.
fn every_entry_is_examined(timer: Option<Duration>, due: Duration) {
    shuttle::check_random(
        move || {
            let inbox = Arc::new(Inbox::new());
            let added = Arc::new(Mutex::new([0_u32; 2]));
            let requests: Vec<_> = (0..2)
                .map(|number| {
                    let (inbox, added) = (Arc::clone(&inbox), Arc::clone(&added));
                    shuttle::thread::spawn(move || {
                        let entry = entry(number);
                        for _ in 0..2 {
                            // What the worker is to see is written before.
                            added.lock().unwrap()[number] += 1;
                            inbox.add(&entry, due);
                        }
                    })
                })
                .collect();
            let worker = {
                let (inbox, added) = (Arc::clone(&inbox), Arc::clone(&added));
                shuttle::thread::spawn(move || {
                    let mut seen = [0, 0];
                    while seen != [2, 2] {
                        for entry in inbox.take() {
                            seen[entry.number] = added.lock().unwrap()[entry.number];
                        }
                        if seen == [2, 2] || inbox.set_next_read(timer) {
                            continue;
                        }
                        // With a timer it wakes in time for what is due then.
                        if timer.is_none_or(|at| due < at) {
                            shuttle::future::block_on(inbox.woken());
                        } else {
                            shuttle::thread::yield_now();
                        }
                    }
                })
            };
            for thread in requests.into_iter().chain([worker]) {
                thread.join().unwrap();
            }
        },
        RUNS,
    );
}

#[test]
fn a_worker_that_goes_to_sleep_misses_nobody() {
    every_entry_is_examined(None, Duration::ZERO);
    every_entry_is_examined(Some(Duration::from_secs(5)), Duration::from_secs(4));
    every_entry_is_examined(Some(Duration::from_secs(5)), Duration::from_secs(5));
}

/// An entry of the table, as admission and the worker see it: what runs, under its lock.
#[derive(Default)]
struct Running {
    runs: Mutex<u32>,
}

/// Requests are admitted while the meter shuts down: whatever was admitted is ended. The order is
/// that of `AccountTable::entry`, `admit` and `Worker::follow_phase`.
#[test]
fn nothing_runs_once_a_meter_that_shuts_down_has_ended_what_runs() {
    shuttle::check_random(
        || {
            let phase = Arc::new(SharedPhase::open());
            let table = Arc::new(Mutex::new(vec![Arc::new(Running::default())]));
            let closed = Arc::new(Notify::new());
            let requests: Vec<_> = (0..3)
                .map(|number| {
                    let (phase, table) = (Arc::clone(&phase), Arc::clone(&table));
                    shuttle::thread::spawn(move || {
                        // The first two are of one account. The third has no entry yet.
                        if phase.get() == Phase::Closing {
                            return;
                        }
                        let entry = {
                            let mut table = table.lock().unwrap();
                            if number == 2 {
                                table.push(Arc::new(Running::default()));
                            }
                            Arc::clone(table.last().unwrap())
                        };
                        let mut runs = entry.runs.lock().unwrap();
                        if phase.get() != Phase::Closing {
                            *runs += 1;
                        }
                    })
                })
                .collect();
            let worker = {
                let (phase, table) = (Arc::clone(&phase), Arc::clone(&table));
                let closed = Arc::clone(&closed);
                shuttle::thread::spawn(move || {
                    shuttle::future::block_on(closed.notified());
                    assert_eq!(phase.get(), Phase::Closing, "who is woken sees why");
                    let entries = table.lock().unwrap().clone();
                    for entry in entries {
                        *entry.runs.lock().unwrap() = 0;
                    }
                })
            };
            phase.advance(Phase::Closing);
            phase.advance(Phase::Orphaned);
            closed.notify_one();
            for thread in requests.into_iter().chain([worker]) {
                thread.join().unwrap();
            }
            assert_eq!(phase.get(), Phase::Closing, "a phase only goes forward");
            for entry in table.lock().unwrap().iter() {
                assert_eq!(*entry.runs.lock().unwrap(), 0);
            }
        },
        RUNS,
    );
}
