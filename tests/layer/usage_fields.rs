//! What a response says of its cost, in its head and in its trailers: never more than is billed.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{ComputeClock, ComputeTime, CreditMeter, MemoryLedger};

use crate::support::{bodies::Fed, *};

fn metered() -> CreditMeter {
    meter(MemoryLedger::new()).usage_headers(true).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_head_says_the_cost_of_a_whole_response_unless_the_ledger_may_refuse_some_of_it() {
    for (takes, tier, said, billed) in
        [(2, "pro", Some("240000"), 2 * SLICE), (30, "ten", None, 10 * SLICE)]
    {
        let meter = metered();
        let service = meter.layer(service_fn(move |_: Request<Empty<Bytes>>| async move {
            let response = Response::builder().extension(ComputeTime(seconds(takes)));
            Ok::<_, Infallible>(response.body(Full::from("whole")).unwrap())
        }));
        let response = service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
        let cost = response.headers().get("x-cost-nano-usd").map(|value| value.to_str().unwrap());
        assert_eq!(cost, said, "{tier}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "whole");
        assert_eq!(settled(&meter, "alice", tier, 1).await.used, nanos(billed), "{tier}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_trailers_of_a_stream_that_its_account_cannot_pay_say_what_is_billed() {
    let meter = metered();
    let service = meter.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let clock = request.extensions().get::<ComputeClock>().unwrap().clone();
        let (feed, body) = Fed::new();
        tokio::spawn(async move {
            feed.send(Bytes::from_static(b"one")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            // With the end.
            clock.report(seconds(60));
            drop(feed);
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    let mut asked = request("alice", "ten", Empty::new());
    asked.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let body = service.oneshot(asked).await.unwrap().into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["x-cost-nano-usd"], (10 * SLICE).to_string());
    assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(10 * SLICE));
}
