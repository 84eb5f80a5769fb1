//! The future of a metered call: it decides, calls, and denies.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, Version, header::EXPECT};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    admission::{Admitted, Decided, Decision, Known, NeedsBody},
    body::MeterBody,
    buffered_body::{AsIs, BodyMode},
    call::{Call, add_headers},
    compute_clock::ComputeClock,
    credit_meter::CreditMeter,
    denied::{Denied, Whose},
    drain::Drain,
    response::respond,
    upload::{Unread, Upload},
    usage_headers,
};
use crate::{
    BoxError, Rejection, RequestId, identify::RequestHead, metering::End, observe,
    plan::BodyProblem, rejection::DenialStyle,
};

pin_project! {
    /// Future of a [`CreditService`](super::CreditService)'s response.
    pub struct ResponseFuture<S, B, M = AsIs>
    where
        M: BodyMode<B>,
        S: Service<Request<M::Body>>,
    {
        #[pin]
        state: State<Waiting<S, B, M::Body>, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<W, B, F> {
        Deciding { deciding: Deciding, waiting: Box<W> },
        Reading { upload: Box<Upload<B>>, needs: Box<NeedsBody>, waiting: Box<W> },
        Calling { #[pin] future: F, call: Call },
        Denying { denying: Box<Denying<B>> },
        Done,
    }
}

/// The future of a decision.
type Deciding = Pin<Box<dyn Future<Output = Known> + Send>>;

/// A call that waits for a decision.
struct Waiting<S, B, T> {
    service: S,
    request: Request<RequestBody<B, T>>,
    /// `None` if it is free.
    id: Option<RequestId>,
    meter: CreditMeter,
}

/// The body of a request that has not been handed on.
enum RequestBody<B, T> {
    /// As it came.
    Unread(B),
    /// As the service gets it.
    Read(T),
    /// It is read now, or what is left of it is drained.
    Taken(Option<Pin<Box<B>>>),
}

/// A denial that waits until its client can read it.
struct Denying<B> {
    drain: Drain<B>,
    response: Option<Response<Bytes>>,
}

impl<S, B, M> ResponseFuture<S, B, M>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
    B: Body,
{
    // Inlined, so that the request is moved once and not at each step.
    #[inline(always)]
    pub(super) fn new(
        service: S,
        request: Request<B>,
        id: Option<RequestId>,
        decision: Decision,
        meter: &CreditMeter,
    ) -> Self {
        let waiting = |service, request: Request<B>, id| {
            let request = request.map(RequestBody::Unread);
            Box::new(Waiting { service, request, id, meter: meter.clone() })
        };
        let state = match decision {
            Decision::Now(Known::Decided(Ok(admitted))) => {
                let request = M::unread_request(request);
                calling_state::<S, B, M>(admitted, service, request, id, meter)
            }
            Decision::Now(Known::Decided(Err(denied))) => {
                denied_state(&denied, request.map(RequestBody::<_, M::Body>::Unread), id, meter)
            }
            Decision::Now(Known::NeedsBody(needs)) => {
                read_state::<S, B, M>(needs, waiting(service, request, id))
            }
            Decision::Later(deciding) => {
                State::Deciding { deciding, waiting: waiting(service, request, id) }
            }
        };
        Self { state }
    }
}

impl<S, B, M, R> Future for ResponseFuture<S, B, M>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>, Response = Response<R>>,
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
                    let known = ready!(deciding.as_mut().poll(cx));
                    if let StateOwned::Deciding { waiting, .. } =
                        this.state.as_mut().project_replace(State::Done)
                    {
                        this.state.set(known_state::<S, B, M>(known, waiting));
                    }
                }
                StateProj::Reading { upload, .. } => {
                    let read = ready!(upload.poll(cx));
                    if let StateOwned::Reading { upload, needs, waiting } =
                        this.state.as_mut().project_replace(State::Done)
                    {
                        this.state.set(after_read::<S, B, M>(&read, *upload, &needs, waiting));
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
                            let (id, settings) = (call.id.as_ref(), call.settings);
                            add_headers(response.headers_mut(), None, id, settings);
                            response
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Denying { denying } => {
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

/// Goes on once a decision is there.
fn known_state<S, B, M>(
    known: Known,
    waiting: Box<Waiting<S, B, M::Body>>,
) -> State<Waiting<S, B, M::Body>, B, S::Future>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
    B: Body,
{
    match known {
        Known::NeedsBody(needs) => read_state::<S, B, M>(needs, waiting),
        Known::Decided(decided) => {
            let Waiting { service, request, id, meter } = *waiting;
            decided_state::<S, B, M>(decided, service, request, id, &meter)
        }
    }
}

/// Begins to read a body that says what its request runs.
fn read_state<S, B, M>(
    needs: Box<NeedsBody>,
    mut waiting: Box<Waiting<S, B, M::Body>>,
) -> State<Waiting<S, B, M::Body>, B, S::Future>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
    B: Body,
{
    if M::READS_BODIES {
        let body = std::mem::replace(waiting.request.body_mut(), RequestBody::Taken(None));
        if let RequestBody::Unread(body) = body {
            let inner = &waiting.meter.inner;
            let headers = waiting.request.headers();
            let upload = Upload::new(
                body,
                headers,
                inner.settings.uploads,
                &inner.upload_memory,
                &needs.payer.account,
            );
            return State::Reading { upload: Box::new(upload), needs, waiting };
        }
        // It is read once.
        *waiting.request.body_mut() = body;
    }
    let Waiting { service, request, id, meter } = *waiting;
    let decided = meter.no_body(&needs, request.uri().path());
    decided_state::<S, B, M>(decided, service, request, id, &meter)
}

/// Goes on with a body that was read.
fn after_read<S, B, M>(
    read: &Result<(), Unread>,
    upload: Upload<B>,
    needs: &NeedsBody,
    mut waiting: Box<Waiting<S, B, M::Body>>,
) -> State<Waiting<S, B, M::Body>, B, S::Future>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
    B: Body,
{
    let Waiting { request, meter, .. } = &mut *waiting;
    let is_gone = *read == Err(Unread::Problem(BodyProblem::Incomplete));
    let decision = match read {
        Err(_) if is_gone => {
            Decision::Now(Known::Decided(Err(needs.reject(BodyProblem::Incomplete))))
        }
        read => {
            let body = read.as_ref().map(|()| upload.data());
            meter.decide_by_body(needs, RequestHead::from(&*request), body)
        }
    };
    // If it is denied, the rest is read before the answer is sent. In shadow mode the service gets
    // all of it.
    let is_denied = matches!(decision, Decision::Now(Known::Decided(Err(_))));
    *request.body_mut() = if is_denied {
        RequestBody::Taken(upload.into_rest())
    } else {
        M::read(upload.into_body()).map_or(RequestBody::Taken(None), RequestBody::Read)
    };
    match decision {
        Decision::Now(known) => known_state::<S, B, M>(known, waiting),
        Decision::Later(deciding) => State::Deciding { deciding, waiting },
    }
}

/// Goes on with a request that waited, once it is decided.
fn decided_state<S, B, M>(
    decided: Decided,
    service: S,
    request: Request<RequestBody<B, M::Body>>,
    id: Option<RequestId>,
    meter: &CreditMeter,
) -> State<Waiting<S, B, M::Body>, B, S::Future>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
    B: Body,
{
    let admitted = match decided {
        Ok(admitted) => admitted,
        Err(denied) => return denied_state(&denied, request, id, meter),
    };
    let (parts, body) = request.into_parts();
    let body = match body {
        RequestBody::Unread(body) => M::unread(body),
        RequestBody::Read(body) => body,
        // What a mode that reads no bodies has read.
        RequestBody::Taken(rest) => {
            let request = Request::from_parts(parts, RequestBody::Taken(rest));
            let denied = Denied { rejection: Rejection::Unclassified, whose: Whose::Unknown };
            return denied_state::<_, B, M::Body, _>(&denied, request, id, meter);
        }
    };
    calling_state::<S, B, M>(admitted, service, Request::from_parts(parts, body), id, meter)
}

/// Calls the inner service.
#[inline(always)]
fn calling_state<S, B, M>(
    admitted: Option<Admitted>,
    mut service: S,
    mut request: Request<M::Body>,
    id: Option<RequestId>,
    meter: &CreditMeter,
) -> State<Waiting<S, B, M::Body>, B, S::Future>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
{
    let settings = &meter.inner.settings;
    let mut call = Call {
        id,
        charge: None,
        clock: None,
        is_head: false,
        is_connect: false,
        accepts_trailers: false,
        compute_until_head: settings.compute_until_head,
        shadow: settings.shadow.then(|| meter.clone()),
        style: settings.denials,
        settings: settings.response,
        rate: None,
        upstream_time: None,
    };
    match admitted {
        // A free request keeps its extensions as they are.
        None if call.shadow.is_none() => {
            return State::Calling { future: service.call(request), call };
        }
        Some(Admitted { charge, identity, has_begun, may_be_cut, rate, upstream_time }) => {
            let head = RequestHead::from(&request);
            // What the caller reads is looked for only if a denial can follow.
            call.style = if may_be_cut {
                meter.denial_style(head)
            } else {
                call.style.for_protocol(head.headers)
            };
            if let Some(identity) = identity {
                let clock = ComputeClock::new(&charge);
                call.clock = Some(clock.attach(&charge));
                request.extensions_mut().insert(clock);
                request.extensions_mut().insert(identity);
                if let Some(id) = &call.id {
                    request.extensions_mut().insert(id.for_handler());
                }
            }
            if !has_begun {
                charge.begin();
            }
            (call.charge, call.rate, call.upstream_time) = (Some(charge), rate, upstream_time);
        }
        // In shadow mode a handler that expects a clock finds one, so that it does not fail a
        // request that nothing else denies.
        None => drop(request.extensions_mut().insert(ComputeClock::detached())),
    }
    call.accepts_trailers = call.has_usage_headers() && usage_headers::accepts_trailers(&request);
    call.is_head = request.method() == Method::HEAD;
    call.is_connect = request.method() == Method::CONNECT;
    State::Calling { future: service.call(request), call }
}

/// Denies a request, once its client can read the answer.
fn denied_state<W, B, T, F>(
    denied: &Denied,
    request: Request<RequestBody<B, T>>,
    id: Option<RequestId>,
    meter: &CreditMeter,
) -> State<W, B, F>
where
    B: Body,
{
    let id = &id.unwrap_or_else(RequestId::now);
    observe::denied(&denied.event(id, request.uri().path()));
    let style = meter.denial_style(RequestHead::from(&request));
    let mut response = denied.rejection.clone().into_styled_response(style);
    add_headers(response.headers_mut(), None, Some(id), meter.inner.settings.response);
    let needs_no_drain = needs_no_drain(&request, style);
    let rest = match request.into_body() {
        RequestBody::Unread(body) => Some(Box::pin(body)),
        RequestBody::Taken(rest) => rest,
        RequestBody::Read(_) => None,
    };
    let drain = Drain::new(rest.filter(|_| !needs_no_drain), &meter.inner.long_drains);
    State::Denying { denying: Box::new(Denying { drain, response: Some(response) }) }
}

/// `true` if the client reads the answer while it sends, or before.
fn needs_no_drain<B, T>(request: &Request<RequestBody<B, T>>, style: DenialStyle) -> bool {
    // A client that expects 100-continue reads the answer first, unless its body was polled.
    let expects_continue = matches!(request.body(), RequestBody::Unread(_))
        && request
            .headers()
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    // A gRPC stream may have no end before its answer, and on HTTP/2 its protocol needs none. What
    // gRPC-Web sends over HTTP/1.1 has one, and the connection would be closed.
    expects_continue || (style.grpc && request.version() >= Version::HTTP_2)
}
