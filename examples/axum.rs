//! A denoising server whose every request is paid for in compute time.
//!
//! `POST /models/rnnoise` takes 48 kHz mono 16-bit little-endian PCM and streams it back with the noise removed, by the RNNoise network;
//! `GET /billing.json` shows the bill. Settings are environment variables: `ADDR`, `REDIS_URL` (absent: balances are kept in memory), `PLAN`
//! and `TOKENS`.

mod denoise;

use std::{env, error::Error, io::IsTerminal};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, signal};
use tower_credits::{BearerTokens, ComputeClock, CreditMeter, MemoryLedger, PlanFile, RedisLedger, billing};
use tracing::level_filters::LevelFilter;

use self::denoise::Denoiser;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(LevelFilter::INFO).with_ansi(std::io::stdout().is_terminal()).with_target(false).init();
    let setting = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());

    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = BearerTokens::watch(setting("TOKENS", "examples/tokens.toml"))?;
    let meter = match env::var("REDIS_URL") {
        Ok(url) => CreditMeter::new(plan, RedisLedger::connect(&*url).await?, tokens),
        Err(_) => CreditMeter::new(plan, MemoryLedger::new(), tokens),
    };

    let app = Router::new()
        .route("/models/rnnoise", post(rnnoise))
        .route("/health", get(|| async { "ok\n" }))
        .layer(meter.clone())
        .merge(billing::router(&meter));
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:3000")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    // Small chunks of a stream must not wait for the client's acknowledgement of those before.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;

    let settlement = meter.shutdown().await;
    tracing::info!(settled = %settlement.settled, unsettled = settlement.unsettled.len(), "shut down");
    Ok(())
}

/// Streams PCM in and out. Only the time in which the network computes is billed: waiting for the client's next samples costs nothing.
async fn rnnoise(Extension(clock): Extension<ComputeClock>, body: Body) -> Response {
    // Started once, so that this clock counts from here on.
    clock.start();
    clock.pause();
    let samples = denoised(body.into_data_stream(), clock);
    let content_type = [(header::CONTENT_TYPE, "audio/l16; rate=48000; channels=1")];
    (StatusCode::OK, content_type, Body::from_stream(samples)).into_response()
}

fn denoised<E>(input: impl Stream<Item = Result<Bytes, E>> + Send + 'static, clock: ComputeClock) -> impl Stream<Item = Result<Bytes, E>> {
    let state = (Box::pin(input), Denoiser::new(), Some(clock));
    stream::unfold(state, |(mut input, mut denoiser, clock)| async move {
        let clock = clock?;
        loop {
            let (output, goes_on) = match input.next().await {
                Some(Ok(chunk)) => (Ok(denoiser.push(&chunk, &clock).await), true),
                Some(Err(error)) => (Err(error), false),
                None => {
                    clock.start();
                    let output = denoiser.finish();
                    clock.pause();
                    (Ok(output), false)
                }
            };
            let is_empty = output.as_ref().is_ok_and(Vec::is_empty);
            if !goes_on && is_empty {
                return None;
            }
            if !is_empty {
                return Some((output.map(Bytes::from), (input, denoiser, goes_on.then_some(clock))));
            }
        }
    })
}

async fn stopped() {
    let interrupted = async { signal::ctrl_c().await.ok() };
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    tokio::select! {
        _ = interrupted => {}
        _ = terminated => {}
    }
}
