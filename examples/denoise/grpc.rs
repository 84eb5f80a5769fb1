//! `denoise.v1.Denoise`: streams samples back denoised, in all four kinds of call.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status, Streaming};
use tower_credits::ComputeClock;

use self::proto::{Audio, denoise_server::Denoise};
use super::denoise;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub(crate) mod proto {
    include!("denoise.v1.rs");
}

pub(crate) struct Rnnoise;

type Parts = Pin<Box<dyn Stream<Item = Result<Audio, Status>> + Send>>;

/// Denoises the samples as they arrive.
fn denoised<T>(request: Request<T>, parts: impl FnOnce(T) -> Parts) -> Result<Parts, Status> {
    let clock = request
        .extensions()
        .get::<ComputeClock>()
        .cloned()
        .ok_or_else(|| Status::internal("this server is not metered"))?;
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
