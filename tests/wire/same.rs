//! A response is, byte for byte, what it would be without the layer, but for the layer's own header
//! fields.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Path,
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, Plan};
use tower_http::compression::CompressionLayer;

use crate::support::{bodies::Frames, *};

/// What a service answers.
const KINDS: [&str; 14] = [
    "exact",
    "empty",
    "no-content",
    "not-modified",
    "partial",
    "chunked",
    "announced",
    "trailers",
    "events",
    "large",
    "failing",
    "gone",
    "server-error",
    "own-id",
];

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxedError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

async fn answer(Path(kind): Path<String>) -> Response {
    let frames = |frames: Vec<_>| Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    let mut response = match kind.as_str() {
        "exact" => "four".into_response(),
        "empty" => Body::empty().into_response(),
        "no-content" => http::StatusCode::NO_CONTENT.into_response(),
        "not-modified" => {
            (http::StatusCode::NOT_MODIFIED, [(header::ETAG, "\"1\"")]).into_response()
        }
        "partial" => {
            (http::StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, "bytes 0-3/9")], "part")
                .into_response()
        }
        "announced" => {
            let mut response = frames(vec![data("of known "), data("length")]);
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("15"));
            response
        }
        "trailers" => {
            let trailers = HeaderMap::from_iter([(
                "x-checksum".parse().unwrap(),
                HeaderValue::from_static("1"),
            )]);
            let mut response =
                frames(vec![data("with "), data("trailers"), Ok(Frame::trailers(trailers))]);
            response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum"));
            response
        }
        "events" => {
            let mut response = frames(vec![data("data: 1\n\n"), data("data: 2\n\n")]);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            response
        }
        "large" => Bytes::from(b"0123456789abcdef".repeat(1 << 14)).into_response(),
        "failing" => {
            // Its head is out before it fails.
            let error = stream::once(async {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                Err("the model broke".into())
            });
            Response::new(Body::new(StreamBody::new(stream::iter([data("half of ")]).chain(error))))
        }
        "gone" => (http::StatusCode::GONE, "gone").into_response(),
        "server-error" => (http::StatusCode::INTERNAL_SERVER_ERROR, "no").into_response(),
        "own-id" => ([("inference-id", "mine"), ("x-compute-time", "mine")], "own").into_response(),
        _ => frames(vec![data("in "), data("some "), data("chunks")]),
    };
    response.headers_mut().insert("x-service", HeaderValue::from_static("kept"));
    response
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Outside,
    Inside,
}

async fn serve(meter: Option<&CreditMeter>, compression: Compression) -> SocketAddr {
    let app = Router::new().route("/models/{kind}", any(answer));
    // Everything is compressed, however small.
    let gzip = || {
        CompressionLayer::new().compress_when(
            |_: http::StatusCode, _: http::Version, _: &HeaderMap, _: &http::Extensions| true,
        )
    };
    let app = if compression == Compression::Inside { app.layer(gzip()) } else { app };
    let app = match meter {
        Some(meter) => app.layer(meter.clone()),
        None => app,
    };
    let app = if compression == Compression::Outside { app.layer(gzip()) } else { app };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn metered(inference_id: bool) -> CreditMeter {
    let plan = PLAN.replace(
        "\"/models/{model}\" = { model = \"{model}\" }",
        "\"/models/{kind}\" = { model = \"echo\" }",
    );
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    CreditMeter::builder(Plan::from_toml(&plan).unwrap(), MemoryLedger::new(), tokens)
        .inference_id(inference_id)
        .build()
        .unwrap()
}

/// All that comes over an HTTP/1 connection, but for the date.
async fn bytes_of(server: SocketAddr, head: &str) -> Vec<u8> {
    let mut connection = TcpStream::connect(server).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), connection.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    without(bytes, "date: ")
}

/// Without the one header line that begins so.
fn without(mut bytes: Vec<u8>, name: &str) -> Vec<u8> {
    let line = [b"\r\n", name.as_bytes()].concat();
    let at = bytes
        .windows(line.len())
        .position(|window| window == line)
        .unwrap_or_else(|| panic!("no {name}in {}", bytes.escape_ascii()));
    let end = at + 2 + bytes[at + 2..].windows(2).position(|window| window == b"\r\n").unwrap();
    bytes.drain(at..end);
    bytes
}

/// What is compressed outside of the layer is cut into blocks by when its frames come, so what it
/// says is compared.
fn gunzipped(response: Vec<u8>) -> Vec<u8> {
    let Some(at) = response.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
    else {
        return response;
    };
    let (head, mut chunks) = response.split_at(at);
    let mut data = Vec::new();
    while let Some(at) = chunks.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        data.extend_from_slice(&chunks[at + 2..at + 2 + size]);
        chunks = &chunks[at + 2 + size + 2..];
    }
    [head, &unzip(&data), chunks].concat()
}

fn unzip(data: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // One that failed midway has no end.
    drop(std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(data), &mut text));
    text
}

fn same(bare: &[u8], with: &[u8], what: &str) {
    assert!(bare == with, "{what}:\n{}\n{}", bare.escape_ascii(), with.escape_ascii());
}

#[tokio::test]
async fn byte_for_byte_over_http_1() {
    let meter = metered(false);
    let mut compared = 0;
    for compression in [Compression::None, Compression::Outside, Compression::Inside] {
        let (bare, with) = (serve(None, compression).await, serve(Some(&meter), compression).await);
        for kind in KINDS {
            for (method, version, more) in [
                ("POST", "1.1", "accept-encoding: gzip\r\n"),
                ("POST", "1.1", ""),
                ("HEAD", "1.1", ""),
                ("GET", "1.0", ""),
                ("POST", "1.1", "te: trailers\r\n"),
            ] {
                let request = format!(
                    "{method} /models/{kind} HTTP/{version}\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer s3cret\r\n{more}\r\n"
                );
                let (bare, with) = (bytes_of(bare, &request).await, bytes_of(with, &request).await);
                assert!(
                    bare.starts_with(b"HTTP/1.")
                        && bare.windows(9).any(|window| window == b"x-service")
                );
                let is_zipped = |response: &[u8]| {
                    response.windows(26).any(|window| window == b"transfer-encoding: chunked")
                        && compression == Compression::Outside
                        && more.contains("gzip")
                };
                let (bare, with) = if is_zipped(&bare) {
                    (gunzipped(bare), gunzipped(with))
                } else {
                    (bare, with)
                };
                same(&bare, &with, &format!("{compression:?} {kind} {method} {version} {more:?}"));
                compared += 1;
            }
        }
    }
    assert_eq!(
        settled(&meter, "alice", "pro", compared).await.requests(),
        compared,
        "and each was billed once"
    );
}

#[tokio::test]
async fn the_layers_own_field_is_the_only_difference() {
    let (bare, with) = (
        serve(None, Compression::None).await,
        serve(Some(&metered(true)), Compression::None).await,
    );
    for kind in KINDS {
        let request = format!(
            "POST /models/{kind} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer s3cret\r\n\r\n"
        );
        let (bare, with) = (bytes_of(bare, &request).await, bytes_of(with, &request).await);
        let with = if kind == "own-id" { with } else { without(with, "inference-id: ") };
        let with = without(without(with, "x-request-id: "), "request-id: ");
        same(&bare, &with, kind);
    }
}

/// The same over HTTP/2: the head's fields, whether the head ends the stream, the data, the
/// trailers, and the error.
#[tokio::test]
async fn frame_for_frame_over_http_2() {
    async fn seen(server: SocketAddr, method: &str, kind: &str, gzip: bool) -> String {
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(server).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let mut request =
            http::Request::builder().method(method).uri(format!("http://test/models/{kind}"));
        if gzip {
            request = request.header("accept-encoding", "gzip");
        }
        let request = request
            .header("authorization", "Bearer s3cret")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
        let (mut head, body) = response.await.unwrap().into_parts();
        head.headers.remove("date");
        let ends = body.is_end_stream();
        let is_zipped =
            head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
        let text = |data: Vec<u8>| Bytes::from(if is_zipped { unzip(&data) } else { data });
        let rest =
            super::client::read_h2(body).await.map(|(data, trailers)| (text(data), trailers));
        format!("{:?} {:?} ends {ends} {rest:?}", head.status, head.headers)
    }
    let meter = metered(false);
    for compression in [Compression::None, Compression::Outside, Compression::Inside] {
        let (bare, with) = (serve(None, compression).await, serve(Some(&meter), compression).await);
        for kind in KINDS {
            for (method, gzip) in [("POST", true), ("POST", false), ("HEAD", false)] {
                let (bare, with) =
                    (seen(bare, method, kind, gzip).await, seen(with, method, kind, gzip).await);
                assert_eq!(bare, with, "{compression:?} {kind} {method} {gzip}");
            }
        }
    }
}

/// A body asked step by step says the same before each step: whether it has ended, how much is
/// left, and what comes.
#[tokio::test]
async fn step_by_step() {
    type Make = fn() -> Frames;
    let table: [(&str, Make); 8] = [
        ("nothing", || Frames::text(&[])),
        ("nothing, exactly", || Frames::text(&[]).of_exact_length()),
        ("one frame", || Frames::text(&["a"])),
        ("frames", || Frames::text(&["a", "bc", ""])),
        ("frames of exact length", || Frames::text(&["a", "bc"]).of_exact_length()),
        ("trailers", || Frames::text(&["a"]).with_trailers()),
        ("trailers alone", || Frames::text(&[]).with_trailers()),
        ("an error", || {
            Frames::new([Ok(Frame::data(Bytes::from_static(b"a"))), Err("the model broke")])
        }),
    ];
    async fn steps<B: http_body::Body<Data = Bytes>>(body: B) -> Vec<String>
    where
        B::Error: std::fmt::Display,
    {
        let mut body = Box::pin(body);
        let mut steps = Vec::new();
        loop {
            let hint = body.size_hint();
            let before =
                format!("ends {} {:?}..{:?}", body.is_end_stream(), hint.lower(), hint.upper());
            let frame = match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => "None".to_owned(),
                Some(Ok(frame)) => format!("{frame:?}"),
                Some(Err(error)) => error.to_string(),
            };
            steps.push(format!("{before} {frame}"));
            if frame == "None" || steps.len() == 8 {
                return steps;
            }
        }
    }
    let meter = metered(false);
    for (name, make) in table {
        let make_response = tower::service_fn(move |_: http::Request<Body>| async move {
            Ok::<_, Infallible>(Response::new(make()))
        });
        let service = tower::Layer::layer(&meter, make_response);
        let request = http::Request::post("/models/any")
            .header("authorization", "Bearer s3cret")
            .body(Body::empty())
            .unwrap();
        let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
        assert_eq!(steps(make()).await, steps(response.into_body()).await, "{name}");
    }
}
