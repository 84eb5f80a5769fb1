//! The numbers that an operator's recorder gets. In a process of their own, since a recorder is
//! global.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(feature = "metrics")]

mod support;

use std::{convert::Infallible, sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeTime, CreditMeter, MemoryLedger, Plan, PlanFile, identify::IdentityFromExtensions,
};

use crate::support::{folder::Folder, switched::Switched, *};

/// What a Prometheus server would read.
struct Recorded(PrometheusHandle);

impl Recorded {
    fn all() -> &'static Self {
        static ALL: OnceLock<Recorded> = OnceLock::new();
        ALL.get_or_init(|| {
            Recorded(PrometheusBuilder::new().install_recorder().expect("no other recorder"))
        })
    }

    /// The value of a line, `name` or `name{label="value",…}`; zero where there is none.
    fn value(&self, series: &str) -> f64 {
        let text = self.0.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

fn service(
    meter: &CreditMeter,
) -> impl tower::Service<
    Request<Empty<Bytes>>,
    Response = Response<tower_credits::meter::MeterBody<Empty<Bytes>>>,
    Error = Infallible,
> + Clone {
    ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| {
            Ok(Response::builder()
                .extension(ComputeTime(Duration::from_millis(1500)))
                .body(Empty::new())
                .unwrap())
        },
    ))
}

/// Held by tests with ledgers that are away, for the same reason as [`DENIALS`].
static OUTAGES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Held by tests that count denials: the recorder is the whole process's.
static DENIALS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn requests_compute_cost_overshoot_and_denials_are_counted() {
    let _alone = DENIALS.lock().await;
    let recorded = Recorded::all();
    // Names of this test's own.
    let plan =
        PLAN.replace("gpu-small", "gpu-counted").replace("tiers.ten-finish", "tiers.counted");
    let meter = CreditMeter::new(
        Plan::from_toml(&plan).unwrap(),
        MemoryLedger::new(),
        IdentityFromExtensions,
    );
    for _ in 0..6 {
        assert_eq!(
            service(&meter)
                .oneshot(request("alice", "counted", Empty::new()))
                .await
                .unwrap()
                .status(),
            200
        );
    }
    let tags = "tier=\"counted\",hardware=\"gpu-counted\"";
    let value = |name: &str| recorded.value(&format!("tower_credits_{name}"));
    // 1.5 s each, a second of which is on hold.
    assert_eq!(
        value(&format!("requests_total{{{tags},end=\"complete\"}}")),
        6.0,
        "{}",
        recorded.0.render()
    );
    assert_eq!(value(&format!("compute_seconds_sum{{{tags}}}")), 9.0);
    assert_eq!(value(&format!("compute_seconds_count{{{tags}}}")), 6.0);
    assert_eq!(value(&format!("cost_nano_usd_total{{{tags}}}")), 6.0 * 180_000.0);
    assert_eq!(value(&format!("overshoot_seconds_sum{{{tags}}}")), 3.0);
    assert_eq!(value(&format!("overshoot_seconds_count{{{tags}}}")), 6.0);

    let not_in_plan = || value("denied_total{reason=\"NOT_IN_PLAN\"}");
    let before = not_in_plan();
    let unknown = Request::post("/unknown")
        .extension(identity("alice", "counted"))
        .body(Empty::new())
        .unwrap();
    assert_eq!(service(&meter).oneshot(unknown).await.unwrap().status(), 404);
    assert_eq!(not_in_plan() - before, 1.0, "{}", recorded.0.render());

    let shadowed = CreditMeter::builder(
        Plan::from_toml(&plan).unwrap(),
        MemoryLedger::new(),
        IdentityFromExtensions,
    )
    .shadow(true)
    .build()
    .unwrap();
    assert_eq!(
        service(&shadowed).oneshot(request("alice", "none", Empty::new())).await.unwrap().status(),
        200
    );
    assert_eq!(
        value("would_deny_total{reason=\"CREDITS_USED_UP\"}"),
        1.0,
        "{}",
        recorded.0.render()
    );
    assert!(value("renewal_seconds_count{outcome=\"renewed\"}") > 0.0);
    // The first request of the account asked the ledger, and others found what it had left.
    assert!(value("admissions_total{way=\"ledger\"}") > 0.0, "{}", recorded.0.render());
    assert!(value("admission_wait_seconds_count") > 0.0);
    let text = recorded.0.render();
    assert!(
        text.contains("# HELP tower_credits_cost_nano_usd_total Billed cost in nano-US-dollars"),
        "{text}"
    );
}

/// Paths, models, credentials and header fields of a client are in no label.
#[tokio::test]
async fn names_that_clients_choose_are_in_no_series() {
    let _alone = DENIALS.lock().await;
    let recorded = Recorded::all();
    let meter = meter(MemoryLedger::new()).usage_headers(true).build().unwrap();
    let mut statuses = std::collections::BTreeMap::new();
    for number in 0..50 {
        let chosen = format!("chosen-{number}");
        for path in [format!("/models/{chosen}"), format!("/{chosen}"), "/models/echo".to_owned()] {
            for who in [Some("alice"), None] {
                let mut asked = Request::post(format!("{path}?{chosen}={chosen}"));
                for name in ["user-agent", "x-request-id", "authorization"] {
                    asked = asked.header(name, &chosen);
                }
                if let Some(who) = who {
                    asked = asked.extension(identity(who, "free"));
                }
                let asked = asked.body(Empty::new()).unwrap();
                let status = service(&meter).oneshot(asked).await.unwrap().status().as_u16();
                *statuses.entry(status).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(statuses.get(&404), Some(&100), "unknown paths and models: {statuses:?}");
    let billed_to = Request::post("/models/echo").header("x-hf-bill-to", "chosen-0");
    let billed_to = billed_to.extension(identity("alice", "free")).body(Empty::new()).unwrap();
    assert_eq!(service(&meter).oneshot(billed_to).await.unwrap().status(), 403);
    meter.update_gauges();
    let text = recorded.0.render();
    assert!(text.contains("denied_total{reason=\"MODEL_NOT_FOUND\"}"), "{text}");
    assert!(!text.contains("chosen"), "{text}");
}

#[tokio::test]
async fn a_reload_that_is_refused_is_counted() {
    let recorded = Recorded::all();
    let [refused, applied] = ["refused", "applied"].map(|outcome| {
        format!("tower_credits_reloads_total{{what=\"plan\",outcome=\"{outcome}\"}}")
    });
    let folder = Folder::new("counted-plan");
    let file = folder.write("plan.toml", PLAN);
    let plan = PlanFile::watch(&file).unwrap();
    folder.write("plan.toml", "nonsense");
    eventually(async || (recorded.value(&refused) == 1.0).then_some(())).await;
    folder.write("plan.toml", &PLAN.replace("0.00012", "0.00024"));
    eventually(async || (recorded.value(&applied) == 1.0).then_some(())).await;
    drop(plan);
}

#[tokio::test]
async fn an_outage_shows_in_a_gauge() {
    let _alone = OUTAGES.lock().await;
    let recorded = Recorded::all();
    let ledger = Switched::default();
    let meter = CreditMeter::new(plan(), ledger.clone(), IdentityFromExtensions);
    ledger.off(true);
    let away = "tower_credits_ledger_away";
    let ask = async || {
        service(&meter).oneshot(request("alice", "free", Empty::new())).await.unwrap().status()
    };
    eventually(async || (ask().await == 503 && recorded.value(away) == 1.0).then_some(())).await;
    ledger.off(false);
    eventually(async || (ask().await == 200 && recorded.value(away) == 0.0).then_some(())).await;
    assert!(recorded.value("tower_credits_renewal_seconds_count{outcome=\"unreachable\"}") > 0.0);
}

/// A meter that starts, ends, or has a ledger that answers says nothing of another one's.
#[tokio::test]
async fn the_ledger_of_one_meter_is_away_whatever_another_ones_does() {
    let _alone = OUTAGES.lock().await;
    let recorded = Recorded::all();
    let away = || recorded.value("tower_credits_ledger_away");
    let open = || recorded.value("tower_credits_breaker_open{server=\"0\"}");
    let fails = async |ledger: &Switched, meter: &CreditMeter, number: f64| {
        ledger.off(true);
        // The breaker opens once several accounts had no answer.
        let mut users = 0;
        eventually(async || {
            users += 1;
            let user = format!("user-{users}");
            let answer = service(meter).oneshot(request(&user, "free", Empty::new())).await;
            assert_eq!(answer.unwrap().status(), 503);
            ((away(), open()) == (number, number)).then_some(())
        })
        .await;
    };
    let (first, second) = (Switched::default(), Switched::default());
    let meters = [&first, &second].map(|ledger| meter(ledger.clone()).build().unwrap());
    fails(&first, &meters[0], 1.0).await;
    let third = meter(MemoryLedger::new()).build().unwrap();
    let answer = service(&third).oneshot(request("bob", "pro", Empty::new())).await.unwrap();
    assert_eq!((answer.status().as_u16(), away(), open()), (200, 1.0, 1.0));
    third.shutdown().await;
    assert_eq!((away(), open()), (1.0, 1.0));
    fails(&second, &meters[1], 2.0).await;
    let [meter, other] = meters;
    meter.shutdown().await;
    assert_eq!((away(), open()), (1.0, 1.0), "one is left");
    second.off(false);
    drop(other);
    eventually(async || ((away(), open()) == (0.0, 0.0)).then_some(())).await;
}

/// The load of a node, at the moment at which it is asked for.
#[tokio::test]
async fn the_load_of_a_node_shows_in_gauges() {
    let recorded = Recorded::all();
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (feed, body) = bodies::Fed::new();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        },
    ));
    let response = service.oneshot(request("load", "pro", Empty::new())).await.unwrap();
    feed.send(Bytes::from_static(b"first")).await.unwrap();
    let value = |name: &str| recorded.value(&format!("tower_credits_{name}"));
    meter.update_gauges();
    assert_eq!((value("leases"), value("running_requests")), (1.0, 1.0));
    assert!(value("held_nano_usd") > 0.0, "{}", recorded.0.render());
    drop((feed, response));
    settled(&meter, "load", "pro", 1).await;
    meter.update_gauges();
    assert_eq!((value("running_requests"), value("unreported_nano_usd")), (0.0, 0.0));
}
