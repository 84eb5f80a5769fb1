//! The operator's handle, and what it does to what requests may use.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::{sync::watch, task::JoinHandle};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, Accounts, ComputeClock, CreditMeter, Credits, MemoryLedger, Period, Plan,
    clock::ManualClock,
    ledger::{LedgerError, Statement},
    meter::MeterBody,
};

use crate::support::*;

const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"
[models.echo]
hardware = "gpu-small"
[routes]
"/models/{model}" = { model = "{model}" }
[tiers.free]
included = "0.0012"
when_used_up = "block"
[tiers.pro]
included = "0.0024"
when_used_up = "pay-as-you-go"
[tiers.enterprise]
included = "0.0024"
per_seat = true
when_used_up = "pay-as-you-go"
"#;

struct World {
    clock: ManualClock,
    ledger: MemoryLedger,
    meter: CreditMeter,
    accounts: Accounts,
    alice: Account,
    november: Period,
}

impl World {
    fn new() -> Self {
        let clock = november();
        let ledger = MemoryLedger::with_clock(clock.clone());
        let meter = meter(ledger.clone()).clock(clock.clone()).build().unwrap();
        meter.plan().replace(Plan::from_toml(PLAN).unwrap());
        let accounts = Accounts::new(ledger.clone());
        Self {
            clock,
            ledger,
            meter,
            accounts,
            alice: Account::user("alice").unwrap(),
            november: "2026-11".parse().unwrap(),
        }
    }

    /// A service whose calls take a second.
    fn service(
        &self,
    ) -> impl Service<
        Request<Empty<Bytes>>,
        Response = Response<MeterBody<Empty<Bytes>>>,
        Error = Infallible,
    > + Clone
    + use<> {
        let clock = self.clock.clone();
        ServiceBuilder::new().layer(self.meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                clock.advance(seconds(1));
                std::future::ready(Ok(Response::new(Empty::new())))
            },
        ))
    }

    /// Asks for a second as this tier; answers how that went once it is settled.
    async fn runs(&self, tier: &str) -> StatusCode {
        let status =
            self.service().oneshot(request("alice", tier, Empty::new())).await.unwrap().status();
        eventually(async || self.statement(tier).await.held.is_zero().then_some(())).await;
        status
    }

    /// Begins a request that takes a second once it is released.
    async fn begins(&self, tier: &str) -> (watch::Sender<bool>, JoinHandle<StatusCode>) {
        let (release, released) = watch::channel(false);
        let begun = Arc::new(AtomicBool::new(false));
        let (clock, runs) = (self.clock.clone(), begun.clone());
        let long = ServiceBuilder::new().layer(self.meter.clone()).service(service_fn(
            move |request: Request<Empty<Bytes>>| {
                let (clock, mut released, runs) = (clock.clone(), released.clone(), runs.clone());
                let compute = request.extensions().get::<ComputeClock>().cloned();
                async move {
                    // What others take meanwhile is not its own.
                    let compute = compute.expect("a handler finds its clock");
                    compute.start();
                    compute.pause();
                    runs.store(true, Ordering::SeqCst);
                    released.wait_for(|released| *released).await.unwrap();
                    compute.start();
                    clock.advance(seconds(1));
                    compute.pause();
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            },
        ));
        let asked = request("alice", tier, Empty::new());
        let running = tokio::spawn(async move { long.oneshot(asked).await.unwrap().status() });
        eventually(async || begun.load(Ordering::SeqCst).then_some(())).await;
        (release, running)
    }

    async fn statement(&self, tier: &str) -> Statement {
        statement(&self.meter, "alice", tier).await
    }
}

fn credits(amount: &str) -> Credits {
    amount.parse().unwrap()
}

#[tokio::test]
async fn free_accounts_go_on_with_what_was_purchased_and_the_first_to_expire_is_used_first() {
    let world = World::new();
    for _ in 0..10 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
    let soon = world.november.begins() + seconds(24 * 60 * 60);
    for (id, expires) in [("later", None), ("soon", Some(soon))] {
        assert!(
            world
                .accounts
                .grant(&world.alice, id.parse().unwrap(), nanos(2 * SLICE), expires)
                .await
                .unwrap()
        );
        assert!(
            !world
                .accounts
                .grant(&world.alice, id.parse().unwrap(), nanos(9 * SLICE), None)
                .await
                .unwrap(),
            "twice with one id"
        );
    }
    assert_eq!(world.runs("free").await, 200);
    let after_one = world.statement("free").await;
    assert_eq!(
        (after_one.purchased_used, after_one.purchased_left),
        (nanos(SLICE), nanos(3 * SLICE))
    );
    // What is left of the first to expire is gone, once no hold of before can draw on it; the other
    // one is whole, and lasts into the next month.
    world.clock.set_unix_time(soon + seconds(601));
    assert_eq!(world.statement("free").await.purchased_left, nanos(2 * SLICE));
    assert_eq!(world.runs("free").await, 200);
    world.clock.set_unix_time(world.november.ends());
    for _ in 0..11 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
    let december = world.statement("free").await;
    assert_eq!(
        (december.used, december.purchased_used, december.purchased_left),
        (nanos(11 * SLICE), nanos(SLICE), nanos(0))
    );
}

#[tokio::test]
async fn a_refund_can_be_used_again_and_shows_with_its_reason() {
    let world = World::new();
    for _ in 0..10 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
    let refund = |id: &str, amount| {
        let (id, reason) = (id.parse().unwrap(), "the model answered nonsense".parse().unwrap());
        world.accounts.refund(&world.alice, world.november, id, nanos(amount), reason)
    };
    assert!(refund("case-1", 2 * SLICE).await.unwrap());
    assert!(!refund("case-1", 2 * SLICE).await.unwrap(), "twice with one id");
    let too_much = refund("case-2", 8 * SLICE + 1).await.unwrap_err();
    assert!(
        matches!(&too_much, LedgerError::Refused(why) if why.contains("is more than")),
        "{too_much}"
    );
    let statement = world.statement("free").await;
    assert_eq!(
        (statement.used, statement.refunded, statement.net()),
        (nanos(10 * SLICE), nanos(2 * SLICE), nanos(8 * SLICE))
    );
    assert_eq!((statement.included_used(), statement.left()), (nanos(8 * SLICE), nanos(2 * SLICE)));
    let refunds: Vec<_> = statement
        .refunds
        .iter()
        .map(|refund| (refund.id.as_str(), refund.amount, refund.reason.as_str()))
        .collect();
    assert_eq!(refunds, [("case-1", nanos(2 * SLICE), "the model answered nonsense")]);
    for _ in 0..2 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
}

/// A change of tier in mid-month counts for all of it; a month that ended keeps its own terms.
#[tokio::test]
async fn a_statement_keeps_the_terms_of_its_own_month() {
    let world = World::new();
    for _ in 0..10 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
    assert_eq!(world.runs("pro").await, 200);
    let pro = world.accounts.statement(&world.alice, world.november).await.unwrap();
    assert_eq!(
        (pro.included, pro.used, pro.pay_as_you_go),
        (credits("0.0024"), nanos(11 * SLICE), nanos(0))
    );
    world.accounts.set_seats(&world.alice, 2.try_into().unwrap()).await.unwrap();
    assert_eq!(world.runs("enterprise").await, 200);
    assert_eq!(world.statement("enterprise").await.included, credits("0.0048"));

    world.clock.set_unix_time(world.november.ends());
    world.accounts.set_seats(&world.alice, 1.try_into().unwrap()).await.unwrap();
    assert_eq!(world.runs("free").await, 200);
    for of in [None, Some("free"), Some("pro")] {
        let statement = match of {
            Some(tier) => {
                world.meter.statement(&identity("alice", tier), Some(world.november)).await.unwrap()
            }
            None => world.accounts.statement(&world.alice, world.november).await.unwrap(),
        };
        assert_eq!(
            (statement.included, statement.seats.get(), statement.limit),
            (credits("0.0048"), 2, Credits::MAX),
            "as {of:?}"
        );
    }
    assert_eq!(world.statement("free").await.included, credits("0.0012"));
}

#[tokio::test]
async fn what_a_node_reports_late_of_a_closed_month_shows_on_the_next_statement() {
    let world = World::new();
    assert_eq!(world.runs("pro").await, 200);
    let early = world.accounts.close(&world.alice, world.november).await.unwrap_err();
    assert!(
        matches!(&early, LedgerError::Refused(why) if why.contains("has not ended")),
        "{early}"
    );
    // One request runs across the month's end, and its month is closed meanwhile.
    let (release, running) = world.begins("pro").await;
    world.clock.set_unix_time(world.november.ends());
    assert!(world.accounts.close(&world.alice, world.november).await.unwrap());
    assert!(
        !world.accounts.close(&world.alice, world.november).await.unwrap(),
        "it is closed already"
    );
    let closed = world.accounts.statement(&world.alice, world.november).await.unwrap();
    assert_eq!((closed.used, closed.closed), (nanos(SLICE), true));
    release.send(true).unwrap();
    assert_eq!(running.await.unwrap(), 200);

    let next = eventually(async || {
        let next = world.statement("pro").await;
        (!next.used.is_zero()).then_some(next)
    })
    .await;
    assert_eq!(
        (next.period, next.used, next.requests(), next.compute()),
        (world.november.next(), nanos(SLICE), 1, seconds(1))
    );
    assert_eq!((next.lines[0].day, next.lines[0].model.as_str()), (None, "late"));
    assert_eq!(world.runs("pro").await, 200);
    let next = world.statement("pro").await;
    assert_eq!(
        (next.used, next.requests(), next.included_used()),
        (nanos(2 * SLICE), 2, nanos(2 * SLICE))
    );
    let after = world.accounts.statement(&world.alice, world.november).await.unwrap();
    assert_eq!((after.used, after.lines, after.held), (closed.used, closed.lines, nanos(0)));
}

/// A hold of a closed month counts in no other month's limit.
#[tokio::test]
async fn what_comes_late_of_a_closed_month_is_debited_beyond_the_current_months_limit() {
    let world = World::new();
    let (release, running) = world.begins("free").await;
    world.clock.set_unix_time(world.november.ends());
    assert!(world.accounts.close(&world.alice, world.november).await.unwrap());
    for _ in 0..10 {
        assert_eq!(world.runs("free").await, 200);
    }
    assert_eq!(world.runs("free").await, 402);
    release.send(true).unwrap();
    assert_eq!(running.await.unwrap(), 200);
    let december = eventually(async || {
        let december = world.statement("free").await;
        (december.requests() == 11).then_some(december)
    })
    .await;
    assert_eq!(
        (december.period, december.limit, december.used),
        (world.november.next(), nanos(10 * SLICE), nanos(11 * SLICE))
    );
    let late = december.lines.iter().find(|line| line.model.as_str() == "late");
    assert_eq!(late.map(|line| line.usage.cost), Some(nanos(SLICE)));
    assert_eq!(world.runs("free").await, 402);
}

#[tokio::test]
async fn an_owners_limit_is_reached_and_raised() {
    let world = World::new();
    world.accounts.set_spending_limit(&world.alice, Some(nanos(2 * SLICE))).await.unwrap();
    for _ in 0..22 {
        assert_eq!(world.runs("pro").await, 200);
    }
    assert_eq!(world.runs("pro").await, 403);
    world.accounts.set_spending_limit(&world.alice, None).await.unwrap();
    assert_eq!(world.runs("pro").await, 200);
    assert_eq!(world.statement("pro").await.pay_as_you_go, nanos(3 * SLICE));
}

/// A node on which nobody asked since the change of tier goes on with its lease, and says the terms
/// that it heard.
#[tokio::test(start_paused = true)]
async fn an_idle_nodes_terms_do_not_come_back() {
    let world = World::new();
    let other = {
        let other = meter(world.ledger.clone()).clock(world.clock.clone()).build().unwrap();
        other.plan().replace(Plan::from_toml(PLAN).unwrap());
        World {
            meter: other,
            clock: world.clock.clone(),
            ledger: world.ledger.clone(),
            ..World::new()
        }
    };
    let included =
        async || world.accounts.statement(&world.alice, world.november).await.unwrap().included;
    assert_eq!(world.runs("free").await, 200);
    assert_eq!(included().await, credits("0.0012"));
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(other.runs("pro").await, 200);
    assert_eq!(included().await, credits("0.0024"));
    // A third of ten minutes after its last use the first node has spoken again, and the second has
    // not.
    tokio::time::sleep(Duration::from_millis(199_600)).await;
    assert_eq!(included().await, credits("0.0024"));
}
