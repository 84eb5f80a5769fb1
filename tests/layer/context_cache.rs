//! What a meter found out about an identity is found again only where it is still true.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeClock, CreditMeter, Identity, MemoryLedger, Plan, clock::ManualClock,
    identify::IdentityFromExtensions, meter::MeterBody,
};

use crate::support::*;

struct World {
    clock: ManualClock,
    meter: CreditMeter,
}

impl World {
    fn new() -> Self {
        let clock = november();
        let meter =
            meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
        Self { clock, meter }
    }

    /// One second of compute for somebody.
    async fn ask(&self, who: &Arc<Identity>) -> StatusCode {
        let clock = self.clock.clone();
        let service = ServiceBuilder::new().layer(self.meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                clock.advance(seconds(1));
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            },
        ));
        let request =
            Request::post("/models/echo").extension(Arc::clone(who)).body(Empty::new()).unwrap();
        service.oneshot(request).await.unwrap().status()
    }

    async fn used(&self, user: &str, tier: &str, requests: u64) -> i64 {
        settled(&self.meter, user, tier, requests).await.used.as_nano_usd()
    }
}

#[tokio::test(start_paused = true)]
async fn another_plan_counts_for_the_next_request() {
    let world = World::new();
    let alice = Arc::new(identity("alice", "pro"));
    world.ask(&alice).await;
    world.ask(&alice).await;
    assert_eq!(world.used("alice", "pro", 2).await, 2 * SLICE);
    world.meter.plan().replace(Plan::from_toml(&PLAN.replace("0.00012", "0.00024")).unwrap());
    world.ask(&alice).await;
    assert_eq!(world.used("alice", "pro", 3).await, 4 * SLICE);
    world
        .meter
        .plan()
        .replace(Plan::from_toml(&PLAN.replace("[tiers.pro]", "[tiers.gone]")).unwrap());
    assert_eq!(world.ask(&alice).await, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn another_month_is_another_bill() {
    let world = World::new();
    let alice = Arc::new(identity("alice", "ten"));
    for _ in 0..3 {
        world.ask(&alice).await;
    }
    // What the last one left is not given back yet: in November, it would be enough.
    let december = "2026-12".parse::<tower_credits::Period>().unwrap();
    world.clock.set_unix_time(december.begins());
    world.ask(&alice).await;
    assert_eq!(world.used("alice", "ten", 1).await, SLICE);
    let november = eventually(async || {
        let november =
            world.meter.statement(&alice, Some("2026-11".parse().unwrap())).await.unwrap();
        november.held.is_zero().then_some(november)
    })
    .await;
    assert_eq!((november.used, november.requests()), (nanos(3 * SLICE), 3));
}

#[tokio::test(start_paused = true)]
async fn a_changed_copy_of_an_identity_is_somebody_else() {
    let world = World::new();
    let alice = Arc::new(identity("alice", "pro"));
    world.ask(&alice).await;
    let mut stopped = Identity::clone(&alice);
    stopped.tier = "none".parse().unwrap();
    let stopped = Arc::new(stopped);
    assert_eq!(world.ask(&stopped).await, StatusCode::PAYMENT_REQUIRED);
    let mut bob = Identity::clone(&alice);
    bob.account = tower_credits::Account::user("bob").unwrap();
    bob.subject = "bob".parse().unwrap();
    world.ask(&Arc::new(bob)).await;
    world.ask(&alice).await;
    assert_eq!(
        (world.used("alice", "pro", 2).await, world.used("bob", "pro", 1).await),
        (2 * SLICE, SLICE)
    );
}

#[tokio::test(start_paused = true)]
async fn two_meters_share_an_identity_and_no_bill() {
    let one = World::new();
    let clock = november();
    let meter = CreditMeter::builder(
        one.meter.plan().clone(),
        MemoryLedger::with_clock(clock.clone()),
        IdentityFromExtensions,
    );
    let two = World { meter: meter.clock(clock.clone()).build().unwrap(), clock };
    let alice = Arc::new(identity("alice", "pro"));
    for world in [&one, &two, &one] {
        world.ask(&alice).await;
    }
    assert_eq!(
        (one.used("alice", "pro", 2).await, two.used("alice", "pro", 1).await),
        (2 * SLICE, SLICE)
    );
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_after_being_forgotten_is_billed_like_anybody() {
    let world = World::new();
    let alice = Arc::new(identity("alice", "pro"));
    world.ask(&alice).await;
    settled(&world.meter, "alice", "pro", 1).await;
    for requests in 2..5 {
        // Long after its lease has said goodbye.
        tokio::time::sleep(seconds(3_600)).await;
        world.ask(&alice).await;
        assert_eq!(
            world.used("alice", "pro", requests).await,
            SLICE * i64::try_from(requests).unwrap()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_extensions_a_request_is_metered_all_the_same() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .request_extensions(false)
        .build()
        .unwrap();
    let respond = async |status: StatusCode| -> Response<MeterBody<Empty<Bytes>>> {
        let clock = clock.clone();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |request: Request<Empty<Bytes>>| {
                assert!(request.extensions().get::<ComputeClock>().is_none());
                clock.advance(seconds(1));
                async move {
                    Ok::<_, Infallible>(
                        Response::builder().status(status).body(Empty::new()).unwrap(),
                    )
                }
            },
        ));
        service.oneshot(request("alice", "pro", Empty::new())).await.unwrap()
    };
    assert_eq!(respond(StatusCode::OK).await.status(), StatusCode::OK);
    // Nobody could tell when the new protocol ends.
    assert_eq!(
        respond(StatusCode::SWITCHING_PROTOCOLS).await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert_eq!(settled(&meter, "alice", "pro", 2).await.used, nanos(2 * SLICE));
}

/// More lines at once than are found by their number.
#[tokio::test(start_paused = true)]
async fn each_line_gets_what_is_its_own() {
    let world = World::new();
    let team: Vec<_> = (0..40)
        .map(|member: u32| {
            let mut member = identity(&format!("member-{member:02}"), "pro");
            member.account = tower_credits::Account::org("team").unwrap();
            Arc::new(member)
        })
        .collect();
    for (turns, member) in team
        .iter()
        .enumerate()
        .flat_map(|(number, member)| std::iter::repeat_n(member, number % 3 + 1).enumerate())
    {
        assert!(turns < 3);
        world.ask(member).await;
    }
    let whole: u64 = (0..40).map(|number| number % 3 + 1).sum();
    let statement = eventually(async || {
        let statement = world.meter.statement(&team[0], None).await.ok()?;
        (statement.held.is_zero() && statement.requests() == whole).then_some(statement)
    })
    .await;
    let lines: Vec<_> = statement
        .lines
        .iter()
        .map(|line| {
            (line.subject.clone().unwrap().to_string(), line.usage.requests, line.usage.cost)
        })
        .collect();
    let expected: Vec<_> = (0..40)
        .map(|number: i64| {
            (
                format!("member-{number:02}"),
                number.unsigned_abs() % 3 + 1,
                nanos(SLICE * (number % 3 + 1)),
            )
        })
        .collect();
    assert_eq!(lines, expected);
}

/// A host that keeps a workload for itself still has its tiers from the plan in force.
#[tokio::test(start_paused = true)]
async fn a_workload_that_the_host_keeps_is_paid_for_by_the_plan_in_force() {
    let clock = november();
    let kept = plan().workload("echo", &"api".parse().unwrap()).unwrap();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .classify(move |_, _| tower_credits::plan::Classification::Workload(Arc::clone(&kept)))
        .build()
        .unwrap();
    let world = World { clock, meter };
    let alice = Arc::new(identity("alice", "pro"));
    assert_eq!(world.ask(&alice).await, StatusCode::OK);
    let changed = PLAN.replace(
        "[tiers.pro]\nincluded = \"2.00\"\nwhen_used_up = \"pay-as-you-go\"",
        "[tiers.pro]\nincluded = \"0\"\nwhen_used_up = \"block\"",
    );
    assert_ne!(changed, PLAN);
    world.meter.plan().replace(Plan::from_toml(&changed).unwrap());
    settled(&world.meter, "alice", "pro", 1).await;
    assert_eq!(world.ask(&alice).await, StatusCode::PAYMENT_REQUIRED);
}

/// Also where both are told at once, because neither waits for the ledger.
#[tokio::test(start_paused = true)]
async fn each_day_is_a_line_of_its_own() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .hold_ahead(tower_credits::HoldAhead::default())
        .build()
        .unwrap();
    let world = World { clock, meter };
    let alice = Arc::new(identity("alice", "pro"));
    for _ in 0..2 {
        world.ask(&alice).await;
    }
    world.clock.set_unix_time(
        "2026-11".parse::<tower_credits::Period>().unwrap().begins() + seconds(25 * 3_600),
    );
    world.ask(&alice).await;
    world.meter.shutdown().await;
    let statement = settled(&world.meter, "alice", "pro", 3).await;
    let days: Vec<_> = statement.lines.iter().map(|line| (line.day, line.usage.requests)).collect();
    assert_eq!(days, [(Some(1), 2), (Some(2), 1)]);
}
