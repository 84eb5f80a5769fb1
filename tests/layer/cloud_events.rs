//! Records over HTTP, at a stand-in of OpenMeter's ingest that is written from its documentation:
//! it takes batches of CloudEvents, checks each, answers 204, and drops what it has by `source` and
//! `id`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use http::StatusCode;
use tower_credits::{
    MemoryLedger,
    records::{CloudEvents, RecordDelivery},
};

use crate::support::*;

#[derive(Clone, Default)]
struct Ingest {
    events: Arc<Mutex<BTreeMap<(String, String), serde_json::Value>>>,
    calls: Arc<AtomicUsize>,
    is_out_of_order: bool,
}

async fn ingest(State(ingest): State<Ingest>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let call = ingest.calls.fetch_add(1, Ordering::SeqCst);
    if ingest.is_out_of_order {
        return StatusCode::BAD_REQUEST;
    }
    match call % 5 {
        0 => return StatusCode::SERVICE_UNAVAILABLE,
        1 => return StatusCode::TOO_MANY_REQUESTS,
        2 => return StatusCode::UNAUTHORIZED,
        _ => {}
    }
    assert_eq!(headers["content-type"], "application/cloudevents-batch+json");
    assert_eq!(headers["authorization"], "Bearer secret");
    let events: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
    assert!(!events.is_empty());
    for event in events {
        let text =
            |name: &str| event[name].as_str().filter(|of| !of.is_empty()).unwrap().to_owned();
        assert_eq!(text("specversion"), "1.0");
        assert_eq!((text("type"), text("subject")), ("inference".into(), "user:alice".into()));
        let time: jiff::Timestamp = text("time").parse().unwrap();
        assert!((jiff::Timestamp::now() - time).get_hours() == 0);
        assert_eq!(event["data"]["costNanoUsd"], 1_200);
        assert_eq!(event["data"]["id"], event["id"]);
        ingest.events.lock().unwrap().insert((text("source"), text("id")), event);
    }
    // Its answer is lost: the same batch comes again.
    if call % 5 == 3 { StatusCode::BAD_GATEWAY } else { StatusCode::NO_CONTENT }
}

async fn start(ingest_state: Ingest) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/api/v1/events", post(ingest)).with_state(ingest_state);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}/api/v1/events")
}

#[tokio::test]
async fn openmeter_gets_each_record_once_through_errors_and_lost_answers() {
    let ingest = Ingest::default();
    let url = start(ingest.clone()).await;
    let sink = CloudEvents::to(&url).unwrap().bearer_token("secret").unwrap().source("test");
    assert!(!format!("{sink:?}").contains("secret"));
    let delivery = RecordDelivery::to(sink).batch_size(10).linger(Duration::from_millis(20));
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    for _ in 0..25 {
        super::records::ask(&meter, request("alice", "pro", http_body_util::Empty::new()), None)
            .await;
    }
    eventually(async || (meter.record_stats()[0].delivered == 25).then_some(())).await;
    assert_eq!(ingest.events.lock().unwrap().len(), 25);
    assert!(meter.record_stats()[0].retries >= 4);
    assert_eq!(meter.shutdown().await.lost_records, 0);
}

#[tokio::test]
async fn what_the_receiver_refuses_is_dropped_and_said() {
    let url = start(Ingest { is_out_of_order: true, ..Ingest::default() }).await;
    let (log, _guard) = logs::Log::of_this_thread();
    let delivery = RecordDelivery::to(CloudEvents::to(&url).unwrap()).linger(Duration::ZERO);
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    for _ in 0..3 {
        super::records::ask(&meter, request("alice", "pro", http_body_util::Empty::new()), None)
            .await;
    }
    eventually(async || (meter.record_stats()[0].dropped == 3).then_some(())).await;
    assert_eq!(log.lines(&["usage records were dropped", "400 Bad Request"]).len(), 1);
}

#[test]
fn a_url_that_cannot_be_used_is_an_error_with_a_remedy() {
    for (url, says) in [
        ("openmeter:8888/events", "write a URL of http or https"),
        ("not a url", "the URL \"not a url\" cannot be used"),
        ("/events", "write a URL of http or https"),
        ("ftp://openmeter/", "write a URL of http or https"),
    ] {
        let error = CloudEvents::to(url).unwrap_err().to_string();
        assert!(error.contains(says), "{url}: {error}");
    }
    assert!(CloudEvents::to("https://openmeter/").is_ok());
    assert!(CloudEvents::to("http://openmeter/").unwrap().bearer_token("a\nb").is_err());
}
