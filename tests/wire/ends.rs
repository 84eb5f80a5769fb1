//! Every kind of call, and every way in which it can end: billed exactly once, and nothing stays on
//! hold.
//!
//! `cargo test --all-features --test wire ends -- --nocapture` shows what each client saw.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Status,
    transport::server::{Server, TcpIncoming},
};
use tower_credits::{CreditMeter, MemoryLedger};

use super::{
    client::*,
    echo::{COST, Echo, Work, builder, router},
    proto::denoise_server::DenoiseServer,
};
use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unary,
    ClientStreaming,
    ServerStreaming,
    Bidirectional,
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    StatusError,
    DeadlineExceeded,
    ClientCancel,
    /// `RST_STREAM`; in HTTP/1.1, which has no streams, a reset of the connection.
    Reset,
    ConnectionLoss,
    /// The server shuts down while the call runs.
    GoAway,
}

const KINDS: [Kind; 6] = [
    Kind::Unary,
    Kind::ClientStreaming,
    Kind::ServerStreaming,
    Kind::Bidirectional,
    Kind::Http1,
    Kind::Http2,
];

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Unary => "/denoise.v1.Denoise/Whole",
            Self::ClientStreaming => "/denoise.v1.Denoise/Collect",
            Self::ServerStreaming => "/denoise.v1.Denoise/Split",
            Self::Bidirectional => "/denoise.v1.Denoise/Stream",
            Self::Http1 | Self::Http2 => "/models/echo",
        }
    }

    fn is_grpc(self) -> bool {
        self.path().starts_with("/denoise")
    }
}

/// How the layer saw a request end: the end, the HTTP status, the gRPC status.
type Seen = (tower_credits::meter::End, Option<u16>, Option<u8>);

/// A server of its own for one call.
struct World {
    meter: CreditMeter,
    endings: Arc<Mutex<Vec<Seen>>>,
    work: Arc<Work>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl World {
    async fn new(kind: Kind) -> Self {
        let endings = Arc::new(Mutex::new(Vec::new()));
        let (clock, seen) = (november(), Arc::clone(&endings));
        let meter =
            builder(MemoryLedger::with_clock(clock.clone()), &clock).bill_if(move |ending| {
                seen.lock().unwrap().push((
                    ending.end,
                    ending.status.map(|status| status.as_u16()),
                    ending.grpc_status,
                ));
                true
            });
        let meter = meter.build().unwrap();
        let work = Arc::new(Work::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let (service, layer) = (Arc::clone(&work), meter.clone());
        let server = if kind.is_grpc() {
            let server =
                Server::builder().layer(layer).add_service(DenoiseServer::new(Echo(service)));
            tokio::spawn(async {
                server
                    .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped)
                    .await
                    .unwrap();
            })
        } else {
            let app = router(service).layer(layer);
            tokio::spawn(async {
                axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
            })
        };
        Self { meter, endings, work, address, stop, server }
    }
}

/// Calls with one message and reads to the end. What the client saw.
async fn call(
    kind: Kind,
    server: SocketAddr,
    message: &'static str,
    within: Option<Duration>,
) -> String {
    if kind.is_grpc() {
        call_grpc(kind, server, message, within).await
    } else {
        call_http(kind, server, message, within).await
    }
}

async fn call_grpc(
    kind: Kind,
    server: SocketAddr,
    message: &'static str,
    within: Option<Duration>,
) -> String {
    async fn asked(
        kind: Kind,
        server: SocketAddr,
        message: &'static str,
        within: Option<Duration>,
    ) -> Result<String, Status> {
        fn timed<T>(message: T, is_late: bool, within: Option<Duration>) -> tonic::Request<T> {
            let mut request = asking("free", message);
            within.into_iter().for_each(|within| request.set_timeout(within));
            if is_late {
                request.metadata_mut().insert("x-late", "1".parse().unwrap());
            }
            request
        }
        let mut client = connect(server).await;
        let is_late = message == "late";
        let parts = move || stream::iter([audio(message)]);
        let mut answer = match kind {
            Kind::Unary => {
                let answer = client.whole(timed(audio(message), is_late, within)).await?;
                return Ok(field(answer.metadata(), "x-cost-nano-usd").unwrap_or("?").to_owned());
            }
            Kind::ClientStreaming => {
                let answer = client.collect(timed(parts(), is_late, within)).await?;
                return Ok(field(answer.metadata(), "x-cost-nano-usd").unwrap_or("?").to_owned());
            }
            Kind::ServerStreaming => {
                client.split(timed(audio(message), is_late, within)).await?.into_inner()
            }
            _ => client.stream(timed(parts(), is_late, within)).await?.into_inner(),
        };
        while answer.message().await?.is_some() {}
        let trailers = answer.trailers().await?.unwrap_or_default();
        Ok(field(&trailers, "x-cost-nano-usd").unwrap_or("?").to_owned())
    }
    match asked(kind, server, message, within).await {
        Ok(cost) => format!("Ok, cost {cost}"),
        Err(status) => named(status.code()),
    }
}

async fn call_http(
    kind: Kind,
    server: SocketAddr,
    message: &'static str,
    within: Option<Duration>,
) -> String {
    let client = reqwest::Client::builder();
    let client =
        if kind == Kind::Http2 { client.http2_prior_knowledge() } else { client.http1_only() }
            .build()
            .unwrap();
    let request =
        client.post(format!("http://{server}/models/echo")).bearer_auth("free").body(message);
    let asked = async {
        let response =
            within.into_iter().fold(request, reqwest::RequestBuilder::timeout).send().await?;
        let status = response.status().as_u16();
        response.bytes().await.map(|body| format!("{status}, {} bytes", body.len()))
    };
    asked.await.unwrap_or_else(|error| {
        if error.is_timeout() { "timeout".to_owned() } else { "broken".to_owned() }
    })
}

/// Ends a call in one way. What the client saw.
async fn end(kind: Kind, end: End, world: &mut Option<World>) -> String {
    let World { work, address, .. } = world.as_ref().unwrap();
    let (work, address) = (Arc::clone(work), *address);
    match end {
        // The server-streaming call answers "a" with three messages, and "b" with one, like the
        // others.
        End::Complete => call(kind, address, "b", None).await,
        End::StatusError => call(kind, address, "error", None).await,
        End::DeadlineExceeded if kind.is_grpc() => {
            // A client that says its deadline and does not keep it by itself: the server does.
            let mut bare = Bare::to(address).await;
            let ends = !matches!(kind, Kind::ClientStreaming | Kind::Bidirectional);
            let late = [("grpc-timeout", "1500m"), ("x-late", "1")];
            let (response, _stream) = bare
                .open_with(kind.path(), "free", framed(&audio("late")), ends, &late)
                .await
                .unwrap();
            let response = response.await.unwrap();
            assert_eq!(work.begun(), 1);
            let status: i32 = response.headers()["grpc-status"].to_str().unwrap().parse().unwrap();
            named(tonic::Code::from_i32(status))
        }
        End::DeadlineExceeded => {
            let seen = call(kind, address, "late", Some(Duration::from_millis(1_500))).await;
            assert_eq!(work.begun(), 1);
            seen
        }
        End::ClientCancel => {
            let call = tokio::spawn(call(kind, address, "hang", None));
            work.has_begun().await;
            call.abort();
            call.await
                .unwrap_err()
                .to_string()
                .replace(|c: char| c.is_ascii_digit(), "")
                .replace("task  was ", "")
        }
        End::Reset if kind == Kind::Http1 => {
            let mut connection = TcpStream::connect(address).await.unwrap();
            let request = "POST /models/echo HTTP/1.1\r\nhost: test\r\nauthorization: Bearer free\r\ncontent-length: 4\r\n\r\nhang";
            connection.write_all(request.as_bytes()).await.unwrap();
            work.has_begun().await;
            // Closed without a word of farewell: the other side gets a RST.
            connection.set_zero_linger().unwrap();
            "reset".to_owned()
        }
        End::Reset => {
            let mut bare = Bare::to(address).await;
            let message =
                if kind.is_grpc() { framed(&audio("hang")) } else { Bytes::from_static(b"hang") };
            let ends = !matches!(kind, Kind::ClientStreaming | Kind::Bidirectional);
            let (response, mut stream) =
                bare.open(kind.path(), "free", message, ends).await.unwrap();
            work.has_begun().await;
            stream.send_reset(h2::Reason::CANCEL);
            // The connection lives on: it was the stream that ended.
            let seen = response
                .await
                .err()
                .map_or_else(|| "head, then reset".to_owned(), |error| error.to_string());
            eventually(async || {
                (world
                    .as_ref()?
                    .meter
                    .statement(&identity("free", "free"), None)
                    .await
                    .ok()?
                    .requests()
                    == 1)
                    .then_some(())
            })
            .await;
            assert!(!bare.has_ended());
            seen
        }
        End::ConnectionLoss => {
            let wire = Wire::to(address).await;
            let call = tokio::spawn(call(kind, wire.address, "hang", None));
            work.has_begun().await;
            wire.cut();
            call.await.unwrap()
        }
        End::GoAway => {
            // One connection is idle, the other is not.
            let idle = if kind == Kind::Http1 { None } else { Some(Bare::to(address).await) };
            let call = tokio::spawn(call(kind, address, "hang", None));
            work.has_begun().await;
            let World { meter, endings, work, stop, server, .. } = world.take().unwrap();
            stop.send(()).unwrap();
            // It stops taking connections, says farewell to those that are idle, and waits for what
            // runs.
            eventually(async || TcpStream::connect(address).await.is_err().then_some(())).await;
            if let Some(idle) = idle {
                eventually(async || idle.has_ended().then_some(())).await;
            }
            assert!(!server.is_finished());
            work.release();
            let seen = call.await.unwrap();
            server.await.unwrap();
            settles_once(&meter, 1).await;
            ended_as(kind, end, &endings);
            seen
        }
    }
}

/// Exactly these messages were billed, as one request, and stay billed once.
async fn settles_once(meter: &CreditMeter, messages: i64) {
    let statement = settled(meter, "free", "free", 1).await;
    assert_eq!(statement.used, nanos(COST * messages));
    let settlement = meter.shutdown().await;
    assert_eq!((settlement.settled, settlement.unsettled.len()), (statement.used, 0));
    assert_eq!(settled(meter, "free", "free", 1).await, statement);
}

/// What each client should have seen.
fn expected(kind: Kind, end: End) -> &'static [&'static str] {
    match (end, kind.is_grpc()) {
        (End::Complete | End::GoAway, true) => &["Ok, cost 1200"],
        (End::Complete, false) => &["200, 1 bytes"],
        (End::GoAway, false) => &["200, 4 bytes"],
        (End::StatusError, true) => &["FailedPrecondition"],
        (End::StatusError, false) => &["500, 0 bytes"],
        // tonic's server says it so.
        (End::DeadlineExceeded, true) => &["DeadlineExceeded", "Cancelled"],
        (End::DeadlineExceeded, false) => &["timeout"],
        (End::ClientCancel, _) => &["cancelled"],
        (End::ConnectionLoss, true) => &["Unknown", "Unavailable", "Internal", "Cancelled"],
        (End::ConnectionLoss, false) => &["broken"],
        (End::Reset, _) if kind == Kind::Http1 => &["reset"],
        (End::Reset, _) => {
            &["head, then reset", "stream error sent by user: stream no longer needed"]
        }
    }
}

/// As the layer should have seen it.
fn ended_as(kind: Kind, end: End, endings: &Mutex<Vec<Seen>>) {
    use tower_credits::meter::End as Seen;

    // Whose head is out before its first message is worked on.
    let has_head = !matches!(kind, Kind::Unary | Kind::ClientStreaming);
    let expected = match (end, kind.is_grpc()) {
        (End::Complete | End::GoAway, true) => (Seen::Complete, Some(200), Some(0)),
        (End::Complete | End::GoAway, false) => (Seen::Complete, Some(200), None),
        (End::StatusError, true) => (Seen::Complete, Some(200), Some(9)),
        (End::StatusError, false) => (Seen::Complete, Some(500), None),
        (End::DeadlineExceeded, _) => (Seen::Dropped, None, None),
        (End::ClientCancel | End::Reset | End::ConnectionLoss, _) => {
            (Seen::Dropped, has_head.then_some(200), None)
        }
    };
    assert_eq!(*endings.lock().unwrap(), [expected], "{kind:?} {end:?}");
}

async fn ends_once(each: End) {
    futures_util::future::join_all(KINDS.map(async |kind| {
        let mut world = Some(World::new(kind).await);
        let seen = end(kind, each, &mut world).await;
        println!("| {kind:?} | {each:?} | {seen} |");
        assert!(expected(kind, each).contains(&&*seen), "{kind:?} {each:?}: {seen}");
        if let Some(World { meter, endings, server, .. }) = world {
            settles_once(&meter, 1).await;
            ended_as(kind, each, &endings);
            server.abort();
        }
    }))
    .await;
}

#[tokio::test]
async fn complete() {
    ends_once(End::Complete).await;
}

#[tokio::test]
async fn status_error() {
    ends_once(End::StatusError).await;
}

#[tokio::test]
async fn deadline_exceeded() {
    ends_once(End::DeadlineExceeded).await;
}

#[tokio::test]
async fn client_cancel() {
    ends_once(End::ClientCancel).await;
}

#[tokio::test]
async fn reset() {
    ends_once(End::Reset).await;
}

#[tokio::test]
async fn connection_loss() {
    ends_once(End::ConnectionLoss).await;
}

#[tokio::test]
async fn goaway() {
    ends_once(End::GoAway).await;
}

/// Opens streams and cancels them at once, on one connection and then the next where the server has
/// had enough of it.
#[tokio::test]
async fn two_hundred_rapid_resets_hold_nothing_and_bill_what_ran() {
    for kind in [Kind::Unary, Kind::Bidirectional, Kind::Http2] {
        let World { meter, work, address, server, stop: _stop, .. } = World::new(kind).await;
        let message =
            if kind.is_grpc() { framed(&audio("hang")) } else { Bytes::from_static(b"hang") };
        let mut bare = Bare::to(address).await;
        let mut opened = 0;
        while opened < 200 {
            if bare.has_ended() {
                bare = Bare::to(address).await;
            }
            let Ok((response, mut stream)) =
                bare.open(kind.path(), "free", message.clone(), kind != Kind::Bidirectional).await
            else {
                bare = Bare::to(address).await;
                continue;
            };
            opened += 1;
            // So that resets meet the call at every stage: not sent yet, being admitted, running.
            for _ in 0..opened % 300 {
                tokio::task::yield_now().await;
            }
            stream.send_reset(h2::Reason::CANCEL);
            drop((response, stream));
        }
        // Those that are under way yet end, too.
        let statement = eventually(async || {
            let statement = statement(&meter, "free", "free").await;
            let begun = work.begun() as u64;
            (statement.held.is_zero() && statement.requests() >= begun).then_some(statement)
        })
        .await;
        let ran = work.begun();
        assert!(ran >= 10 && statement.requests() <= opened, "{ran} of {statement:?}");
        println!("| {kind:?} | 200 rapid resets | {ran} ran |");
        // One that was called and reset before its message came is billed, too: for nothing.
        assert_eq!(statement.used, nanos(COST * i64::try_from(ran).unwrap()), "{kind:?}");
        let settlement = meter.shutdown().await;
        assert_eq!((settlement.settled, settlement.unsettled.len()), (statement.used, 0));
        server.abort();
    }
}
