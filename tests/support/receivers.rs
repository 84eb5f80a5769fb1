//! Stand-ins of systems that take usage, written from their documentation: they check what they are
//! sent as those do, know repetitions again as those do, and fail at random.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What a receiver has, and how it fails.
#[derive(Default)]
pub struct Received {
    /// By id: the account's name at the receiver, and the number.
    pub events: BTreeMap<String, (String, u64)>,
    /// Requests with something wrong in them: a client's fault.
    pub wrong: Vec<String>,
    /// Repetitions that were told from new events.
    pub repeated: usize,
    /// Of so many requests, one is answered with an error, and one is taken without an answer.
    pub fails_one_in: Option<u32>,
    /// Calls for a customer for whom another was under way.
    pub overlaps: usize,
    /// Customers for whom a call is under way.
    busy: HashSet<String>,
}

/// A call for a customer, which ends when its client goes away, too.
struct Busy(Arc<Mutex<Received>>, String);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().unwrap().busy.remove(&self.1);
    }
}

#[derive(Clone)]
pub struct Receiver {
    pub received: Arc<Mutex<Received>>,
    pub url: String,
}

impl Receiver {
    async fn start(
        route: &str,
        handler: axum::routing::MethodRouter<Arc<Mutex<Received>>>,
    ) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let app = Router::new().route(route, handler).with_state(Arc::clone(&received));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{route}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { received, url }
    }

    /// OpenMeter: the body's type is compared as a whole, and repetitions are dropped in silence.
    pub async fn openmeter() -> Self {
        Self::start("/api/v1/events", post(openmeter)).await
    }

    /// Stripe's meter events: a form, one event a call, one call at a time for a customer.
    pub async fn stripe() -> Self {
        Self::start("/v1/billing/meter_events", post(stripe)).await
    }

    /// Lago's batches: of at most 100 events, which are taken as a whole or not at all.
    pub async fn lago() -> Self {
        Self::start("/api/v1/events/batch", post(lago)).await
    }

    /// The sum of all numbers of an account, by its name at the receiver.
    pub fn sums(&self) -> HashMap<String, u64> {
        let mut sums = HashMap::new();
        for (account, number) in self.received.lock().unwrap().events.values() {
            *sums.entry(account.clone()).or_default() += number;
        }
        sums
    }

    pub fn fail_one_in(&self, calls: u32) {
        self.received.lock().unwrap().fails_one_in = Some(calls);
    }

    pub fn never_fail(&self) {
        self.received.lock().unwrap().fails_one_in = None;
    }
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fails {
    Not,
    BeforeIsTaken,
    AfterIsTaken,
}

impl Received {
    fn fails(&self) -> Fails {
        match self.fails_one_in.map(|calls| fastrand::u32(0..calls.max(2))) {
            Some(0) => Fails::BeforeIsTaken,
            Some(1) => Fails::AfterIsTaken,
            _ => Fails::Not,
        }
    }

    /// Takes an event, unless it has it: `false`.
    fn take(&mut self, id: String, account: String, number: u64) -> bool {
        let is_new = !self.events.contains_key(&id);
        self.repeated += usize::from(!is_new);
        self.events.entry(id).or_insert((account, number));
        is_new
    }

    fn wrong(&mut self, what: &dyn std::fmt::Display) -> Response {
        self.wrong.push(what.to_string());
        (StatusCode::BAD_REQUEST, what.to_string()).into_response()
    }
}

fn failed() -> Response {
    match fastrand::u8(0..3) {
        0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        1 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::TOO_MANY_REQUESTS.into_response(),
    }
}

async fn openmeter(
    State(state): State<Arc<Mutex<Received>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut received = state.lock().unwrap();
    let fails = received.fails();
    if fails == Fails::BeforeIsTaken {
        return failed();
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|of| of != "application/cloudevents-batch+json")
    {
        return received.wrong(&"content type");
    }
    let Ok(events) = serde_json::from_slice::<Vec<Value>>(&body) else {
        return received.wrong(&"body");
    };
    for event in events {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let number = event["data"]["costNanoUsd"].as_u64();
        let is_whole =
            ["id", "source", "type", "subject", "time"].iter().all(|name| !text(name).is_empty());
        let (Some(number), true, "1.0") = (number, is_whole, &*text("specversion")) else {
            return received.wrong(&event);
        };
        let id = format!("{} {}", text("source"), text("id"));
        received.take(id, text("subject"), number);
    }
    if fails == Fails::AfterIsTaken { failed() } else { StatusCode::NO_CONTENT.into_response() }
}

async fn stripe(
    State(state): State<Arc<Mutex<Received>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (fields, fails, busy) = {
        let mut received = state.lock().unwrap();
        let fails = received.fails();
        if fails == Fails::BeforeIsTaken {
            return failed();
        }
        if headers.get(header::AUTHORIZATION).is_none_or(|key| key != "Bearer sk_test_1") {
            return (
                StatusCode::UNAUTHORIZED,
                Json(json!({"error": {
                    "type": "invalid_request_error",
                    "message": "Invalid API Key",
                }})),
            )
                .into_response();
        }
        if headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|of| of != "application/x-www-form-urlencoded")
        {
            return received.wrong(&"content type");
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let fields: HashMap<String, String> = text
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        // One call at a time for a customer.
        let customer = fields.get("payload[stripe_customer_id]").cloned().unwrap_or_default();
        if !received.busy.insert(customer.clone()) {
            received.overlaps += 1;
            return StatusCode::TOO_MANY_REQUESTS.into_response();
        }
        let busy = Busy(Arc::clone(&state), customer);
        (fields, fails, busy)
    };
    // So that calls for one customer would meet.
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(busy);
    let mut received = state.lock().unwrap();
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let customer = field("payload[stripe_customer_id]");
    let refused = |message: String| {
        let error = json!({"error": {"type": "invalid_request_error", "message": message}});
        (StatusCode::BAD_REQUEST, Json(error)).into_response()
    };
    let (id, value) = (field("identifier"), field("payload[value]"));
    let seconds: u64 = field("timestamp").parse().unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    if fields.len() != 5 || id.is_empty() || id.len() > 100 || field("event_name") != "inference" {
        return received.wrong(&format!("{fields:?}"));
    }
    if seconds > now + 300 || seconds + 35 * 24 * 60 * 60 < now {
        return received.wrong(&format!("timestamp {seconds}"));
    }
    let Some(number) = value.parse::<u64>().ok().filter(|_| value.len() <= 15) else {
        return received.wrong(&format!("value {value}"));
    };
    if customer == "cus_gone" {
        return refused("No such customer: 'cus_gone'".to_owned());
    }
    if !received.take(id.clone(), customer, number) {
        return refused(format!("An event already exists with identifier {id}."));
    }
    if fails == Fails::AfterIsTaken {
        return failed();
    }
    Json(json!({"object": "billing.meter_event"})).into_response()
}

async fn lago(
    State(state): State<Arc<Mutex<Received>>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut received = state.lock().unwrap();
    let fails = received.fails();
    if fails == Fails::BeforeIsTaken {
        return failed();
    }
    if headers.get(header::AUTHORIZATION).is_none_or(|key| key != "Bearer lago-key") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let events = body["events"].as_array().cloned().unwrap_or_default();
    if events.is_empty() || events.len() > 100 {
        return received.wrong(&format!("{} events", events.len()));
    }
    let (mut problems, mut new) = (serde_json::Map::new(), Vec::new());
    for (index, event) in events.iter().enumerate() {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let id = text("transaction_id");
        let number = event["properties"]["costNanoUsd"].as_u64();
        let (Some(number), false, "inference", true) =
            (number, id.is_empty(), &*text("code"), event["timestamp"].is_u64())
        else {
            return received.wrong(&event);
        };
        let subscription = text("external_subscription_id");
        if received.events.contains_key(&id) {
            received.repeated += 1;
            problems.insert(index.to_string(), json!({"transaction_id": ["value_already_exist"]}));
        } else if subscription == "user:gone" {
            problems.insert(index.to_string(), json!({"timestamp": ["invalid_format"]}));
        } else {
            new.push((id, (subscription, number)));
        }
    }
    if !problems.is_empty() {
        let said = json!({
            "status": 422,
            "error": "Unprocessable Entity",
            "code": "validation_errors",
            "error_details": problems,
        });
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(said)).into_response();
    }
    received.events.extend(new);
    if fails == Fails::AfterIsTaken {
        failed()
    } else {
        Json(json!({"events": []})).into_response()
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
