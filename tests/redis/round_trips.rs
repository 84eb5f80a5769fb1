//! Strict mode asks the ledger once before a call and never before its response, and those who wait together share one question. Counted at
//! the server.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::RedisLedger;

use crate::support::{proxy::Proxy, redis_server::RedisServer, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_before_the_call_and_none_before_the_response() {
    let server = Arc::new(RedisServer::start());
    let ledger = RedisLedger::connect(&server.url()).await.unwrap();
    // Spending is reported after five seconds: what is counted until then is admissions alone.
    let meter = meter(ledger).flush(seconds(5)).build().unwrap();
    let counting = server.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(move |_: Request<Empty<Bytes>>| {
        let calls = counting.calls("evalsha");
        async move { Ok::<_, Infallible>(Response::builder().header("x-calls", calls).body(Empty::<Bytes>::new()).unwrap()) }
    }));
    // The first call loads the script.
    service.clone().oneshot(request("bob", "pro", Empty::new())).await.unwrap();
    for user in 0..5 {
        let before = server.calls("evalsha");
        let response = service.clone().oneshot(request(&format!("alice-{user}"), "pro", Empty::new())).await.unwrap();
        let at_the_call: u64 = response.headers()["x-calls"].to_str().unwrap().parse().unwrap();
        read(response).await.unwrap();
        assert_eq!((at_the_call - before, server.calls("evalsha") - before), (1, 1));
    }
    meter.shutdown().await;
    assert_eq!(statement(&meter, "alice-0", "pro").await.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_together_share_one() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port).await;
    let meter = meter(RedisLedger::connect(&proxy.url()).await.unwrap()).flush(seconds(5)).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(meter.clone())
        .service(service_fn(|_: Request<Empty<Bytes>>| std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()));
    // The first call loads the script.
    let mut running = vec![tokio::spawn(service.clone().oneshot(request("bob", "pro", Empty::new())))];
    eventually(async || (server.calls("evalsha") == 2).then_some(())).await;

    proxy.delay(Duration::from_millis(40));
    let before = server.calls("evalsha");
    for _ in 0..50 {
        running.push(tokio::spawn(service.clone().oneshot(request("alice", "pro", Empty::new()))));
    }
    let held = eventually(async || {
        let held = statement(&meter, "alice", "pro").await.held;
        (held >= nanos(50 * SLICE)).then_some(held)
    })
    .await;
    assert_eq!(held, nanos(50 * SLICE), "what they own, and no more");
    let asked = server.calls("evalsha") - before;
    assert!(asked <= 2, "the first asks at once, the others together: {asked}");
    running.iter().for_each(tokio::task::JoinHandle::abort);
    settled(&meter, "alice", "pro", 50).await;
}
