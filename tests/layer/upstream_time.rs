//! Services whose answers say how long they computed.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    CreditMeter, MemoryLedger, Plan, clock::TokioClock, identify::IdentityFromExtensions,
};

use crate::support::{bodies::Fed, *};

const HEADER: &str = "{ header = \"x-inference-time\", unit = \"ms\" }";
const FIELDS: &str =
    "{ fields = [\"timings.prompt_ms\", \"timings.predicted_ms\"], unit = \"ms\" }";

fn metered_by(place: &str) -> CreditMeter {
    let model = format!("[models.echo]\ncompute_time = {place}\n");
    let plan = Plan::from_toml(&PLAN.replace("[models.echo]\n", &model)).unwrap();
    CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
        .clock(TokioClock)
        .build()
        .unwrap()
}

/// Frames of an answer, a second apart.
async fn ask(
    meter: &CreditMeter,
    tier: &str,
    fields: &'static [(&'static str, &'static str)],
    frames: &'static [&'static str],
) -> Result<Vec<u8>, tower_credits::BoxError> {
    let service = meter.layer(service_fn(move |_: Request<Empty<Bytes>>| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (feed, body) = Fed::new();
        if let [only] = frames {
            feed.try_send(Bytes::from_static(only.as_bytes())).unwrap();
        } else {
            tokio::spawn(async move {
                for frame in frames {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if feed.send(Bytes::from_static(frame.as_bytes())).await.is_err() {
                        break;
                    }
                }
            });
        }
        let mut response = Response::new(body);
        for (name, value) in fields {
            response.headers_mut().insert(*name, http::HeaderValue::from_static(value));
        }
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
    read(response).await
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_says_is_billed_and_else_what_was_measured() {
    const EVENTS: (&str, &str) = ("content-type", "text/event-stream");
    const JSON: (&str, &str) = ("content-type", "application/json");
    const TIMED: &str = "data: {\"timings\":{\"prompt_ms\":200,\"predicted_ms\":300}}\n\n";
    const ANSWER: &str = "{\"timings\":{\"prompt_ms\":200,\"predicted_ms\":300}}";
    for (place, fields, frames, millis) in [
        (HEADER, &[("x-inference-time", "250")] as &[_], &["a"] as &[_], 250),
        (HEADER, &[("x-inference-time", "250")], &["a", "b"], 250),
        (HEADER, &[("x-inference-time", "soon")], &["a", "b"], 3_000),
        (HEADER, &[], &["a"], 1_000),
        (FIELDS, &[JSON], &[ANSWER], 500),
        (FIELDS, &[JSON], &["{\"timings\":{\"prompt_ms\":200,", "\"predicted_ms\":300}}"], 500),
        (FIELDS, &[EVENTS], &["data: {}\n\n", TIMED, "data: [DONE]\n\n"], 500),
        (FIELDS, &[EVENTS], &["data: {}\n\n", "data: [DONE]\n\n"], 3_000),
        (FIELDS, &[JSON, ("content-encoding", "gzip")], &[ANSWER], 1_000),
        (FIELDS, &[JSON, ("content-length", "46")], &[ANSWER], 500),
    ] {
        let meter = metered_by(place);
        let said: String = frames.concat();
        assert_eq!(ask(&meter, "pro", fields, frames).await.unwrap(), said.as_bytes());
        let used = settled(&meter, "alice", "pro", 1).await.used;
        let cost = nanos(SLICE * millis / 1_000);
        // Paused time moves in steps of a millisecond.
        let off = used.as_nano_usd() - cost.as_nano_usd();
        assert!((0..=SLICE / 200).contains(&off), "{place} {fields:?} {frames:?}: {used} {cost}");
    }
}

/// What a report says beyond the hold is billed as far as the account can pay it.
#[tokio::test(start_paused = true)]
async fn a_report_beyond_the_credits_is_billed_up_to_zero() {
    let meter = metered_by(HEADER);
    ask(&meter, "ten", &[("x-inference-time", "60000")], &["a"]).await.unwrap();
    assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(10 * SLICE));
}

/// Its last frame says more than the account can pay: the ledger refuses that, and its client has
/// all of it.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_complete_when_its_credits_end_arrives_whole() {
    const FRAMES: &[&str] =
        &["{\"a\":1,", "\"timings\":{\"prompt_ms\":60000,", "\"predicted_ms\":1}}"];
    const JSON: (&str, &str) = ("content-type", "application/json");
    let whole = FRAMES.concat();
    for fields in [&[JSON] as &[_], &[JSON, ("content-length", "54")]] {
        assert_eq!(whole.len(), 54);
        let meter = metered_by(FIELDS);
        let arrived = ask(&meter, "ten", fields, FRAMES).await.expect("it is not cut");
        assert_eq!(String::from_utf8_lossy(&arrived), whole, "{fields:?}");
        assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(10 * SLICE));
    }
}

/// Nothing that a later report may take back is settled while the stream runs.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_before_the_report() {
    const FRAMES: &[&str] = &["data: {}\n\n"; 20];
    let meter = metered_by(FIELDS);
    let asking = {
        let meter = meter.clone();
        tokio::spawn(async move {
            ask(&meter, "pro", &[("content-type", "text/event-stream")], FRAMES).await
        })
    };
    tokio::time::sleep(seconds(15)).await;
    let statement = statement(&meter, "alice", "pro").await;
    assert!(statement.used.is_zero() && !statement.held.is_zero(), "{statement:?}");
    asking.await.unwrap().unwrap();
    let used = settled(&meter, "alice", "pro", 1).await.used.as_nano_usd();
    assert!((21 * SLICE..22 * SLICE).contains(&used), "{used}");
}
