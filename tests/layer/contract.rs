//! Tower's contract: readiness and backpressure pass through, and the readied service is the one
//! called.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::sync::Barrier;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{BoxError, MemoryLedger};

use crate::support::*;

/// A service that may be called only after it was polled ready itself; a clone is not ready.
struct Strict {
    ready: bool,
    open: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, open: Arc::clone(&self.open) }
    }
}

impl Service<Request<Empty<Bytes>>> for Strict {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.open.load(Ordering::SeqCst) == 0 {
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        std::future::ready(Ok(Response::new(Empty::new())))
    }
}

#[tokio::test]
async fn backpressure_passes_through_and_the_readied_service_is_called() {
    let open = Arc::new(AtomicUsize::new(0));
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let mut service = meter.layer(Strict { ready: false, open: Arc::clone(&open) });
    assert!(service.ready().now_or_never().is_none(), "not ready before the inner service is");
    open.store(1, Ordering::SeqCst);
    for _ in 0..3 {
        service.ready().await.unwrap().call(request("alice", "pro", Empty::new())).await.unwrap();
    }
    assert_eq!(settled(&meter, "alice", "pro", 3).await.requests(), 3);
}

fn echo() -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Empty<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    service_fn(|_: Request<Empty<Bytes>>| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(Response::new(Empty::new()))
    })
}

#[tokio::test(start_paused = true)]
async fn works_under_and_over_buffer_concurrency_limit_and_timeout() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let limits =
        ServiceBuilder::new().buffer(8).concurrency_limit(2).timeout(Duration::from_secs(5));
    let outside = limits.clone().layer(meter.clone()).service(echo());
    let calls: Vec<_> =
        (0..8).map(|_| outside.clone().oneshot(request("outside", "pro", Empty::new()))).collect();
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(settled(&meter, "outside", "pro", 8).await.requests(), 8);

    let inside = ServiceBuilder::new().layer(meter.clone()).layer(limits).service(echo());
    let calls: Vec<_> =
        (0..8).map(|_| inside.clone().oneshot(request("inside", "pro", Empty::new()))).collect();
    for answer in futures_util::future::join_all(calls).await {
        let answer: Result<_, BoxError> = answer;
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(settled(&meter, "inside", "pro", 8).await.requests(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_on_either_side_bills_what_ran() {
    let clock = november();
    let meter =
        meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
    let stuck = |clock: tower_credits::clock::ManualClock| {
        service_fn(move |_: Request<Empty<Bytes>>| {
            clock.advance(seconds(2));
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        })
    };
    let timeout = Duration::from_millis(400);
    let outside =
        ServiceBuilder::new().timeout(timeout).layer(meter.clone()).service(stuck(clock.clone()));
    let inside =
        ServiceBuilder::new().layer(meter.clone()).timeout(timeout).service(stuck(clock.clone()));
    for (user, answer) in [
        ("outside", outside.oneshot(request("outside", "pro", Empty::new())).await.map(drop)),
        ("inside", inside.oneshot(request("inside", "pro", Empty::new())).await.map(drop)),
    ] {
        assert!(answer.unwrap_err().is::<tower::timeout::error::Elapsed>());
        assert_eq!(settled(&meter, user, "pro", 1).await.compute(), seconds(2), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_can_be_run_by_its_owner_and_ends_with_the_meter() {
    let (meter, worker) = meter(MemoryLedger::new()).build_with_worker().unwrap();
    let worker = tokio::spawn(worker.run());
    let together = Arc::new(Barrier::new(4));
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            let together = Arc::clone(&together);
            async move {
                together.wait().await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        },
    ));
    let calls = (0..4).map(|_| service.clone().oneshot(request("alice", "pro", Empty::new())));
    assert!(
        futures_util::future::join_all(calls)
            .await
            .into_iter()
            .all(|answer| answer.unwrap().status() == 200)
    );
    settled(&meter, "alice", "pro", 4).await;
    drop((meter, service));
    tokio::time::timeout(seconds(5), worker).await.expect("it ends").unwrap();
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let refused =
        |builder: tower_credits::CreditMeterBuilder| builder.build().unwrap_err().to_string();
    assert_eq!(
        refused(meter(MemoryLedger::new()).ledger_timeout(Duration::ZERO)),
        "ledger_timeout cannot be used: set 1 ms to 5 s"
    );
    assert_eq!(
        refused(meter(MemoryLedger::new()).report_within(Duration::MAX)),
        "report_within cannot be used: set 1 ms to 60 s"
    );
    assert!(
        refused(meter(MemoryLedger::new()).unavailable_status(http::StatusCode::OK))
            .starts_with("unavailable_status")
    );
}
