//! The future of a metered call: it decides, calls, and denies.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    admission::{Admitted, Decided, Deciding, Decision},
    body::MeterBody,
    call::{Call, add_headers},
    compute_clock::ComputeClock,
    credit_meter::CreditMeter,
    drain::Drain,
    response::respond,
    usage_headers,
};
use crate::{BoxError, metering::End, observe};

pin_project! {
    /// Future of a [`CreditService`](super::CreditService)'s response.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<S, B, F> {
        Deciding { deciding: Deciding, call: Box<(S, Request<B>, CreditMeter)> },
        Calling { #[pin] future: F, call: Call },
        Denying { denying: Pin<Box<Denying<B>>> },
        Done,
    }
}

pin_project! {
    /// A denial that waits until its client can read it.
    struct Denying<B> {
        #[pin]
        drain: Drain<B>,
        response: Option<Response<Bytes>>,
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    // Inlined, so that the request is moved once and not at each step.
    #[inline(always)]
    pub(super) fn new(
        service: S,
        request: Request<B>,
        decision: Decision,
        meter: &CreditMeter,
    ) -> Self {
        let state = match decision {
            Decision::Later(deciding) => {
                State::Deciding { deciding, call: Box::new((service, request, meter.clone())) }
            }
            Decision::Now(decided) => decided_state(decided, service, request, meter),
        };
        Self { state }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<MeterBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Deciding { deciding, .. } => {
                    let decided = ready!(deciding.as_mut().poll(cx));
                    if let StateOwned::Deciding { call, .. } =
                        this.state.as_mut().project_replace(State::Done)
                    {
                        let (service, request, meter) = *call;
                        this.state.set(decided_state(decided, service, request, &meter));
                    }
                }
                StateProj::Calling { future, call } => {
                    let response = match future.poll(cx) {
                        Poll::Ready(Ok(response)) => respond(call, response, cx),
                        Poll::Ready(Err(error)) => {
                            if let Some(charge) = &mut call.charge {
                                charge.close(End::Failed);
                            }
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                        Poll::Pending => {
                            let Some(charge) = &mut call.charge else { return Poll::Pending };
                            ready!(charge.poll_over(cx));
                            let rejection = charge.cut_off();
                            let mut response =
                                rejection.into_styled_response(call.style).map(MeterBody::text);
                            if call.style.grpc {
                                usage_headers::add_to_trailers(
                                    response.headers_mut(),
                                    charge.billed(),
                                );
                            }
                            add_headers(response, call.rate.take(), call.settings)
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Denying { denying } => {
                    let denying = denying.as_mut().project();
                    ready!(denying.drain.poll(cx));
                    let response = denying.response.take();
                    this.state.set(State::Done);
                    if let Some(response) = response {
                        return Poll::Ready(Ok(response.map(MeterBody::text)));
                    }
                }
                // As with any future, polling after the end is a mistake of the caller.
                StateProj::Done => return Poll::Pending,
            }
        }
    }
}

#[inline(always)]
fn decided_state<S, B>(
    decided: Decided,
    mut service: S,
    mut request: Request<B>,
    meter: &CreditMeter,
) -> State<S, B, S::Future>
where
    S: Service<Request<B>>,
    B: Body,
{
    let settings = &meter.inner.settings;
    let mut call = Call {
        charge: None,
        clock: None,
        is_head: false,
        is_connect: false,
        accepts_trailers: false,
        compute_until_head: settings.compute_until_head,
        is_shadow: settings.shadow,
        style: settings.denials,
        settings: settings.response,
        rate: None,
    };
    match decided {
        // A free request keeps its extensions as they are.
        Ok(None) if !call.is_shadow => State::Calling { future: service.call(request), call },
        Ok(admitted) => {
            call.style = call.style.for_caller(request.headers());
            match admitted {
                Some(Admitted { charge, identity, has_begun, rate }) => {
                    if let Some(identity) = identity {
                        let clock = ComputeClock::new(&charge);
                        call.clock = Some(clock.attach(&charge));
                        request.extensions_mut().insert(clock);
                        request.extensions_mut().insert(identity);
                    }
                    if !has_begun {
                        charge.begin();
                    }
                    (call.charge, call.rate) = (Some(charge), rate);
                }
                // In shadow mode a handler that expects a clock finds one, so that it does not fail
                // a request that nothing else denies.
                None => drop(request.extensions_mut().insert(ComputeClock::detached())),
            }
            call.accepts_trailers =
                call.has_usage_headers() && usage_headers::accepts_trailers(&request);
            call.is_head = request.method() == Method::HEAD;
            call.is_connect = request.method() == Method::CONNECT;
            State::Calling { future: service.call(request), call }
        }
        Err(rejection) => {
            observe::denied(rejection.reason(), request.uri().path());
            let style = call.style.for_caller(request.headers());
            let response = add_headers(rejection.into_styled_response(style), None, call.settings);
            // A gRPC stream may have no end before its answer, and its protocol needs none.
            let drain = if style.grpc { Drain::nothing() } else { Drain::new(request) };
            State::Denying { denying: Box::pin(Denying { drain, response: Some(response) }) }
        }
    }
}
