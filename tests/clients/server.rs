//! The server that `scripts/clients` plays its cases with: real meters on real sockets.
//!
//! It listens twice, and speaks HTTP/1.1 and HTTP/2 without TLS on both. `HTTP_URL` is one port of
//! axum's, with gRPC beside HTTP and the meter outside of tonic-web. `GRPC_URL` is tonic's own
//! server, with tonic-web outside of the meter. Prints both once it is ready, and ends at SIGTERM.
//!
//! Settings are environment variables: `ADDR` and `GRPC_ADDR`, 127.0.0.1:0 unless they are set.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod answers;
mod cases;
mod echo;
#[allow(dead_code, reason = "the examples' log and grace are not used")]
#[path = "../../examples/process/mod.rs"]
mod process;
mod seen;

use std::error::Error;

use axum::{Router, serve::ListenerExt};
use http::Request;
use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::server::{Server, TcpIncoming},
};
use tonic_web::GrpcWebLayer;
use tower::util::MapRequestLayer;
use tower_credits::CreditMeter;

use self::{
    cases::Meters,
    echo::{Echo, proto::denoise_server::DenoiseServer},
    process::setting,
    seen::Seen,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (meters, seen) = (Meters::start().await, Seen::default());
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:0")).await?;
    let grpc_listener = TcpListener::bind(setting("GRPC_ADDR", "127.0.0.1:0")).await?;
    let (address, grpc_address) = (listener.local_addr()?, grpc_listener.local_addr()?);

    let counted = seen.clone();
    let grpc = Server::builder()
        .accept_http1(true)
        .layer(MapRequestLayer::new(move |request: Request<_>| counted.count(request)))
        .layer(GrpcWebLayer::new())
        .layer(meters.layer(CreditMeter::clone))
        .add_service(DenoiseServer::new(Echo))
        .serve_with_incoming(TcpIncoming::from(grpc_listener).with_nodelay(Some(true)));
    let app = one_port(&meters, &seen);
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));

    println!("HTTP_URL=http://{address} GRPC_URL=http://{grpc_address}");
    tokio::select! {
        served = async { axum::serve(listener, app).await } => served?,
        served = grpc => served?,
        () = process::stopped() => {}
    }
    Ok(())
}

fn one_port(meters: &Meters, seen: &Seen) -> Router {
    let grpc = Routes::new(DenoiseServer::new(Echo)).prepare().into_axum_router().reset_fallback();
    let counted = seen.clone();
    answers::router()
        .merge(grpc.layer(GrpcWebLayer::new()))
        .layer(meters.layer(CreditMeter::buffer_bodies))
        .layer(MapRequestLayer::new(move |request: Request<_>| counted.count(request)))
        .merge(seen.router())
}
