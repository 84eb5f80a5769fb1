//! What a node forgets of accounts that are not used, and what it must not.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeTime, CreditMeter, HoldAhead, MemoryLedger, Plan,
    clock::{Clock, TokioClock},
    ledger::Ledger,
};

use crate::support::{switched::Switched, *};

/// The month stands, and the rest is tokio's: an hour of paused time must not be another month's.
#[derive(Debug)]
struct InNovember;

impl Clock for InNovember {
    fn monotonic(&self) -> Duration {
        TokioClock.monotonic()
    }

    fn unix_time(&self) -> tower_credits::clock::UnixTime {
        november().unix_time()
    }
}

fn meter_of(ledger: impl Ledger, plan: &str) -> CreditMeter {
    let meter = meter(ledger).clock(InNovember).build().unwrap();
    meter.plan().replace(Plan::from_toml(plan).unwrap());
    meter
}

async fn ask(meter: &CreditMeter, user: &str, tier: &str) -> StatusCode {
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |_: Request<Empty<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        },
    ));
    service.oneshot(request(user, tier, Empty::new())).await.unwrap().status()
}

/// Longer than a lease waits before it says goodbye.
const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn a_request_rate_outlives_the_accounts_lease() {
    let meter = meter_of(
        MemoryLedger::new(),
        &PLAN.replace("{ count = 6, per = \"1m\", burst = 2 }", "{ count = 2, per = \"24h\" }"),
    );
    for expected in [200, 200, 429] {
        assert_eq!(ask(&meter, "alice", "slow").await, expected);
    }
    sleep(LONG).await;
    assert_eq!(ask(&meter, "alice", "slow").await, 429);
}

/// What was allowed in one outage counts in the next of the month.
#[tokio::test(start_paused = true)]
async fn an_outage_allowance_outlives_the_accounts_lease() {
    let ledger = Switched::default();
    let meter = meter_of(ledger.clone(), PLAN);
    ledger.off(true);
    // Each puts a second on hold, and two seconds are allowed.
    let mut allowed = 0;
    while ask(&meter, "alice", "pro").await == 200 {
        allowed += 1;
        assert!(allowed < 10);
    }
    assert!(allowed > 0);
    ledger.off(false);
    settled(&meter, "alice", "pro", allowed).await;
    sleep(LONG).await;
    assert_eq!(ledger.leases(), (1, 1), "its lease has said goodbye");
    ledger.off(true);
    assert_eq!(ask(&meter, "alice", "pro").await, 503);
}

/// What an outage allows is beyond the limit of an account that has nothing left, and no more is.
#[tokio::test(start_paused = true)]
async fn an_account_with_nothing_left_may_use_its_outage_allowance_and_no_more() {
    let ledger = Switched::default();
    let allowance = "[tiers.ten]\nduring_outage = { allow = \"0.00024\" }";
    let meter = meter_of(ledger.clone(), &PLAN.replace("[tiers.ten]", allowance));
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| {
            let response = Response::builder().extension(ComputeTime(seconds(1)));
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
        },
    ));
    let ask = async || {
        let asked = request("alice", "ten", Empty::new());
        service.clone().oneshot(asked).await.unwrap().status().as_u16()
    };
    for _ in 0..10 {
        assert_eq!(ask().await, 200);
    }
    settled(&meter, "alice", "ten", 10).await;
    assert_eq!(ask().await, 402);
    ledger.off(true);
    for expected in [200, 200, 503, 503] {
        assert_eq!(ask().await, expected);
    }
    ledger.off(false);
    let statement = settled(&meter, "alice", "ten", 12).await;
    assert_eq!((statement.limit, statement.used), (nanos(10 * SLICE), nanos(12 * SLICE)));
    eventually(async || (ask().await == 402).then_some(())).await;
}

/// By the node itself, with nobody asking for it.
#[tokio::test(start_paused = true)]
async fn what_is_held_ahead_is_free_ten_seconds_after_its_last_use() {
    let ledger = MemoryLedger::new();
    let meter = meter(ledger).clock(InNovember).hold_ahead(HoldAhead::default()).build().unwrap();
    let held = async || statement(&meter, "alice", "free").await.held;
    for _ in 0..20 {
        assert_eq!(ask(&meter, "alice", "free").await, 200);
        sleep(Duration::from_millis(10)).await;
    }
    let last_use = tokio::time::Instant::now();
    sleep(Duration::from_secs(2)).await;
    assert!(held().await > nanos(0), "something is held ahead");
    while !held().await.is_zero() {
        let unused = last_use.elapsed();
        assert!(unused < Duration::from_millis(10_200), "held for {unused:?} after its last use");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A lease that is followed by a newer one while it leaves says goodbye like any other.
#[tokio::test(start_paused = true)]
async fn every_lease_says_goodbye() {
    let ledger = Switched::default();
    let meter = meter_of(ledger.clone(), PLAN);
    assert_eq!(ask(&meter, "alice", "pro").await, 200);
    ledger.takes(Duration::from_millis(100));
    while ledger.goodbyes() == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    // The answer gets lost, and while it does the account is used again, within what its tier
    // allows in an outage.
    ledger.off(true);
    assert_eq!(ask(&meter, "alice", "pro").await, 200);
    sleep(Duration::from_secs(5)).await;
    ledger.off(false);
    sleep(LONG).await;
    assert_eq!(ledger.leases(), (2, 2));
}

/// What piled up in an outage reaches the ledger as a ramp, and everybody has their turn.
#[tokio::test(start_paused = true)]
async fn after_an_outage_no_herd_comes_and_nobody_is_left_out() {
    const CROWD: usize = 200;
    let ledger = Switched::default();
    let meter = meter_of(ledger.clone(), PLAN);
    ledger.off(true);
    let first = ["first", "second", "third"];
    for user in first.repeat(5) {
        assert_eq!(ask(&meter, user, "free").await, 503);
    }
    ledger.off(false);
    eventually(async || (ask(&meter, first[0], "free").await == 200).then_some(())).await;
    ledger.takes(Duration::from_millis(5));
    let crowd: Vec<_> = (0..CROWD)
        .map(|user| {
            let meter = meter.clone();
            tokio::spawn(async move { ask(&meter, &format!("user-{user}"), "free").await })
        })
        .collect();
    for asked in crowd {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let most = ledger.most_under_way();
    assert!(most < CROWD / 2, "{most} renewals at once");
}
