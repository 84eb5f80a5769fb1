//! The name of a request, under which its event, its record, its cost and its denial are found.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use http::{Extensions, HeaderValue};
use uuid::{Builder, Uuid};

use crate::clock::UnixTime;

/// The longest id that a host may give, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Id of a request: a UUID of version 7, which the layer makes when the request comes, or an id
/// that the host has put into the request's extensions before. Cheap to clone.
///
/// Handlers of metered requests find it in the request's extensions. It is in every event of the
/// request, in its [`UsageRecord`](crate::records::UsageRecord), and in its response or denial
/// (`Inference-Id`, and `x-request-id` unless the service sets that).
///
/// A host that has ids of its own gives them in a layer outside of the meter. Two calls of the
/// meter must not have the same id: those who get records take the second one for a repetition of
/// the first. So an id that the client has sent is not fit for this, and a layer that retries gives
/// each try another one.
///
/// ```
/// use tower_credits::RequestId;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert("order-17".parse::<RequestId>()?);
/// # Ok::<(), tower_credits::RequestIdError>(())
/// ```
#[derive(Clone)]
pub struct RequestId {
    text: Text,
    /// A meter has given it to its handler: for another meter it is no id of the host's.
    is_used: bool,
}

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
        let given = extensions.get().filter(|id: &&Self| !id.is_used);
        given.cloned().unwrap_or_else(|| Self::at(now))
    }

    /// Returns it for the extensions of the request. If the handler passes them on to another
    /// meter, that one makes an id of its own: two debits do not get one id.
    pub(crate) fn for_handler(&self) -> Self {
        Self { text: self.text.clone(), is_used: true }
    }

    /// Returns the moment at which it was made, if it says that: a UUID of version 7 does.
    #[cfg(any(feature = "redis", test))]
    pub(crate) fn made_at(&self) -> Option<UnixTime> {
        let Text::Made(uuid) = &self.text else { return None };
        let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
        let is_v7 = uuid.get_version_num() == 7;
        let millis = std::time::Duration::from_nanos(nanos.into());
        is_v7.then(|| UnixTime::from_secs(seconds) + millis)
    }

    /// Makes an id that is written in this crate.
    pub(crate) fn known(text: &'static str) -> Self {
        Text::Given(text.into()).into()
    }

    /// Makes an id at this moment, by the system's clock.
    pub(crate) fn now() -> Self {
        Self::at(UnixTime::now())
    }

    /// Makes an id.
    fn at(now: UnixTime) -> Self {
        // All but the time is random. To count the ids of a millisecond, as version 7 may, takes a
        // lock that all requests share. Bytes 6 and 8 of version 4 have fixed bits, so 6 to 9 are
        // left out.
        let [a, b, c, d, e, f, .., g, h, i, j, _, _] = Uuid::new_v4().into_bytes();
        let random = [a, b, c, d, e, f, g, h, i, j];
        Text::Made(Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid()).into()
    }

    /// Returns the id that a field of a response has, if it can be one.
    pub(crate) fn of_header(value: &HeaderValue) -> Option<Self> {
        value.to_str().ok()?.parse().ok()
    }

    /// Returns it as the value of a field.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        match &self.text {
            Text::Made(uuid) => {
                HeaderValue::from_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
            Text::Given(text) => HeaderValue::from_str(text),
        }
        .ok()
    }
}

impl From<Text> for RequestId {
    fn from(text: Text) -> Self {
        Self { text, is_used: false }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RequestId {}

impl PartialOrd for RequestId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RequestId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
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
        Ok(made.map_or_else(|| Text::Given(text.into()), Text::Made).into())
    }
}

impl serde::Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
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
        assert_eq!(made.made_at(), Some(UnixTime::from_millis(1_793_491_200_123)));
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
