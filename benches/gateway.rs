//! What a gateway adds to a request and to a token: the same proxy with and without the meter,
//! beside the upstream itself. `cargo bench -p benches --bench gateway`.
//!
//! Client, proxies and upstream are one process and talk over loopback sockets, one request at a
//! time. Rounds of all take turns. A stream's tokens come at a pace, as a model's do, and what is
//! measured is how late each one reaches the client.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

#[path = "../examples/gateway/proxy.rs"]
#[allow(dead_code, unused_imports, reason = "the example's own proxy, and its tests")]
mod proxy;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, Plan};

use self::proxy::{Proxy, Upstreams};

const PLAN: &str = r#"
[hardware.cpu]
price_per_second = "0.00012"
shared = true
[models.m]
hardware = "cpu"
[routes]
"/by-body/{*rest}" = { model = "{body:model}" }
"/by-path/{*rest}" = { model = "m" }
[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"
midway = "finish"
"#;

const ROUNDS: usize = 41;
const REQUESTS: usize = 100;
const TOKENS: usize = 200;
/// Time between two tokens: a fast model's.
const PACE: Duration = Duration::from_millis(2);

/// Answers a request, with a stream if it asks for one. A token says when it was sent.
async fn upstream(request: Request) -> Response {
    if !request.uri().path().ends_with("stream") {
        drop(request.into_body().collect().await.unwrap());
        return ([("content-type", "application/json")], "{\"usage\":{}}").into_response();
    }
    let tokens = stream::iter(0..TOKENS).then(async |_| {
        tokio::time::sleep(PACE).await;
        let sent = epoch().elapsed().as_nanos();
        Ok::<_, Infallible>(Bytes::from(format!("data: {sent:020}\n\n")))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(tokens)).into_response()
}

/// The moment from which all moments of this process are counted.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let listener = axum::serve::ListenerExt::tap_io(listener, |connection| {
            connection.set_nodelay(true).unwrap();
        });
        axum::serve(listener, app).await
    });
    url
}

async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    proxy.send(None, &path, request).await
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

async fn ask(client: &HttpClient, url: &str, body: &Bytes) -> hyper::body::Incoming {
    let request = http::Request::post(url)
        .header("authorization", "Bearer token")
        .header("content-type", "application/json")
        .body(Full::new(body.clone()))
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert!(response.status().is_success(), "{url}: {}", response.status());
    response.into_body()
}

/// Microseconds of a request, on average over a round.
async fn requests(client: &HttpClient, url: &str, body: &Bytes) -> f64 {
    let began = Instant::now();
    for _ in 0..REQUESTS {
        drop(ask(client, url, body).await.collect().await.unwrap());
    }
    began.elapsed().as_secs_f64() * 1e6 / REQUESTS as f64
}

/// Microseconds from the moment when a token was sent until it is here, on average over a stream.
async fn tokens(client: &HttpClient, url: &str, body: &Bytes) -> f64 {
    let mut frames = ask(client, url, body).await;
    let (mut late, mut count) = (0.0, 0);
    while let Some(frame) = frames.frame().await {
        let now = epoch().elapsed().as_nanos();
        let Ok(data) = frame.unwrap().into_data() else { continue };
        for event in data.chunks_exact(28) {
            let sent: u128 = std::str::from_utf8(&event[6..26]).unwrap().parse().unwrap();
            late += (now - sent) as f64 / 1e3;
            count += 1;
        }
    }
    assert_eq!(count, TOKENS);
    late / f64::from(count as u32)
}

fn median(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize];
    (at(0.5), at(0.05), at(0.95))
}

#[tokio::main]
async fn main() {
    epoch();
    let direct = serve(Router::new().route("/{*path}", any(upstream))).await;
    let proxy = || {
        let upstreams = Upstreams::from_settings(&direct, None, None).unwrap();
        Arc::new(Proxy::new(upstreams).unwrap())
    };
    let router = || Router::new().route("/{*path}", any(forward)).with_state(proxy());
    let bare = serve(router()).await;
    let tokens_file = BearerTokens::new().with("token", benches::identity("alice", "pro"));
    let meter = CreditMeter::new(Plan::from_toml(PLAN).unwrap(), MemoryLedger::new(), tokens_file);
    let metered = serve(router().layer(meter.buffer_bodies())).await;
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();

    let small = Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#);
    let large = Bytes::from(format!(r#"{{"model":"m","image":"{}"}}"#, "A".repeat(1 << 20)));
    let subjects = [
        ("upstream alone", &direct, "/by-body/whole"),
        ("bare proxy", &bare, "/by-body/whole"),
        ("gateway, model fixed by the path", &metered, "/by-path/whole"),
        ("gateway, model from the body", &metered, "/by-body/whole"),
    ];
    println!("| microseconds a request: median (5 % .. 95 %) | 57 bytes | 1 MiB |\n|---|---|---|");
    let mut times = vec![[Vec::new(), Vec::new()]; subjects.len()];
    for _ in 0..ROUNDS {
        for ((_, server, path), times) in subjects.iter().zip(&mut times) {
            let url = format!("{server}{path}");
            times[0].push(requests(&client, &url, &small).await);
            times[1].push(requests(&client, &url, &large).await);
        }
    }
    for ((name, ..), [small, large]) in subjects.iter().zip(&mut times) {
        let cell = |values: &mut [f64]| {
            let (median, low, high) = median(values);
            format!("{median:.0} ({low:.0} .. {high:.0})")
        };
        println!("| {name} | {} | {} |", cell(small), cell(large));
    }

    println!(
        "\n| microseconds from a token's sending to its client: median (5 % .. 95 %) | |\n|---|---|"
    );
    let subjects = [
        ("upstream alone", &direct, "/by-body/stream"),
        ("bare proxy", &bare, "/by-body/stream"),
        ("gateway, model from the body", &metered, "/by-body/stream"),
    ];
    let mut times = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS / 4 {
        for ((_, server, path), times) in subjects.iter().zip(&mut times) {
            times.push(tokens(&client, &format!("{server}{path}"), &small).await);
        }
    }
    for ((name, ..), values) in subjects.iter().zip(&mut times) {
        let (median, low, high) = median(values);
        println!("| {name} | {median:.0} ({low:.0} .. {high:.0}) |");
    }
    meter.shutdown().await;
}
