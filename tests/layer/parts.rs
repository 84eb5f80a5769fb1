//! Limits of an account's parts, of its days, and of the models of its tier.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use serde_json::Value;
use tokio::sync::watch;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Accounts, CreditMeter, Credits, Identity, Limits, MemoryLedger, Part, Period, Plan,
    clock::{Clock, ManualClock, UnixTime},
    meter::MeterBody,
};

use crate::support::{logs::Log, switched::Switched, *};

const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"
[models.echo]
hardware = "gpu-small"
[models.flux-dev]
hardware = "gpu-small"
[models.flux-pro]
hardware = "gpu-small"
[models.sora]
hardware = "gpu-small"
[routes]
"/models/{model}" = { model = "{model}" }
[tiers.team]
included = "1.00"
when_used_up = "block"
parts = [{}, { most_per_month = "0.0006" }, { most_per_day = "0.00024" }]
during_outage = { allow = "0.00024" }
[tiers.daily]
included = "1.00"
when_used_up = "block"
most_per_day = "0.00036"
[tiers.free]
included = "1.00"
when_used_up = "block"
hint = "Upgrade to PRO."
[tiers.free.models."flux*"]
most_per_day = "0.00024"
[tiers.free.models.flux-pro]
most_per_month = "0.00012"
[tiers.free.models.sora]
deny = true
[tiers.slow]
included = "1.00"
when_used_up = "block"
requests = { count = 2, per = "1m" }
[tiers.narrow]
included = "1.00"
when_used_up = "block"
most_running = 2
[tiers.narrow-nodes]
included = "1.00"
when_used_up = "block"
most_running = { count = 2, scope = "node" }
[tiers.each-day]
included = "0.00012"
included_per_day = "0.00024"
when_used_up = "block"
[tiers.monthly]
included = "0.00012"
when_used_up = "block"
midway = "finish"
[tiers.in-debt]
included_per_day = "0.00024"
when_used_up = "block"
midway = "finish"
[tiers.charged]
included_per_day = "0.00024"
when_used_up = "pay-as-you-go"
[tiers.alone]
included = "1.00"
when_used_up = "block"
requests = { count = 3, per = "1m" }
most_running = 1
during_outage = { allow = "0.01" }
[tiers.empty]
included = "0"
when_used_up = "block"
requests = { count = 2, per = "1m" }
"#;

pub struct World {
    pub clock: ManualClock,
    pub meter: CreditMeter,
    pub accounts: Accounts,
    pub way: Switched,
}

impl World {
    pub fn new() -> Self {
        let clock = november();
        let ledger = MemoryLedger::with_clock(clock.clone());
        let way = Switched::to(ledger.clone());
        let meter = meter(way.clone()).clock(clock.clone()).build().unwrap();
        meter.plan().replace(Plan::from_toml(PLAN).unwrap());
        Self { clock, meter, accounts: Accounts::new(ledger), way }
    }

    /// Has a call made that takes a second.
    pub async fn call(&self, request: Request<Empty<Bytes>>) -> Response<MeterBody<Empty<Bytes>>> {
        self.call_for(request, 1).await
    }

    /// Has a call made that takes some seconds.
    pub async fn call_for(
        &self,
        request: Request<Empty<Bytes>>,
        takes: u64,
    ) -> Response<MeterBody<Empty<Bytes>>> {
        let clock = self.clock.clone();
        let service = ServiceBuilder::new().layer(self.meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                clock.advance(seconds(takes));
                std::future::ready(Ok::<_, Infallible>(Response::new(Empty::new())))
            },
        ));
        service.oneshot(request).await.unwrap()
    }

    /// Asks for a second of a model; answers how that went once it is settled.
    pub async fn runs(&self, who: &Identity, model: &str) -> StatusCode {
        let response = self.call(of(who, model)).await;
        let status = response.status();
        drop(response);
        eventually(async || self.statement(who).await.held.is_zero().then_some(())).await;
        status
    }

    pub async fn statement(&self, who: &Identity) -> tower_credits::ledger::Statement {
        self.meter.statement(who, None).await.unwrap()
    }

    /// Asks as somebody who is denied; answers the problem.
    pub async fn denied(&self, who: &Identity, model: &str) -> Value {
        let response = self.call(of(who, model)).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let body = Box::pin(response.into_body()).collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    pub async fn limit(&self, who: &Identity, part: Option<&str>, month: i64, day: i64) {
        let part: Option<Part> = part.map(|part| part.parse().unwrap());
        let limit = |slices| (slices > 0).then(|| nanos(slices * SLICE));
        let limits = Limits { per_month: limit(month), per_day: limit(day) };
        self.accounts.set_limits(&who.account, part.as_ref(), limits).await.unwrap();
    }
}

pub fn of(who: &Identity, model: &str) -> Request<Empty<Bytes>> {
    Request::post(format!("/models/{model}")).extension(who.clone()).body(Empty::new()).unwrap()
}

pub fn member(part: &str) -> Identity {
    identity("acme", "team").in_part(part.parse().unwrap())
}

#[tokio::test]
async fn the_strictest_limit_on_the_path_wins_and_is_told() {
    for part in ["research", "research/alice", "research/alice/ci"] {
        let world = World::new();
        let (ci, ops) = (member("research/alice/ci"), member("ops"));
        world.limit(&ci, Some("research/alice/ci"), 0, 1_000).await;
        world.limit(&ci, Some("research/alice"), 1_000, 0).await;
        world.limit(&ci, Some(part), 3, 9).await;
        for _ in 0..3 {
            assert_eq!(world.runs(&ci, "echo").await, 200, "{part}");
        }
        let problem = world.denied(&ci, "echo").await;
        assert_eq!(problem["reason"], "BUDGET");
        assert_eq!(problem["limit"]["part"], part);
        assert_eq!(problem["limit"]["span"], "month");
        assert_eq!(problem["limit"]["nano_usd"], 3 * SLICE);
        assert_eq!(problem["left_nano_usd"], 0);
        assert_eq!(problem["resets_at"], "2026-12-01T00:00:00Z");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part) && detail.contains("2026-12-01T00:00:00Z"), "{detail}");
        assert_eq!(world.runs(&ops, "echo").await, 200, "another part has its own");
        world.limit(&ci, Some(part), 4, 9).await;
        assert_eq!(world.runs(&ci, "echo").await, 200, "the limit was raised");
        let statement = world.statement(&ci).await;
        let used: Vec<_> = statement
            .parts
            .iter()
            .map(|part| (part.part.as_str(), part.used.as_nano_usd() / SLICE, part.held.is_zero()))
            .collect();
        let path = ["research", "research/alice", "research/alice/ci"].map(|part| (part, 4, true));
        assert_eq!(used, [("ops", 1, true), path[0], path[1], path[2]]);
        assert_eq!(statement.used, nanos(5 * SLICE), "the account has all of it");
    }
}

#[tokio::test]
async fn parts_without_limits_of_their_own_have_their_tiers() {
    let world = World::new();
    let key = member("research/alice/ci");
    for _ in 0..2 {
        assert_eq!(world.runs(&key, "echo").await, 200);
    }
    let problem = world.denied(&key, "echo").await;
    assert_eq!(
        (&problem["limit"]["part"], &problem["limit"]["span"]),
        (&"research/alice/ci".into(), &"day".into())
    );
    assert_eq!(problem["resets_at"], "2026-11-02T00:00:00Z");
    // Another key of the same member has its own day, and the member a month.
    let other = member("research/alice/laptop");
    for status in [200, 200, 403] {
        assert_eq!(world.runs(&other, "echo").await, status);
    }
    let third = member("research/alice");
    assert_eq!(world.runs(&third, "echo").await, 200);
    let problem = world.denied(&third, "echo").await;
    assert_eq!(problem["limit"]["part"], "research/alice");
    assert_eq!(problem["limit"]["nano_usd"], 5 * SLICE);
    world.clock.set_unix_time(world.clock.unix_time() + seconds(86_400));
    assert_eq!(world.denied(&key, "echo").await["limit"]["span"], "month");
    // `MAX` lifts a tier's limit, `None` brings it back.
    let limits = Limits { per_month: Some(Credits::MAX), per_day: None };
    let part: Part = "research/alice".parse().unwrap();
    world.accounts.set_limits(&key.account, Some(&part), limits).await.unwrap();
    assert_eq!(world.runs(&key, "echo").await, 200);
    world.accounts.set_limits(&key.account, Some(&part), Limits::NONE).await.unwrap();
    assert_eq!(world.runs(&key, "echo").await, 403);
}

#[tokio::test]
async fn a_days_limit_is_the_tiers_or_a_lower_one_and_ends_with_the_day() {
    let world = World::new();
    let alice = identity("alice", "daily");
    for status in [200, 200, 200, 403] {
        assert_eq!(world.runs(&alice, "echo").await, status);
    }
    let problem = world.denied(&alice, "echo").await;
    assert_eq!((&problem["reason"], &problem["limit"]["part"]), (&"BUDGET".into(), &Value::Null));
    assert_eq!(problem["resets_at"], "2026-11-02T00:00:00Z");
    assert!(problem["detail"].as_str().unwrap().starts_with("This account has reached its limit"));
    let statement = world.statement(&alice).await;
    assert_eq!((statement.used_today, statement.most_per_day), (nanos(3 * SLICE), None));
    world.clock.set_unix_time(world.clock.unix_time() + seconds(86_400));
    assert_eq!(world.statement(&alice).await.used_today, nanos(0));
    world.limit(&alice, None, 0, 1).await;
    for status in [200, 403] {
        assert_eq!(world.runs(&alice, "echo").await, status);
    }
    let error = world
        .accounts
        .set_limits(&alice.account, None, Limits { per_month: Some(nanos(1)), per_day: None })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("spending limit"), "{error}");
}

#[tokio::test]
async fn events_say_which_part_it_was_and_which_limit() {
    let world = World::new();
    let ci = member("research/alice/ci");
    world.limit(&ci, Some("research"), 1, 0).await;
    let (log, _guard) = Log::from(tracing::Level::INFO);
    assert_eq!(world.runs(&ci, "echo").await, 200);
    assert_eq!(world.runs(&ci, "echo").await, 403);
    let metered = log.lines(&["metered", "part=research/alice/ci"]);
    assert_eq!(metered.len(), 1, "{metered:?}");
    let limit = ["denied", "part=research ", "limit=$0.00012", "limit_per=\"month\"", "left=$0"];
    let denied = log.lines(&limit);
    assert!(denied.len() == 1 && denied[0].contains("resets_at=\"2026-12-01"), "{denied:?}");
}

#[tokio::test]
async fn a_grpc_call_is_told_which_limit_it_was() {
    let world = World::new();
    let key = member("research/alice/ci");
    world.limit(&key, Some("research"), 1, 0).await;
    assert_eq!(world.runs(&key, "echo").await, 200);
    let mut request = of(&key, "echo");
    request.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
    let response = world.call(request).await;
    assert_eq!(response.headers()["grpc-status"], "8");
    let message = response.headers()["grpc-message"].to_str().unwrap();
    assert!(message.contains("The part research of this account"), "{message}");
}

/// Tokio's time, which began at a moment.
#[derive(Clone, Copy, Debug)]
struct FromMoment(UnixTime, tokio::time::Instant);

impl Clock for FromMoment {
    fn monotonic(&self) -> Duration {
        self.1.elapsed()
    }

    fn unix_time(&self) -> UnixTime {
        self.0 + self.1.elapsed()
    }
}

/// The stream begins on the first of November, and goes on on the second.
#[tokio::test(start_paused = true)]
async fn a_stream_that_runs_over_midnight_draws_on_the_new_day() {
    let midnight = "2026-11".parse::<Period>().unwrap().begins() + seconds(86_400);
    for (tenths, is_whole) in [(35, true), (60, false)] {
        let start = midnight - Duration::from_millis(1_500);
        let clock = FromMoment(start, tokio::time::Instant::now());
        let meter = meter(MemoryLedger::with_clock(clock)).clock(clock).build().unwrap();
        meter.plan().replace(Plan::from_toml(PLAN).unwrap());
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let frames = stream::unfold(0, move |sent| async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let frame = Frame::data(Bytes::from_static(b"."));
                    (sent < tenths).then_some((Ok::<_, Infallible>(frame), sent + 1))
                });
                let answer = Response::new(StreamBody::new(Box::pin(frames)));
                std::future::ready(Ok::<_, Infallible>(answer))
            },
        ));
        let alice = identity("alice", "daily");
        let response = service.oneshot(of(&alice, "echo")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await.is_ok(), is_whole, "{tenths} tenths of a second");
        let statement = settled(&meter, "alice", "daily", 1).await;
        let (used, today) = (statement.used.as_nano_usd(), statement.used_today.as_nano_usd());
        // A day allows three seconds. What ran just before midnight may be reported after it.
        let first_day = SLICE * 3 / 2;
        assert!((used - first_day..=used - first_day / 2).contains(&today), "{used}, {today}");
        if is_whole {
            assert!((SLICE * 7 / 2..SLICE * 9 / 2).contains(&used), "{used}");
        } else {
            assert_eq!(today, 3 * SLICE, "cut off where the second day's credits ended");
        }
    }
}

#[tokio::test]
async fn a_tier_says_which_models_it_allows_and_how_much_of_each() {
    let world = World::new();
    let alice = identity("alice", "free");
    let problem = world.denied(&alice, "sora").await;
    assert_eq!(problem["reason"], "MODEL_DENIED");
    assert_eq!(problem["detail"], "Your account may not use the model sora. Upgrade to PRO.");
    for (model, status) in
        [("flux-dev", 200), ("flux-pro", 200), ("flux-pro", 403), ("flux-dev", 200), ("echo", 200)]
    {
        assert_eq!(world.runs(&alice, model).await, status, "{model}");
    }
    let problem = world.denied(&alice, "flux-dev").await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("Your account, on the models flux*, has reached"), "{detail}");
    let statement = world.statement(&alice).await;
    assert_eq!((statement.used, statement.parts.len()), (nanos(4 * SLICE), 0));
    // In a part of an account, both count.
    let member = identity("acme", "free").in_part("research".parse().unwrap());
    world.limit(&member, Some("research"), 1, 0).await;
    assert_eq!(world.runs(&member, "flux-dev").await, 200);
    assert_eq!(world.denied(&member, "flux-dev").await["limit"]["part"], "research");
    assert_eq!(world.statement(&member).await.parts[0].used, nanos(SLICE));
}

#[tokio::test]
async fn parts_share_their_accounts_request_rate_concurrency_and_outage_allowance() {
    let world = World::new();
    let slow = |part: &str| identity("acme", "slow").in_part(part.parse().unwrap());
    assert_eq!(world.runs(&slow("a"), "echo").await, 200);
    assert_eq!(world.runs(&slow("b"), "echo").await, 200);
    assert_eq!(world.runs(&slow("c"), "echo").await, 429, "the account's rate is used up");
    assert_eq!(world.runs(&identity("acme", "slow"), "echo").await, 429);
    assert_eq!(world.runs(&identity("other", "slow"), "echo").await, 200);

    let (release, released) = watch::channel(false);
    let started = counter();
    let begun = started.clone();
    let service = ServiceBuilder::new().layer(world.meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let mut released = released.clone();
            begun.fetch_add(1, Ordering::SeqCst);
            async move {
                released.wait_for(|released| *released).await.unwrap();
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        },
    ));
    let narrow = |part: &str| identity("wide", "narrow").in_part(part.parse().unwrap());
    let running: Vec<_> = ["a", "b"]
        .map(|part| tokio::spawn(service.clone().oneshot(of(&narrow(part), "echo"))))
        .into();
    eventually(async || (started.load(Ordering::SeqCst) == 2).then_some(())).await;
    for who in [narrow("c"), identity("wide", "narrow")] {
        assert_eq!(service.clone().oneshot(of(&who, "echo")).await.unwrap().status(), 429);
    }
    release.send_replace(true);
    for running in running {
        assert_eq!(running.await.unwrap().unwrap().status(), 200);
    }
    eventually(async || {
        let status = service.clone().oneshot(of(&narrow("c"), "echo")).await.unwrap().status();
        (status == 200).then_some(())
    })
    .await;

    // Two seconds are allowed in an outage, for all parts together.
    world.way.off(true);
    for (part, status) in [("x", 200), ("y", 200), ("z", 503), ("x", 503)] {
        let response = world.call(of(&member(part), "echo")).await;
        assert_eq!(response.status(), status, "{part}");
    }
}

/// Two nodes of one ledger, on a clock that they share.
pub fn two_nodes(requests: &str) -> [CreditMeter; 2] {
    let november = "2026-11".parse::<Period>().unwrap();
    let clock = FromMoment(november.begins(), tokio::time::Instant::now());
    let ledger = MemoryLedger::with_clock(clock);
    let plan = PLAN.replace("requests = { count = 2, per = \"1m\" }", requests);
    [(); 2].map(|()| {
        let meter = meter(ledger.clone()).clock(clock).build().unwrap();
        meter.plan().replace(Plan::from_toml(&plan).unwrap());
        meter
    })
}

pub async fn answer(meter: &CreditMeter, who: &Identity) -> Response<MeterBody<Empty<Bytes>>> {
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::new())),
    ));
    service.oneshot(of(who, "echo")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_rate_holds_over_all_nodes_and_says_when_the_next_may_come() {
    let nodes = two_nodes("requests = { count = 60, per = \"1m\", burst = 4 }");
    let who = identity("alice", "slow");
    for turn in 0..4 {
        let response = answer(&nodes[turn % 2], &who).await;
        assert_eq!(response.status(), 200, "{turn}");
        assert_eq!(
            response.headers()["ratelimit"],
            format!("\"requests\";r={};t={}", 3 - turn, turn + 1)
        );
    }
    for node in &nodes {
        let response = answer(node, &who).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "1");
    }
    // A node that was told so does not ask before then.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(answer(&nodes[1], &who).await.status(), 429);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let statuses = [answer(&nodes[0], &who).await.status(), answer(&nodes[1], &who).await.status()];
    assert_eq!(statuses, [200, 429], "one each second, of both together");
}

#[tokio::test(start_paused = true)]
async fn fixed_windows_begin_anew_for_all_nodes_at_once() {
    let nodes = two_nodes("requests = { count = 3, per = \"5m\", window = \"fixed\" }");
    let who = identity("alice", "slow");
    tokio::time::sleep(seconds(200)).await;
    for (node, status) in [(0, 200), (1, 200), (1, 200), (0, 429), (1, 429)] {
        assert_eq!(answer(&nodes[node], &who).await.status(), status);
    }
    assert_eq!(answer(&nodes[0], &who).await.headers()["retry-after"], "100");
    tokio::time::sleep(seconds(100)).await;
    for (node, status) in [(0, 200), (1, 200), (0, 200), (1, 429)] {
        assert_eq!(answer(&nodes[node], &who).await.status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_node_counts_for_itself_is_no_other_nodes() {
    let nodes = two_nodes("requests = { count = 2, per = \"1m\", scope = \"node\" }");
    let who = identity("alice", "slow");
    for (node, status) in [(0, 200), (0, 200), (0, 429), (1, 200), (1, 200), (1, 429)] {
        assert_eq!(answer(&nodes[node], &who).await.status(), status);
    }
}
