//! The service that the tests of this folder call: gRPC by tonic, plain HTTP by axum, with one
//! script for both.
//!
//! Each message takes ten milliseconds of compute, as the service reports it. What it then does
//! depends on what the message says: `error` fails, `late` never begins to answer, `hang` answers
//! its head (where it has one to itself) and goes on once it is [released](Work::release), as
//! `wait` does before its head; everything else is sent back.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, response::IntoResponse, routing::post};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};
use tower_credits::{
    BearerTokens, ComputeClock, CreditMeter, CreditMeterBuilder, MemoryLedger, Plan,
    clock::ManualClock, ledger::Ledger,
};

use super::proto::{
    Audio,
    denoise_server::{Denoise, DenoiseServer},
};
use crate::support::*;

/// What a message costs: ten milliseconds, of which a second costs 120 000 nano-dollars.
pub const COST: i64 = 1_200;

/// What the service is doing, and what it waits for.
#[derive(Debug)]
pub struct Work {
    begun: AtomicUsize,
    released: Semaphore,
}

impl Default for Work {
    fn default() -> Self {
        Self { begun: AtomicUsize::new(0), released: Semaphore::new(0) }
    }
}

impl Work {
    /// Messages that it began to work on.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub async fn has_begun(&self) {
        eventually(async || (self.begun() > 0).then_some(())).await;
    }

    /// What hangs goes on.
    pub fn release(&self) {
        self.released.add_permits(1);
    }

    /// A message; `Err` where it is to fail.
    async fn on(&self, message: &[u8], messages: u32, clock: &ComputeClock) -> Result<(), Status> {
        clock.report(Duration::from_millis(10) * messages);
        self.begun.fetch_add(1, Ordering::SeqCst);
        match message {
            b"error" => Err(Status::failed_precondition("as asked")),
            b"hang" | b"wait" => {
                drop(self.released.acquire().await);
                Ok(())
            }
            b"late" => std::future::pending().await,
            _ => {
                // What it makes comes bit by bit.
                tokio::task::yield_now().await;
                Ok(())
            }
        }
    }
}

pub struct Echo(pub Arc<Work>);

type Parts = Pin<Box<dyn Stream<Item = Result<Audio, Status>> + Send>>;

impl Echo {
    /// Sends back what comes, one by one.
    fn echo<T>(&self, request: Request<T>, parts: impl FnOnce(T) -> Parts) -> Parts {
        let clock = request.extensions().get::<ComputeClock>().expect("the layer's clock").clone();
        let work = Arc::clone(&self.0);
        let numbered = parts(request.into_inner()).zip(stream::iter(1_u32..));
        let echo = numbered.then(move |(part, messages)| {
            let (work, clock) = (Arc::clone(&work), clock.clone());
            async move {
                let part = part?;
                work.on(&part.pcm, messages, &clock).await.map(|()| part)
            }
        });
        echo.boxed()
    }

    async fn last(mut parts: Parts) -> Result<Response<Audio>, Status> {
        let mut last = Audio::default();
        while let Some(part) = parts.next().await {
            last = part?;
        }
        Ok(Response::new(last))
    }
}

/// The head of a stream is withheld while its first message says so.
async fn head(mut parts: Parts, is_late: bool) -> Result<Response<Parts>, Status> {
    if is_late {
        parts.next().await;
    }
    Ok(Response::new(parts))
}

#[tonic::async_trait]
impl Denoise for Echo {
    async fn whole(&self, request: Request<Audio>) -> Result<Response<Audio>, Status> {
        Self::last(self.echo(request, |audio| stream::iter([Ok(audio)]).boxed())).await
    }

    async fn collect(&self, request: Request<Streaming<Audio>>) -> Result<Response<Audio>, Status> {
        Self::last(self.echo(request, Streaming::boxed)).await
    }

    type SplitStream = Parts;

    /// Three answers to one message; an error is the last.
    async fn split(&self, request: Request<Audio>) -> Result<Response<Parts>, Status> {
        let is_late = &request.get_ref().pcm[..] == b"late";
        let times = if &request.get_ref().pcm[..] == b"a" { 3 } else { 1 };
        head(
            self.echo(request, |audio| stream::iter(std::iter::repeat_n(Ok(audio), times)).boxed()),
            is_late,
        )
        .await
    }

    type StreamStream = Parts;

    async fn stream(&self, request: Request<Streaming<Audio>>) -> Result<Response<Parts>, Status> {
        let is_late = request.metadata().contains_key("x-late");
        head(self.echo(request, Streaming::boxed), is_late).await
    }
}

/// The same over plain HTTP, at `/models/echo`.
pub fn router(work: Arc<Work>) -> Router {
    let echo = async move |Extension(clock): Extension<ComputeClock>, message: Bytes| {
        if &message[..] == b"hang" {
            let answer = stream::once(async move {
                drop(work.on(&message, 1, &clock).await);
                Ok::<_, Infallible>(message)
            });
            return axum::body::Body::from_stream(answer).into_response();
        }
        match work.on(&message, 1, &clock).await {
            Ok(()) => message.into_response(),
            Err(_) => http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new().route("/models/echo", post(echo))
}

/// The tiers of the other tests, and some of this folder's own; each has an account and a token of
/// its name.
const TIERS: [&str; 8] = ["free", "none", "quick", "slow", "pro", "one", "capped", "owner"];

pub fn tokens() -> BearerTokens {
    TIERS
        .into_iter()
        .fold(BearerTokens::new(), |tokens, tier| tokens.with(tier, identity(tier, tier)))
}

pub fn grpc_plan() -> Plan {
    let routes = "[routes]
\"/denoise.v1.Denoise/{*method}\" = { model = \"{header:x-model}\" }
\"/denoise.v1.Denoise/Whole\" = { model = \"echo\" }
\"/denoise.v1.Denoise/Collect\" = { model = \"echo\" }
\"/denoise.v1.Denoise/Split\" = { model = \"echo\" }
\"/denoise.v1.Denoise/Stream\" = { model = \"echo\" }";
    let tiers = r#"
[tiers.one]
included = "2.00"
when_used_up = "block"
most_running = 1

[tiers.capped]
included = "2.00"
when_used_up = "block"
most_per_request = "20ms"

[tiers.owner]
included = "0"
when_used_up = "pay-as-you-go"
"#;
    Plan::from_toml(&format!("{}{tiers}", PLAN.replace("[routes]", routes))).unwrap()
}

/// A meter on a clock that stands: what is billed is what the service reports.
pub fn builder(ledger: impl Ledger, clock: &ManualClock) -> CreditMeterBuilder {
    CreditMeter::builder(grpc_plan(), ledger, tokens()).clock(clock.clone())
}

pub fn metered(clock: &ManualClock) -> CreditMeter {
    builder(MemoryLedger::with_clock(clock.clone()), clock).build().unwrap()
}

/// A tonic server behind the layer; where it listens.
pub async fn serve(meter: &CreditMeter) -> std::net::SocketAddr {
    serve_with(meter, &Arc::default()).await
}

/// The same, doing this work.
pub async fn serve_with(meter: &CreditMeter, work: &Arc<Work>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = DenoiseServer::new(Echo(Arc::clone(work)));
    let server = tonic::transport::Server::builder().layer(meter.clone()).add_service(echo);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}
