//! Clients that do not read, on real wires: what is billed is what the service was busy, as it
//! measures that itself.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::Response,
    routing::post,
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, Plan};

use super::{
    client::{asking, audio, connect},
    proto::Audio,
};
use crate::support::*;

/// Microseconds in which the service computed.
type Busy = Arc<Work>;

/// What the service did: for how many microseconds it was busy, and how many frames it made.
#[derive(Default)]
struct Work {
    micros: AtomicU64,
    frames: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    frames: usize,
    bytes: usize,
    millis: u64,
}

/// Fits into the queue.
const SMALL: Shape = Shape { frames: 50, bytes: 1_000, millis: 20 };

/// Fills the queue, and what the sockets take.
const LARGE: Shape = Shape { frames: 200, bytes: 128 << 10, millis: 5 };

/// More than any credits pay for.
const LONG: Shape = Shape { frames: 1_000, bytes: 1_000, millis: 20 };

fn shape(name: &str) -> Shape {
    match name {
        "small" => SMALL,
        "large" => LARGE,
        _ => LONG,
    }
}

/// A task computes, and sends what it has through a channel.
async fn answer(
    Path((_, name)): Path<(String, String)>,
    State(busy): State<Busy>,
    request: axum::extract::Request,
) -> Response {
    let is_grpc =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    let (feed, fed) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(4);
    let Shape { frames, bytes, millis } = shape(&name);
    tokio::spawn(async move {
        for _ in 0..frames {
            let began = Instant::now();
            sleep(Duration::from_millis(millis)).await;
            busy.micros
                .fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap(), Ordering::SeqCst);
            busy.frames.fetch_add(1, Ordering::SeqCst);
            let data = if is_grpc { message(bytes) } else { Bytes::from(vec![b'x'; bytes]) };
            if feed.send(Ok(Frame::data(data))).await.is_err() {
                return;
            }
        }
        if is_grpc {
            let trailers = HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static("0"),
            )]);
            drop(feed.send(Ok(Frame::trailers(trailers))).await);
        }
    });
    let frames = futures_util::stream::unfold(fed, async |mut fed| Some((fed.recv().await?, fed)));
    let kind = if is_grpc { "application/grpc" } else { "application/octet-stream" };
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .body(Body::new(StreamBody::new(frames)))
        .unwrap()
}

fn message(bytes: usize) -> Bytes {
    let message = Audio { pcm: vec![b'x'; bytes].into() }.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(&message);
    framed.freeze()
}

struct Server {
    meter: CreditMeter,
    address: SocketAddr,
    busy: Busy,
}

impl Server {
    /// Answers at `/models/{shape}`, and at the denoiser's path with the shape that is given here.
    async fn start(grpc: &'static str) -> Self {
        let routes = "[routes]\n\"/models/{name}\" = { model = \"echo\" }\n\"/denoise.v1.Denoise/{name}\" = { model = \"echo\" }";
        let plan = PLAN.replace("[routes]\n\"/models/{model}\" = { model = \"{model}\" }", routes);
        let tokens = ["pro", "quick"]
            .into_iter()
            .fold(BearerTokens::new(), |tokens, tier| tokens.with(tier, identity(tier, tier)));
        let builder =
            CreditMeter::builder(Plan::from_toml(&plan).unwrap(), MemoryLedger::new(), tokens);
        let meter = builder
            .ledger_timeout(Duration::from_millis(20))
            .report_within(Duration::from_millis(20))
            .build()
            .unwrap();
        let busy = Busy::default();
        let with = move |Path(name): Path<String>, state, request| {
            let name = if name == "Split" { grpc.to_owned() } else { name };
            answer(Path((String::new(), name)), state, request)
        };
        let app = Router::new()
            .route("/models/{name}", post(with))
            .route("/denoise.v1.Denoise/{name}", post(with))
            .with_state(Arc::clone(&busy))
            .layer(meter.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { meter, address, busy }
    }

    /// What was billed, and for how long the service computed, in milliseconds.
    async fn billed(&self, tier: &str) -> (f64, f64) {
        let statement = settled(&self.meter, tier, tier, 1).await;
        (
            statement.compute().as_secs_f64() * 1e3,
            self.busy.micros.load(Ordering::SeqCst) as f64 / 1e3,
        )
    }

    /// How long a frame took, in milliseconds: on a busy machine longer than it should.
    fn frame(&self) -> f64 {
        self.busy.micros.load(Ordering::SeqCst) as f64
            / 1e3
            / self.busy.frames.load(Ordering::SeqCst).max(1) as f64
    }
}

/// How a client treats its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Honest,
    /// It reads nothing for a time, and then goes away.
    Gone,
    /// It reads nothing for a time, and then everything.
    Late,
}

const AWAY: Duration = Duration::from_millis(1_800);

async fn http_1(server: &Server, tier: &str, shape: &str, client: Client) {
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /models/{shape} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {tier}\r\ncontent-length: 0\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    if client != Client::Honest {
        sleep(AWAY).await;
    }
    if client != Client::Gone {
        let mut all = Vec::new();
        drop(connection.read_to_end(&mut all).await);
    }
}

/// With a flow-control window of nothing, until it reads.
async fn http_2(server: &Server, tier: &str, path: &str, client: Client) {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    if client == Client::Honest {
        builder.initial_connection_window_size(1 << 30).initial_window_size(1 << 30);
    } else {
        builder.initial_window_size(0);
    }
    let (sender, mut connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let (open, mut opens) = mpsc::channel::<()>(1);
    let driven = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = &mut connection => break,
                Some(()) = opens.recv() => {
                    connection.set_target_window_size(1 << 30);
                    connection.set_initial_window_size(1 << 30).unwrap();
                }
            }
        }
    });
    let request = http::Request::post(format!("http://test{path}"))
        .header("authorization", format!("Bearer {tier}"));
    let request = if path.starts_with("/denoise") {
        request.header("content-type", "application/grpc").header("te", "trailers")
    } else {
        request
    };
    let (response, _) =
        sender.ready().await.unwrap().send_request(request.body(()).unwrap(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    if client != Client::Honest {
        sleep(AWAY).await;
    }
    if client != Client::Gone {
        open.send(()).await.unwrap();
        while let Some(Ok(data)) = body.data().await {
            drop(body.flow_control().release_capacity(data.len()));
        }
        drop(body.trailers().await);
    }
    drop(body);
    driven.abort();
}

async fn grpc(server: &Server, tier: &str, client: Client) {
    if client != Client::Honest {
        return http_2(server, tier, "/denoise.v1.Denoise/Split", client).await;
    }
    let mut answer =
        connect(server.address).await.split(asking(tier, audio("a"))).await.unwrap().into_inner();
    while let Ok(Some(_)) = answer.message().await {}
}

/// Every client over every wire, all at once.
async fn each(
    shape: &'static str,
    tier: &'static str,
    check: impl Fn(&str, f64, f64, &Server, Duration) + Copy,
) {
    let mut tasks = Vec::new();
    for wire in ["HTTP/1.1", "HTTP/2", "gRPC"] {
        for client in [Client::Honest, Client::Gone, Client::Late] {
            tasks.push(async move {
                let server = Server::start(shape).await;
                let began = Instant::now();
                match wire {
                    "HTTP/1.1" => http_1(&server, tier, shape, client).await,
                    "HTTP/2" => http_2(&server, tier, &format!("/models/{shape}"), client).await,
                    _ => grpc(&server, tier, client).await,
                }
                let (billed, busy) = server.billed(tier).await;
                let case = format!(
                    "{wire}, {client:?}, {shape}: billed {billed:.0} ms, busy {busy:.0} ms"
                );
                eprintln!("{case}");
                check(&case, billed, busy, &server, began.elapsed());
            });
        }
    }
    futures_util::future::join_all(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_answer_costs_what_it_took_to_make_whoever_reads_it() {
    each("small", "pro", |case, billed, busy, server, _| {
        // When a client goes, a frame is being made, and another may be before its task learns it.
        let longer = 3.0 * (server.frame() - SMALL.millis as f64).max(0.0);
        assert!((billed - busy).abs() <= 0.05 * busy + 30.0 + longer, "{case}");
    })
    .await;
}

/// What waits unseen when a client goes away costs nothing: the channel's four frames, and one on
/// either side of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_costs_what_it_took_to_make_whoever_reads_it() {
    each("large", "pro", |case, billed, busy, server, _| {
        let unseen = if case.contains("Gone") {
            6.0 * 2.0 * server.frame().max(LARGE.millis as f64)
        } else {
            0.0
        };
        assert!(billed >= 0.8 * busy - unseen - 40.0 && billed <= 1.15 * busy + 40.0, "{case}");
    })
    .await;
}

/// The request is cut on time, whether or not anybody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_end_on_time_whoever_reads() {
    each("long", "quick", |case, _, busy, _, _| assert!((250.0..600.0).contains(&busy), "{case}"))
        .await;
}
