//! Records as CloudEvents, over HTTP in batches.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};

/// Media type of a batch in the JSON format.
const BATCH: &str = "application/cloudevents-batch+json; charset=UTF-8";

/// The time that one delivery may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of an error's body that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The most bytes of an error's body that are logged.
const MAX_LOGGED_BYTES: usize = 300;

/// [Sink](RecordSink) that posts records as CloudEvents 1.0, in the JSON batch format of its HTTP
/// protocol binding. OpenMeter takes them at `/api/v1/events`.
///
/// | attribute | value |
/// |---|---|
/// | `id` | [id](UsageRecord::id) of the request |
/// | `source` | `tower-credits`, or as [set](Self::source) |
/// | `type` | `inference`, or as [set](Self::event_type) |
/// | `subject` | account |
/// | `time` | moment at which the service was called |
/// | `data` | [`UsageRecord`] as JSON |
///
/// Receivers tell repetitions by `source` and `id`: give all nodes the same source. Answers 400,
/// 413, 415 and 422 refuse a batch; with all others it is posted again. A redirect is not followed.
/// For `https`, the system's certificates count.
///
/// ```
/// use tower_credits::records::CloudEvents;
///
/// # fn example(token: &str) -> Result<(), tower_credits::BoxError> {
/// let openmeter = CloudEvents::to("https://openmeter.cloud/api/v1/events")?.bearer_token(token)?;
/// # Ok(())
/// # }
/// ```
pub struct CloudEvents {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    token: Option<HeaderValue>,
    source: String,
    event_type: String,
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: &'a UsageRecord,
}

impl CloudEvents {
    /// Returns a sink that posts to a URL.
    ///
    /// # Errors
    ///
    /// An error if the URL cannot be read, or if the system's certificates cannot be found.
    pub fn to(url: &str) -> Result<Self, crate::BoxError> {
        let wrong = |reason: &dyn fmt::Display| {
            format!("the URL {url:?} cannot be used ({reason}): write a URL of http or https")
        };
        let url: Uri = url.parse().map_err(|error| wrong(&error))?;
        match (url.scheme_str(), url.host()) {
            (Some("http" | "https"), Some(_)) => {}
            (Some("http" | "https"), None) | (None, _) => return Err(wrong(&"no server").into()),
            (Some(scheme), _) => return Err(wrong(&format_args!("`{scheme}`")).into()),
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let (source, event_type) = ("tower-credits".to_owned(), "inference".to_owned());
        Ok(Self { client, url, token: None, source, event_type })
    }

    /// Sets the token that is sent in `Authorization: Bearer`. Default: none.
    ///
    /// # Errors
    ///
    /// [`InvalidHeaderValue`](http::header::InvalidHeaderValue) if it has characters that cannot be
    /// sent, such as a line end.
    pub fn bearer_token(self, token: &str) -> Result<Self, http::header::InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Self { token: Some(value), ..self })
    }

    /// Sets the `source` of the events: a URI reference that names this service. Default
    /// `tower-credits`.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        Self { source: source.to_owned(), ..self }
    }

    /// Sets the `type` of the events, by which OpenMeter's meters choose them. Default `inference`.
    #[must_use]
    pub fn event_type(self, event_type: &str) -> Self {
        Self { event_type: event_type.to_owned(), ..self }
    }

    fn batch(&self, records: &[Arc<UsageRecord>]) -> Result<Vec<u8>, serde_json::Error> {
        let events: Vec<_> = records
            .iter()
            .map(|record| Event {
                specversion: "1.0",
                id: record.id.to_string(),
                source: &self.source,
                r#type: &self.event_type,
                subject: record.account.as_str(),
                time: record.began_at.to_string(),
                datacontenttype: "application/json",
                data: record,
            })
            .collect();
        serde_json::to_vec(&events)
    }

    async fn post(&self, batch: Vec<u8>) -> Result<(), SinkError> {
        let mut request = Request::post(self.url.clone()).header(CONTENT_TYPE, BATCH);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::from(batch))
            .map_err(|error| SinkError::Refused(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| unavailable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        let said = String::from_utf8_lossy(&body[..body.len().min(MAX_LOGGED_BYTES)]);
        let reason = format!("it answered {status}: {said}");
        Err(match status {
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => SinkError::Refused(reason),
            _ => SinkError::Unavailable(reason),
        })
    }
}

/// Returns an error with its sources.
fn unavailable(error: &dyn Error) -> SinkError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    SinkError::Unavailable(reason)
}

impl RecordSink for CloudEvents {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(async move {
            let batch =
                self.batch(records).map_err(|error| SinkError::Refused(error.to_string()))?;
            let posting = timeout(TIMEOUT, self.post(batch)).await;
            posting.unwrap_or_else(|_| {
                Err(SinkError::Unavailable(format!("it did not answer within {TIMEOUT:?}")))
            })
        })
    }

    fn name(&self) -> String {
        // Without a user and a password.
        format!("CloudEvents, {}", self.url.host().unwrap_or_default())
    }
}

impl fmt::Debug for CloudEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudEvents").field(&self.name()).finish()
    }
}
