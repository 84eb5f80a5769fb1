//! The layer among tower-http's, as `docs/stacks.md` has it, and around clients.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::post};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_credits::{
    CreditMeter, MemoryLedger, Rejection,
    clock::TokioClock,
    identify::IdentityFromExtensions,
    meter::{End, FinishedRequest},
};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, cors::CorsLayer,
    timeout::TimeoutLayer, trace::TraceLayer,
};

use super::{
    client::*,
    echo::{Echo, Work, grpc_plan, metered},
    proto::{denoise_client::DenoiseClient, denoise_server::DenoiseServer},
};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// The stack of the docs around a service that answers `answer`, takes its time for `slow` and
/// panics at `panic`.
fn stack(meter: &CreditMeter) -> Router {
    let infer = async |model: String| match model.as_str() {
        "slow" => std::future::pending().await,
        "panic" => panic!("the model panicked"),
        _ => "answer ".repeat(100),
    };
    Router::new().route("/models/echo", post(infer)).layer(
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(
                CorsLayer::permissive()
                    .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]),
            )
            .layer(CompressionLayer::new())
            .layer(CatchPanicLayer::new())
            .layer(meter.clone())
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, PATIENCE)),
    )
}

fn asked(token: &str, body: &'static str) -> Request<Body> {
    let request = Request::post("/models/echo")
        .header("authorization", format!("Bearer {token}"))
        .header("origin", "https://page.test");
    request.header("accept-encoding", "gzip").body(Body::from(body)).unwrap()
}

/// A meter on tokio's clock, which is paused.
fn on_paused_time(
    billable: impl Fn(&FinishedRequest) -> bool + Send + Sync + 'static,
) -> CreditMeter {
    CreditMeter::builder(grpc_plan(), MemoryLedger::new(), super::echo::tokens())
        .bill_if(billable)
        .clock(TokioClock)
        .build()
        .unwrap()
}

async fn whole(response: Response<Body>) -> bytes::Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test(start_paused = true)]
async fn the_order_of_the_docs_works() {
    let endings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&endings);
    let meter = on_paused_time(move |ending| {
        seen.lock().unwrap().push((ending.end, ending.status.map(|status| status.as_u16())));
        true
    });
    let app = stack(&meter);
    let answer = app.clone().oneshot(asked("free", "")).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()[header::CONTENT_ENCODING]),
        (StatusCode::OK, &"gzip".parse().unwrap())
    );
    assert!(whole(answer).await.len() < 700);

    // A page may read why it was denied.
    let denied = app.clone().oneshot(asked("none", "")).await.unwrap();
    assert_eq!(denied.status(), StatusCode::PAYMENT_REQUIRED);
    assert!(denied.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    assert!(denied.extensions().get::<Rejection>().is_some());
    let preflight = Request::options("/models/echo")
        .header("origin", "https://page.test")
        .header("access-control-request-method", "POST");
    let preflight = preflight.header("access-control-request-headers", "authorization");
    let preflight = app.clone().oneshot(preflight.body(Body::empty()).unwrap()).await.unwrap();
    assert!(
        preflight.status().is_success()
            && preflight.headers().contains_key(header::ACCESS_CONTROL_ALLOW_METHODS)
    );
    assert!(
        preflight.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .unwrap()
            .contains("authorization")
    );

    let panicked = app.oneshot(asked("free", "panic")).await.unwrap();
    assert_eq!(panicked.status(), StatusCode::INTERNAL_SERVER_ERROR);
    settled(&meter, "free", "free", 2).await;
    assert_eq!(
        *endings.lock().unwrap(),
        [(End::Complete, Some(200)), (End::Dropped, None)],
        "a panic passes as a drop"
    );
}

/// Layers that answer in the service's place need no help from the user, whichever stands directly
/// outside.
#[tokio::test]
async fn layers_stand_directly_outside() {
    let meter = metered(&november());
    let echo = tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("echo")))
    });
    let stack = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, PATIENCE))
        .layer(meter.clone())
        .service(echo);
    let answer = stack.oneshot(asked("free", "")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "echo");
    settled(&meter, "free", "free", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_billed_to_its_end_and_can_be_forgiven_by_its_status() {
    let minute = SLICE * 60;
    let billed = on_paused_time(|_| true);
    let forgiven = on_paused_time(|ending| ending.status != Some(StatusCode::GATEWAY_TIMEOUT));
    for meter in [&billed, &forgiven] {
        let answer = stack(meter).oneshot(asked("free", "slow")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        whole(answer).await;
    }
    let statement = settled(&billed, "free", "free", 1).await;
    assert!(
        (minute - SLICE / 4..minute + SLICE / 100).contains(&statement.used.as_nano_usd()),
        "{statement:?}"
    );
    assert_eq!(settled(&forgiven, "free", "free", 0).await.used, nanos(0));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_is_billed_for_the_same_and_has_no_status() {
    let minute = SLICE * 60;
    let billed = on_paused_time(|_| true);
    let forgiven = on_paused_time(|ending| ending.status.is_some());
    for meter in [&billed, &forgiven] {
        let slow = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let outside = ServiceBuilder::new()
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, PATIENCE))
            .layer(meter.clone())
            .service(slow);
        let answer = outside.oneshot(asked("free", "")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    }
    let statement = settled(&billed, "free", "free", 1).await;
    assert!(
        (minute - SLICE / 4..minute + SLICE / 100).contains(&statement.used.as_nano_usd()),
        "{statement:?}"
    );
    assert_eq!(settled(&forgiven, "free", "free", 0).await.used, nanos(0));
}

/// A gateway's meter around its clients: the call upstream is what is billed, and a denial never
/// reaches the upstream.
#[tokio::test]
async fn around_clients() {
    let upstream_meter = metered(&november());
    let work = Arc::<Work>::default();
    let grpc = tonic::service::Routes::new(DenoiseServer::new(Echo(Arc::clone(&work))))
        .prepare()
        .into_axum_router()
        .reset_fallback();
    // The upstream counts by itself: its answers take ten milliseconds, and say so in its own
    // headers.
    let app = super::echo::router(Arc::clone(&work)).merge(grpc).layer(upstream_meter);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let clock = november();
    let gateway = CreditMeter::builder(
        grpc_plan(),
        MemoryLedger::with_clock(clock.clone()),
        IdentityFromExtensions,
    )
    .clock(clock.clone())
    .build()
    .unwrap();
    let http =
        gateway.layer(Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>());
    let call = |user: &str, tier: &str| {
        let request = Request::post(format!("http://{address}/models/echo"))
            .header("authorization", "Bearer free");
        request
            .extension(identity(user, tier))
            .body(Full::from(if user == "alice" { "wait" } else { "a" }))
            .unwrap()
    };
    // Two seconds pass while the upstream works.
    let upstream = tokio::spawn(http.clone().oneshot(call("alice", "pro")));
    work.has_begun().await;
    clock.advance(seconds(2));
    work.release();
    let answer = upstream.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "wait");
    let denied = http.oneshot(call("bob", "none")).await.unwrap();
    assert_eq!(denied.status(), 402);

    let channel =
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = DenoiseClient::new(gateway.layer(channel));
    let mut request = asking("free", audio("a"));
    request.extensions_mut().insert(identity("alice", "pro"));
    // The generated client passes a request's extensions on to the channel's service.
    assert_eq!(&client.whole(request).await.unwrap().get_ref().pcm[..], b"a");
    let mut request = asking("free", audio("a"));
    request.extensions_mut().insert(identity("bob", "none"));
    assert_eq!(client.whole(request).await.unwrap_err().code(), tonic::Code::ResourceExhausted);

    assert_eq!(work.begun(), 2, "what is denied is not called");
    assert_eq!(settled(&gateway, "alice", "pro", 2).await.used, nanos(2 * SLICE));
    settled(&gateway, "bob", "none", 0).await;
}
