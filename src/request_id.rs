//! The name of a request, under which its event, its record, its cost and its denial are found.

use std::{fmt, str::FromStr, sync::Arc};

use http::{Extensions, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::UnixTime;

/// The longest id that a host may give, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Name of a request: a UUID of version 7, which the layer makes when the request comes, or an id
/// that the host has put into the request's extensions before. Cheap to clone.
///
/// Handlers find it in the request's extensions. It is in every event, in the
/// [`UsageRecord`](crate::records::UsageRecord), in every denial, and in the response
/// (`Inference-Id`, and `x-request-id` unless the service sets that).
///
/// A host that has ids of its own gives them in a layer outside of the meter. Two requests must
/// not have the same id: those who get records take the second one for a repetition of the first.
/// An id that the client has sent is not fit for this.
///
/// ```
/// use tower_credits::RequestId;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert("order-17".parse::<RequestId>()?);
/// # Ok::<(), tower_credits::RequestIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Text);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Text {
    Made(Uuid),
    Given(Arc<str>),
}

/// Reason why a text is not a [`RequestId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id of a request has 1 to 128 visible ASCII characters: write such a text")]
pub struct RequestIdError;

impl RequestId {
    /// Returns the id that the host has given a request, or makes one at this moment.
    pub(crate) fn of_request(extensions: &Extensions, now: UnixTime) -> Self {
        extensions.get().cloned().unwrap_or_else(|| Self::at(now))
    }

    /// Makes an id that is written in this crate.
    pub(crate) fn known(text: &'static str) -> Self {
        Self(Text::Given(text.into()))
    }

    /// Makes an id.
    fn at(now: UnixTime) -> Self {
        // A context would count the ids of a millisecond behind a lock that all requests share; 74
        // bits of each are random without.
        let nanos = now.as_millis() % 1_000 * 1_000_000;
        let nanos = u32::try_from(nanos).unwrap_or_default();
        Self(Text::Made(Uuid::new_v7(Timestamp::from_unix(NoContext, now.as_secs(), nanos))))
    }

    /// Returns the id that a field of a response has, if it can be one.
    pub(crate) fn of_header(value: &HeaderValue) -> Option<Self> {
        value.to_str().ok()?.parse().ok()
    }

    /// Returns it as the value of a field.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        match &self.0 {
            Text::Made(uuid) => {
                HeaderValue::from_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
            Text::Given(text) => HeaderValue::from_str(text),
        }
        .ok()
    }
}

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, RequestIdError> {
        let is_id = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_id {
            return Err(RequestIdError);
        }
        // One id has one form, whoever writes it.
        let made = Uuid::try_parse(text).ok().filter(|uuid| uuid.to_string() == text);
        Ok(Self(made.map_or_else(|| Text::Given(text.into()), Text::Made)))
    }
}

impl serde::Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Text::Made(uuid) => fmt::Display::fmt(uuid, f),
            Text::Given(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_however_it_was_written() {
        let made = RequestId::at(UnixTime::from_millis(1_793_491_200_123));
        assert_eq!(made.to_string().parse(), Ok(made.clone()));
        assert_eq!(made.to_header().and_then(|id| RequestId::of_header(&id)), Some(made.clone()));
        assert!(made.to_string().starts_with("01a19467-e87b-7"), "{made}");
        for text in ["order-17", "{0}", "01A19467-E87B-7000-8000-000000000000", &"x".repeat(128)] {
            assert_eq!(text.parse::<RequestId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_id_fits_into_a_header_and_a_log_line() {
        for text in ["", "a b", "a\nb", "a\tb", "ä", &"x".repeat(129)] {
            assert_eq!(text.parse::<RequestId>(), Err(RequestIdError), "{text:?}");
        }
    }
}
