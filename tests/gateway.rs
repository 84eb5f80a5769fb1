//! The gateway as its callers and its upstream see it: its own process between real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![cfg(all(feature = "axum", feature = "redis"))]

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the upstream has seen.
#[derive(Clone, Default)]
struct Seen {
    requests: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
    /// Set while the endless answer is alive.
    is_streaming: Arc<AtomicBool>,
}

struct SetWhileAlive(Arc<AtomicBool>);

impl Drop for SetWhileAlive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

const EVENTS: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"Good \"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"day\"}}]}\n\n",
    "data: {\"choices\":[],\"timings\":{\"prompt_ms\":1}}\n\n",
    "data: [DONE]\n\n",
];

/// Bytes that are no text, and do not repeat soon.
fn noise(length: usize) -> Bytes {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The answer of the upstream: what the path asks for.
async fn upstream(
    State(seen): State<Seen>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let target = parts.uri.path_and_query().unwrap().to_string();
    seen.requests.lock().unwrap().push((target, parts.headers, body.clone()));
    let kind = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let kind = kind["kind"].as_str().unwrap_or(&path).to_owned();
    let stream_of = |texts: &'static [&'static str]| {
        let events = stream::iter(texts).then(async |text| {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Bytes::from_static(text.as_bytes()))
        });
        ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
    };
    match kind.as_str() {
        "events" => stream_of(&EVENTS),
        "large" => noise(20 << 20).into_response(),
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("7"));
            let frames = stream::iter([
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(trailers)),
            ]);
            ([("trailer", "x-checksum")], Body::new(StreamBody::new(frames))).into_response()
        }
        "broken" => {
            let frames = stream::iter([true, false]).then(async |is_good| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let half = is_good.then_some(Bytes::from_static(b"half of it"));
                half.ok_or(std::io::Error::other("the upstream breaks"))
            });
            Body::from_stream(frames).into_response()
        }
        "locked" => StatusCode::UNAUTHORIZED.into_response(),
        "refused" => {
            let body = r#"{"error":{"message":"context length exceeded","code":"too_long"}}"#;
            let fields = [("content-type", "application/json"), ("x-own", "kept")];
            (StatusCode::UNPROCESSABLE_ENTITY, fields, body).into_response()
        }
        "endless" => {
            seen.is_streaming.store(true, Ordering::SeqCst);
            let alive = SetWhileAlive(Arc::clone(&seen.is_streaming));
            let chunks = stream::unfold(alive, async |alive| {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b"data: {}\n\n")), alive))
            });
            ([("content-type", "text/event-stream")], Body::from_stream(chunks)).into_response()
        }
        _ => {
            let fields =
                [("content-type", "application/json"), ("connection", "x-hop"), ("x-hop", "1")];
            (fields, body).into_response()
        }
    }
}

async fn serve_upstream() -> (String, Seen) {
    let seen = Seen::default();
    let app = Router::new().route("/{*path}", any(upstream)).with_state(seen.clone());
    let app = app.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, seen)
}

/// The gateway's process.
struct Gateway {
    child: Child,
    url: String,
}

impl Gateway {
    fn start(settings: &[(&str, &str)]) -> Self {
        let run = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/run-example");
        let mut command = Command::new(run);
        command
            .arg("gateway")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("ADDR", "127.0.0.1:0")
            .env_remove("REDIS_URL")
            .env("LEDGER", "memory")
            .envs(settings.iter().copied());
        // What cargo told this test of its own package would have dependencies built anew.
        for (name, _) in std::env::vars().filter(|(name, _)| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("cargo runs");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("listening on "))
            .expect("it listens");
        // What it goes on to say is read, so that it can say it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, url: line.split("listening on ").nth(1).unwrap().to_owned() }
    }

    fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        Client::new()
            .post(format!("{}{path}", self.url))
            .bearer_auth("demo-pro")
            .header("content-type", "application/json")
            .body(body)
    }

    async fn bill(&self) -> Value {
        let asked = Client::new().get(format!("{}/billing.json", self.url));
        let answer = asked.bearer_auth("demo-pro").send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// The bill once nothing is on hold any more.
    async fn settled(&self) -> Value {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let bill = self.bill().await;
            if bill["held_nano_usd"] == 0 {
                return bill;
            }
            assert!(Instant::now() < limit, "{bill}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The gateway is the only child of `cargo run`, which passes no signals on.
        let id = self.child.id();
        let script = format!(
            "kill -TERM $(cat /proc/{id}/task/{id}/children 2>/dev/null || pgrep -P {id}) \
             2>/dev/null || kill -TERM {id}"
        );
        let _ = Command::new("sh").arg("-c").arg(script).status();
        let _ = self.child.wait();
    }
}

fn asked(kind: &str) -> String {
    json!({ "model": "smollm2-135m", "kind": kind, "messages": [] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_the_upstreams_bytes_and_the_upstream_gets_the_callers() {
    let (url, seen) = serve_upstream().await;
    let gateway = Gateway::start(&[("UPSTREAM", &url), ("UPSTREAM_KEY", "upstream-key")]);

    // What goes up: byte for byte, without the caller's credentials, and with the upstream's key.
    let body = "{ \"model\" :\t\"smollm2-135m\",\n \"prompt\": \"\\u00e9\\ud83d\\ude00\" }";
    let sent = gateway.post("/v1/completions?beta=true&x=%20", body);
    let sent = sent.header("x-api-key", "demo-free").header("cookie", "a=b").header("x-own", "1");
    // A server that has computed could answer that it has nothing to send.
    let sent = sent.header("range", "bytes=999999999-").header("if-none-match", "*");
    let answer = sent.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("x-hop"), "{:?}", answer.headers());
    assert_eq!(answer.bytes().await.unwrap(), body, "echoed");
    let (target, headers, got) = seen.requests.lock().unwrap().pop().unwrap();
    assert_eq!((target.as_str(), &*got), ("/v1/completions?beta=true&x=%20", body.as_bytes()));
    let field = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field("authorization"), Some("Bearer upstream-key"));
    assert_eq!((field("range"), field("if-none-match")), (None, None));
    assert_eq!((field("x-own"), field("x-api-key"), field("cookie")), (Some("1"), None, None));
    assert!(url.ends_with(field("host").unwrap()), "the upstream's own name");

    // What comes down: events, errors, and 20 MiB.
    let answer = gateway.post("/v1/chat/completions", asked("events")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.bytes().await.unwrap(), EVENTS.concat());
    let answer = gateway.post("/v1/chat/completions", asked("large")).send().await.unwrap();
    assert!(answer.bytes().await.unwrap() == noise(20 << 20), "20 MiB");
    let used = gateway.settled().await["used_nano_usd"].clone();
    let answer = gateway.post("/v1/chat/completions", asked("refused")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-own"]),
        (422, &"kept".parse().unwrap())
    );
    assert!(answer.text().await.unwrap().contains("context length exceeded"));
    assert_eq!(gateway.settled().await["used_nano_usd"], used, "a refusal costs nothing");
    let answer = gateway.post("/v1/chat/completions", asked("locked")).send().await.unwrap();
    assert_eq!(answer.status(), 502, "the caller's own token is good");
    let answer = gateway.post("/v1/chat/completions", asked("broken")).send().await.unwrap();
    assert!(answer.bytes().await.is_err(), "a broken answer does not end cleanly");

    // A recording of 20 MiB goes up, in a form.
    let recording = noise(20 << 20);
    let form = [
        b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsmollm2-135m\r\n--b\r\n\
          Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n",
        &recording[..],
        b"\r\n--b--\r\n",
    ]
    .concat();
    let sent = Client::new()
        .post(format!("{}/v1/audio/transcriptions", gateway.url))
        .header("x-api-key", "demo-pro")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(form.clone());
    let answer = sent.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let (_, _, got) = seen.requests.lock().unwrap().pop().unwrap();
    assert!(got == form, "byte for byte");
}

/// RFC 9110, section 7.6.1.
#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_the_callers_connection_goes_no_further() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (url, seen) = serve_upstream().await;
    let gateway = Gateway::start(&[("UPSTREAM", &url), ("UPSTREAM_KEY", "upstream-key")]);
    // Written by hand: clients check what they send.
    let body = asked("echo");
    let head = "POST /v1/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer demo-pro\r\n\
                content-type: application/json\r\nx-kept: 1\r\nx-secret: 1\r\nx-other: 1\r\n\
                connection: close, X-Secret, Authorization, TE, HTTP2-Settings\r\n\
                connection: \u{ff},\tx-other\r\nkeep-alive: timeout=5\r\n\
                proxy-connection: keep-alive\r\nproxy-authorization: Basic YTpi\r\n\
                upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nte: gzip\r\n";
    let mut request = head.chars().map(|c| c as u8).collect::<Vec<_>>();
    request.extend(format!("content-length: {}\r\n\r\n{body}", body.len()).into_bytes());
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    connection.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("it closes").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("x-hop"), "{answer}");
    let (_, headers, got) = seen.requests.lock().unwrap().pop().unwrap();
    assert_eq!(got, body);
    for name in [
        "x-secret",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    let field = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field("x-kept"), Some("1"));
    // What the gateway sets stays, also if the caller names it.
    assert_eq!(
        (field("authorization"), field("te")),
        (Some("Bearer upstream-key"), Some("trailers"))
    );
    assert_eq!(gateway.settled().await["requests"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass() {
    let (url, _) = serve_upstream().await;
    let gateway = Gateway::start(&[("UPSTREAM", &url)]);
    let client: Hyper<HttpConnector, Full<Bytes>> =
        Hyper::builder(TokioExecutor::new()).build_http();
    let request = http::Request::post(format!("{}/v1/chat/completions", gateway.url))
        .header("authorization", "Bearer demo-pro")
        .header("content-type", "application/json")
        .header("te", "trailers")
        .body(Full::from(asked("trailers")))
        .unwrap();
    let collected = client.request(request).await.unwrap().into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    assert_eq!(collected.to_bytes(), "body");
    assert_eq!(trailers.get("x-checksum").map(HeaderValue::as_bytes), Some(&b"7"[..]));
    let cost: u64 = trailers["x-cost-nano-usd"].to_str().unwrap().parse().unwrap();
    assert_eq!(gateway.settled().await["used_nano_usd"], cost, "the exact cost");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_stops_when_the_caller_leaves() {
    let (url, seen) = serve_upstream().await;
    let gateway = Gateway::start(&[("UPSTREAM", &url)]);
    let answer = gateway.post("/v1/chat/completions", asked("endless")).send().await.unwrap();
    let mut events = answer.bytes_stream();
    events.next().await.unwrap().unwrap();
    assert!(seen.is_streaming.load(Ordering::SeqCst));
    drop(events);
    let limit = Instant::now() + Duration::from_secs(60);
    while seen.is_streaming.load(Ordering::SeqCst) {
        assert!(Instant::now() < limit, "the upstream computes on for nobody");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(gateway.settled().await["requests"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_has_its_server_and_what_is_not_in_the_plan_goes_nowhere() {
    let (default, at_default) = serve_upstream().await;
    let (other, at_other) = serve_upstream().await;
    let folder = tempdir("gateway-models");
    let plan =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gateway/plan.toml"))
            .unwrap();
    let path = folder.join("plan.toml");
    let more = "[models.large]\nhardware = \"cpu\"\n[routes]\n\
                \"/api/chat\" = { model = \"{body:model}\" }";
    std::fs::write(&path, plan.replace("[routes]", more)).unwrap();
    let gateway = Gateway::start(&[
        ("UPSTREAM", &default),
        ("UPSTREAMS", &format!("large={other}/v1")),
        ("UPSTREAM_KEY", "the-default-servers"),
        ("PLAN", path.to_str().unwrap()),
    ]);
    let large = asked("echo").replace("smollm2-135m", "large");
    // A path of the server's own, which the plan has.
    for (path, body) in [("/api/chat", asked("echo")), ("/v1/embeddings", large)] {
        assert_eq!(gateway.post(path, body).send().await.unwrap().status(), 200, "{path}");
    }
    for (seen, has_key) in [(&at_default, true), (&at_other, false)] {
        let requests = seen.requests.lock().unwrap();
        let [(_, headers, _)] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!(headers.contains_key("authorization"), has_key, "the key is one server's");
    }
    let list = Client::new().get(format!("{}/v1/models", gateway.url));
    assert_eq!(list.try_clone().unwrap().send().await.unwrap().status(), 401);
    let list: Value = serde_json::from_slice(
        &list.bearer_auth("demo-free").send().await.unwrap().bytes().await.unwrap(),
    )
    .unwrap();
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, [Some("large"), Some("smollm2-135m")]);
    for (path, body, status, code) in [
        ("/v1/embeddings", asked("echo").replace("smollm2-135m", "huge"), 404, "model_not_found"),
        ("/v1/embeddings", "{}".to_owned(), 400, "invalid_body"),
        ("/v1/files", asked("echo"), 404, "not_in_plan"),
        ("/v1/../admin", asked("echo"), 404, "not_in_plan"),
    ] {
        let answer = gateway.post(path, body).header("x-stainless-lang", "rust");
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["error"]["code"], code, "{path}");
    }
    assert_eq!(at_default.requests.lock().unwrap().len(), 1, "nothing else went up");
    assert_eq!(gateway.settled().await["requests"], 2);
    if cfg!(feature = "metrics") {
        let metrics = Client::new().get(format!("{}/metrics", gateway.url)).send().await.unwrap();
        let metrics = String::from_utf8(metrics.bytes().await.unwrap().to_vec()).unwrap();
        let denied = "tower_credits_denied_total{reason=\"NOT_IN_PLAN\"} 2";
        assert!(metrics.contains(denied), "{metrics}");
    }
}

/// Servers with paths and clocks of their own: Text Embeddings Inference names its time in a header
/// field and its model nowhere; Ollama names both in JSON objects, one on each line.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_say_their_own_time_are_billed_by_it() {
    const CHAT: &str = "{\"message\":{\"content\":\"Hi\"},\"done\":false}\n\
                        {\"done\":true,\"total_duration\":1500000000}\n";
    let app = Router::new()
        .route("/embed", any(async || ([("x-inference-time", "250")], "[[0.1,0.2]]")))
        .route("/api/chat", any(async || ([("content-type", "application/x-ndjson")], CHAT)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let plan = r#"
        [hardware.cpu]
        price_per_second = "0.00012"
        [models.bge-small]
        hardware = "cpu"
        compute_time = { header = "x-inference-time", unit = "ms" }
        [models."llama3.2:latest"]
        hardware = "cpu"
        compute_time = { fields = ["total_duration"], unit = "ns" }
        [routes]
        "/embed" = { model = "bge-small" }
        "/api/chat" = { model = "{body:model}" }
        [tiers.pro]
        included = "2.00"
        when_used_up = "pay-as-you-go"
    "#;
    let path = tempdir("gateway-own-time").join("plan.toml");
    std::fs::write(&path, plan).unwrap();
    let gateway = Gateway::start(&[("UPSTREAM", &url), ("PLAN", path.to_str().unwrap())]);
    let embedded = gateway.post("/embed", r#"{"inputs":"a"}"#).send().await.unwrap();
    assert_eq!(embedded.bytes().await.unwrap(), "[[0.1,0.2]]");
    assert_eq!(gateway.settled().await["used_nano_usd"], 30_000);
    let asked = r#"{"model":"llama3.2:latest","messages":[]}"#;
    let chat = gateway.post("/api/chat", asked).send().await.unwrap();
    assert_eq!(chat.bytes().await.unwrap(), CHAT);
    assert_eq!(gateway.settled().await["used_nano_usd"], 30_000 + 180_000);
}

/// A chunked answer has no length, whatever its head says (RFC 9112, section 6.3).
#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_answer_with_a_length_is_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4_096];
        assert!(connection.read(&mut request).await.unwrap() > 0);
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
                      4\r\nfour\r\n5\r\n five\r\n0\r\n\r\n";
        connection.write_all(answer.as_bytes()).await.unwrap();
    });
    let gateway = Gateway::start(&[("UPSTREAM", &url)]);
    let answer = gateway.post("/v1/completions", asked("whole")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "four five");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_away_costs_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&[("UPSTREAM", &format!("http://{closed}"))]);
    let answer = gateway.post("/v1/chat/completions", asked("events")).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert!(problem["error"]["message"].as_str().unwrap().contains("You were not charged"));
    let bill = gateway.settled().await;
    assert_eq!((&bill["used_nano_usd"], &bill["requests"]), (&json!(0), &json!(0)));
}

/// A folder for a test's files.
fn tempdir(name: &str) -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
