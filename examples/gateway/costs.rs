//! The exact costs of the pages' latest requests, by their `Inference-Id`.
//!
//! The meter says them in the head or in the trailers of its answers, and a browser's script cannot
//! read trailers.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, header::TE};
use http_body::{Frame, SizeHint};
use serde::Serialize;

/// The most requests whose costs are kept.
const MAX_REQUESTS: usize = 10_000;

/// The costs of the latest requests.
#[derive(Debug, Default)]
pub(crate) struct Costs(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    by_request: HashMap<String, Cost>,
    order: VecDeque<String>,
}

/// The cost of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Cost {
    cost_nano_usd: i64,
    compute_seconds: f64,
}

impl Costs {
    pub(crate) fn of(&self, request: &str) -> Option<Cost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_request.get(request).copied()
    }

    fn add(&self, request: &str, fields: &HeaderMap) {
        let number = |name: &str| fields.get(name)?.to_str().ok();
        let Some(cost_nano_usd) = number("x-cost-nano-usd").and_then(|text| text.parse().ok())
        else {
            return;
        };
        let compute_seconds =
            number("x-compute-time").and_then(|text| text.parse().ok()).unwrap_or_default();
        let cost = Cost { cost_nano_usd, compute_seconds };
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.by_request.insert(request.to_owned(), cost).is_none() {
            latest.order.push_back(request.to_owned());
        }
        if latest.order.len() > MAX_REQUESTS
            && let Some(oldest) = latest.order.pop_front()
        {
            latest.by_request.remove(&oldest);
        }
    }
}

/// Notes the cost of each answer to a page, and asks for it.
pub(crate) async fn note(
    State(costs): State<Arc<Costs>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if !["/playground/", "/data-studio/"].iter().any(|page| path.starts_with(page)) {
        return next.run(request).await;
    }
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    let response = next.run(request).await;
    let id = response.headers().get("inference-id").and_then(|id| id.to_str().ok());
    let Some(id) = id.map(str::to_owned) else { return response };
    costs.add(&id, response.headers());
    response.map(|body| Body::new(Noted { body, id, costs }))
}

/// A body whose trailers are noted.
struct Noted {
    body: Body,
    id: String,
    costs: Arc<Costs>,
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.costs.add(&self.id, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
