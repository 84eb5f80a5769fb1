//! The name of a request, wherever it is said, and its record at sinks that are slow, dead or
//! fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, ComputeTime, CreditMeter, CreditMeterBuilder, Credits, MemoryLedger, RequestId,
    Threshold,
    meter::End,
    records::{JsonLines, RecordDelivery, RecordSink, SinkError, SinkFuture, UsageRecord},
};
use tracing::Instrument;

use crate::support::{bodies::Fed, folder::Folder, logs::Log, *};

/// The number of records that go through the sink that fails.
fn number_of_records() -> usize {
    std::env::var("RECORDS").map_or(20_000, |number| number.parse().expect("a number"))
}

/// A receiver: it drops what it has already, by the id. Clones are one receiver.
#[derive(Clone, Debug, Default)]
struct Receiver {
    records: Arc<Mutex<BTreeMap<RequestId, UsageRecord>>>,
    /// How often each batch fails: before it is stored, after that, or by a panic.
    faults: Arc<Mutex<Option<fastrand::Rng>>>,
    repeated: Arc<Mutex<usize>>,
    calls: Arc<Mutex<usize>>,
    is_dead: bool,
    refuses: Option<&'static str>,
}

impl Receiver {
    fn failing(seed: u64) -> Self {
        let faults = Arc::new(Mutex::new(Some(fastrand::Rng::with_seed(seed))));
        Self { faults, ..Self::default() }
    }

    fn records(&self) -> Vec<UsageRecord> {
        self.records.lock().unwrap().values().cloned().collect()
    }

    async fn only(&self) -> UsageRecord {
        eventually(async || self.records().pop()).await
    }
}

impl RecordSink for Receiver {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        let fault = self.faults.lock().unwrap().as_mut().map_or(9, |random| random.u8(0..10));
        *self.calls.lock().unwrap() += 1;
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.is_dead || fault == 0 {
                return Err(SinkError::Unavailable("it is down".into()));
            }
            let is_refused = |record: &Arc<UsageRecord>| {
                self.refuses.is_some_and(|user| record.subject.as_str() == user)
            };
            if records.iter().any(is_refused) {
                return Err(SinkError::Refused("one of them is wrong".into()));
            }
            for record in records {
                let known = self
                    .records
                    .lock()
                    .unwrap()
                    .insert(record.id.clone(), UsageRecord::clone(record));
                if let Some(known) = known {
                    assert_eq!(known, **record, "a repetition is the same record");
                    *self.repeated.lock().unwrap() += 1;
                }
            }
            match fault {
                1 => Err(SinkError::Unavailable("its answer was lost".into())),
                2 => panic!("the sink panics"),
                _ => Ok(()),
            }
        })
    }
}

fn recorded(sink: &Receiver) -> CreditMeterBuilder {
    let delivery = RecordDelivery::to(sink.clone()).linger(Duration::ZERO);
    CreditMeter::builder(
        plan(),
        MemoryLedger::new(),
        tower_credits::identify::IdentityFromExtensions,
    )
    .records(delivery)
}

/// Asks a service that reports some compute time, and shows the id that its handler found.
pub(super) async fn ask(
    meter: &CreditMeter,
    request: Request<Empty<Bytes>>,
    own_id: Option<&'static str>,
) -> (Response<()>, Option<RequestId>) {
    let seen = Arc::new(Mutex::new(None));
    let handler = Arc::clone(&seen);
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            let handler = Arc::clone(&handler);
            async move {
                *handler.lock().unwrap() = request.extensions().get::<RequestId>().cloned();
                let mut response =
                    Response::builder().extension(ComputeTime(Duration::from_millis(10)));
                if let Some(id) = own_id {
                    response = response.header("inference-id", id);
                }
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
            }
        },
    ));
    let response = service.oneshot(request).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (response.map(drop), seen)
}

fn id_of(response: &Response<()>, name: &str) -> RequestId {
    response.headers()[name].to_str().unwrap().parse().unwrap()
}

async fn cost_of(meter: &CreditMeter, user: &str, id: &RequestId) -> Credits {
    let account = Account::user(user).unwrap();
    eventually(async || {
        let ids = [id.clone(), "another".parse().unwrap()];
        let costs = meter.accounts().costs(&account, &ids).await.unwrap();
        assert!(costs.len() <= 1, "{costs:?}");
        costs.into_iter().next().map(|cost| cost.cost)
    })
    .await
}

#[tokio::test]
async fn a_request_is_found_by_its_id_in_log_record_ledger_and_bill() {
    let sink = Receiver::default();
    let meter = recorded(&sink).keep_costs(seconds(3600)).build().unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let host = tracing::info_span!(
        "host",
        request_id = tracing::field::Empty,
        gen_ai.request.model = tracing::field::Empty,
        credits.cost_nano_usd = tracing::field::Empty,
    );
    let asking = ask(&meter, request("alice", "ten", Empty::new()), None).instrument(host.clone());
    let (response, in_handler) = asking.await;
    let id = id_of(&response, "inference-id");
    assert_eq!(id_of(&response, "x-request-id"), id);
    assert_eq!(in_handler, Some(id.clone()));

    let lines = log.lines(&["metered", &format!("request_id={id}")]);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let of_host = format!("host{{request_id={id} gen_ai.request.model=\"echo\"");
    assert!(line.contains(&of_host), "the host's span has it: {line}");
    host.in_scope(|| tracing::info!("after it"));
    let after = log.lines(&["after it", &of_host, "credits.cost_nano_usd=1200}"]);
    assert_eq!(after.len(), 1, "{after:?}");

    let record = sink.only().await;
    assert_eq!(
        (&record.id, record.cost, record.compute),
        (&id, nanos(1_200), Duration::from_millis(10))
    );
    assert_eq!((record.status, record.end, record.forgiven), (Some(200), End::Complete, false));
    assert_eq!(cost_of(&meter, "alice", &id).await, record.cost);
    assert!(line.contains(&format!("cost={} ", record.cost)), "{line}");
    assert_eq!(settled(&meter, "alice", "ten", 1).await.used, record.cost);

    let json = serde_json::to_value(&record).unwrap();
    let began = json["beganAt"].as_str().unwrap();
    assert!(began.starts_with("20") && began.ends_with('Z'), "{began}");
    assert_eq!(
        json,
        serde_json::json!({
            "id": id.to_string(), "account": "user:alice", "part": null, "subject": "alice",
            "tier": "ten", "model": "echo", "hardware": "gpu-small", "feature": "api",
            "beganAt": began, "computeMicros": 10_000, "costNanoUsd": 1_200, "end": "complete",
            "status": 200, "grpcStatus": null, "forgiven": false,
        })
    );
}

/// The host's own id is the request's. One that the service sets is what its client sees, and its
/// cost is found by either.
#[tokio::test]
async fn ids_of_the_host_and_of_the_service_are_kept() {
    let sink = Receiver::default();
    let meter = recorded(&sink).keep_costs(seconds(3600)).build().unwrap();
    let mut asked = request("alice", "ten", Empty::new());
    asked.extensions_mut().insert("order-17".parse::<RequestId>().unwrap());
    let (response, in_handler) = ask(&meter, asked, Some("upstream-4")).await;
    assert_eq!(in_handler, Some("order-17".parse().unwrap()));
    assert_eq!(response.headers()["inference-id"], "upstream-4");
    let record = sink.only().await;
    assert_eq!(record.id.to_string(), "order-17");
    assert_eq!(record.service_id, Some("upstream-4".parse().unwrap()));
    for id in ["order-17", "upstream-4"] {
        assert_eq!(cost_of(&meter, "alice", &id.parse().unwrap()).await, nanos(1_200));
    }
}

#[tokio::test]
async fn an_id_in_a_field_of_the_client_is_not_the_requests() {
    let sink = Receiver::default();
    let meter = recorded(&sink).keep_costs(seconds(3600)).build().unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let mut asked = request("alice", "ten", Empty::new());
    for name in ["inference-id", "x-request-id", "request-id", "x-amzn-requestid", "traceparent"] {
        let name = http::HeaderName::from_static(name);
        asked.headers_mut().insert(name, "of-the-client".parse().unwrap());
    }
    let (response, in_handler) = ask(&meter, asked, None).await;
    let id = id_of(&response, "inference-id");
    assert_eq!((id_of(&response, "x-request-id"), in_handler), (id.clone(), Some(id.clone())));
    assert_eq!((&sink.only().await.id, sink.only().await.service_id), (&id, None));
    assert_eq!(cost_of(&meter, "alice", &id).await, nanos(1_200));
    let ids = ["of-the-client".parse().unwrap()];
    let costs = meter.accounts().costs(&Account::user("alice").unwrap(), &ids).await.unwrap();
    assert!(costs.is_empty(), "{costs:?}");
    let lines = log.lines(&[]);
    assert!(!lines.is_empty() && !lines.concat().contains("of-the-client"), "{lines:?}");
}

/// The event of a stream that its client leaves is emitted elsewhere, and is in the host's trace
/// all the same.
#[tokio::test]
async fn the_event_of_an_aborted_stream_is_inside_of_the_hosts_span() {
    let sink = Receiver::default();
    let meter = recorded(&sink).build().unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let (feed, body) = Fed::new();
    let body = Arc::new(Mutex::new(Some(body)));
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        },
    ));
    let asking = service.oneshot(request("alice", "ten", Empty::new()));
    let response = asking.instrument(tracing::info_span!("host", trace = 17)).await.unwrap();
    feed.send(Bytes::from_static(b"first")).await.unwrap();
    drop(response);
    assert_eq!(sink.only().await.end, End::Dropped);
    assert_eq!(log.lines(&["metered", "host{trace=17}", "end=Dropped"]).len(), 1);
}

#[tokio::test]
async fn a_denial_says_whose_it_is_which_model_and_which_path() {
    let meter = recorded(&Receiver::default()).build().unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let (response, _) = ask(&meter, request("alice", "none", Empty::new()), None).await;
    let id = id_of(&response, "inference-id");
    let words = [
        &*format!("request_id={id}"),
        "denied",
        "reason=\"CREDITS_USED_UP\"",
        "path=\"/models/echo\"",
        "account=user:alice",
        "subject=alice",
        "tier=none",
        "model=\"echo\"",
    ];
    assert_eq!(log.lines(&words).len(), 1, "{:?}", log.lines(&["denied"]));

    let mut unknown = request("alice", "ten", Empty::new());
    *unknown.uri_mut() = "/models/nothing".parse().unwrap();
    let (response, _) = ask(&meter, unknown, None).await;
    let id = id_of(&response, "inference-id");
    let id = format!("request_id={id}");
    let words = [&*id, "MODEL_NOT_FOUND", "account=user:alice", "model=\"nothing\""];
    assert_eq!(log.lines(&words).len(), 1, "{:?}", log.lines(&["denied"]));

    let nobody = Request::post("/models/echo").body(Empty::new()).unwrap();
    let (response, _) = ask(&meter, nobody, None).await;
    let id = format!("request_id={}", id_of(&response, "x-request-id"));
    let lines = log.lines(&[&id, "UNAUTHENTICATED", "path=\"/models/echo\""]);
    assert!(lines.len() == 1 && !lines[0].contains("account"), "{lines:?}");
}

/// Text that a client chooses: in the path, the query, a field, a body. The event and the advice to
/// the operator have it quoted and cut off.
#[tokio::test]
async fn hostile_text_of_clients_is_quoted_and_short_in_the_log() {
    let routes = "[routes]\n\"/query\" = { model = \"{query:model}\" }\n\
                  \"/field\" = { model = \"{header:x-model}\" }\n\
                  \"/body\" = { model = \"{body:model}\" }\n";
    let text = PLAN.replace("[routes]\n", routes);
    let meter = recorded(&Receiver::default()).build().unwrap();
    meter.plan().replace(tower_credits::Plan::from_toml(&text).unwrap());
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let (long, forged) =
        ("x".repeat(8_000), "\n2026-11-01T00:00:00Z INFO forged \u{1b}[2J\u{202e}");
    let escaped = percent_encoding::utf8_percent_encode(forged, percent_encoding::NON_ALPHANUMERIC);
    let body = |model: &str| serde_json::json!({ "model": model }).to_string();
    let field = |text: &str| http::HeaderValue::from_bytes(text.as_bytes()).unwrap();
    let asked = [
        (format!("/models/{escaped}{long}"), None, String::new()),
        (format!("/models/{long}"), None, String::new()),
        (format!("/elsewhere/{escaped}{long}"), None, String::new()),
        (format!("/query?model={escaped}{long}"), None, String::new()),
        (format!("/query?model={long}"), None, String::new()),
        ("/field".to_owned(), Some(field(&format!("\u{9b}2J\u{202e}{long}"))), String::new()),
        ("/field".to_owned(), Some(field(&long)), String::new()),
        ("/body".to_owned(), None, body(&format!("{forged}{long}"))),
        ("/body".to_owned(), None, body(&long)),
    ];
    let number = asked.len();
    for (target, model, body) in asked {
        let mut request = Request::post(target)
            .extension(identity("alice", "ten"))
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(Bytes::from(body)))
            .unwrap();
        if let Some(model) = model {
            request.headers_mut().insert("x-model", model);
        }
        let handler =
            service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
        let response = tower::Layer::layer(&meter.buffer_bodies(), handler).oneshot(request).await;
        assert!(response.unwrap().status().is_client_error());
    }
    let events = log.lines(&[" INFO ", "denied", "account=user:alice"]);
    let advice = log.lines(&[" WARN ", "denied: "]);
    assert!(events.len() == number && advice.len() >= 7, "{events:?} {advice:?}");
    assert_eq!(log.lines(&[]).len(), events.len() + advice.len(), "no line is forged");
    for line in log.lines(&[]) {
        assert!(!line.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{line:?}");
        assert!(line.len() < 2_000 && !line.contains(&"x".repeat(257)), "{} bytes", line.len());
    }
}

#[tokio::test]
async fn a_forgiven_request_is_recorded_and_costs_nothing() {
    let sink = Receiver::default();
    let meter = recorded(&sink)
        .bill_if(|request| request.end != End::Complete)
        .keep_costs(seconds(3600))
        .build()
        .unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let (response, _) = ask(&meter, request("alice", "ten", Empty::new()), None).await;
    let id = id_of(&response, "inference-id");
    let record = sink.only().await;
    assert!(record.forgiven && record.cost.is_zero());
    assert_eq!(record.compute, Duration::from_millis(10), "as it would have been billed");
    assert_eq!(cost_of(&meter, "alice", &id).await, Credits::ZERO);
    let id = format!("request_id={id}");
    let words = [&*id, "forgiven", "path=\"/models/echo\"", "account=user:alice", "model=echo"];
    assert_eq!(log.lines(&words).len(), 1, "{:?}", log.lines(&["alice"]));
    assert_eq!(log.lines(&["metered"]).len(), 0);
}

/// Shadow mode says what it would have denied and sums it up. What was used in it does not count
/// when the same ledger's meter denies.
#[tokio::test]
async fn the_books_of_shadow_mode_are_kept_apart_and_denials_are_summed_up() {
    let ledger = MemoryLedger::new();
    let build = |shadow| {
        let notified = counter();
        let count = Arc::clone(&notified);
        let meter = meter(ledger.clone())
            .shadow(shadow)
            .thresholds([Threshold::Included(1)], move |_| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
            .build()
            .unwrap();
        (meter, notified)
    };
    let (shadow, notified) = build(true);
    let (log, _guard) = Log::from(tracing::Level::WARN);
    for (user, tier) in [("alice", "none"), ("alice", "none"), ("bob", "none"), ("carol", "ten")] {
        let (response, _) = ask(&shadow, request(user, tier, Empty::new()), None).await;
        assert_eq!(response.status().as_u16(), 200);
    }
    let nobody = Request::post("/models/echo").body(Empty::new()).unwrap();
    assert_eq!(ask(&shadow, nobody, None).await.0.status().as_u16(), 200);
    let words =
        ["would be denied", "account=user:alice", "model=\"echo\"", "path=\"/models/echo\""];
    assert_eq!(log.lines(&words).len(), 2);
    let sums: Vec<_> = shadow
        .shadow_denials()
        .into_iter()
        .map(|sum| (sum.account.map(|of| of.to_string()), sum.reason, sum.requests))
        .collect();
    let of = |user: &str| Some(format!("user:{user}"));
    assert_eq!(
        sums,
        [
            (of("alice"), "CREDITS_USED_UP", 2),
            (None, "UNAUTHENTICATED", 1),
            (of("bob"), "CREDITS_USED_UP", 1),
        ]
    );
    // Its own statements are those of the shadows.
    assert_eq!(settled(&shadow, "alice", "none", 2).await.used, nanos(2_400));
    assert_eq!(settled(&shadow, "carol", "ten", 1).await.account, Account::user("carol").unwrap());
    let month = shadow.statement(&identity("carol", "ten"), None).await.unwrap().period;
    let listed = async |meter: &CreditMeter| {
        let page = meter.accounts().list(month, None, 10.try_into().unwrap()).await.unwrap();
        page.accounts.into_iter().map(|of| of.account.to_string()).collect::<BTreeSet<_>>()
    };
    assert_eq!(listed(&shadow).await.len(), 3);
    assert_eq!(notified.load(std::sync::atomic::Ordering::Relaxed), 0);

    let (enforced, notified) = build(false);
    assert!(listed(&enforced).await.is_empty(), "shadows are nobody's account");
    assert_eq!(statement(&enforced, "carol", "ten").await.used, Credits::ZERO);
    let shadow_of_carol = "shadow-user:carol".parse().unwrap();
    let kept = enforced.accounts().statement(&shadow_of_carol, month).await.unwrap();
    assert_eq!(kept.used, nanos(1_200), "the operator can still read them");
    // What is bought in shadow mode is there after it, and an erasure takes the shadow along.
    let dave = Account::user("dave").unwrap();
    let order = "order-1".parse().unwrap();
    assert!(shadow.accounts().grant(&dave, order, nanos(5), None).await.unwrap());
    for accounts in [shadow.accounts(), enforced.accounts()] {
        assert_eq!(accounts.statement(&dave, month).await.unwrap().purchased_left, nanos(5));
    }
    let carol = Account::user("carol").unwrap();
    assert!(enforced.accounts().erase(&carol).await.unwrap());
    let erased = enforced.accounts().statement(&shadow_of_carol, month).await.unwrap();
    assert!(erased.used.is_zero());
    let (response, _) = ask(&enforced, request("erin", "quick", Empty::new()), None).await;
    assert_eq!(response.status().as_u16(), 200);
    settled(&enforced, "erin", "quick", 1).await;
    let told = || notified.load(std::sync::atomic::Ordering::Relaxed);
    eventually(async || (told() == 1).then_some(())).await;
}

/// Shadow mode also says which requests it would have cut off, at a cap or because credits ended.
#[tokio::test(start_paused = true)]
async fn shadow_mode_sums_up_what_it_would_have_cut_off() {
    let meter = meter(MemoryLedger::new()).shadow(true).build().unwrap();
    for (user, tier, lasts, cap) in [
        ("within", "ten", 9, None),
        ("beyond", "ten", 12, None),
        ("finishes", "ten-finish", 12, None),
        ("capped", "pro", 3, Some("2")),
        ("uncapped", "pro", 3, Some("4")),
    ] {
        let (feed, body) = Fed::new();
        let body = Arc::new(Mutex::new(Some(body)));
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let body = body.lock().unwrap().take().unwrap();
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let mut asked = request(user, tier, Empty::new());
        if let Some(cap) = cap {
            asked.headers_mut().insert("x-max-compute", cap.parse().unwrap());
        }
        let response = service.oneshot(asked).await.unwrap();
        tokio::spawn(async move {
            for _ in 0..lasts {
                feed.send(Bytes::from_static(b"x")).await.unwrap();
                tokio::time::sleep(seconds(1)).await;
            }
        });
        read(response).await.expect("nothing is cut off");
        settled(&meter, user, tier, 1).await;
    }
    let sums = meter.shadow_denials().into_iter();
    let sums: Vec<_> = sums.map(|sum| (sum.account.unwrap().to_string(), sum.reason)).collect();
    let expected = [("user:beyond", "CREDITS_USED_UP"), ("user:capped", "CLIENT_CAP")];
    assert_eq!(sums, expected.map(|(account, reason)| (account.to_owned(), reason)));
}

/// A sink that fails at random, before or after it has stored a batch, or panics: everything
/// arrives, and what the receiver has twice has one id. `RECORDS` sets how many.
#[tokio::test]
async fn records_reach_a_sink_that_fails_at_random_once_each() {
    let number = number_of_records();
    let sink = Receiver::failing(7);
    let delivery =
        RecordDelivery::to(sink.clone()).queue_size(number).linger(Duration::from_millis(5));
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    tokio::time::pause();
    for at in 0..number {
        let user = ["a", "b", "c"][at % 3];
        ask(&meter, request(user, "pro", Empty::new()), None).await;
    }
    let all = || sink.records.lock().unwrap().len();
    // The pauses between its tries add up: an hour of paused time.
    let limit = tokio::time::Instant::now() + seconds(3_600);
    while meter.record_stats()[0].waiting > 0 {
        assert!(tokio::time::Instant::now() < limit, "{:?}", meter.record_stats());
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!((all(), meter.record_stats()[0].dropped), (number, 0));
    let sum = sink.records().iter().fold(Credits::ZERO, |sum, of| sum.saturating_add(of.cost));
    assert_eq!(sum, nanos(1_200 * number as i64));
    let (repeated, retries) = (*sink.repeated.lock().unwrap(), meter.record_stats()[0].retries);
    assert!(repeated > 0 && retries > 0, "it did fail: {repeated} repeated, {retries} retries");
    println!("{number} records, {retries} deliveries failed, {repeated} records came twice");
}

/// A dead sink slows no request and costs no debit. What does not fit into its queue is counted and
/// said.
#[tokio::test]
async fn a_dead_sink_costs_records_and_nothing_else() {
    let dead = Receiver { is_dead: true, ..Receiver::default() };
    let well = Receiver::default();
    let meter = meter(MemoryLedger::new())
        .records(RecordDelivery::to(dead).queue_size(10).batch_size(5).linger(Duration::ZERO))
        .records(RecordDelivery::to(well.clone()).linger(Duration::ZERO))
        .build()
        .unwrap();
    let (log, _guard) = Log::from(tracing::Level::WARN);
    for _ in 0..50 {
        let (response, _) = ask(&meter, request("alice", "pro", Empty::new()), None).await;
        assert_eq!(response.status().as_u16(), 200);
    }
    assert_eq!(settled(&meter, "alice", "pro", 50).await.used, nanos(50 * 1_200));
    let stats = meter.record_stats();
    // A batch of five is in the task's hands, at most.
    assert!((35..=40).contains(&stats[0].dropped), "{stats:?}");
    assert_eq!(stats[0].delivered + stats[0].dropped + stats[0].waiting, 50);
    assert_eq!(log.lines(&["usage records were dropped", "the queue is full"]).len(), 1);
    eventually(async || (well.records().len() == 50).then_some(())).await;

    let settlement = meter.shutdown().await;
    assert_eq!(settlement.lost_records, 50, "dropped, and never delivered");
    assert!(settlement.unsettled.is_empty());
}

/// One record that a receiver refuses does not take the others of its batch along.
#[tokio::test]
async fn only_records_that_are_refused_are_dropped() {
    let sink = Receiver { refuses: Some("bad"), ..Receiver::default() };
    let delivery = RecordDelivery::to(sink.clone()).linger(Duration::from_secs(5)).batch_size(64);
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    for at in 0..64 {
        let user = if matches!(at, 7 | 8 | 40) { "bad" } else { "good" };
        ask(&meter, request(user, "pro", Empty::new()), None).await;
    }
    eventually(async || (sink.records().len() == 61).then_some(())).await;
    eventually(async || (meter.record_stats()[0].dropped == 3).then_some(())).await;
}

/// Somebody else's rotation: the file is moved away, or copied and cut off.
#[tokio::test]
async fn a_file_that_is_moved_or_cut_off_is_begun_again() {
    let folder = Folder::new("moved-records");
    let path = folder.0.join("usage.jsonl");
    let delivery = RecordDelivery::to(JsonLines::file(&path).unwrap()).linger(Duration::ZERO);
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    let mut delivered = 0;
    for rotate in [true, false, true] {
        for _ in 0..3 {
            ask(&meter, request("alice", "pro", Empty::new()), None).await;
        }
        delivered += 3;
        eventually(async || (meter.record_stats()[0].delivered == delivered).then_some(())).await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 3 && !text.contains('\0'), "{text:?}");
        if rotate {
            std::fs::rename(&path, folder.0.join("old.jsonl")).unwrap();
        } else {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
    }
}

/// A request that runs when the meter is shut down is billed what it has used, and recorded.
#[tokio::test]
async fn what_runs_at_a_shutdown_is_recorded_once() {
    let sink = Receiver::default();
    let meter = recorded(&sink).keep_costs(seconds(3600)).build().unwrap();
    let (feed, body) = Fed::new();
    let body = Arc::new(Mutex::new(Some(body)));
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        },
    ));
    let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    feed.send(Bytes::from_static(b"first")).await.unwrap();
    let settlement = meter.shutdown().await;
    assert_eq!(settlement.lost_records, 0, "{settlement:?}");
    let record = sink.only().await;
    assert_eq!((record.end, record.status), (End::ShutDown, None));
    assert_eq!(record.cost, settlement.settled);
    assert_eq!(cost_of(&meter, "alice", &record.id).await, record.cost);
    drop((feed, response));
    assert_eq!(sink.records().len(), 1);
    assert_eq!(meter.record_stats()[0].dropped, 0, "its owner makes no second one");
}

/// A sink that refuses everything is not asked without end.
#[tokio::test(start_paused = true)]
async fn a_sink_that_refuses_everything_is_given_pauses() {
    let sink = Receiver { refuses: Some("bad"), ..Receiver::default() };
    let calls = Arc::clone(&sink.calls);
    let delivery = RecordDelivery::to(sink).linger(Duration::from_millis(50)).batch_size(500);
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    for _ in 0..200 {
        ask(&meter, request("bad", "pro", Empty::new()), None).await;
    }
    eventually(async || (meter.record_stats()[0].dropped >= 20).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    let asked = *calls.lock().unwrap();
    assert!(asked < 50, "{asked} deliveries");
}

/// A handler that calls another metered service with what it got makes no second request of one
/// id.
#[tokio::test]
async fn an_id_that_a_meter_made_is_not_taken_for_the_hosts() {
    let sink = Receiver::default();
    let meter = recorded(&sink).build().unwrap();
    let (_, in_handler) = ask(&meter, request("alice", "pro", Empty::new()), None).await;
    let mut passed_on = request("alice", "pro", Empty::new());
    passed_on.extensions_mut().insert(in_handler.clone().unwrap());
    let (_, again) = ask(&meter, passed_on, None).await;
    assert!(again.is_some() && again != in_handler);
    eventually(async || (sink.records().len() == 2).then_some(())).await;
}

/// What waits when the meter is shut down is delivered first.
#[tokio::test]
async fn a_shutdown_delivers_what_waits() {
    let sink = Receiver::failing(3);
    let delivery = RecordDelivery::to(sink.clone()).linger(Duration::from_secs(3600));
    let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
    for _ in 0..100 {
        ask(&meter, request("alice", "pro", Empty::new()), None).await;
    }
    let settlement = meter.shutdown().await;
    assert_eq!((settlement.lost_records, sink.records().len()), (0, 100));
}

/// Lines are whole and each record is there once, through rotations, restarts, and halves of lines
/// that a loss of power left.
#[tokio::test]
async fn a_file_of_lines_rotates_and_goes_on_after_half_a_line() {
    let folder = Folder::new("records");
    let path = folder.0.join("usage.jsonl");
    let mut made = Vec::new();
    for _ in 0..3 {
        let lines = JsonLines::file(&path).unwrap().max_bytes(4_000).max_files(100);
        let delivery = RecordDelivery::to(lines).batch_size(4).linger(Duration::ZERO);
        let meter = meter(MemoryLedger::new()).records(delivery).build().unwrap();
        for _ in 0..40 {
            let (response, _) = ask(&meter, request("alice", "pro", Empty::new()), None).await;
            made.push(response.headers()["inference-id"].to_str().unwrap().to_owned());
        }
        assert_eq!(meter.shutdown().await.lost_records, 0);
        let mut torn = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"id\":\"torn").unwrap();
    }
    {
        let _ours = JsonLines::file(&path).unwrap();
        let error = JsonLines::file(&path).unwrap_err().to_string();
        assert!(error.contains("name a file for each"), "{error}");
    }
    let mut found = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.len() <= 4_000 && (text.is_empty() || text.ends_with('\n')));
        files += 1;
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            found.push(record["id"].as_str().unwrap().to_owned());
        }
    }
    assert!(files > 5, "{files} files");
    made.sort();
    found.sort();
    assert_eq!(found, made);

    // Few files are kept: the newest.
    let few = folder.0.join("few.jsonl");
    let lines = JsonLines::file(&few).unwrap().max_bytes(1).max_files(2);
    let meter = meter(MemoryLedger::new())
        .records(RecordDelivery::to(lines).batch_size(1).linger(Duration::ZERO))
        .build()
        .unwrap();
    let mut last = String::new();
    for _ in 0..5 {
        let (response, _) = ask(&meter, request("alice", "pro", Empty::new()), None).await;
        last = response.headers()["inference-id"].to_str().unwrap().to_owned();
    }
    assert_eq!(meter.shutdown().await.lost_records, 0);
    assert!(std::fs::read_to_string(&few).unwrap().contains(&last));
    assert!(folder.0.join("few.jsonl.1").exists());
    assert!(!folder.0.join("few.jsonl.2").exists());
}
