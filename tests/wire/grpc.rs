//! gRPC calls of a real tonic client to a real tonic server behind the layer: what they cost, and
//! what they are told.

use futures_util::stream;
use http_body_util::{BodyExt, Full};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt};
use tower_credits::{MemoryLedger, clock::TokioClock};

use super::{
    client::*,
    echo::{COST, builder, metered, serve},
    proto::{
        Audio,
        denoise_server::{Denoise, DenoiseServer},
    },
};
use crate::support::*;

#[tokio::test]
async fn each_kind_of_call_is_billed_once_and_says_what_it_cost() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    let parts = || stream::iter([audio("a"), audio("b")]);

    let whole = client.whole(asking("free", audio("a"))).await.unwrap();
    assert_eq!(&whole.get_ref().pcm[..], b"a");
    // tonic adds the trailers of a unary call to its metadata.
    assert_eq!(
        (field(whole.metadata(), "x-cost-nano-usd"), field(whole.metadata(), "x-compute-time")),
        (Some("1200"), Some("0.010000"))
    );
    let collected = client.collect(asking("free", parts())).await.unwrap();
    assert_eq!(
        (&collected.get_ref().pcm[..], field(collected.metadata(), "x-cost-nano-usd")),
        (&b"b"[..], Some("2400"))
    );
    for (mut answer, messages) in [
        (client.split(asking("free", audio("a"))).await.unwrap().into_inner(), 3),
        (client.stream(asking("free", parts())).await.unwrap().into_inner(), 2),
    ] {
        for _ in 0..messages {
            assert!(answer.message().await.unwrap().is_some());
        }
        assert_eq!(answer.message().await.unwrap(), None);
        let trailers = answer.trailers().await.unwrap().expect("trailers");
        assert_eq!(field(&trailers, "x-cost-nano-usd"), Some(&*(COST * messages).to_string()));
    }
    assert_eq!(settled(&meter, "free", "free", 4).await.used, nanos(COST * 8));

    // A status is an end like any other, and says what it cost.
    let error = client.whole(asking("free", audio("error"))).await.unwrap_err();
    assert_eq!(
        (error.code(), field(error.metadata(), "x-cost-nano-usd")),
        (Code::FailedPrecondition, Some("1200"))
    );
    let mut failing = client
        .stream(asking("free", stream::iter([audio("a"), audio("error")])))
        .await
        .unwrap()
        .into_inner();
    assert!(failing.message().await.unwrap().is_some());
    let error = failing.message().await.unwrap_err();
    assert_eq!(
        (error.code(), field(error.metadata(), "x-cost-nano-usd")),
        (Code::FailedPrecondition, Some("2400"))
    );
    assert_eq!(settled(&meter, "free", "free", 6).await.used, nanos(COST * 11));
}

#[tokio::test]
async fn a_stream_without_credits_ends_with_a_status() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    // 300 ms of compute are all that there is.
    let mut cut = client
        .stream(asking("quick", stream::iter((0..100).map(|_| audio("a")))))
        .await
        .unwrap()
        .into_inner();
    let error = loop {
        match cut.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not cut off"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert_eq!(error.get_details_error_info().unwrap().reason, "CREDITS_USED_UP");
    assert!(error.metadata().contains_key("x-compute-time"), "{:?}", error.metadata());
    assert_eq!(field(error.metadata(), "x-cost-nano-usd"), Some("36000"), "to the nano-dollar");
    assert_eq!(settled(&meter, "quick", "quick", 1).await.used, nanos(36_000));
}

#[tokio::test]
async fn a_call_that_nobody_answers_is_cut_before_its_head() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    // The unary call has no head to send before its first message is worked on; it reports more
    // than there is.
    let parts = stream::iter((0..40).map(|_| audio("a")).chain([audio("late")]));
    let error = client.collect(asking("quick", parts)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.get_details_error_info().unwrap().reason.as_str()),
        (Code::ResourceExhausted, "CREDITS_USED_UP")
    );
    assert_eq!(field(error.metadata(), "x-cost-nano-usd"), Some("36000"));
    assert_eq!(settled(&meter, "quick", "quick", 1).await.used, nanos(36_000));
}

#[tokio::test]
async fn a_call_that_a_shutdown_has_billed_says_so() {
    let meter = metered(&november());
    let work = std::sync::Arc::<super::echo::Work>::default();
    let mut client = connect(super::echo::serve_with(&meter, &work).await).await;
    let mut answer = client.split(asking("free", audio("hang"))).await.unwrap().into_inner();
    work.has_begun().await;
    assert_eq!(meter.shutdown().await.settled, nanos(COST));
    work.release();
    while answer.message().await.unwrap().is_some() {}
    assert_eq!(field(&answer.trailers().await.unwrap().unwrap(), "x-cost-nano-usd"), Some("1200"));
}

/// Handlers that look at nothing but their message, and take five seconds.
struct Plain;

#[tonic::async_trait]
impl Denoise for Plain {
    async fn whole(&self, request: Request<Audio>) -> Result<Response<Audio>, Status> {
        tokio::time::sleep(seconds(5)).await;
        Ok(Response::new(request.into_inner()))
    }

    async fn collect(&self, request: Request<Streaming<Audio>>) -> Result<Response<Audio>, Status> {
        tokio::time::sleep(seconds(5)).await;
        Ok(Response::new(request.into_inner().message().await?.unwrap_or_default()))
    }

    type SplitStream = stream::Empty<Result<Audio, Status>>;

    async fn split(&self, _: Request<Audio>) -> Result<Response<Self::SplitStream>, Status> {
        Ok(Response::new(stream::empty()))
    }

    type StreamStream = stream::Empty<Result<Audio, Status>>;

    async fn stream(
        &self,
        _: Request<Streaming<Audio>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(stream::empty()))
    }
}

/// tonic leaves the request's extensions with it, and so the handler has its clock.
#[tokio::test(start_paused = true)]
async fn a_call_whose_tonic_handler_keeps_its_request_is_not_settled_while_it_runs() {
    for (extensions, is_settled) in [(true, false), (false, true)] {
        let meter = builder(MemoryLedger::new(), &november())
            .clock(TokioClock)
            .request_extensions(extensions)
            .build()
            .unwrap();
        for (method, before) in [("Whole", 0), ("Collect", 2)] {
            let call = || {
                let service = meter.layer(DenoiseServer::new(Plain));
                let call = http::Request::post(format!("http://test/denoise.v1.Denoise/{method}"))
                    .header("authorization", "Bearer free")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(tonic::body::Body::new(Full::new(framed(&audio("a")))))
                    .unwrap();
                tokio::spawn(async move { service.oneshot(call).await.unwrap().collect().await })
            };
            // Before that, a head may bring a time of its own.
            call().await.unwrap().unwrap();
            let first = settled(&meter, "free", "free", before + 1).await.used;
            let running = call();
            tokio::time::sleep(seconds(4)).await;
            let used = statement(&meter, "free", "free").await.used;
            assert_eq!(used > first, is_settled, "{method}, extensions: {extensions}");
            running.await.unwrap().unwrap();
        }
        let used = settled(&meter, "free", "free", 4).await.used;
        assert!((nanos(20 * SLICE)..nanos(20 * SLICE + SLICE / 20)).contains(&used), "{used}");
    }
}

#[tokio::test]
async fn the_model_may_come_from_metadata() {
    let meter = metered(&november());
    let address = serve(&meter).await;
    // The plan has no route of its own for this method, and takes the model from `x-model`.
    let mut client = tonic::client::Grpc::new(
        tonic::transport::Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap(),
    );
    for (model, code, reason) in
        [("echo", Code::Unimplemented, None), ("other", Code::NotFound, Some("MODEL_NOT_FOUND"))]
    {
        client.ready().await.unwrap();
        let mut request = asking("free", audio("a"));
        request.metadata_mut().insert("x-model", model.parse().unwrap());
        let codec = tonic_prost::ProstCodec::<super::proto::Audio, super::proto::Audio>::default();
        let path = http::uri::PathAndQuery::from_static("/denoise.v1.Denoise/Other");
        let error = client.unary(request, path, codec).await.unwrap_err();
        let info = error.get_details_error_info().map(|info| info.reason);
        assert_eq!((error.code(), info.as_deref()), (code, reason), "{model}");
    }
    // tonic itself said that there is no such method: it was called, and is billed for its time,
    // which was none.
    assert_eq!(settled(&meter, "free", "free", 1).await.used, nanos(0));
}

/// Messages of more than tonic sends at once come in several frames, each ready at once, and all of
/// them arrive.
#[tokio::test]
async fn large_messages_that_are_ready_at_once_arrive_whole() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    for size in [100, 40 << 10, 200 << 10] {
        let pcm: &'static str = Box::leak("x".repeat(size).into_boxed_str());
        let parts: Vec<_> = (0..6).map(|_| audio(pcm)).collect();
        let mut echo =
            client.stream(asking("free", stream::iter(parts))).await.unwrap().into_inner();
        for _ in 0..6 {
            assert_eq!(echo.message().await.unwrap().expect("six come back").pcm.len(), size);
        }
        assert_eq!(echo.message().await.unwrap(), None);
    }
    settled(&meter, "free", "free", 3).await;
}
