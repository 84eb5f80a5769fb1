//! The denoising server over HTTP (`POST /models/rnnoise`, as in `examples/axum.rs`) and gRPC
//! (`denoise.v1.Denoise`) on one port, with one meter and one bill (`GET /billing.json`). With the
//! feature `metrics`, `GET /metrics` is for Prometheus.
//!
//! Settings are environment variables: `ADDR`, `PLAN`, `TOKENS`, and for balances `REDIS_URL`, or
//! without it `LEDGER`: a file (`credits.redb`), or `memory`.

mod denoise;
#[path = "denoise/grpc.rs"]
mod grpc;
mod process;

use std::error::Error;

use axum::{
    Extension, Router,
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tower_credits::{BearerTokens, ComputeClock, CreditMeter, PlanFile, billing};

use self::{
    grpc::{Rnnoise, proto::denoise_server::DenoiseServer},
    process::setting,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = BearerTokens::watch(setting("TOKENS", "examples/tokens.toml"))?;
    #[cfg(feature = "metrics")]
    let recorder = process::recorder()?;
    let meter = CreditMeter::new(plan, process::ledger().await?, tokens);

    // tonic's fallback would answer all unknown paths, also those of HTTP.
    let grpc =
        Routes::new(DenoiseServer::new(Rnnoise)).prepare().into_axum_router().reset_fallback();
    let metered = Router::new()
        .route("/models/rnnoise", post(rnnoise))
        .route("/health", get(|| async { "ok\n" }))
        .merge(grpc)
        .layer(meter.clone());
    // The last router answers unknown paths.
    let app = billing::router(&meter).merge(metered);
    #[cfg(feature = "metrics")]
    let app = process::with_metrics(app, &meter, recorder);
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:3000")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    // Small chunks of a stream must not wait until the client has acknowledged earlier ones.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    process::within_grace(
        axum::serve(listener, app).with_graceful_shutdown(process::stopped()).into_future(),
    )
    .await?;

    let settlement = meter.shutdown().await;
    tracing::info!(
        settled = %settlement.settled,
        unsettled = settlement.unsettled.len(),
        "shut down"
    );
    Ok(())
}

async fn rnnoise(Extension(clock): Extension<ComputeClock>, body: Body) -> Response {
    let content_type = [(header::CONTENT_TYPE, denoise::CONTENT_TYPE)];
    (
        StatusCode::OK,
        content_type,
        Body::from_stream(denoise::denoised(body.into_data_stream(), clock)),
    )
        .into_response()
}
