//! Strict mode asks the ledger once before a call and never before its response, and those who wait
//! together share one question. Counted at the server.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, CreditMeter, Identity, Period, RedisLedger, clock::UnixTime, ledger::Statement,
};

use crate::support::{proxy::Proxy, redis_server::RedisServer, *};

/// Scripts that were called, but for those that read a statement, which alone say HGET.
fn renewals(server: &RedisServer) -> u64 {
    server.calls("evalsha") - server.calls("hget")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_before_the_call_and_none_before_the_response() {
    let server = Arc::new(RedisServer::start());
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    // Spending is reported after five seconds: what is counted until then is admissions alone.
    let meter = meter(ledger).report_within(seconds(5)).build().unwrap();
    let counting = server.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let calls = renewals(&counting);
            async move {
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("x-calls", calls)
                        .body(Empty::<Bytes>::new())
                        .unwrap(),
                )
            }
        },
    ));
    // The first call loads the script.
    service.clone().oneshot(request("bob", "pro", Empty::new())).await.unwrap();
    for user in 0..5 {
        let before = renewals(&server);
        let response = service
            .clone()
            .oneshot(request(&format!("alice-{user}"), "pro", Empty::new()))
            .await
            .unwrap();
        let at_the_call: u64 = response.headers()["x-calls"].to_str().unwrap().parse().unwrap();
        read(response).await.unwrap();
        assert_eq!((at_the_call - before, renewals(&server) - before), (1, 1));
    }
    meter.shutdown().await;
    assert_eq!(statement(&meter, "alice-0", "pro").await.requests(), 1);
}

/// Costs by id are kept in one call for all requests of an account that come together, and none
/// before or while a request runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_of_a_batch_are_one_call() {
    let server = Arc::new(RedisServer::start());
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let meter = meter(ledger).report_within(seconds(5)).keep_costs(seconds(3_600)).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())),
    ));
    let mut ids = Vec::new();
    for _ in 0..100 {
        let response = service.clone().oneshot(request("alice", "pro", Empty::new())).await;
        let response = response.unwrap();
        ids.push(response.headers()["inference-id"].to_str().unwrap().parse().unwrap());
        read(response).await.unwrap();
    }
    let kept = || meter.record_stats()[0].delivered;
    eventually(async || (kept() == 100).then_some(())).await;
    let account = tower_credits::Account::user("alice").unwrap();
    assert_eq!(meter.accounts().costs(&account, &ids).await.unwrap().len(), 100);
    // Only that script says PTTL: once for a key, and five minutes may end meanwhile.
    assert!(server.calls("pttl") <= 3, "{} calls kept them", server.calls("pttl"));
    meter.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_a_while_asks_no_more_than_its_refills() {
    let server = RedisServer::start();
    let meter = meter(RedisLedger::connect(server.url()).await.unwrap())
        .report_within(Duration::from_millis(20))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            let is_alice = request
                .extensions()
                .get::<Identity>()
                .is_some_and(|identity| identity.subject.as_str() == "alice");
            let mut stopped = stopped.clone();
            async move {
                if is_alice {
                    stopped.wait_for(|stopped| *stopped).await.unwrap();
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        },
    ));
    service.clone().oneshot(request("bob", "pro", Empty::new())).await.unwrap();
    settled(&meter, "bob", "pro", 1).await;
    let (before, began) = (renewals(&server), std::time::Instant::now());
    let alice = tokio::spawn(service.clone().oneshot(request("alice", "pro", Empty::new())));
    eventually(async || (in_ledger(&meter, "alice").await.held == nanos(SLICE)).then_some(()))
        .await;
    // While hers runs, others are admitted and report what they spent, many times the interval of
    // reports.
    for requests in 1..=8 {
        service.clone().oneshot(request("carol", "pro", Empty::new())).await.unwrap();
        eventually(async || {
            let carol = in_ledger(&meter, "carol").await;
            (carol.held.is_zero() && carol.requests() == requests).then_some(())
        })
        .await;
    }
    // One for alice's admission; carol's are admitted and reported. Hers is refilled after each
    // half of its hold, of a second.
    let (asked, refills) = (renewals(&server) - before, began.elapsed().as_millis() as u64 / 500);
    assert!((17..=17 + refills).contains(&asked), "{asked} in {:?}", began.elapsed());
    stop.send(true).unwrap();
    alice.await.unwrap().unwrap();
    settled(&meter, "alice", "pro", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_hold_ahead_report_and_do_not_beg() {
    let server = RedisServer::start();
    let ahead = tower_credits::HoldAhead::default();
    let meter = meter(RedisLedger::connect(server.url()).await.unwrap())
        .hold_ahead(ahead)
        .report_within(Duration::from_millis(20))
        .build()
        .unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |_: Request<Empty<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    ));
    service.clone().oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    eventually(async || (statement(&meter, "alice", "pro").await.requests() == 1).then_some(()))
        .await;
    assert_eq!(
        statement(&meter, "alice", "pro").await.held,
        nanos(5 * SLICE),
        "the surplus stays on hold"
    );
    let before = renewals(&server);
    for _ in 0..5 {
        // Admitted on the surplus, whatever the ledger does.
        server.stop();
        let response =
            service.clone().oneshot(request("alice", "pro", Empty::new())).await.unwrap();
        server.go_on();
        assert_eq!(response.status(), 200);
    }
    eventually(async || (statement(&meter, "alice", "pro").await.requests() == 6).then_some(()))
        .await;
    let asked = renewals(&server) - before;
    assert!(
        asked <= 12,
        "one report for each, resent where the stopped server did not answer: {asked}"
    );
    // While nothing of hers happens, she is not spoken of: bob is, once to be admitted, and for
    // each report.
    let before = renewals(&server);
    for requests in 1..=10 {
        service.clone().oneshot(request("bob", "pro", Empty::new())).await.unwrap();
        eventually(async || {
            (statement(&meter, "bob", "pro").await.requests() == requests).then_some(())
        })
        .await;
    }
    assert_eq!(renewals(&server) - before, 11);
    assert_eq!(statement(&meter, "alice", "pro").await.held, nanos(5 * SLICE));
    meter.shutdown().await;
    assert_eq!(statement(&meter, "alice", "pro").await.held, nanos(0), "a shutdown gives it back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_together_share_one() {
    // Four ledger timeouts, the least for which a request has a hold.
    const HOLD: i64 = 8 * SLICE;
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port).await;
    let meter = meter(RedisLedger::connect(proxy.url()).await.unwrap())
        .ledger_timeout(seconds(2))
        .report_within(seconds(5))
        .build()
        .unwrap();
    let called = counter();
    let counting = called.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            counting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        },
    ));
    // The first call loads the script.
    let mut running =
        vec![tokio::spawn(service.clone().oneshot(request("bob", "pro", Empty::new())))];
    eventually(async || (server.calls("eval") == 1).then_some(())).await;

    proxy.delay(Duration::from_millis(40));
    let before = renewals(&server);
    for _ in 0..50 {
        running.push(tokio::spawn(service.clone().oneshot(request("alice", "pro", Empty::new()))));
    }
    let held = eventually(async || {
        let held = in_ledger(&meter, "alice").await.held;
        (held >= nanos(50 * HOLD)).then_some(held)
    })
    .await;
    assert_eq!(held, nanos(50 * HOLD), "what they own, and no more");
    let asked = renewals(&server) - before;
    assert!(asked <= 2, "the first asks at once, the others together: {asked}");
    // The answer is on its way: who is not called by then is not billed.
    eventually(async || (called.load(Ordering::SeqCst) == 51).then_some(())).await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    settled(&meter, "alice", "pro", 50).await;
}

/// The statement as the ledger has it: to ask the meter would have more reported.
async fn in_ledger(meter: &CreditMeter, user: &str) -> Statement {
    let month = Period::containing(UnixTime::now());
    meter.accounts().statement(&Account::user(user).unwrap(), month).await.unwrap()
}
