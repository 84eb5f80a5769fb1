//! The denoising server over gRPC: `denoise.v1.Denoise` (`examples/denoise/denoise.proto`), with
//! all four kinds of call.
//!
//! The layer covers the whole server. Health checks and reflection are free because the plan says
//! so: `"/grpc.health.v1.Health/{*method}" = "free"`.
//!
//! Settings are environment variables: `ADDR`, `PLAN`, `TOKENS`, and for balances `REDIS_URL`, or
//! without it `LEDGER`: a file (`credits.redb`), or `memory`.

mod denoise;
#[path = "denoise/grpc.rs"]
mod grpc;
mod process;

use std::error::Error;

use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};
use tower_credits::{BearerTokens, CreditMeter, PlanFile};

use self::{
    grpc::{Rnnoise, proto::denoise_server::DenoiseServer},
    process::setting,
};

/// Description of the service, for server reflection.
const DESCRIPTORS: &[u8] = include_bytes!("denoise/descriptors.bin");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = BearerTokens::watch(setting("TOKENS", "examples/tokens.toml"))?;
    let meter = CreditMeter::new(plan, process::ledger().await?, tokens);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DenoiseServer<Rnnoise>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:50051")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let serving = Server::builder()
        .layer(meter.clone())
        .add_service(DenoiseServer::new(Rnnoise))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // Older clients know this one only.
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            process::stopped(),
        );
    process::within_grace(serving).await?;

    let settlement = meter.shutdown().await;
    tracing::info!(
        settled = %settlement.settled,
        unsettled = settlement.unsettled.len(),
        "shut down"
    );
    Ok(())
}
