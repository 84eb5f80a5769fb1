//! A meter that shuts down settles what it can, in bounded time, and says what it could not.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{ComputeClock, CreditMeter, HoldAhead, MemoryLedger};

use crate::support::{broken::Broken, switched::Switched, *};

async fn ask(meter: &CreditMeter, user: &str) -> u16 {
    let echo = service_fn(|_: Request<Empty<Bytes>>| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = ServiceBuilder::new().layer(meter.clone()).service(echo);
    service.oneshot(request(user, "pro", Empty::new())).await.unwrap().status().as_u16()
}

/// What was held ahead is given back, and nobody waits for the time in which that would have come
/// by itself.
#[tokio::test(start_paused = true)]
async fn a_surplus_is_given_back() {
    let meter = meter(MemoryLedger::new()).hold_ahead(HoldAhead::default()).build().unwrap();
    assert_eq!((ask(&meter, "alice").await, ask(&meter, "bob").await), (200, 200));
    assert!(statement(&meter, "alice", "pro").await.held > nanos(SLICE));
    let began = Instant::now();
    let settlement = meter.shutdown().await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(settlement.unsettled.is_empty());
    for user in ["alice", "bob"] {
        let statement = statement(&meter, user, "pro").await;
        assert_eq!((statement.held, statement.requests()), (nanos(0), 1));
    }
}

/// Nothing is owed, so the shutdown does not wait for long. But it tries for a while.
#[tokio::test(start_paused = true)]
async fn a_surplus_is_given_back_to_a_ledger_that_comes_back_after_900_ms() {
    for (back_after, is_given_back) in [(300, true), (900, true), (3_000, false)] {
        let ledger = Switched::default();
        let meter = meter(ledger.clone()).hold_ahead(HoldAhead::default()).build().unwrap();
        assert_eq!(ask(&meter, "alice").await, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(statement(&meter, "alice", "pro").await.held > nanos(SLICE));
        ledger.off(true);
        let shutdown = tokio::spawn({
            let meter = meter.clone();
            async move { meter.shutdown().await }
        });
        tokio::time::sleep(Duration::from_millis(back_after)).await;
        ledger.off(false);
        assert_eq!(shutdown.await.unwrap().unsettled, []);
        let held = statement(&meter, "alice", "pro").await.held;
        assert_eq!(held.is_zero(), is_given_back, "back after {back_after} ms: {held}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_away_is_waited_for_five_seconds() {
    let (meter, worker) = meter(Broken).build_with_worker().unwrap();
    let worker = tokio::spawn(worker.run());
    assert_eq!(ask(&meter, "alice").await, 200, "the tier allows for it");
    let began = Instant::now();
    let settlement = meter.shutdown().await;
    assert!((5_000..5_300).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(settlement.unsettled.len(), 1);
    tokio::time::timeout(Duration::from_secs(1), worker).await.unwrap().unwrap();
}

/// A meter that nobody holds any more goes on until its ledger is back: there is nobody to tell
/// what could not be settled.
#[tokio::test(start_paused = true)]
async fn one_that_was_only_dropped_does_not_give_up() {
    let (meter, worker) = meter(Broken).build_with_worker().unwrap();
    let worker = tokio::spawn(worker.run());
    assert_eq!(ask(&meter, "alice").await, 200);
    drop(meter);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!worker.is_finished());
    worker.abort();
}

/// Nobody is there any more to ask for a shutdown: what ends then is reported at once, however
/// rarely reports are sent.
#[tokio::test(start_paused = true)]
async fn what_ends_after_the_meter_was_dropped_is_settled_at_once() {
    let ledger = MemoryLedger::new();
    // The worker means to look again when a refill may be due, half a minute from the beginning.
    let long_hold =
        tower_credits::Plan::from_toml(&PLAN.replace("[tiers.pro]", "[tiers.pro]\nhold = \"1m\""))
            .unwrap();
    let meter = CreditMeter::builder(
        long_hold,
        ledger.clone(),
        tower_credits::identify::IdentityFromExtensions,
    )
    .clock(tower_credits::clock::TokioClock)
    .report_within(seconds(60))
    .build()
    .unwrap();
    let service = ServiceBuilder::new().layer(meter).service(service_fn(
        async |request: Request<Empty<Bytes>>| {
            request.extensions().get::<ComputeClock>().unwrap().report(Duration::from_millis(100));
            Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from_static(b"x"))))
        },
    ));
    let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    let began = Instant::now();
    drop(response);
    let (account, terms) =
        (identity("alice", "pro").account, plan().tier(&"pro".parse().unwrap()).unwrap().terms());
    let month = tower_credits::Period::containing(tower_credits::clock::Clock::unix_time(
        &tower_credits::clock::SystemClock,
    ));
    eventually(async || {
        let statement =
            tower_credits::ledger::Ledger::statement(&ledger, &account, month, Some(terms))
                .await
                .unwrap();
        (statement.used == nanos(SLICE / 10) && statement.held.is_zero()).then_some(())
    })
    .await;
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
}

/// What runs on is not paid for any more, and its handler can tell.
#[tokio::test(start_paused = true)]
async fn what_still_runs_has_nothing_left() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (clocks, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endless = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            clocks.send(request.extensions().get::<ComputeClock>().unwrap().clone()).unwrap();
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        },
    ));
    let call = tokio::spawn(endless.oneshot(request("alice", "pro", Empty::new())));
    let clock = told.recv().await.unwrap();
    assert!(clock.left() > Duration::from_millis(900));
    clock.report(Duration::from_millis(100));
    let settlement = meter.shutdown().await;
    assert_eq!((settlement.settled, settlement.unsettled.len()), (nanos(SLICE / 10), 0));
    assert_eq!((clock.left(), clock.so_far()), (Duration::ZERO, Duration::ZERO));
    clock.report(seconds(100));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(settled(&meter, "alice", "pro", 1).await.used, nanos(SLICE / 10));
}
