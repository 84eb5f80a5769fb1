//! The layer and its service, which decides on a request before it calls the service that it wraps.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{body::MeterBody, credit_meter::CreditMeter, future::ResponseFuture};
use crate::{BoxError, identify::RequestHead};

/// Service whose calls are paid for. Made by [`CreditMeter`], which is the layer.
#[derive(Clone, Debug)]
pub struct CreditService<S> {
    inner: S,
    meter: CreditMeter,
}

impl<S> Layer<S> for CreditMeter {
    type Service = CreditService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CreditService { inner, meter: self.clone() }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CreditService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ReqBody: Body,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<MeterBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The service that was polled ready must be the one that is called; the clone takes its
        // place and is polled ready next time.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let decision =
            self.meter.decide(RequestHead::from(&request), request.body().is_end_stream());
        ResponseFuture::new(ready, request, decision, &self.meter)
    }
}
