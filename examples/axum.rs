//! A denoising server whose requests are charged for compute time.
//!
//! * `POST /models/rnnoise` takes 48 kHz mono 16-bit little-endian PCM and streams it back with the
//!   noise removed by the RNNoise network.
//! * `GET /` is a widget that denoises your own voice.
//! * `GET /billing` and `GET /billing.json` show the bill.
//! * `GET /metrics`, with the feature `metrics`, is for Prometheus.
//!
//! Settings are environment variables: `ADDR`, `PLAN`, `TOKENS` (a file, or `redis` for those that
//! `credits tokens` issues), and for balances `REDIS_URL`, or without it `LEDGER`: a file
//! (`credits.redb`), or `memory`. With the feature `journal`, `JOURNAL`
//! names the file in which spending waits that the ledger has not acknowledged. `RECORDS` names a
//! file for usage records.

mod denoise;
mod process;
mod widget;

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
use tower_credits::{ComputeClock, CreditMeter, PlanFile, billing};

use self::process::setting;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = process::tokens("tower-credits-token".parse()?).await?;
    #[cfg(feature = "metrics")]
    let recorder = process::recorder()?;
    let builder = CreditMeter::builder(plan, process::ledger().await?, tokens);
    let meter = process::accounted(process::journaled(builder)?)?.build()?;

    let metered = Router::new()
        .route("/models/rnnoise", post(rnnoise))
        .route("/widget/rnnoise", post(rnnoise))
        .route("/health", get(health))
        .layer(Extension(meter.clone()))
        .layer(meter.clone());
    // The last router answers unknown paths.
    let app = billing::router(&meter).merge(widget::router()).merge(metered);
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

/// If this node can serve, for monitoring.
async fn health(Extension(meter): Extension<CreditMeter>) -> (StatusCode, String) {
    let health = meter.health().await;
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.to_string())
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
