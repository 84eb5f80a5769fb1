//! The layers and their service, which decides on a request before it calls the service that it
//! wraps.

use std::{
    marker::PhantomData,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::MeterBody,
    buffered_body::{AsIs, BodyMode, Buffered},
    credit_meter::CreditMeter,
    future::ResponseFuture,
};
use crate::{BoxError, identify::RequestHead};

/// Service whose calls are paid for. Made by [`CreditMeter`] and [`BufferBodies`], which are its
/// layers.
#[derive(Clone, Debug)]
pub struct CreditService<S, M = AsIs> {
    inner: S,
    meter: CreditMeter,
    mode: PhantomData<M>,
}

/// Layer that meters as its [`CreditMeter`] does, and reads a request's body first if the plan
/// takes the model from there (`{body:model}`). Made by [`CreditMeter::buffer_bodies`].
#[derive(Clone, Debug)]
pub struct BufferBodies(CreditMeter);

impl CreditMeter {
    /// Returns a layer that also reads request bodies, where a route of the plan takes its model
    /// from there: `{ model = "{body:model}" }`.
    ///
    /// The caller is identified first. Then the body is read, up to
    /// [`max_request_body`](crate::CreditMeterBuilder::max_request_body), and the service gets the
    /// bytes that came, as a [`BufferedBody`](super::BufferedBody). Bodies of other routes are
    /// handed on unread.
    ///
    /// ```
    /// use axum::{Router, body::Bytes, routing::post};
    /// use tower_credits::CreditMeter;
    ///
    /// # fn example(meter: CreditMeter) {
    /// let app: Router = Router::new()
    ///     .route("/v1/chat/completions", post(complete))
    ///     .layer(meter.buffer_bodies());
    /// # }
    ///
    /// async fn complete(prompt: Bytes) -> Bytes {
    ///     prompt // and compute
    /// }
    /// ```
    pub fn buffer_bodies(&self) -> BufferBodies {
        BufferBodies(self.clone())
    }
}

impl<S> Layer<S> for CreditMeter {
    type Service = CreditService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CreditService { inner, meter: self.clone(), mode: PhantomData }
    }
}

impl<S> Layer<S> for BufferBodies {
    type Service = CreditService<S, Buffered>;

    fn layer(&self, inner: S) -> Self::Service {
        CreditService { inner, meter: self.0.clone(), mode: PhantomData }
    }
}

impl<S, M, ReqBody, ResBody> Service<Request<ReqBody>> for CreditService<S, M>
where
    M: BodyMode<ReqBody>,
    S: Service<Request<M::Body>, Response = Response<ResBody>> + Clone,
    ReqBody: Body,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<MeterBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, M>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The service that was polled ready must be the one that is called; the clone takes its
        // place and is polled ready next time.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let mut id = None;
        let head = RequestHead::from(&request);
        let decision = self.meter.decide(head, &mut id, request.body().is_end_stream());
        ResponseFuture::new(ready, request, id, decision, &self.meter)
    }
}
