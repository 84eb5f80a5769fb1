//! The least that a meter does with a request: a bound on what `ahead` can come to.
//!
//! It finds the caller by the token and the model by the path, takes a hold of the account's
//! credits, and bills the time until the body's end. It does nothing else that a meter has to do:
//! a lease whose credits can be renewed, reports, limits, months, usage lines, denials, streams
//! that are stopped, clients that leave, ids, events, plans that are replaced.
//!
//! Maps hash with the standard library's keyed hash: tokens and paths are chosen by clients.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Nano-dollars a second.
const PRICE: u64 = 120_000;

/// Nano-dollars that are put on hold for a request.
const HOLD: u64 = 120_000;

/// An account's credits on this node.
#[derive(Debug)]
struct Credits {
    held: u64,
    spent: u64,
}

/// A layer, and what its services share.
#[derive(Clone, Debug)]
pub struct LeastMeter(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    accounts: HashMap<String, Arc<Mutex<Credits>>>,
    prices: HashMap<String, u64>,
}

impl LeastMeter {
    pub fn new(token: &str) -> Self {
        let credits = Credits { held: u64::MAX / 2, spent: 0 };
        Self(Arc::new(Tables {
            accounts: [(token.to_owned(), Arc::new(Mutex::new(credits)))].into(),
            prices: [("/models/echo".to_owned(), PRICE)].into(),
        }))
    }
}

impl<S> Layer<S> for LeastMeter {
    type Service = LeastService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LeastService { inner, meter: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct LeastService<S> {
    inner: S,
    meter: LeastMeter,
}

/// A hold that is billed when it is dropped.
#[derive(Debug)]
struct Running {
    account: Arc<Mutex<Credits>>,
    price: u64,
    began: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let mut credits = self.account.lock().expect("nothing panics under the lock");
        let cost = (took.as_nanos() as u64).saturating_mul(self.price).div_ceil(1_000_000_000);
        credits.held = credits.held.saturating_add(HOLD).saturating_sub(cost);
        credits.spent = credits.spent.saturating_add(cost);
    }
}

impl<S, A, B> Service<Request<A>> for LeastService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<LeastBody<B>>;
    type Error = S::Error;
    type Future = LeastFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let Tables { accounts, prices } = &*self.meter.0;
        let token = request.headers().get(AUTHORIZATION).and_then(|field| field.to_str().ok());
        let token = token.and_then(|field| field.strip_prefix("Bearer "));
        let account = token.and_then(|token| accounts.get(token)).expect("the token is known");
        let price = *prices.get(request.uri().path()).expect("the path is known");
        let began = Instant::now();
        let mut credits = account.lock().expect("nothing panics under the lock");
        credits.held = credits.held.checked_sub(HOLD).expect("there are credits");
        drop(credits);
        let running = Some(Running { account: Arc::clone(account), price, began });
        LeastFuture { inner: self.inner.call(request), running }
    }
}

pin_project! {
    #[derive(Debug)]
    pub struct LeastFuture<F> {
        #[pin]
        inner: F,
        running: Option<Running>,
    }
}

impl<F, B, E> Future for LeastFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<LeastBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.poll(cx).map_ok(|response| {
            let running = this.running.take();
            response.map(|inner| LeastBody { inner, running })
        })
    }
}

pin_project! {
    #[derive(Debug)]
    pub struct LeastBody<B> {
        #[pin]
        inner: B,
        running: Option<Running>,
    }
}

impl<B: Body<Data = Bytes>> Body for LeastBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut inner = this.inner;
        let frame = inner.as_mut().poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || inner.is_end_stream() {
            *this.running = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
