//! `denoise.v1.Denoise` that sends back what came.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};
use tower_credits::Identity;

use self::proto::{Audio, denoise_server::Denoise};
use super::answers::is_cut;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub(crate) mod proto {
    include!("../../examples/denoise/denoise.v1.rs");
}

pub(crate) struct Echo;

type Parts = Pin<Box<dyn Stream<Item = Result<Audio, Status>> + Send>>;

#[tonic::async_trait]
impl Denoise for Echo {
    async fn whole(&self, request: Request<Audio>) -> Result<Response<Audio>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn collect(&self, _: Request<Streaming<Audio>>) -> Result<Response<Audio>, Status> {
        Err(Status::unimplemented("no case calls it"))
    }

    type SplitStream = Parts;

    /// The message twice. What is to be cut off goes on from there.
    async fn split(&self, request: Request<Audio>) -> Result<Response<Parts>, Status> {
        let runs_on = request.extensions().get::<Arc<Identity>>().is_some_and(|of| is_cut(of));
        let twice = stream::iter([Ok(request.get_ref().clone()), Ok(request.into_inner())]);
        Ok(Response::new(if runs_on {
            twice.chain(stream::pending()).boxed()
        } else {
            twice.boxed()
        }))
    }

    type StreamStream = Parts;

    async fn stream(&self, _: Request<Streaming<Audio>>) -> Result<Response<Parts>, Status> {
        Err(Status::unimplemented("no case calls it"))
    }
}
