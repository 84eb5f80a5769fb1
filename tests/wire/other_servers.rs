//! Servers that users have already: an older axum, and hyper with the body's type spelled out; each
//! with its model in the body.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use reqwest::Client;
use tokio::net::TcpListener;
use tower::{Layer, service_fn};
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, Plan, meter::BufferedBody};

use crate::support::*;

fn metered() -> CreditMeter {
    let plan = Plan::from_toml(&PLAN.replace(
        "\"/models/{model}\" = { model = \"{model}\" }",
        "\"/v1/chat\" = { model = \"{body:model}\" }",
    ));
    let tokens = BearerTokens::new().with("token", identity("alice", "pro"));
    CreditMeter::new(plan.unwrap(), MemoryLedger::new(), tokens)
}

/// Asks twice: for a model of the plan, and for another.
async fn check(url: &str, meter: &CreditMeter) {
    for (body, status) in [(r#"{"model": "echo"}"#, 200), (r#"{"model": "other"}"#, 404)] {
        let asked = Client::new().post(format!("{url}/v1/chat")).header("x-api-key", "token");
        let answer = asked.header("content-type", "application/json").body(body).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{body}");
        if status == 200 {
            assert_eq!(answer.bytes().await.unwrap(), body, "echoed, byte for byte");
        }
    }
    let billed = settled(meter, "alice", "pro", 1).await;
    assert!(!billed.used.is_zero());
}

#[tokio::test]
async fn axum_0_7() {
    let meter = metered();
    let app = axum_07::Router::new()
        .route("/v1/chat", axum_07::routing::post(async |body: axum_07::body::Bytes| body))
        .layer(meter.buffer_bodies());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum_07::serve(listener, app).await });
    check(&url, &meter).await;
}

#[tokio::test]
async fn hyper_with_a_body_whose_type_is_spelled_out() {
    let meter = metered();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let layer = meter.buffer_bodies();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let echo = service_fn(async |request: Request<BufferedBody<Incoming>>| {
                let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            });
            let service = TowerToHyperService::new(layer.layer(echo));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(connection), service).await
            });
        }
    });
    check(&url, &meter).await;
}
