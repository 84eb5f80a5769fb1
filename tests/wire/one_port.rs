//! axum and tonic on one port, behind one meter, on one bill.

use std::sync::Arc;

use tokio::net::TcpListener;
use tower_credits::billing;

use super::{
    client::*,
    echo::{COST, Echo, Work, metered, router},
    proto::denoise_server::DenoiseServer,
};
use crate::support::*;

#[tokio::test]
async fn http_and_grpc_stand_on_one_bill() {
    let meter = metered(&november());
    let work = Arc::<Work>::default();
    let grpc = tonic::service::Routes::new(DenoiseServer::new(Echo(Arc::clone(&work))))
        .prepare()
        .into_axum_router()
        .reset_fallback();
    let app = billing::router(&meter).merge(router(work).merge(grpc).layer(meter.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut grpc = connect(address).await;
    grpc.whole(asking("free", audio("a"))).await.unwrap();
    let mut split = grpc.split(asking("free", audio("a"))).await.unwrap().into_inner();
    while split.message().await.unwrap().is_some() {}
    let http = reqwest::Client::new();
    let echo = http
        .post(format!("http://{address}/models/echo"))
        .bearer_auth("free")
        .body("a")
        .send()
        .await
        .unwrap();
    assert_eq!((echo.status().as_u16(), echo.text().await.unwrap().as_str()), (200, "a"));
    // Each is denied in its own words.
    assert_eq!(
        grpc.whole(asking("none", audio("a"))).await.unwrap_err().code(),
        tonic::Code::ResourceExhausted
    );
    let denied = http
        .post(format!("http://{address}/models/echo"))
        .bearer_auth("none")
        .body("a")
        .send()
        .await
        .unwrap();
    assert_eq!(denied.status(), 402);
    // What is in the plan and served by nobody is not there.
    assert_eq!(http.get(format!("http://{address}/health")).send().await.unwrap().status(), 404);

    settled(&meter, "free", "free", 3).await;
    let bill = http
        .get(format!("http://{address}/billing.json"))
        .bearer_auth("free")
        .send()
        .await
        .unwrap();
    let bill: serde_json::Value = serde_json::from_slice(&bill.bytes().await.unwrap()).unwrap();
    assert_eq!(
        (&bill["requests"], &bill["used_nano_usd"], &bill["held_nano_usd"]),
        (&3.into(), &(5 * COST).into(), &0.into()),
        "{bill}"
    );
    assert_eq!(bill["lines"].as_array().unwrap().len(), 1, "{bill}");
}
