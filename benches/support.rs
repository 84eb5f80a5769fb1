//! What the benches share: one inner service, one request, and the layers that are put between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "benches")]

pub mod least;
pub mod plots;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tokio::sync::mpsc;
use tower::{Layer, Service};
use tower_credits::{
    Account, BearerTokens, CreditMeter, CreditMeterBuilder, HoldAhead, Identity, MemoryLedger,
    Plan,
    ledger::Ledger,
    records::{RecordDelivery, RecordSink, SinkFuture, UsageRecord},
};

pub type Asked = Request<Full<Bytes>>;

/// Twelve seconds of compute cost a dollar's thousandth; a request of the benches next to nothing.
pub const PLAN: &str = r#"
[hardware.cpu]
price_per_second = "0.00012"
[models.echo]
hardware = "cpu"
[routes]
"/models/{model}" = { model = "{model}" }
"/grpc.health.v1.Health/{method}" = { model = "echo" }
"/health" = "free"
[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"
midway = "finish"
[tiers.prepaid]
included = "2000.00"
when_used_up = "block"
midway = "stop"
[tiers.limited]
included = "2.00"
when_used_up = "pay-as-you-go"
midway = "finish"
requests = { count = 1000000, per = "1s", burst = 1000000000 }
"#;

pub fn plan() -> Plan {
    Plan::from_toml(PLAN).unwrap()
}

pub fn identity(user: &str, tier: &str) -> Identity {
    Identity::new(user.parse().unwrap(), Account::user(user).unwrap(), tier.parse().unwrap())
}

/// The token that requests of the benches send.
pub const TOKEN: &str = "hf_0123456789abcdefghijklmnopqrstuvwx";

pub fn tokens(tier: &str) -> BearerTokens {
    BearerTokens::new().with(TOKEN, identity("alice", tier))
}

pub fn builder(ledger: impl Ledger, tier: &str) -> CreditMeterBuilder {
    CreditMeter::builder(plan(), ledger, tokens(tier))
}

/// Metered and nothing else: no decorations.
pub fn plain(ledger: impl Ledger, tier: &str) -> CreditMeterBuilder {
    builder(ledger, tier).inference_id(false).request_extensions(false)
}

pub fn ahead(tier: &str) -> CreditMeter {
    plain(MemoryLedger::new(), tier).hold_ahead(HoldAhead::default()).build().unwrap()
}

/// A sink that takes records and does nothing: what they cost is what they cost on a request's
/// path, and to free.
#[derive(Debug)]
struct NoRecords;

impl RecordSink for NoRecords {
    fn deliver<'a>(&'a self, _: &'a [std::sync::Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The service at the bottom: it answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl Service<Asked> for Echo {
    type Response = Response<AxumBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        ready(Ok(Response::new(AxumBody::from("echo"))))
    }
}

/// A service whose answer is a stream of so many small frames.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub frames: usize,
    /// `true` if each comes only after it was waited for.
    pub waits: bool,
}

impl Service<Asked> for Stream {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        ready(Ok(Response::new(Frames { left: self.frames, waits: self.waits, ready: false })))
    }
}

/// So many frames are left.
#[derive(Debug)]
pub struct Frames {
    left: usize,
    waits: bool,
    ready: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let is_ready = !self.waits || self.ready;
        self.ready = !is_ready;
        if !is_ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = self.left.checked_sub(1).map(|left| {
            self.left = left;
            Ok(Frame::data(Bytes::from_static(b"one small frame\n")))
        });
        Poll::Ready(frame)
    }
}

/// The same request for everybody: a token, and the peer's address.
pub fn request(path: &'static str) -> Asked {
    let request = Request::post(path)
        .header(http::header::AUTHORIZATION, http::HeaderValue::from_static(BEARER));
    request
        .extension(axum::extract::ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4000))))
        .body(Full::new(Bytes::new()))
        .unwrap()
}

const BEARER: &str = "Bearer hf_0123456789abcdefghijklmnopqrstuvwx";

/// Calls, and reads the body to its end; everything is ready at once. Answers whether it was a
/// success.
pub fn drive<S, B>(service: &mut S, request: Asked) -> bool
where
    S: Service<Asked, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let call = pin!(service.call(request));
    let Poll::Ready(Ok(response)) = call.poll(cx) else { return false };
    let success = response.status().is_success();
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => break,
            Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
        }
    }
    success
}

/// The same on the runtime, as servers do it: what else the layer runs has its turn there.
async fn drive_waiting<S, B>(mut service: S, request: Asked, frames: usize) -> bool
where
    S: Service<Asked, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
    let response = service.call(request).await.unwrap();
    let success = response.status().is_success();
    let mut body = pin!(response.into_body());
    for _ in 0..frames {
        if body.is_end_stream() {
            break;
        }
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(_)) => {}
            None => break,
            Some(Err(_)) => return false,
        }
    }
    success
}

/// A layer under measurement, with its types forgotten.
pub struct Contender {
    pub name: &'static str,
    /// Runs one request.
    pub run: Box<dyn FnMut() -> bool>,
}

impl Contender {
    pub fn new<S, B>(name: &'static str, mut service: S, path: &'static str) -> Self
    where
        S: Service<Asked, Response = Response<B>, Error = Infallible> + 'static,
        B: Body,
    {
        Self { name, run: Box::new(move || drive(&mut service, request(path))) }
    }

    /// One whose answers have to be waited for, of which so many frames are read.
    pub fn waiting<S, B>(name: &'static str, service: S, path: &'static str, frames: usize) -> Self
    where
        S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: Body + Send + 'static,
    {
        let runtime = tokio::runtime::Handle::current();
        let run = move || {
            runtime
                .block_on(runtime.spawn(drive_waiting(service.clone(), request(path), frames)))
                .unwrap()
        };
        Self { name, run: Box::new(run) }
    }
}

/// Everything that is measured, the bare service first.
pub const NAMES: &[&str] = &[
    "bare",
    #[cfg(feature = "peers")]
    "tower_governor, by peer address",
    #[cfg(feature = "peers")]
    "tower_governor, by token",
    #[cfg(feature = "peers")]
    "limitador, in memory",
    "tower-http timeout",
    "tower-http trace",
    "free path",
    "the least that a meter does",
    "ahead",
    "ahead, with a request rate",
    "ahead, with a request rate, without its fields",
    "ahead, with records",
    "ahead, as it is by default",
    "strict, lease warm",
];

pub fn contenders() -> Vec<Contender> {
    NAMES.iter().map(|name| contender(name)).collect()
}

/// The layer of this name around the echo. Leases are opened, so that what is measured is the
/// steady state.
pub fn contender(name: &str) -> Contender {
    let name = NAMES
        .iter()
        .find(|known| **known == name)
        .unwrap_or_else(|| panic!("no layer is called {name:?}"));
    let model = "/models/echo";
    match *name {
        "bare" => Contender::new(name, Echo, model),
        #[cfg(feature = "peers")]
        "tower_governor, by peer address" => Contender::new(
            name,
            peers::governor(tower_governor::key_extractor::PeerIpKeyExtractor),
            model,
        ),
        #[cfg(feature = "peers")]
        "tower_governor, by token" => Contender::new(name, peers::governor(peers::ByToken), model),
        #[cfg(feature = "peers")]
        "limitador, in memory" => Contender::new(name, peers::Limited::default(), model),
        "tower-http timeout" => {
            let layer = tower_http::timeout::TimeoutLayer::with_status_code(
                http::StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(60),
            );
            Contender::new(name, layer.layer(Echo), model)
        }
        "tower-http trace" => {
            Contender::new(name, tower_http::trace::TraceLayer::new_for_http().layer(Echo), model)
        }
        "the least that a meter does" => {
            Contender::new(name, least::LeastMeter::new(TOKEN).layer(Echo), model)
        }
        "free path" => Contender::new(name, ahead("pro").layer(Echo), "/health"),
        "ahead" => Contender::new(name, warm(ahead("pro")).layer(Echo), model),
        "ahead, with a request rate" => {
            Contender::new(name, warm(ahead("limited")).layer(Echo), model)
        }
        "ahead, with a request rate, without its fields" => {
            let meter = plain(MemoryLedger::new(), "limited")
                .hold_ahead(HoldAhead::default())
                .rate_limit_headers(false)
                .build()
                .unwrap();
            Contender::new(name, warm(meter).layer(Echo), model)
        }
        "ahead, with records" => {
            let records = RecordDelivery::to(NoRecords).queue_size(1 << 20).batch_size(10_000);
            let meter = plain(MemoryLedger::new(), "pro")
                .hold_ahead(HoldAhead::default())
                .records(records)
                .build()
                .unwrap();
            Contender::new(name, warm(meter).layer(Echo), model)
        }
        "ahead, as it is by default" => {
            let meter = builder(MemoryLedger::new(), "pro")
                .hold_ahead(HoldAhead::default())
                .build()
                .unwrap();
            Contender::new(name, warm(meter).layer(Echo), model)
        }
        "strict, lease warm" => Contender::new(
            name,
            warm(plain(MemoryLedger::new(), "pro").build().unwrap()).layer(Echo),
            model,
        ),
        _ => panic!("{name} has no layer"),
    }
}

/// What streams of so many frames go through, the bare one first. `waits`: each frame has to be
/// waited for.
pub fn streams(frames: usize, waits: bool) -> Vec<Contender> {
    stream_contenders(Stream { frames, waits }, usize::MAX)
}

/// Calls that are over once the first frame has come, for which they had to wait.
pub fn first_frames() -> Vec<Contender> {
    stream_contenders(Stream { frames: 100, waits: true }, 1)
}

fn stream_contenders(stream: Stream, read: usize) -> Vec<Contender> {
    let model = "/models/echo";
    vec![
        Contender::waiting("bare", stream, model, read),
        Contender::waiting("through a task and a channel", Piped(stream), model, read),
        Contender::waiting(
            "tower-http trace",
            tower_http::trace::TraceLayer::new_for_http().layer(stream),
            model,
            read,
        ),
        Contender::waiting(
            "ahead, pay-as-you-go (finish)",
            warm(ahead("pro")).layer(stream),
            model,
            read,
        ),
        Contender::waiting(
            "ahead, prepaid (stop)",
            warm(ahead("prepaid")).layer(stream),
            model,
            read,
        ),
    ]
}

/// The least that reading ahead can cost: a task that sends the frames through a channel.
#[derive(Clone, Copy, Debug)]
pub struct Piped(Stream);

impl Service<Asked> for Piped {
    type Response = Response<Fed>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Asked) -> Self::Future {
        let piped = self.0.call(request).into_inner().map(|response| {
            response.map(|mut frames| {
                let (feed, fed) = mpsc::channel(16);
                tokio::spawn(async move {
                    while let Some(frame) =
                        std::future::poll_fn(|cx| Pin::new(&mut frames).poll_frame(cx)).await
                        && feed.send(frame).await.is_ok()
                    {}
                });
                Fed(fed)
            })
        });
        ready(piped)
    }
}

/// What comes through the channel.
#[derive(Debug)]
pub struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx)
    }
}

/// Has a request wait for the ledger, so that those that follow find a lease.
fn warm(meter: CreditMeter) -> CreditMeter {
    let handle = tokio::runtime::Handle::current();
    let mut service = meter.layer(Echo);
    handle.block_on(async move {
        for _ in 0..2 {
            assert!(service.call(request("/models/echo")).await.unwrap().status().is_success());
        }
    });
    meter
}

#[cfg(feature = "peers")]
pub mod peers {
    use governor::middleware::NoOpMiddleware;
    use limitador::{RateLimiter, limit::Limit};
    use tower_governor::{
        GovernorError, GovernorLayer, governor::GovernorConfigBuilder, key_extractor::KeyExtractor,
    };

    use super::*;

    /// By the bearer token, as tower_governor's own example does it.
    #[derive(Clone, Copy, Debug)]
    pub struct ByToken;

    impl KeyExtractor for ByToken {
        type Key = String;

        fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
            let token = request
                .headers()
                .get("authorization")
                .and_then(|token| token.to_str().ok())
                .and_then(|token| token.strip_prefix("Bearer "));
            token.map(|token| token.trim().to_owned()).ok_or(GovernorError::UnableToExtractKey)
        }
    }

    pub fn governor<K: KeyExtractor>(
        by: K,
    ) -> impl Service<Asked, Response = Response<AxumBody>, Error = Infallible> + Clone + use<K>
    where
        K::Key: Send + Sync,
    {
        let config = GovernorConfigBuilder::default()
            .per_nanosecond(1)
            .burst_size(1_000_000_000)
            .key_extractor(by)
            .finish()
            .unwrap();
        let layer: GovernorLayer<K, NoOpMiddleware<governor::clock::QuantaInstant>, AxumBody> =
            GovernorLayer::new(Arc::new(config));
        layer.layer(Echo)
    }

    /// limitador has no layer of its own: the least that one would do.
    #[derive(Clone)]
    pub struct Limited(Arc<RateLimiter>);

    impl Default for Limited {
        fn default() -> Self {
            let limiter = RateLimiter::new(10_000);
            limiter.add_limit(Limit::new(
                "models",
                1_000_000_000_000,
                60,
                [],
                ["token".try_into().unwrap()],
            ));
            Self(Arc::new(limiter))
        }
    }

    impl Service<Asked> for Limited {
        type Response = Response<AxumBody>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Asked) -> Self::Future {
            let token = request
                .headers()
                .get("authorization")
                .and_then(|token| token.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let values = std::collections::HashMap::from([("token".to_owned(), token)]);
            let checked =
                self.0.check_rate_limited_and_update(&"models".into(), &values.into(), 1).unwrap();
            if checked.limited {
                return ready(Ok(Response::builder().status(429).body(AxumBody::empty()).unwrap()));
            }
            Echo.call(request)
        }
    }
}
