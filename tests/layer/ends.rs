//! A request is debited exactly once, however it ends.

use std::{convert::Infallible, panic::AssertUnwindSafe};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    BoxError, CreditMeter, MemoryLedger,
    clock::ManualClock,
    meter::{CreditService, MeterBody},
};

use crate::support::{
    bodies::{Fed, Frames},
    *,
};

struct World {
    clock: ManualClock,
    meter: CreditMeter,
}

impl World {
    fn new() -> Self {
        let clock = november();
        let meter =
            meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
        Self { clock, meter }
    }

    fn wrap<S>(&self, service: S) -> CreditService<S> {
        ServiceBuilder::new().layer(self.meter.clone()).service(service)
    }

    /// A service whose head takes two seconds of compute and whose body is `body`.
    fn serving<B>(
        &self,
        body: B,
    ) -> impl Service<
        Request<Empty<Bytes>>,
        Response = Response<MeterBody<B>>,
        Error = Infallible,
        Future: Send,
    > + use<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (clock, body) = (self.clock.clone(), Once::new(body));
        self.wrap(service_fn(move |_: Request<Empty<Bytes>>| {
            let (clock, body) = (clock.clone(), body.clone());
            async move {
                clock.advance(seconds(2));
                Ok(Response::new(body.take()))
            }
        }))
    }

    async fn respond<B>(&self, body: B) -> Response<MeterBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serving(body).oneshot(request("alice", "pro", Empty::new())).await.unwrap()
    }

    /// Exactly one request of this compute time was billed, and stays billed once.
    async fn billed(&self, compute: u64) {
        let statement = settled(&self.meter, "alice", "pro", 1).await;
        assert_eq!(statement.used, nanos(SLICE * i64::try_from(compute).unwrap()));
        assert_eq!(statement.compute(), seconds(compute));
        // After everything is told again and the meter has shut down, it still stands once.
        let settlement = self.meter.shutdown().await;
        assert_eq!((settlement.settled, settlement.unsettled.len()), (statement.used, 0));
        assert_eq!(settled(&self.meter, "alice", "pro", 1).await, statement);
    }
}

#[tokio::test(start_paused = true)]
async fn complete() {
    let world = World::new();
    let clock = world.clock.clone();
    let response = world
        .respond(Frames::text(&["a", "b", "c"]).computing(move || clock.advance(seconds(1))))
        .await;
    assert_eq!(read(response).await.unwrap(), b"abc");
    // What a body computes while it is polled is computation, also where that finds the frame
    // ready.
    world.billed(5).await;
}

#[tokio::test(start_paused = true)]
async fn complete_after_waiting_for_each_frame() {
    let world = World::new();
    let (feed, body) = Fed::new();
    let mut body = Box::pin(world.respond(body).await.into_body());
    for _ in 0..3 {
        assert!(body.frame().now_or_never().is_none());
        world.clock.advance(seconds(1));
        feed.send(Bytes::from_static(b"x")).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
    }
    drop(feed);
    assert!(body.frame().await.is_none());
    world.clock.advance(seconds(100));
    world.billed(5).await;
}

#[tokio::test(start_paused = true)]
async fn the_body_fails() {
    let world = World::new();
    let body = Frames::new([Ok(Frame::data(Bytes::from_static(b"a"))), Err("the model broke")]);
    assert_eq!(read(world.respond(body).await).await.unwrap_err().to_string(), "the model broke");
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_fails() {
    let world = World::new();
    let clock = world.clock.clone();
    let service = world.wrap(service_fn(move |_: Request<Empty<Bytes>>| {
        clock.advance(seconds(3));
        async { Err::<Response<Empty<Bytes>>, _>("no") }
    }));
    // The error is the service's own, of its own type.
    let error: &'static str =
        service.oneshot(request("alice", "pro", Empty::new())).await.unwrap_err();
    assert_eq!(error, "no");
    world.billed(3).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_panics() {
    let world = World::new();
    let clock = world.clock.clone();
    let service = world.wrap(service_fn(move |_: Request<Empty<Bytes>>| {
        let clock = clock.clone();
        async move {
            clock.advance(seconds(4));
            broken().await
        }
    }));
    let panicked = AssertUnwindSafe(service.oneshot(request("alice", "pro", Empty::new())))
        .catch_unwind()
        .await;
    assert!(panicked.is_err());
    world.billed(4).await;
}

async fn broken() -> Result<Response<Empty<Bytes>>, Infallible> {
    panic!("the model panicked")
}

#[tokio::test(start_paused = true)]
async fn cancelled_before_the_head() {
    let world = World::new();
    let called = counter();
    let count = called.clone();
    let service = world.wrap(service_fn(move |_: Request<Empty<Bytes>>| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let call = tokio::spawn(service.oneshot(request("alice", "pro", Empty::new())));
    eventually(async || (called.load(std::sync::atomic::Ordering::SeqCst) == 1).then_some(()))
        .await;
    world.clock.advance(seconds(6));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.billed(6).await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_before_the_service_is_called_costs_nothing() {
    let world = World::new();
    let called = counter();
    let count = called.clone();
    let service = world.wrap(service_fn(move |_: Request<Empty<Bytes>>| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    }));
    // Polled once: the ledger is asked. The caller stays until its credits are on hold, and goes
    // away without taking them.
    let mut call = Box::pin(service.oneshot(request("alice", "pro", Empty::new())));
    assert!((&mut call).now_or_never().is_none());
    eventually(async || {
        (statement(&world.meter, "alice", "pro").await.held == nanos(SLICE)).then_some(())
    })
    .await;
    drop(call);
    settled(&world.meter, "alice", "pro", 0).await;
    assert_eq!(world.meter.shutdown().await.settled, nanos(0));
    assert_eq!(settled(&world.meter, "alice", "pro", 0).await.used, nanos(0));
    assert_eq!(called.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// A body that panics when it is polled.
struct Panicking;

impl Body for Panicking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("the model panicked")
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_panics() {
    let world = World::new();
    // It is polled for the first time when its head is there, where a layer that catches panics
    // still can.
    assert!(AssertUnwindSafe(world.respond(Panicking)).catch_unwind().await.is_err());
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_midway_never_looks_complete() {
    let world = World::new();
    let first = Frames::text(&["a"]).computing(|| {});
    let body =
        http_body_util::StreamBody::new(futures_util::stream::unfold(Some(first), async |first| {
            let mut first = first.expect("the model panicked midway");
            tokio::task::yield_now().await;
            let frame = first.frame().await.unwrap();
            Some((frame, None))
        }));
    let mut body = Box::pin(world.respond(body).await.into_body());
    assert!(body.frame().await.unwrap().is_ok());
    assert!(
        body.frame().await.unwrap().unwrap_err().to_string().contains("panicked"),
        "its reader learns it"
    );
    assert!(body.frame().await.is_none() && body.is_end_stream());
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn the_call_itself_panics() {
    let world = World::new();
    let service = world.wrap(service_fn(|_: Request<Empty<Bytes>>| -> std::future::Ready<Result<Response<Empty<Bytes>>, Infallible>> {
        panic!("before there is a future")
    }));
    assert!(
        AssertUnwindSafe(service.oneshot(request("alice", "pro", Empty::new())))
            .catch_unwind()
            .await
            .is_err()
    );
    world.billed(0).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_in_mid_body() {
    let world = World::new();
    let (feed, body) = Fed::new();
    let mut body = Box::pin(world.respond(body).await.into_body());
    feed.send(Bytes::from_static(b"x")).await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().now_or_never().is_none());
    world.clock.advance(seconds(5));
    drop(body);
    world.clock.advance(seconds(100));
    world.billed(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_never_polled() {
    let world = World::new();
    drop(world.respond(Frames::text(&["a", "b"])).await);
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_ends_with_its_head() {
    let world = World::new();
    let response = world.respond(Empty::new()).await;
    world.clock.advance(seconds(50));
    settled(&world.meter, "alice", "pro", 1).await;
    drop(response);
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_exact_length_ends_with_its_last_frame() {
    let world = World::new();
    let body = Frames::text(&["ab", "cd"]).of_exact_length();
    let mut body = Box::pin(world.respond(body).await.into_body());
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(body.frame().await.unwrap().is_ok());
    assert!(!body.is_end_stream());
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.is_end_stream());
    // Nobody polls it again, and it is not dropped yet.
    world.clock.advance(seconds(50));
    settled(&world.meter, "alice", "pro", 1).await;
    drop(body);
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn trailers_end_it_and_pass_through() {
    let world = World::new();
    let mut body = Box::pin(world.respond(Frames::text(&["a"]).with_trailers()).await.into_body());
    assert!(body.frame().await.unwrap().unwrap().is_data());
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().ok().unwrap();
    assert_eq!(trailers["x-checksum"], "1");
    world.clock.advance(seconds(50));
    settled(&world.meter, "alice", "pro", 1).await;
    world.billed(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_billable_by_policy_is_not_billed() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .bill_if(|ending| ending.status.is_some_and(|status| status.is_success()))
        .build()
        .unwrap();
    let respond = |status: u16| {
        let clock = clock.clone();
        ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                clock.advance(seconds(1));
                async move {
                    Ok::<_, Infallible>(
                        Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap(),
                    )
                }
            },
        ))
    };
    respond(500).oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    respond(200).oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    assert_eq!(settled(&meter, "alice", "pro", 1).await.used, nanos(SLICE));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_settles_what_still_runs() {
    let world = World::new();
    let (_feed, body) = Fed::new();
    let response = world.respond(body).await;
    world.clock.advance(seconds(3));
    let settlement = world.meter.shutdown().await;
    assert_eq!((settlement.settled, settlement.unsettled.len()), (nanos(5 * SLICE), 0));
    world.clock.advance(seconds(3));
    drop(response);
    assert_eq!(settled(&world.meter, "alice", "pro", 1).await.used, nanos(5 * SLICE));
    let denied = world
        .serving(Empty::<Bytes>::new())
        .oneshot(request("alice", "pro", Empty::new()))
        .await
        .unwrap();
    assert_eq!(denied.status(), 503);
}
