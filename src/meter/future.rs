//! The future of a metered call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header::EXPECT};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;
use uuid::Uuid;

use super::{
    admission::{Admitted, Decided, Decision, Rate},
    body::MeterBody,
    charge::{Charge, End},
    compute_clock::{ClockKept, ComputeClock, ComputeTime},
    head::Head,
    layer::{CreditMeter, Settings},
    told,
};
use crate::{
    BoxError, observe,
    rejection::{DenialStyle, Rejection},
};

/// Names a response, for questions about its bill.
const INFERENCE_ID: HeaderName = HeaderName::from_static("inference-id");

/// Before a denial, this much of the request's body is read and thrown away, so that a client that
/// is still sending reads the answer and not a broken pipe.
const MOST_DRAINED: usize = 1 << 20;

/// And for this long.
const DRAINING: Duration = Duration::from_secs(1);

pin_project! {
    /// The future of a [`CreditService`](super::CreditService)'s response.
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
        Deciding { deciding: Pin<Box<dyn Future<Output = Decided> + Send>>, asked: Box<(S, Request<B>, CreditMeter)> },
        Calling { #[pin] future: F, call: Call },
        Denying { denying: Pin<Box<Denying<B>>> },
        Done,
    }
}

pin_project! {
    /// A denial that waits until its reader can read it.
    struct Denying<B> {
        #[pin]
        drain: Drain<B>,
        response: Option<Response<Bytes>>,
    }
}

/// What is known of a call that goes on.
pub(super) struct Call {
    /// `None` for what is free.
    charge: Option<Charge>,
    kept: Option<ClockKept>,
    pub(super) is_head: bool,
    is_connect: bool,
    pub(super) style: DenialStyle,
    /// `true` if the client takes trailers where the protocol has them.
    pub(super) takes_trailers: bool,
    manner: Manner,
    rate: Rate,
}

/// What of a meter's settings a response is treated by.
#[derive(Clone, Copy)]
struct Manner {
    until_head: bool,
    inference_id: bool,
    shadow: bool,
    tells: bool,
}

impl Manner {
    fn of(settings: &Settings) -> Self {
        let &Settings { until_head, inference_id, shadow, tells, .. } = settings;
        Self { until_head, inference_id, shadow, tells }
    }
}

impl Call {
    /// `true` if a response tells its compute time.
    pub(super) fn tells(&self) -> bool {
        self.manner.tells && !self.style.grpc
    }

    /// `true` if the connection or stream is no longer HTTP after this response: 101 (RFC 9110,
    /// section 15.2.2), or a CONNECT that succeeds (section 9.3.6; WebSockets over HTTP/2 come like
    /// this, RFC 8441).
    fn is_switching(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
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
                State::Deciding { deciding, asked: Box::new((service, request, meter.clone())) }
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
                    if let StateOwned::Deciding { asked, .. } =
                        this.state.as_mut().project_replace(State::Done)
                    {
                        let (service, request, meter) = *asked;
                        this.state.set(decided_state(decided, service, request, &meter));
                    }
                }
                StateProj::Calling { future, call } => {
                    let response = match future.poll(cx) {
                        Poll::Ready(Ok(response)) => call.respond(response, cx),
                        Poll::Ready(Err(error)) => {
                            if let Some(charge) = &mut call.charge {
                                charge.close(End::Failed);
                            }
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                        Poll::Pending => {
                            let Some(charge) = &mut call.charge else { return Poll::Pending };
                            ready!(charge.poll_cut(cx));
                            let rejection = charge.cut_off();
                            let mut response =
                                rejection.into_styled_response(call.style).map(MeterBody::text);
                            if call.style.grpc {
                                told::in_trailers(response.headers_mut(), charge.billed());
                            }
                            finish(response, call.rate.take(), call.manner)
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
                // As of any future, polling again after the end is a mistake; it never wakes.
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
    let (style, manner) = (settings.denials, Manner::of(settings));
    match decided {
        // Nothing is said of what is free.
        Ok(None) if !manner.shadow => {
            let call = Call {
                charge: None,
                kept: None,
                is_head: false,
                is_connect: false,
                style,
                takes_trailers: false,
                manner,
                rate: None,
            };
            State::Calling { future: service.call(request), call }
        }
        Ok(admitted) => {
            let style = style.for_caller(request.headers());
            let (mut charge, mut kept, mut rate) = (None, None, None);
            match admitted {
                Some(Admitted { charge: open, identity, has_begun, rate: counted }) => {
                    if let Some(identity) = identity {
                        let clock = ComputeClock::new(&open);
                        open.hands_out(clock.watch());
                        kept = Some(clock.watch());
                        request.extensions_mut().insert(clock);
                        request.extensions_mut().insert(identity);
                    }
                    if !has_begun {
                        open.begin();
                    }
                    (charge, rate) = (Some(open), counted);
                }
                // A handler that expects a clock would otherwise deny what nothing else does.
                None => drop(request.extensions_mut().insert(ComputeClock::detached())),
            }
            let takes_trailers = !style.grpc && manner.tells && told::takes_trailers(&request);
            let (is_head, is_connect) =
                (request.method() == Method::HEAD, request.method() == Method::CONNECT);
            State::Calling {
                future: service.call(request),
                call: Call {
                    charge,
                    kept,
                    is_head,
                    is_connect,
                    style,
                    takes_trailers,
                    manner,
                    rate,
                },
            }
        }
        Err(rejection) => {
            observe::denied(rejection.reason(), request.uri().path());
            let style = style.for_caller(request.headers());
            let response = finish(rejection.into_styled_response(style), None, manner);
            // A gRPC stream has no end before its answer, and its protocol no need of one.
            let drain = if style.grpc { Drain::nothing() } else { Drain::new(request) };
            State::Denying { denying: Box::pin(Denying { drain, response: Some(response) }) }
        }
    }
}

impl Call {
    fn respond<R>(&mut self, response: Response<R>, cx: &mut Context<'_>) -> Response<MeterBody<R>>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Some(mut charge) = self.charge.take() else { return response.map(MeterBody::free) };
        let (mut parts, body) = response.into_parts();
        charge.responded(&parts);
        let reported = parts.extensions.remove();
        if let Some(ComputeTime(total)) = reported {
            ComputeClock::new(&charge).report(total);
        }
        if self.manner.until_head {
            charge.ends(charge.now());
        }
        let response = if self.is_switching(parts.status) {
            self.switch(Response::from_parts(parts, body), charge)
        } else {
            let tells = self.tells();
            let left = if tells { charge.left() } else { None };
            let is_known = reported.is_some() || self.manner.until_head;
            let metered = Head { call: self, parts: &mut parts, charge, is_known }.meter(body, cx);
            if tells {
                told::in_head(&mut parts.headers, left, metered.compute);
            }
            Response::from_parts(parts, metered.body)
        };
        finish(response, self.rate.take(), self.manner)
    }

    /// A response after which the connection or stream is no longer HTTP.
    fn switch<R>(&mut self, response: Response<R>, charge: Charge) -> Response<MeterBody<R>> {
        // Only the handler's own clock can tell when the new protocol has ended.
        let unkept = match self.kept.take() {
            Some(kept) => kept.park(charge),
            // Without extensions nobody could keep one.
            None => Some(charge),
        };
        match unkept {
            Some(mut charge) if self.manner.shadow => {
                charge.close(End::Complete);
                observe::would_deny(Rejection::UnmeteredUpgrade.reason());
                response.map(MeterBody::free)
            }
            Some(mut charge) => {
                charge.close(End::Failed);
                tracing::error!(target: "tower_credits", "a handler switched protocols and kept no ComputeClock: keep a clone for as long as \
                    the connection is to be charged");
                Rejection::UnmeteredUpgrade.into_styled_response(self.style).map(MeterBody::text)
            }
            None => response.map(MeterBody::free),
        }
    }
}

/// Adds the layer's own header fields.
fn finish<B>(mut response: Response<B>, rate: Rate, manner: Manner) -> Response<B> {
    if let Some(rate) = rate {
        rate.write(response.headers_mut());
    }
    if manner.inference_id
        && let Ok(id) = HeaderValue::try_from(Uuid::now_v7().to_string())
    {
        response.headers_mut().entry(INFERENCE_ID).or_insert(id);
    }
    response
}

pin_project! {
    /// Reads what a client still sends, up to a bound.
    struct Drain<B> {
        #[pin]
        body: Option<B>,
        left: usize,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<B: Body> Drain<B> {
    const fn nothing() -> Self {
        Self { body: None, left: 0, timer: None }
    }

    fn new(request: Request<B>) -> Self {
        // A client that waits to be asked for its body reads the answer first, unless the body is
        // asked for.
        let waits = request
            .headers()
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let body = request.into_body();
        Self {
            body: (!waits && !body.is_end_stream()).then_some(body),
            left: MOST_DRAINED,
            timer: None,
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        loop {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Even an empty frame is one more.
                    let size = frame.data_ref().map_or(1, Buf::remaining).max(1);
                    match this.left.checked_sub(size) {
                        Some(left) => *this.left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(DRAINING)))
                        .as_mut()
                        .poll(cx);
                }
            }
        }
    }
}
