//! gRPC calls of a real tonic client to a real tonic server behind the layer.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use tower_credits::{BearerTokens, ComputeClock, CreditMeter, ManualClock, MemoryLedger};

use crate::support::*;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod proto {
    include!("../../examples/denoise/denoise.v1.rs");
}

use proto::{
    Audio,
    denoise_client::DenoiseClient,
    denoise_server::{Denoise, DenoiseServer},
};

/// Ten milliseconds of compute for each message, of which a second costs 120 000 nano-dollars.
const COST: i64 = 1_200;

/// Answers what it gets. `error` fails after a message, `hang` never ends.
struct Echo;

struct Work {
    clock: ComputeClock,
    messages: u32,
}

impl Work {
    fn of<T>(request: &Request<T>) -> Self {
        Self { clock: request.extensions().get::<ComputeClock>().expect("the layer's clock").clone(), messages: 0 }
    }

    async fn on(&mut self, audio: Audio) -> Result<Audio, Status> {
        self.messages += 1;
        self.clock.report(Duration::from_millis(10) * self.messages);
        match &audio.pcm[..] {
            b"error" => Err(Status::failed_precondition("as asked")),
            b"hang" => std::future::pending().await,
            _ => Ok(audio),
        }
    }
}

type Parts = Pin<Box<dyn Stream<Item = Result<Audio, Status>> + Send>>;

#[tonic::async_trait]
impl Denoise for Echo {
    async fn whole(&self, request: Request<Audio>) -> Result<Response<Audio>, Status> {
        let mut work = Work::of(&request);
        work.on(request.into_inner()).await.map(Response::new)
    }

    async fn collect(&self, request: Request<Streaming<Audio>>) -> Result<Response<Audio>, Status> {
        let mut work = Work::of(&request);
        let (mut parts, mut last) = (request.into_inner(), Audio::default());
        while let Some(part) = parts.message().await? {
            last = work.on(part).await?;
        }
        Ok(Response::new(last))
    }

    type SplitStream = Parts;

    async fn split(&self, request: Request<Audio>) -> Result<Response<Parts>, Status> {
        let state = (Work::of(&request), request.into_inner(), 3);
        let parts = stream::unfold(state, |(mut work, audio, left)| async move {
            if left == 0 {
                return None;
            }
            let part = work.on(audio.clone()).await;
            let left = if part.is_ok() { left - 1 } else { 0 };
            Some((part, (work, audio, left)))
        });
        Ok(Response::new(parts.boxed()))
    }

    type StreamStream = Parts;

    async fn stream(&self, request: Request<Streaming<Audio>>) -> Result<Response<Parts>, Status> {
        let mut work = Work::of(&request);
        let parts = request.into_inner().then(move |part| {
            // One after the other: the stream asks for the next when this one is done.
            let mut now = Work { clock: work.clock.clone(), messages: work.messages };
            work.messages += 1;
            async move { now.on(part?).await }
        });
        Ok(Response::new(parts.boxed()))
    }
}

async fn serve(meter: &CreditMeter) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = stream::unfold(listener, |listener| async move { Some((listener.accept().await.map(|(io, _)| io), listener)) });
    let server = tonic::transport::Server::builder().layer(meter.clone()).add_service(DenoiseServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(incoming));
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn metered(clock: &ManualClock) -> CreditMeter {
    let plan = PLAN.replace("[routes]", "[routes]\n\"/denoise.v1.Denoise/{*method}\" = { model = \"echo\" }");
    let tokens = ["free", "none", "quick", "slow", "pro"].into_iter().fold(BearerTokens::new(), |tokens, tier| {
        // A token for each tier, whose account has its name.
        tokens.with(tier, identity(tier, tier))
    });
    let ledger = MemoryLedger::with_clock(clock.clone());
    CreditMeter::builder(tower_credits::Plan::from_toml(&plan).unwrap(), ledger, tokens).clock(clock.clone()).build().unwrap()
}

fn asking<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// A field of metadata or trailers.
fn field<'a>(metadata: &'a tonic::metadata::MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

fn audio(pcm: &'static str) -> Audio {
    Audio { pcm: pcm.to_owned().into() }
}

#[tokio::test]
async fn each_kind_of_call_is_billed_once_and_says_what_it_cost() {
    let clock = november();
    let meter = metered(&clock);
    let mut client = DenoiseClient::new(serve(&meter).await);
    let parts = || stream::iter([audio("a"), audio("b")]);

    let whole = client.whole(asking("free", audio("a"))).await.unwrap();
    assert_eq!(whole.get_ref().pcm, b"a");
    // tonic adds the trailers of a unary call to its metadata.
    assert_eq!((field(whole.metadata(), "x-cost-nano-usd"), field(whole.metadata(), "x-compute-time")), (Some("1200"), Some("0.010000")));
    let collected = client.collect(asking("free", parts())).await.unwrap();
    assert_eq!((&collected.get_ref().pcm[..], field(collected.metadata(), "x-cost-nano-usd")), (b"b".as_slice(), Some("2400")));
    for (mut answer, messages) in [
        (client.split(asking("free", audio("a"))).await.unwrap().into_inner(), 3),
        (client.stream(asking("free", parts())).await.unwrap().into_inner(), 2),
    ] {
        for _ in 0..messages {
            assert!(answer.message().await.unwrap().is_some());
        }
        assert_eq!(answer.message().await.unwrap(), None);
        let trailers = answer.trailers().await.unwrap().expect("trailers");
        assert_eq!(trailers.get("x-cost-nano-usd").unwrap().to_str().unwrap(), (COST * messages).to_string());
    }
    assert_eq!(settled(&meter, "free", "free", 4).await.used, nanos(COST * 8));

    // A status is an end like any other.
    let error = client.whole(asking("free", audio("error"))).await.unwrap_err();
    assert_eq!((error.code(), field(error.metadata(), "x-cost-nano-usd")), (Code::FailedPrecondition, Some("1200")));
    let mut failing = client.split(asking("free", audio("error"))).await.unwrap().into_inner();
    assert_eq!(failing.message().await.unwrap_err().code(), Code::FailedPrecondition);
    let mut failing = client.stream(asking("free", stream::iter([audio("error")]))).await.unwrap().into_inner();
    assert_eq!(failing.message().await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.collect(asking("free", stream::iter([audio("error")]))).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(settled(&meter, "free", "free", 8).await.used, nanos(COST * 12));
}

#[tokio::test]
async fn who_gives_up_pays_for_what_ran() {
    let clock = november();
    let meter = metered(&clock);
    let mut client = DenoiseClient::new(serve(&meter).await);
    let mut late = asking("free", audio("hang"));
    late.set_timeout(Duration::from_millis(50));
    let error = client.whole(late).await.unwrap_err();
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error}");
    settled(&meter, "free", "free", 1).await;
    let hanging = client.split(asking("free", audio("hang"))).await.unwrap();
    drop(hanging);
    settled(&meter, "free", "free", 2).await;
    let (speaker, heard) = tokio::sync::mpsc::channel(1);
    let heard = stream::unfold(heard, |mut heard| async move { heard.recv().await.map(|part| (part, heard)) });
    speaker.send(audio("a")).await.unwrap();
    let mut talking = client.stream(asking("free", heard)).await.unwrap().into_inner();
    assert!(talking.message().await.unwrap().is_some());
    // A client that is gone neither listens nor speaks; tonic's resets the stream once both are dropped.
    drop((talking, speaker));
    let statement = settled(&meter, "free", "free", 3).await;
    // The second may have been dropped before its first message was worked on.
    assert!([nanos(COST * 2), nanos(COST * 3)].contains(&statement.used), "{statement:?}");
}

#[tokio::test]
async fn a_denial_has_code_message_and_details() {
    let clock = november();
    let meter = metered(&clock);
    let mut client = DenoiseClient::new(serve(&meter).await);

    let error = client.whole(asking("", audio("a"))).await.unwrap_err();
    assert_eq!((error.code(), error.get_details_error_info().unwrap().reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    let error = client.whole(asking("nobody", audio("a"))).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unauthenticated, "These credentials are not known."));

    // Also where the caller would never stop sending: the answer does not wait for that.
    let endless = stream::iter([audio("a")]).chain(stream::pending());
    let error = client.stream(asking("none", endless)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("used up") && error.message().contains("Upgrade to PRO."), "{error}");
    let details = error.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CREDITS_USED_UP", "tower-credits"));
    assert_eq!((info.metadata["left_nano_usd"].as_str(), info.metadata["resets_at"].as_str()), ("0", "2026-12-01T00:00:00Z"));
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "credits");
    assert!(details.retry_info().is_none(), "waiting does not help");
    assert_eq!(error.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");

    for _ in 0..2 {
        client.whole(asking("slow", audio("a"))).await.unwrap();
    }
    let error = client.whole(asking("slow", audio("a"))).await.unwrap_err();
    let details = error.get_error_details();
    assert_eq!((error.code(), details.error_info().unwrap().reason.as_str()), (Code::ResourceExhausted, "REQUEST_RATE"));
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "requests");
}

#[tokio::test]
async fn a_stream_without_credits_ends_with_a_status() {
    let clock = november();
    let meter = metered(&clock);
    let mut client = DenoiseClient::new(serve(&meter).await);
    // 300 ms of compute are all that there is.
    let mut split = client.stream(asking("quick", stream::iter((0..100).map(|_| audio("a"))))).await.unwrap().into_inner();
    let error = loop {
        match split.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not cut off"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert_eq!(error.get_details_error_info().unwrap().reason, "CREDITS_USED_UP");
    assert!(error.metadata().contains_key("x-compute-time"), "{:?}", error.metadata());
    let statement = settled(&meter, "quick", "quick", 1).await;
    assert_eq!(statement.used, nanos(36_000), "to the nano-dollar");
}
