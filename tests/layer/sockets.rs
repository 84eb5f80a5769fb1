//! Through real sockets: axum on one side, real clients on the other.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{any, get, post},
};
use bytes::Bytes;
use futures_util::stream;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, billing, clock::ManualClock};

use crate::support::*;

struct Server {
    address: SocketAddr,
    meter: CreditMeter,
    clock: ManualClock,
    /// Set while the endless body is alive.
    streaming: Arc<AtomicBool>,
}

struct SetWhileAlive(Arc<AtomicBool>);

impl Drop for SetWhileAlive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Server {
    async fn start() -> Self {
        let clock = november();
        let tokens = ["free", "none", "pro"]
            .into_iter()
            .fold(BearerTokens::new(), |tokens, tier| tokens.with(tier, identity(tier, tier)));
        let plan = tower_credits::Plan::from_toml(
            &PLAN.replace("\"/health\"", "\"/endless\" = { model = \"echo\" }\n\"/health\""),
        )
        .unwrap();
        let ledger = MemoryLedger::with_clock(clock.clone());
        let meter =
            CreditMeter::builder(plan, ledger, tokens).clock(clock.clone()).build().unwrap();
        let streaming = Arc::new(AtomicBool::new(false));
        let (passing, alive) = (clock.clone(), streaming.clone());
        let endless = move || {
            alive.store(true, Ordering::SeqCst);
            let alive = SetWhileAlive(alive.clone());
            let chunks = stream::unfold(alive, |alive| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1000])), alive))
            });
            std::future::ready(Body::from_stream(chunks))
        };
        let metered = Router::new()
            .route(
                "/models/echo",
                any(move |body: Bytes| {
                    passing.advance(seconds(1));
                    std::future::ready(body)
                }),
            )
            .route("/endless", get(endless))
            .route("/health", post(|| async { "ok" }))
            .layer(meter.clone());
        let app = billing::router(&meter).merge(metered);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, meter, clock, streaming }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

#[tokio::test]
async fn head_and_exact_lengths_are_billed_once_and_keep_their_length() {
    let server = Server::start().await;
    let client = Client::new();
    let head = client.head(server.url("/models/echo")).bearer_auth("pro").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
    assert_eq!(settled(&server.meter, "pro", "pro", 1).await.used, nanos(SLICE));
    let post = client
        .post(server.url("/models/echo"))
        .bearer_auth("pro")
        .body("four")
        .send()
        .await
        .unwrap();
    assert_eq!(post.headers()["content-length"], "4");
    assert_eq!(post.text().await.unwrap(), "four");
    assert_eq!(settled(&server.meter, "pro", "pro", 2).await.used, nanos(2 * SLICE));
    let free = client.post(server.url("/health")).send().await.unwrap();
    assert_eq!(
        (free.status().as_u16(), free.headers().get("inference-id")),
        (200, None),
        "what is free passes untouched"
    );
}

#[tokio::test]
async fn a_client_that_vanishes_pays_for_what_ran() {
    let server = Server::start().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket
        .write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pro\r\n\r\n")
        .await
        .unwrap();
    let mut seen = vec![0; 5000];
    socket.read_exact(&mut seen).await.unwrap();
    assert!(seen.starts_with(b"HTTP/1.1 200 OK"));
    server.clock.advance(seconds(9));
    // The bytes that come while the clock stands at 9 s are computed after the wait for them.
    socket.read_exact(&mut seen).await.unwrap();
    drop(socket);
    eventually(async || (!server.streaming.load(Ordering::SeqCst)).then_some(())).await;
    server.clock.advance(seconds(1000));
    let statement = settled(&server.meter, "pro", "pro", 1).await;
    assert_eq!((statement.compute(), statement.used), (seconds(9), nanos(9 * SLICE)));
}

/// In HTTP/1.1 the last chunk is missing; HTTP/2 resets the stream.
#[tokio::test]
async fn a_plain_response_that_is_cut_off_has_no_clean_end_on_its_connection() {
    let all = seconds(900);
    let server = Server::start().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = b"GET /endless HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer free\r\n\r\n";
    socket.write_all(head).await.unwrap();
    let mut seen = vec![0; 5000];
    socket.read_exact(&mut seen).await.unwrap();
    server.clock.advance(all);
    // A reset of the connection is no clean end either.
    let rest = timeout(seconds(60), socket.read_to_end(&mut seen)).await.expect("it is cut off");
    if rest.is_ok() {
        let end = String::from_utf8_lossy(&seen[seen.len() - 20..]).into_owned();
        assert!(!end.ends_with("0\r\n\r\n"), "the last chunk: {end:?}");
    }
    assert_eq!(settled(&server.meter, "free", "free", 1).await.used, "0.10".parse().unwrap());

    for (version, client) in [
        ("HTTP/1.1", Client::builder().http1_only()),
        ("HTTP/2", Client::builder().http2_prior_knowledge()),
    ] {
        let server = Server::start().await;
        let client = client.build().unwrap();
        let asked = client.get(server.url("/endless")).bearer_auth("free").send().await.unwrap();
        assert_eq!(asked.status(), 200, "{version}");
        server.clock.advance(all);
        let read = timeout(seconds(60), asked.bytes()).await.expect("it is cut off");
        assert!(read.is_err(), "{version}: a whole response of {:?} bytes", read.map(|b| b.len()));
    }
}

#[tokio::test]
async fn every_client_that_still_sends_reads_its_402() {
    let server = Server::start().await;
    let body = vec![b'x'; 1_000_000];
    let keeps_alive = Client::new();
    for round in 0..30 {
        let client = if round % 2 == 0 { keeps_alive.clone() } else { Client::new() };
        let denied = client
            .post(server.url("/models/echo"))
            .bearer_auth("none")
            .body(body.clone())
            .send()
            .await
            .expect("no broken pipe");
        assert_eq!(denied.status(), 402, "round {round}");
        let problem: Value = serde_json::from_slice(&denied.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["reason"], "CREDITS_USED_UP");
    }
}

/// A plain client sends all of its body before it reads. Where the server closes with bytes unread,
/// its kernel resets the connection, and the answer is lost with it.
#[tokio::test]
async fn every_plain_client_that_sends_first_and_reads_then_has_its_402() {
    let server = Server::start().await;
    for round in 0..30 {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let head = "POST /models/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer none\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        for chunk in vec![b'x'; 1_000_000].chunks(50_000) {
            socket
                .write_all(chunk)
                .await
                .unwrap_or_else(|error| panic!("round {round}: a broken pipe: {error}"));
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        socket
            .read_to_string(&mut answer)
            .await
            .unwrap_or_else(|error| panic!("round {round}: no answer: {error}"));
        assert!(
            answer.starts_with("HTTP/1.1 402 ") && answer.contains("CREDITS_USED_UP"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_not_asked() {
    let server = Server::start().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head =
        b"POST /models/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer none\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    socket.write_all(head).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(seconds(5), socket.read_exact(&mut answer))
        .await
        .expect("an answer before the body")
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 402");
}

#[tokio::test]
async fn the_bill_as_json() {
    let server = Server::start().await;
    let client = Client::new();
    let bill = |query: &'static str, token: &'static str| {
        let request =
            client.get(server.url(&format!("/billing.json{query}"))).bearer_auth(token).send();
        async move {
            let response = request.await.unwrap();
            (
                response.status().as_u16(),
                serde_json::from_slice::<Value>(&response.bytes().await.unwrap()).unwrap(),
            )
        }
    };
    let zeros = json!({
        "account": "user:free", "tier": "free", "price_factor": "1",
        "period": "2026-11", "resets_at": "2026-12-01T00:00:00Z",
        "included_nano_usd": 100_000_000, "included_used_nano_usd": 0,
        "included_per_day_nano_usd": 0,
        "included_left_today_nano_usd": 0, "used_nano_usd": 0, "held_nano_usd": 0, "pay_as_you_go_nano_usd": 0,
        "refunded_nano_usd": 0, "beyond_nano_usd": 0, "refunds": [], "closed": false,
        "purchased_used_nano_usd": 0, "purchased_left_nano_usd": 0, "spending_limit_nano_usd": null, "seats": 1, "most_per_day_nano_usd": null, "used_today_nano_usd": 0, "requests": 0, "compute_seconds": 0.0, "lines": [],
    });
    assert_eq!(bill("", "free").await, (200, zeros));
    for _ in 0..3 {
        client.post(server.url("/models/echo")).bearer_auth("free").body("x").send().await.unwrap();
    }
    settled(&server.meter, "free", "free", 3).await;
    let line = json!({
        "day": "2026-11-01", "model": "echo", "hardware": "gpu-small", "feature": "api",
        "requests": 3, "compute_seconds": 3.0, "cost_nano_usd": 360_000,
    });
    let (_, used) = bill("?period=2026-11", "free").await;
    assert_eq!(
        (&used["lines"], &used["used_nano_usd"], &used["requests"]),
        (&json!([line]), &json!(360_000), &json!(3))
    );
    assert_eq!(bill("?period=2026-10", "free").await.1["used_nano_usd"], 0);
    assert_eq!(bill("?period=november", "free").await.0, 400);
    assert_eq!(bill("", "guess").await.0, 401);
    assert_eq!(bill("", "none").await.1["used_nano_usd"], 0, "everybody sees their own");
}

/// An unknown path is denied by the meter, and not by axum's empty answer.
#[tokio::test]
async fn an_unknown_path_is_denied_in_words() {
    let server = Server::start().await;
    for (token, path, status, reason) in [
        ("free", "/nowhere", 404, "NOT_IN_PLAN"),
        ("free", "/models/none", 404, "MODEL_NOT_FOUND"),
        ("guess", "/nowhere", 401, "UNAUTHENTICATED"),
    ] {
        let asked = Client::new().post(server.url(path)).bearer_auth(token).send().await.unwrap();
        assert_eq!(asked.status().as_u16(), status, "{path}");
        let problem: Value = serde_json::from_slice(&asked.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["reason"], reason, "{path}");
    }
}
