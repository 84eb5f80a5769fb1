//! Records as CloudEvents, over HTTP in batches.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use serde::Serialize;

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};

/// Media type of a batch in the JSON format.
const BATCH: &str = "application/cloudevents-batch+json; charset=UTF-8";

/// The time that one delivery may take.
const TIMEOUT: Duration = Duration::from_secs(30);

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
/// 413, 415 and 422 refuse a batch; with all others it is posted again. A URL with `https` needs the
/// feature `tls`. A redirect is not followed.
///
/// ```
/// use tower_credits::records::CloudEvents;
///
/// # fn example(token: &str) -> Result<(), tower_credits::BoxError> {
/// let openmeter = CloudEvents::to("http://openmeter:8888/api/v1/events")?.bearer_token(token);
/// # Ok(())
/// # }
/// ```
pub struct CloudEvents {
    client: Client,
    url: Url,
    token: Option<String>,
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
    /// An error if the URL cannot be read, if it is of `https` and the feature `tls` is off, or if
    /// the system's certificates cannot be read.
    pub fn to(url: &str) -> Result<Self, crate::BoxError> {
        let url: Url = url.parse().map_err(|error| format!("the URL {url:?}: {error}"))?;
        match url.scheme() {
            "http" => {}
            "https" if cfg!(feature = "tls") => {}
            "https" => return Err("a URL of https needs the feature `tls`".into()),
            scheme => return Err(format!("{scheme}: write a URL of http or https").into()),
        }
        #[cfg(feature = "tls")]
        {
            // The process's own choice counts, if it has made one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let (source, event_type) = ("tower-credits".to_owned(), "inference".to_owned());
        Ok(Self { client: client.build()?, url, token: None, source, event_type })
    }

    /// Sets the token that is sent in `Authorization: Bearer`. Default: none.
    #[must_use]
    pub fn bearer_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
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
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, BATCH).body(batch);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let unavailable = |error: reqwest::Error| {
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                reason = format!("{reason}: {error}");
                source = error.source();
            }
            SinkError::Unavailable(reason)
        };
        let response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = response.bytes().await.map_err(unavailable)?;
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

impl RecordSink for CloudEvents {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(async move {
            let batch =
                self.batch(records).map_err(|error| SinkError::Refused(error.to_string()))?;
            self.post(batch).await
        })
    }

    fn name(&self) -> String {
        // Without a user and a password.
        format!("CloudEvents, {}", self.url.host_str().unwrap_or_default())
    }
}

impl fmt::Debug for CloudEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudEvents").field(&self.name()).finish()
    }
}
