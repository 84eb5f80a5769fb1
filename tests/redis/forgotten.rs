//! What a failover of Redis forgot: the keys of an account are again what they were before a
//! window. What that may cost, and no more than that.

use std::{convert::Infallible, sync::atomic::Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::{sync::watch, task::JoinSet};
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    Account, ComputeTime, CreditMeter, Period, Plan, RedisLedger, clock::UnixTime,
};

use crate::{
    crowd::standing_clock,
    support::{redis_server::RedisServer, *},
};

type Body = Empty<Bytes>;

/// The seconds for which a request has a hold: four of these nodes' ledger timeouts, the least.
const HOLD: u64 = 8;

/// What they cost.
const HOLD_COST: i64 = 8 * SLICE;

/// The keys of alice's account, as they were.
struct Saved<'s> {
    server: &'s RedisServer,
    keys: Vec<String>,
}

impl<'s> Saved<'s> {
    fn now(server: &'s RedisServer) -> Self {
        let keys = keys_of_alice(server);
        for key in &keys {
            server.command(&["COPY", key, &format!("saved:{key}"), "REPLACE"]);
        }
        Self { server, keys }
    }

    /// All that was written since is gone.
    fn restore(&self) {
        for key in keys_of_alice(self.server) {
            self.server.command(&["DEL", &key]);
        }
        for key in &self.keys {
            let copied = self.server.command(&["COPY", &format!("saved:{key}"), key]);
            assert!(copied.starts_with(":1"), "{key}: {copied}");
        }
    }
}

fn keys_of_alice(server: &RedisServer) -> Vec<String> {
    let answer = server.command(&["KEYS", "tc:{user:alice}*"]);
    answer.lines().filter(|line| line.starts_with("tc:")).map(ToOwned::to_owned).collect()
}

/// A node whose compute time stands still, on a plan with tiers of this file's own.
async fn node(server: &RedisServer) -> CreditMeter {
    let tiers = r#"
[tiers.rare]
included = "2.00"
when_used_up = "block"
requests = { count = 2, per = "1h" }
[tiers.narrow]
included = "2.00"
when_used_up = "block"
most_running = 2
[tiers.ten-holds]
included = "0.0096"
when_used_up = "block"
"#;
    let ledger = RedisLedger::connect(server.url()).await.expect("the server is there");
    let builder = meter(ledger).clock(standing_clock()).ledger_timeout(seconds(2));
    let meter = builder.build().expect("a meter");
    meter.plan().replace(Plan::from_toml(&format!("{PLAN}{tiers}")).expect("a plan"));
    meter
}

/// Asks for a request that says that it took so many seconds.
async fn ask(meter: &CreditMeter, tier: &str, takes: u64) -> StatusCode {
    let service = meter.layer(service_fn(move |_: Request<Body>| async move {
        let response = Response::builder().extension(ComputeTime(seconds(takes)));
        Ok::<_, Infallible>(response.body(Body::new()).expect("a response"))
    }));
    service.oneshot(request("alice", tier, Body::new())).await.expect("an answer").status()
}

/// Requests that run until they are released, and say then that they took three holds each.
struct Running {
    release: watch::Sender<bool>,
    requests: JoinSet<StatusCode>,
}

impl Running {
    /// Begins some, and waits until all of them run.
    async fn begin(meter: &CreditMeter, tier: &str, requests: usize) -> Self {
        let (release, _) = watch::channel(false);
        let mut running = Self { release, requests: JoinSet::new() };
        let begun = counter();
        for _ in 0..requests {
            let (released, begun) = (running.release.subscribe(), begun.clone());
            let service = meter.layer(service_fn(move |_: Request<Body>| {
                let mut released = released.clone();
                begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    released.wait_for(|released| *released).await.expect("it is released");
                    let response = Response::builder().extension(ComputeTime(seconds(3 * HOLD)));
                    Ok::<_, Infallible>(response.body(Body::new()).expect("a response"))
                }
            }));
            let asked = request("alice", tier, Body::new());
            running
                .requests
                .spawn(async move { service.oneshot(asked).await.expect("an answer").status() });
        }
        eventually(async || (begun.load(Ordering::SeqCst) == requests).then_some(())).await;
        running
    }

    async fn end(self) {
        self.release.send_replace(true);
        for status in self.requests.join_all().await {
            assert_eq!(status, StatusCode::OK);
        }
    }
}

/// Two are allowed in an hour, and were granted in the window.
#[tokio::test]
async fn a_rate_is_exceeded_once_by_the_permits_that_were_granted_in_the_window() {
    let server = RedisServer::start();
    let before = Saved::now(&server);
    let first = node(&server).await;
    for status in [200, 200, 429] {
        assert_eq!(ask(&first, "rare", 0).await, status);
    }
    before.restore();
    let second = node(&server).await;
    for status in [200, 200, 429, 429] {
        assert_eq!(ask(&second, "rare", 0).await, status);
    }
    assert_eq!(ask(&node(&server).await, "rare", 0).await, 429, "once, and on no further node");
    assert_eq!(ask(&first, "rare", 0).await, 429);
}

/// Two may run at once, and began in the window.
#[tokio::test]
async fn the_number_of_running_requests_is_exceeded_once_by_those_that_began_in_the_window() {
    let server = RedisServer::start();
    let before = Saved::now(&server);
    let (first, second) = (node(&server).await, node(&server).await);
    let running = Running::begin(&first, "narrow", 2).await;
    assert_eq!(ask(&second, "narrow", 0).await, 429);
    before.restore();
    let more = Running::begin(&second, "narrow", 2).await;
    for node in [&first, &second, &node(&server).await] {
        assert_eq!(ask(node, "narrow", 0).await, 429, "once");
    }
    more.end().await;
    running.end().await;
    eventually(async || (ask(&second, "narrow", 0).await == 200).then_some(())).await;
}

/// Ten holds are all that the account has. One is used before the window, and four requests begin
/// in it, which use more than the one that each has.
#[tokio::test]
async fn the_limit_is_passed_by_what_was_granted_in_the_window_at_most() {
    let server = RedisServer::start();
    let (first, second) = (node(&server).await, node(&server).await);
    assert_eq!(ask(&first, "ten-holds", HOLD).await, 200);
    settled(&first, "alice", "ten-holds", 1).await;
    let before = Saved::now(&server);
    let running = Running::begin(&first, "ten-holds", 4).await;
    let held = statement(&first, "alice", "ten-holds").await.held;
    assert_eq!(held, nanos(4 * HOLD_COST), "what is granted in the window");
    before.restore();
    let mut served = 0;
    while ask(&second, "ten-holds", HOLD).await == 200 {
        served += 1;
        assert!(served <= 9, "all that is left");
    }
    assert_eq!(served, 9, "what was granted in the window is granted again");
    running.end().await;
    let statement = settled(&first, "alice", "ten-holds", 14).await;
    assert_eq!((statement.limit, statement.used), (nanos(10 * HOLD_COST), nanos(14 * HOLD_COST)));
    for node in [&first, &second] {
        assert_eq!(ask(node, "ten-holds", HOLD).await, 402);
        assert_eq!(node.shutdown().await.unsettled, []);
    }
}

/// Whichever half is lost, or is again what it was: what purchased credits paid for is paid once.
#[tokio::test]
async fn what_purchased_credits_paid_for_is_paid_once_whichever_key_is_lost() {
    let month = Period::containing(UnixTime::now());
    let [book, leases] = ["", ":l"].map(|half| format!("tc:{{user:alice}}:{month}{half}"));
    let record = "tc:{user:alice}".to_owned();
    for (lost, is_torn) in
        [(&book, false), (&book, true), (&leases, false), (&leases, true), (&record, true)]
    {
        let case = format!("{lost}, {}", if is_torn { "torn" } else { "gone" });
        let server = RedisServer::start();
        let meter = node(&server).await;
        let (accounts, alice) = (meter.accounts(), Account::user("alice").expect("a name"));
        let order = "order-1".parse().expect("an id");
        assert!(accounts.grant(&alice, order, nanos(8 * SLICE), None).await.expect("it is kept"));
        for count in 1..=3 {
            if count == 3 {
                server.command(&["COPY", lost, "saved"]);
            }
            assert_eq!(ask(&meter, "none", 1).await, 200);
            settled(&meter, "alice", "none", count).await;
        }
        assert!(server.command(&["DEL", lost]).starts_with(":1"), "{case}");
        if is_torn {
            assert!(server.command(&["COPY", "saved", lost]).starts_with(":1"), "{case}");
        }
        let mut served = 3;
        while ask(&meter, "none", 1).await == 200 {
            served += 1;
            assert!(served <= 8, "{case}: more than was purchased");
        }
        assert_eq!(served, 8, "{case}");
        let statement = eventually(async || {
            let statement = statement(&meter, "alice", "none").await;
            let is_settled = statement.held.is_zero() && statement.used == nanos(8 * SLICE);
            is_settled.then_some(statement)
        })
        .await;
        assert_eq!(
            (statement.purchased_used, statement.purchased_left),
            (nanos(8 * SLICE), nanos(0)),
            "{case}"
        );
        assert_eq!(meter.shutdown().await.unsettled, [], "{case}");
    }
}
