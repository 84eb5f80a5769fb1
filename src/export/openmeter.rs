//! OpenMeter.

use std::{fmt, time::Duration};

use super::{
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, ReceiverFuture, Refusal},
};
use crate::{
    cloud_event::{self, Sender},
    http_client::{HttpAnswer, HttpClient},
};

/// The time for which OpenMeter's sink knows an event again, if nothing else is set there.
const REMEMBERS_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// [Receiver] that posts events to OpenMeter, as CloudEvents 1.0 in batches.
///
/// | attribute | value |
/// |---|---|
/// | `id` | [id](UsageEvent::id) of the event |
/// | `source` | `tower-credits`, or as [set](Self::source) |
/// | `type` | `usage`, or as [set](Self::event_type) |
/// | `subject` | account |
/// | `time` | [time](UsageEvent::time) of the event |
/// | `data` | [`UsageEvent`] as JSON |
///
/// A meter adds up a member of `data`, such as `$.costNanoUsd`, and groups by others, such as
/// `$.model`. OpenMeter drops repetitions by `source` and `id` if its deduplication is on: turn it
/// on. Source: the documentation of OpenMeter's event ingestion.
pub struct OpenMeter {
    client: HttpClient,
    sender: Sender,
    remembers_for: Duration,
}

impl OpenMeter {
    /// Returns a receiver that posts to a URL: `https://openmeter.cloud/api/v1/events`.
    ///
    /// # Errors
    ///
    /// An error if the URL cannot be read, or if the system's certificates cannot be found.
    pub fn to(url: &str) -> Result<Self, crate::BoxError> {
        let sender = Sender { source: "tower-credits".to_owned(), event_type: "usage".to_owned() };
        Ok(Self { client: HttpClient::to(url)?, sender, remembers_for: REMEMBERS_FOR })
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

    /// Sets the `source` of the events. Default `tower-credits`.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        let sender = Sender { source: source.to_owned(), ..self.sender };
        Self { sender, ..self }
    }

    /// Sets the `type` of the events, by which meters choose them. Default `usage`.
    #[must_use]
    pub fn event_type(self, event_type: &str) -> Self {
        let sender = Sender { event_type: event_type.to_owned(), ..self.sender };
        Self { sender, ..self }
    }

    /// Sets how long OpenMeter is set up to know an event again. Default: 24 hours.
    #[must_use]
    pub fn dedupe_window(self, window: Duration) -> Self {
        Self { remembers_for: window, ..self }
    }

    async fn post(&self, events: &[UsageEvent]) -> Result<HttpAnswer, ReceiverError> {
        let events = events.iter().map(|event| {
            self.sender.event(
                event.id.clone(),
                event.account.as_str(),
                event.time.to_string(),
                event,
            )
        });
        let batch = serde_json::to_vec(&events.collect::<Vec<_>>())
            .map_err(|error| ReceiverError::denied(error.to_string()))?;
        cloud_event::post(&self.client, batch).await.map_err(ReceiverError::unavailable)
    }
}

impl Receiver for OpenMeter {
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a> {
        Box::pin(async move {
            let answer = self.post(events).await?;
            if answer.status.is_success() {
                return Ok(Vec::new());
            }
            if !cloud_event::is_refusal(answer.status) {
                return Err(answer.into());
            }
            // It says nothing about which of them it does not take.
            let (mut safe, mut refusals) = (Vec::new(), Vec::new());
            for (index, event) in events.iter().enumerate() {
                match self.post(std::slice::from_ref(event)).await {
                    Ok(answer) if answer.status.is_success() => safe.push(index),
                    Ok(answer) if cloud_event::is_refusal(answer.status) => {
                        refusals.push(Refusal { index, reason: answer.to_string() });
                    }
                    Ok(answer) => return Err(ReceiverError::from(answer).with_safe(safe)),
                    Err(error) => return Err(error.with_safe(safe)),
                }
            }
            Ok(refusals)
        })
    }

    fn name(&self) -> String {
        let Sender { source, event_type } = &self.sender;
        format!("OpenMeter, {}, {source}, {event_type}", self.client.host())
    }

    fn remembers_for(&self) -> Option<Duration> {
        Some(self.remembers_for)
    }
}

impl fmt::Debug for OpenMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenMeter").field(&self.name()).finish()
    }
}
