//! What a node that is killed had not reported: its runtime goes away between two instructions, and
//! nothing of it is polled any more.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{ComputeTime, MemoryLedger};

use crate::support::{switched::Switched, *};

/// A report may wait this long for answers that somebody waits for, and a little.
const BEHIND_OTHERS: Duration = ms(8);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a request costs: ten milliseconds.
const COST: i64 = SLICE / 100;

fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

/// A node whose requests follow each other until it is killed.
struct Killed {
    /// When each request had ended.
    ended: Vec<Duration>,
    /// How many of them the ledger has on its bill.
    billed: usize,
}

impl Killed {
    /// It reports within `within`. Calls of the ledger take `call`. It is away after `lost`, if
    /// that comes before the end.
    fn after(life: Duration, within: Duration, call: Duration, lost: Duration) -> Self {
        let ledger = MemoryLedger::new();
        let way = Switched::to(ledger.clone());
        way.takes(call);
        let meter = meter(way.clone()).report_within(within).build().expect("a meter");
        let service = meter.layer(service_fn(async |_: Request<Empty<Bytes>>| {
            sleep(ms(3)).await;
            let response = Response::builder().extension(ComputeTime(ms(10)));
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).expect("a response"))
        }));
        let mut ended = Vec::new();
        let node = paused();
        node.block_on(async {
            let began = Instant::now();
            let asking = async {
                loop {
                    let asked = request("alice", "pro", Empty::new());
                    let response = service.clone().oneshot(asked).await.expect("an answer");
                    if response.status() == StatusCode::OK {
                        drop(response);
                        ended.push(began.elapsed());
                    }
                    sleep(ms(4)).await;
                }
            };
            let switching = async {
                sleep(lost).await;
                way.off(true);
            };
            let _ = timeout(life, futures_util::future::join(asking, switching)).await;
        });
        drop(node);
        let statement = paused().block_on(statement_of(&ledger));
        assert_eq!(statement.used.as_nano_usd() % COST, 0, "whole requests: {statement:?}");
        let billed = usize::try_from(statement.used.as_nano_usd() / COST).expect("not negative");
        Self { ended, billed }
    }

    fn ended_until(&self, moment: Duration) -> usize {
        self.ended.iter().filter(|ended| **ended <= moment).count()
    }
}

async fn statement_of(ledger: &MemoryLedger) -> tower_credits::ledger::Statement {
    statement(&meter(ledger.clone()).build().expect("a meter"), "alice", "pro").await
}

#[test]
fn of_requests_that_ended_a_killed_node_loses_what_it_may_report_later_and_a_call() {
    let mut unbilled = 0;
    for (within, call) in [(ms(100), ms(0)), (ms(100), ms(30)), (ms(1_000), ms(30))] {
        for life in (1_600..1_760).step_by(7).map(ms) {
            let node = Killed::after(life, within, call, Duration::MAX);
            let (least, most) =
                (node.ended_until(life - within - BEHIND_OTHERS - call), node.ended.len());
            let billed = node.billed;
            assert!(
                (least..=most).contains(&billed),
                "killed after {life:?}, calls of {call:?}: {billed} of {least} to {most}"
            );
            unbilled += most - billed;
        }
    }
    assert!(unbilled > 0, "a node that loses nothing was not killed");
}

#[test]
fn a_node_that_is_killed_while_the_ledger_is_away_loses_what_ended_since() {
    for lost in (600..700).step_by(13).map(ms) {
        let node = Killed::after(lost + seconds(1), ms(100), ms(0), lost);
        let (least, most) =
            (node.ended_until(lost - ms(100) - BEHIND_OTHERS), node.ended_until(lost));
        let (billed, all) = (node.billed, node.ended.len());
        assert!(
            (least..=most).contains(&billed),
            "away at {lost:?}: {billed} of {least} to {most}"
        );
        assert!(all > most, "some ended while it was away");
    }
}
