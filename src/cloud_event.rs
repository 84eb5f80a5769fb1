//! CloudEvents 1.0, in the JSON batch format of its HTTP protocol binding.

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;

use crate::http_client::{HttpAnswer, HttpClient};

/// Media type of a batch in the JSON format. Without a `charset`, which is UTF-8 anyway: OpenMeter
/// compares the whole text.
const BATCH: &str = "application/cloudevents-batch+json";

/// An event, with data in JSON.
#[derive(Serialize)]
pub(crate) struct CloudEvent<'a, D> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: &'a D,
}

/// Attributes that all events of a sender share.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) source: String,
    pub(crate) event_type: String,
}

impl Sender {
    /// Returns an event of this sender. Receivers tell repetitions by source and id.
    pub(crate) fn event<'a, D>(
        &'a self,
        id: String,
        subject: &'a str,
        time: String,
        data: &'a D,
    ) -> CloudEvent<'a, D> {
        CloudEvent {
            specversion: "1.0",
            id,
            source: &self.source,
            r#type: &self.event_type,
            subject,
            time,
            datacontenttype: "application/json",
            data,
        }
    }
}

/// Posts a batch. An error stands for a call that had no answer.
pub(crate) async fn post(client: &HttpClient, batch: Vec<u8>) -> Result<HttpAnswer, String> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(BATCH))]);
    client.post(headers, batch).await
}

/// `true` if an answer of this status refuses the batch, which will never be taken then.
pub(crate) fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}
