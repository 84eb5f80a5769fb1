//! Compute time is what the design says it is.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeClock, ComputeTime, Identity, MemoryLedger, Period, clock::ManualClock,
};

use crate::support::{bodies::Fed, *};

fn metered(clock: &ManualClock) -> tower_credits::CreditMeter {
    meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_reported_time_takes_precedence() {
    for (case, tier, expected) in [
        ("extension", "pro", 3),
        ("report", "pro", 4),
        ("stopwatch", "pro", 2),
        ("both", "pro", 4),
        ("absurd", "pro", 60),
        ("none", "pro", 60),
        // More than the second that is on hold: a request that stops costs as much as its account
        // can pay.
        ("extension", "free", 3),
        ("stopwatch", "free", 2),
        ("report", "ten", 4),
        ("none", "ten", 10),
    ] {
        let clock = november();
        let meter = metered(&clock);
        let passing = clock.clone();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |request: Request<Empty<Bytes>>| {
                let compute = request.extensions().get::<ComputeClock>().unwrap().clone();
                let passing = passing.clone();
                async move {
                    let mut response = Response::new(Empty::<Bytes>::new());
                    if case == "stopwatch" || case == "both" {
                        compute.start();
                        passing.advance(seconds(2));
                        compute.pause();
                        passing.advance(seconds(58));
                    } else {
                        passing.advance(seconds(60));
                    }
                    match case {
                        "extension" => {
                            response.extensions_mut().insert(ComputeTime(seconds(3)));
                        }
                        "report" | "both" => compute.report(seconds(4)),
                        "absurd" => compute.report(Duration::MAX),
                        _ => {}
                    }
                    Ok::<_, Infallible>(response)
                }
            },
        ));
        service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
        assert_eq!(
            settled(&meter, "alice", tier, 1).await.used,
            nanos(SLICE * expected),
            "{case} {tier}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn until_the_head_only_where_that_is_set() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .compute_until_head(true)
        .build()
        .unwrap();
    let (feed, body) = Fed::new();
    let (body, passing) = (Once::new(body), clock.clone());
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            passing.advance(seconds(1));
            let body = body.take();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        },
    ));
    let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    assert!(body.frame().now_or_never().is_none(), "the wait that follows is computation");
    clock.advance(seconds(10));
    drop(feed);
    assert!(body.frame().await.is_none());
    assert_eq!(settled(&meter, "alice", "pro", 1).await.compute(), seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_belongs_to_the_month_of_its_admission() {
    let clock = november();
    let november: Period = "2026-11".parse().unwrap();
    clock.advance(november.ends() - november.begins() - Duration::from_millis(1));
    let meter = metered(&clock);
    let passing = clock.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            // Ten seconds, of which all but a millisecond are December's. A `stop` request keeps
            // its slice filled across midnight.
            let passing = passing.clone();
            async move {
                for _ in 0..40 {
                    passing.advance(Duration::from_millis(250));
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        },
    ));
    let (first, second) = (service.clone(), service);
    assert_eq!(
        first.oneshot(request("alice", "free", Empty::new())).await.unwrap().status(),
        StatusCode::OK
    );
    second.oneshot(request("alice", "free", Empty::new())).await.unwrap();

    let alice: Identity = identity("alice", "free");
    for (period, day) in [(november, 30), (november.next(), 1)] {
        let statement = eventually(async || {
            let statement = meter.statement(&alice, Some(period)).await.ok()?;
            (statement.requests() == 1 && statement.held.is_zero()).then_some(statement)
        })
        .await;
        assert_eq!(
            (statement.used, statement.lines[0].day),
            (nanos(10 * SLICE), Some(day)),
            "{period}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_charged_while_the_handler_keeps_its_clock_and_refused_otherwise() {
    // WebSockets over HTTP/2 come as a CONNECT that succeeds.
    for (keeps, method, status) in
        [(true, "GET", 101), (false, "GET", 101), (true, "CONNECT", 200), (false, "CONNECT", 200)]
    {
        let clock = november();
        let meter = metered(&clock);
        let kept = std::sync::Arc::new(std::sync::Mutex::new(None));
        let keep = kept.clone();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |request: Request<Empty<Bytes>>| {
                if keeps {
                    *keep.lock().unwrap() = request.extensions().get::<ComputeClock>().cloned();
                }
                let response = Response::builder().status(status).body(Empty::<Bytes>::new());
                async move { Ok::<_, Infallible>(response.unwrap()) }
            },
        ));
        let mut upgrade = request("alice", "free", Empty::new());
        *upgrade.method_mut() = method.parse().unwrap();
        let response = service.oneshot(upgrade).await.unwrap();
        assert_eq!(response.status(), if keeps { status } else { 500 }, "{method}");
        drop(response);
        clock.advance(seconds(20));
        drop(kept.lock().unwrap().take());
        assert_eq!(
            settled(&meter, "alice", "free", 1).await.compute(),
            seconds(if keeps { 20 } else { 0 })
        );
    }
}

/// Nobody can stop what has left HTTP: it is billed for as long as its handler says that it runs.
#[tokio::test(start_paused = true)]
async fn an_upgrade_that_runs_on_beyond_its_accounts_credits_is_billed_for_all_of_its_time() {
    let clock = november();
    let meter = metered(&clock);
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            keep.send(request.extensions().get::<ComputeClock>().cloned()).unwrap();
            let response = Response::builder().status(101).body(Empty::<Bytes>::new());
            async move { Ok::<_, Infallible>(response.unwrap()) }
        },
    ));
    let upgraded = service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap();
    assert_eq!(upgraded.status(), StatusCode::SWITCHING_PROTOCOLS);
    drop(upgraded);
    let running = kept.recv().await.flatten().expect("its handler keeps its clock");
    for _ in 0..30 {
        clock.advance(Duration::from_millis(500));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(running);
    let statement = settled(&meter, "alice", "ten", 1).await;
    assert_eq!(
        (statement.limit, statement.used),
        (nanos(10 * SLICE), nanos(15 * SLICE)),
        "ten seconds are all that it can pay"
    );
    let next = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
    assert_eq!(next.status(), StatusCode::PAYMENT_REQUIRED);
}

/// What is reported is looked at when it is, and not when the hold would have been due without.
#[tokio::test(start_paused = true)]
async fn a_report_that_uses_up_half_of_the_hold_is_refilled_at_once() {
    let clock = november();
    let meter =
        meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
    let (clocks, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            clocks.send(request.extensions().get::<ComputeClock>().unwrap().clone()).unwrap();
            let (feed, body) = Fed::new();
            // It goes on until somebody drops it.
            std::mem::forget(feed);
            async move { Ok::<_, Infallible>(Response::new(body)) }
        },
    ));
    let response = service.clone().oneshot(request("alice", "free", Empty::new())).await.unwrap();
    let compute = told.recv().await.unwrap();
    let began = tokio::time::Instant::now();
    compute.report(Duration::from_millis(600));
    // What is reported is settled, and its hold filled again.
    eventually(async || {
        let statement = statement(&meter, "alice", "free").await;
        ((statement.used, statement.held) == (nanos(SLICE * 6 / 10), nanos(SLICE))).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!((compute.so_far(), compute.left()), (Duration::from_millis(600), seconds(1)));
    drop(response);
    assert_eq!(settled(&meter, "alice", "free", 1).await.used, nanos(SLICE * 6 / 10));
    assert_eq!(
        (compute.so_far(), compute.left()),
        (Duration::ZERO, Duration::ZERO),
        "it has ended"
    );
    // Whoever runs in its place is not touched by it.
    let next = service.oneshot(request("alice", "free", Empty::new())).await.unwrap();
    compute.report(seconds(100));
    drop(next);
    assert_eq!(settled(&meter, "alice", "free", 2).await.used, nanos(SLICE * 6 / 10));
}
