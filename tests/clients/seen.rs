//! What came, counted outside of the meters.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, extract::Path, routing::get};
use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use serde_json::{Value, json};

/// The requests of each key. Clones are one counter.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<HashMap<String, Requests>>>);

#[derive(Default)]
struct Requests {
    /// When the head of each came, in seconds.
    at: Vec<f64>,
    /// The last one's.
    headers: HeaderMap,
}

impl Seen {
    /// Counts a request, and hands it on.
    pub(crate) fn count<B>(&self, request: Request<B>) -> Request<B> {
        let headers = request.headers();
        let run = headers.get("x-run").and_then(|value| value.to_str().ok());
        if let Some(key) = run.or_else(|| bearer_token(headers)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let mut all = self.0.lock().unwrap();
            let requests = all.entry(key.to_owned()).or_default();
            requests.at.push(now.as_secs_f64());
            requests.headers = headers.clone();
        }
        request
    }

    /// Returns the route that says what came with a key.
    pub(crate) fn router(&self) -> Router {
        let seen = self.clone();
        let of = async move |Path(key): Path<String>| Json(seen.of(&key));
        Router::new().route("/seen/{key}", get(of))
    }

    fn of(&self, key: &str) -> Value {
        let all = self.0.lock().unwrap();
        let none = Requests::default();
        let Requests { at, headers } = all.get(key).unwrap_or(&none);
        let headers: BTreeMap<_, _> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        json!({ "tries": at.len(), "at": at, "headers": headers })
    }
}

pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION).map(HeaderValue::to_str)?.ok()?.strip_prefix("Bearer ")
}
