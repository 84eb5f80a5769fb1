//! What HTTP responses tell of their cost, where, and how they stay as they were otherwise.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router, extract::Query, response::Response, routing::post};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tower_credits::{BearerTokens, ComputeClock, ComputeTime, CreditMeter, MemoryLedger};

use crate::support::*;

#[derive(Deserialize)]
struct Asked {
    kind: String,
}

/// A body that knows with its last frame that it has ended, as those of known parts do.
struct KnowsItsEnd(Vec<&'static str>);

impl http_body::Body for KnowsItsEnd {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.pop();
        Poll::Ready(next.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

async fn answer(Query(asked): Query<Asked>, Extension(clock): Extension<ComputeClock>) -> Response {
    clock.report(Duration::from_millis(10));
    let data = |text: &'static str| {
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))
    };
    let stream = |frames: Vec<_>| axum::body::Body::new(StreamBody::new(stream::iter(frames)));
    let mut response = match asked.kind.as_str() {
        "exact" => Response::new("whole".into()),
        "knows its end" => Response::new(axum::body::Body::new(KnowsItsEnd(vec!["parts", "in "]))),
        "own trailers" => {
            let own = HeaderMap::from_iter([("x-own".parse().unwrap(), "1".parse().unwrap())]);
            Response::new(stream(vec![data("in "), data("parts"), Ok(Frame::trailers(own))]))
        }
        _ => Response::new(stream(vec![data("in "), data("parts")])),
    };
    if asked.kind == "reported" {
        response.extensions_mut().insert(ComputeTime(Duration::from_millis(10)));
    }
    if asked.kind == "own trailers" {
        response.headers_mut().insert("trailer", "x-own".parse().unwrap());
    }
    response
}

/// One request to a server of its own; the head, the body and the trailers that came.
async fn ask(
    tells: bool,
    version: Version,
    te: Option<&str>,
    kind: &str,
) -> (HeaderMap, Bytes, HeaderMap) {
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), tokens)
        .usage_headers(tells)
        .build()
        .unwrap();
    let app = Router::new().route("/models/echo", post(answer)).layer(meter);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut request =
        Request::post(format!("http://{address}/models/echo?kind={}", kind.replace(' ', "%20")))
            .version(version);
    request = te.into_iter().fold(
        request.header("authorization", "Bearer s3cret").header("host", "test"),
        |request, te| request.header("te", te),
    );
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let response = if version == Version::HTTP_2 {
        let (mut client, connection) =
            conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        client.send_request(request).await.unwrap()
    } else {
        let (mut client, connection) = conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        client.send_request(request).await.unwrap()
    };
    assert_eq!(response.status(), 200);
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (parts.headers, body.to_bytes(), trailers)
}

fn field<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_client_that_takes_trailers_learns_there_what_a_stream_cost() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for kind in ["stream", "knows its end"] {
            let (head, body, trailers) = ask(true, version, Some("trailers"), kind).await;
            assert_eq!(body, "in parts");
            let told = (field(&trailers, "x-compute-time"), field(&trailers, "x-cost-nano-usd"));
            assert_eq!(told, (Some("0.010000"), Some("1200")), "{version:?} {kind}");
            assert!(
                !head.contains_key("x-compute-time") && !head.contains_key("content-length"),
                "{head:?}"
            );
        }
        let (_, body, trailers) = ask(true, version, Some("trailers"), "own trailers").await;
        assert_eq!(body, "in parts");
        // What the service says there, it still says.
        assert_eq!(
            (field(&trailers, "x-own"), field(&trailers, "x-cost-nano-usd")),
            (Some("1"), Some("1200")),
            "{version:?}"
        );
    }
    let (_, _, trailers) =
        ask(true, Version::HTTP_11, Some("gzip;q=0.5, Trailers"), "stream").await;
    assert_eq!(trailers.len(), 2);
}

#[tokio::test]
async fn nobody_else_gets_trailers() {
    for (tells, te, kind) in [
        (true, None, "stream"),
        (true, Some("gzip"), "stream"),
        (false, Some("trailers"), "stream"),
        (true, Some("trailers"), "exact"),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            if version == Version::HTTP_2 && te == Some("gzip") {
                // HTTP/2 has no other word (RFC 9113, section 8.2.2).
                continue;
            }
            let (head, body, trailers) = ask(tells, version, te, kind).await;
            assert!(
                trailers.is_empty() && !head.contains_key("trailer"),
                "{version:?} {te:?} {kind}: {trailers:?}"
            );
            let length = (kind == "exact").then_some("5");
            assert_eq!(
                (field(&head, "content-length"), body.len()),
                (length, if kind == "exact" { 5 } else { 8 }),
                "{version:?}"
            );
        }
    }
}

/// One that is metered to its head only knows there what it cost, however long its body goes on.
#[tokio::test]
async fn until_the_head_the_time_stands_there() {
    let clock = november();
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    let meter = CreditMeter::builder(plan(), MemoryLedger::with_clock(clock.clone()), tokens)
        .clock(clock.clone())
        .compute_until_head(true)
        .usage_headers(true)
        .build()
        .unwrap();
    let infer = clock.clone();
    let service = tower::Layer::layer(
        &meter,
        tower::service_fn(move |_: Request<Full<Bytes>>| {
            infer.advance(Duration::from_millis(1_500));
            let body = StreamBody::new(stream::iter([Ok::<_, std::convert::Infallible>(
                Frame::data(Bytes::from_static(b"a")),
            )]));
            std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(body)))
        }),
    );
    let request = Request::post("/models/echo")
        .header("authorization", "Bearer s3cret")
        .header("te", "trailers");
    let response =
        tower::ServiceExt::oneshot(service, request.body(Full::default()).unwrap()).await.unwrap();
    let told =
        (field(response.headers(), "x-compute-time"), field(response.headers(), "server-timing"));
    assert_eq!(told, (Some("1.500000"), Some("compute;dur=1500.000")));
    clock.advance(seconds(10));
    assert!(response.into_body().collect().await.unwrap().trailers().is_none());
    assert_eq!(settled(&meter, "alice", "pro", 1).await.compute(), Duration::from_millis(1_500));
}

#[tokio::test]
async fn what_is_known_at_the_head_stands_there() {
    let (head, _, trailers) = ask(true, Version::HTTP_11, Some("trailers"), "reported").await;
    assert_eq!(
        (field(&head, "x-compute-time"), field(&head, "server-timing")),
        (Some("0.010000"), Some("compute;dur=10.000"))
    );
    assert!(field(&head, "x-credits-remaining").is_some() && trailers.is_empty(), "{head:?}");
    let (head, ..) = ask(false, Version::HTTP_11, None, "reported").await;
    assert!(
        ["x-compute-time", "server-timing", "x-credits-remaining"]
            .iter()
            .all(|name| !head.contains_key(*name)),
        "{head:?}"
    );
}
