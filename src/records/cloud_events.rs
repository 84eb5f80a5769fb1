//! Records as CloudEvents, over HTTP in batches.

use std::{fmt, sync::Arc};

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};
use crate::{
    cloud_event::{self, Sender},
    http_client::HttpClient,
};

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
    client: HttpClient,
    sender: Sender,
}

impl CloudEvents {
    /// Returns a sink that posts to a URL.
    ///
    /// # Errors
    ///
    /// An error if the URL cannot be read, or if the system's certificates cannot be found.
    pub fn to(url: &str) -> Result<Self, crate::BoxError> {
        let client = HttpClient::to(url)?;
        let (source, event_type) = ("tower-credits".to_owned(), "inference".to_owned());
        Ok(Self { client, sender: Sender { source, event_type } })
    }

    /// Sets the token that is sent in `Authorization: Bearer`. Default: none.
    ///
    /// # Errors
    ///
    /// [`InvalidHeaderValue`](http::header::InvalidHeaderValue) if it has characters that cannot be
    /// sent, such as a line end.
    pub fn bearer_token(self, token: &str) -> Result<Self, http::header::InvalidHeaderValue> {
        Ok(Self { client: self.client.bearer_token(token)?, ..self })
    }

    /// Sets the `source` of the events: a URI reference that names this service. Default
    /// `tower-credits`.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        let sender = Sender { source: source.to_owned(), ..self.sender };
        Self { sender, ..self }
    }

    /// Sets the `type` of the events, by which OpenMeter's meters choose them. Default `inference`.
    #[must_use]
    pub fn event_type(self, event_type: &str) -> Self {
        let sender = Sender { event_type: event_type.to_owned(), ..self.sender };
        Self { sender, ..self }
    }

    fn batch(&self, records: &[Arc<UsageRecord>]) -> Result<Vec<u8>, serde_json::Error> {
        let events = records.iter().map(|record| {
            let (id, time) = (record.id.to_string(), record.began_at.to_string());
            self.sender.event(id, record.account.as_str(), time, &**record)
        });
        serde_json::to_vec(&events.collect::<Vec<_>>())
    }
}

impl RecordSink for CloudEvents {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(async move {
            let batch =
                self.batch(records).map_err(|error| SinkError::Refused(error.to_string()))?;
            let answer =
                cloud_event::post(&self.client, batch).await.map_err(SinkError::Unavailable)?;
            match answer.status {
                status if status.is_success() => Ok(()),
                status if cloud_event::is_refusal(status) => {
                    Err(SinkError::Refused(answer.to_string()))
                }
                _ => Err(SinkError::Unavailable(answer.to_string())),
            }
        })
    }

    fn name(&self) -> String {
        // Without a user and a password.
        format!("CloudEvents, {}", self.client.host())
    }
}

impl fmt::Debug for CloudEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudEvents").field(&self.name()).finish()
    }
}
