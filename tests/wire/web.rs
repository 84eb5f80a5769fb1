//! gRPC-Web, by tonic-web on both sides: its layer stands outside of the meter, which then sees
//! gRPC.

use std::{net::SocketAddr, sync::Arc};

use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tonic::{
    Code,
    transport::server::{Server, TcpIncoming},
};
use tonic_types::StatusExt;
use tonic_web::{GrpcWebClientLayer, GrpcWebLayer};
use tower::{Layer, ServiceBuilder};
use tower_credits::CreditMeter;

use super::{
    client::*,
    echo::{Echo, Work, metered},
    proto::{denoise_client::DenoiseClient, denoise_server::DenoiseServer},
};
use crate::support::*;

/// A server for HTTP/1.1 too, with gRPC-Web outside or inside of the meter.
async fn serve(meter: &CreditMeter, outside: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = DenoiseServer::new(Echo(Arc::<Work>::default()));
    let incoming = TcpIncoming::from(listener);
    if outside {
        let server = Server::builder()
            .accept_http1(true)
            .layer(GrpcWebLayer::new())
            .layer(meter.clone())
            .add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
    } else {
        let server = Server::builder()
            .accept_http1(true)
            .layer(meter.clone())
            .layer(GrpcWebLayer::new())
            .add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
    }
    address
}

/// A browser's client: HTTP/1.1, and gRPC-Web on it.
macro_rules! browser {
    ($address:expr) => {{
        let client: Client<HttpConnector, tonic_web::GrpcWebCall<tonic::body::Body>> =
            Client::builder(TokioExecutor::new()).build_http();
        let client = ServiceBuilder::new().service(GrpcWebClientLayer::new().layer(client));
        DenoiseClient::with_origin(client, format!("http://{}", $address).parse().unwrap())
    }};
}

#[tokio::test]
async fn outside_of_the_meter_it_is_grpc_with_everything() {
    let meter = metered(&november());
    let mut client = browser!(serve(&meter, true).await);
    let whole = client.whole(asking("free", audio("a"))).await.unwrap();
    assert_eq!(
        (&whole.get_ref().pcm[..], field(whole.metadata(), "x-cost-nano-usd")),
        (&b"a"[..], Some("1200"))
    );
    let mut split = client.split(asking("free", audio("a"))).await.unwrap().into_inner();
    for _ in 0..3 {
        assert!(split.message().await.unwrap().is_some());
    }
    assert_eq!(split.message().await.unwrap(), None);
    assert_eq!(field(&split.trailers().await.unwrap().unwrap(), "x-cost-nano-usd"), Some("3600"));
    assert_eq!(settled(&meter, "free", "free", 2).await.used, nanos(4_800));

    let denied = client.whole(asking("none", audio("a"))).await.unwrap_err();
    assert_eq!(
        (denied.code(), denied.get_details_error_info().unwrap().reason.as_str()),
        (Code::ResourceExhausted, "CREDITS_USED_UP")
    );

    // Twenty milliseconds are all that one call may use: the third message finds that it ended.
    let cut = client.split(asking("capped", audio("a"))).await.unwrap().into_inner();
    let error = error_of(cut).await;
    assert_eq!(
        (error.code(), error.get_details_error_info().unwrap().reason.as_str()),
        (Code::ResourceExhausted, "REQUEST_CAP")
    );
}

/// The error that ends a stream.
async fn error_of(mut cut: tonic::Streaming<super::proto::Audio>) -> tonic::Status {
    loop {
        match cut.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not cut off"),
            Err(error) => return error,
        }
    }
}

/// It is billed and denied all the same, and cut off between messages.
#[tokio::test]
async fn inside_of_the_meter_it_is_billed_and_denied_too() {
    let meter = metered(&november());
    let address = serve(&meter, false).await;
    let mut client = browser!(address);
    let whole = client.whole(asking("free", audio("a"))).await.unwrap();
    assert_eq!(
        (&whole.get_ref().pcm[..], field(whole.metadata(), "x-cost-nano-usd")),
        (&b"a"[..], None)
    );
    assert_eq!(settled(&meter, "free", "free", 1).await.used, nanos(1_200));

    let client: Client<HttpConnector, Full<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::post(format!("http://{address}/denoise.v1.Denoise/Whole"))
        .header("content-type", "application/grpc-web+proto")
        .header("authorization", "Bearer none")
        .body(Full::from(framed(&audio("a"))))
        .unwrap();
    let denied = client.request(request).await.unwrap();
    assert_eq!(
        (denied.status().as_u16(), &denied.headers()["content-type"]),
        (200, &http::HeaderValue::from_static("application/grpc-web+proto"))
    );
    let mut client = browser!(address);
    let denied = client.whole(asking("none", audio("a"))).await.unwrap_err();
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert!(denied.message().contains("used up"), "{denied:?}");

    let cut = client.split(asking("capped", audio("a"))).await.unwrap().into_inner();
    let error = error_of(cut).await;
    assert_eq!(
        (error.code(), error.get_details_error_info().unwrap().reason.as_str()),
        (Code::ResourceExhausted, "REQUEST_CAP")
    );
}
