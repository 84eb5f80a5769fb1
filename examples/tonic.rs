//! The denoising server over gRPC: `denoise.v1.Denoise` (`examples/denoise/denoise.proto`), with all four kinds of call.
//!
//! The layer stands on the whole server. Health checks and reflection are free because the plan says so:
//! `"/grpc.health.v1.Health/{*method}" = "free"`. Settings are environment variables: `ADDR`, `REDIS_URL` (absent: balances are kept in memory),
//! `PLAN` and `TOKENS`.

mod denoise;
mod process;
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod proto {
    include!("denoise/denoise.v1.rs");
}

use std::{env, error::Error, pin::Pin};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tower_credits::{BearerTokens, ComputeClock, CreditMeter, MemoryLedger, PlanFile, RedisLedger};

use self::{
    process::setting,
    proto::{
        Audio,
        denoise_server::{Denoise, DenoiseServer},
    },
};

/// What server reflection tells of the service.
const DESCRIPTORS: &[u8] = include_bytes!("denoise/descriptors.bin");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = BearerTokens::watch(setting("TOKENS", "examples/tokens.toml"))?;
    let meter = match env::var("REDIS_URL") {
        Ok(url) => CreditMeter::new(plan, RedisLedger::connect(&*url).await?, tokens),
        Err(_) => CreditMeter::new(plan, MemoryLedger::new(), tokens),
    };

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DenoiseServer<Rnnoise>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:50051")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Server::builder()
        .layer(meter.clone())
        .add_service(DenoiseServer::new(Rnnoise))
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), process::stopped())
        .await?;

    let settlement = meter.shutdown().await;
    tracing::info!(settled = %settlement.settled, unsettled = settlement.unsettled.len(), "shut down");
    Ok(())
}

struct Rnnoise;

type Parts = Pin<Box<dyn Stream<Item = Result<Audio, Status>> + Send>>;

/// What comes in, denoised, as it comes.
fn denoised<T>(request: Request<T>, parts: impl FnOnce(T) -> Parts) -> Result<Parts, Status> {
    let clock = request.extensions().get::<ComputeClock>().cloned().ok_or_else(|| Status::internal("this server is not metered"))?;
    let pcm = parts(request.into_inner()).map_ok(|audio| audio.pcm);
    Ok(denoise::denoised(pcm, clock).map_ok(|pcm| Audio { pcm }).boxed())
}

async fn whole(parts: Parts) -> Result<Response<Audio>, Status> {
    let pcm = parts.try_fold(Vec::new(), async |mut pcm, part| {
        pcm.extend_from_slice(&part.pcm);
        Ok(pcm)
    });
    Ok(Response::new(Audio { pcm: pcm.await?.into() }))
}

fn once(audio: Audio) -> Parts {
    stream::once(async { Ok(audio) }).boxed()
}

#[tonic::async_trait]
impl Denoise for Rnnoise {
    async fn whole(&self, request: Request<Audio>) -> Result<Response<Audio>, Status> {
        whole(denoised(request, once)?).await
    }

    async fn collect(&self, request: Request<Streaming<Audio>>) -> Result<Response<Audio>, Status> {
        whole(denoised(request, Streaming::boxed)?).await
    }

    type SplitStream = Parts;

    async fn split(&self, request: Request<Audio>) -> Result<Response<Parts>, Status> {
        denoised(request, once).map(Response::new)
    }

    type StreamStream = Parts;

    async fn stream(&self, request: Request<Streaming<Audio>>) -> Result<Response<Parts>, Status> {
        denoised(request, Streaming::boxed).map(Response::new)
    }
}
