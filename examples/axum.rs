//! A denoising server whose every request is paid for in compute time.
//!
//! `POST /models/rnnoise` takes 48 kHz mono 16-bit little-endian PCM and streams it back with the noise removed, by the RNNoise network;
//! `GET /billing.json` shows the bill. Settings are environment variables: `ADDR`, `REDIS_URL` (absent: balances are kept in memory), `PLAN`
//! and `TOKENS`.

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
use nnnoiseless::DenoiseState;
use tokio::{net::TcpListener, signal};
use tower_credits::{BearerTokens, ComputeClock, CreditMeter, MemoryLedger, PlanFile, RedisLedger, billing};
use tracing::level_filters::LevelFilter;

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
        .route("/models/rnnoise", post(denoise))
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
async fn denoise(Extension(clock): Extension<ComputeClock>, body: Body) -> Response {
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

/// RNNoise works on frames of 10 ms and is one frame late; as many samples come out as went in.
struct Denoiser {
    network: Box<DenoiseState<'static>>,
    pending: Vec<u8>,
    received: usize,
    sent: usize,
    is_late: bool,
}

impl Denoiser {
    const FRAME: usize = DenoiseState::FRAME_SIZE;

    fn new() -> Self {
        Self { network: DenoiseState::new(), pending: Vec::new(), received: 0, sent: 0, is_late: true }
    }

    async fn push(&mut self, chunk: &[u8], clock: &ComputeClock) -> Vec<u8> {
        self.pending.extend_from_slice(chunk);
        self.received += chunk.len();
        let mut output = Vec::with_capacity(chunk.len());
        let whole = self.pending.len() / (2 * Self::FRAME) * (2 * Self::FRAME);
        let frames: Vec<u8> = self.pending.drain(..whole).collect();
        for frames in frames.chunks(32 * 2 * Self::FRAME) {
            clock.start();
            frames.chunks_exact(2 * Self::FRAME).for_each(|frame| self.frame(frame, &mut output));
            clock.pause();
            // Other requests get their turn every few milliseconds, at their own cost.
            tokio::task::yield_now().await;
        }
        self.sent += output.len();
        output
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        let wanted = self.received / 2 * 2 - self.sent;
        let mut rest = std::mem::take(&mut self.pending);
        while output.len() < wanted {
            rest.resize(2 * Self::FRAME, 0);
            self.frame(&rest, &mut output);
            rest.clear();
        }
        output.truncate(wanted);
        output
    }

    fn frame(&mut self, frame: &[u8], output: &mut Vec<u8>) {
        let mut input = [0.0; Self::FRAME];
        for (sample, bytes) in input.iter_mut().zip(frame.chunks_exact(2)) {
            *sample = f32::from(i16::from_le_bytes([bytes[0], bytes[1]]));
        }
        let mut denoised = [0.0; Self::FRAME];
        self.network.process_frame(&mut denoised, &input);
        if std::mem::take(&mut self.is_late) {
            return;
        }
        for sample in denoised {
            output.extend_from_slice(&(sample.clamp(-32768.0, 32767.0) as i16).to_le_bytes());
        }
    }
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
