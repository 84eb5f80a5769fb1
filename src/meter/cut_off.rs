//! The way in which a response body says that it was cut off, and what it cost.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use super::usage_headers;
use crate::{BoxError, Rejection, ledger::Usage, rejection::DenialStyle};

/// The last frame of a body that is cut off.
pub(super) enum CutOffFrame {
    /// None: the body ends with an error.
    Error,
    /// An event, if the body is cut off between two events.
    Event(EventBoundary, DenialStyle),
    /// The trailers of a gRPC stream.
    Trailers,
    /// The trailers of a gRPC-Web stream, which are a frame of its body, if it is cut off between
    /// two messages.
    WebTrailers(MessageBoundary),
}

/// The trailers in which a body says what it cost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageTrailers {
    /// None.
    None,
    /// The service's own trailers, if there are any: a gRPC stream.
    Amended,
    /// Trailers that this layer adds.
    Added,
}

impl CutOffFrame {
    /// Takes note of a frame that is handed over.
    pub(super) fn pass(&mut self, frame: &Frame<Bytes>) {
        match (self, frame.data_ref()) {
            (Self::Event(boundary, _), Some(data)) => boundary.pass(data),
            (Self::WebTrailers(boundary), Some(data)) => boundary.pass(data),
            _ => {}
        }
    }

    /// Returns the last frame, or the error in its place.
    pub(super) fn make(
        &self,
        rejection: &Rejection,
        billed: Option<Usage>,
    ) -> Result<Frame<Bytes>, BoxError> {
        match self {
            Self::Event(boundary, style) if boundary.is_at() => {
                Ok(Frame::data(error_event(rejection, *style)))
            }
            Self::Trailers => {
                let mut fields = rejection.trailers();
                usage_headers::add_to_trailers(&mut fields, billed);
                Ok(Frame::trailers(fields))
            }
            Self::WebTrailers(boundary) if boundary.is_at() => {
                let mut fields = rejection.trailers();
                usage_headers::add_to_trailers(&mut fields, billed);
                Ok(Frame::data(web_trailers(&fields)))
            }
            _ => Err(CutOff { rejection: rejection.clone() }.into()),
        }
    }
}

/// Error of a response body that was cut off because its account's credits ended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cut off: {rejection}")]
pub struct CutOff {
    rejection: Rejection,
}

impl CutOff {
    /// Returns the reason.
    pub fn rejection(&self) -> &Rejection {
        &self.rejection
    }
}

/// Error of a response body that was abandoned because its client read nothing for the
/// [stall timeout](crate::CreditMeterBuilder::stall_timeout).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the response was abandoned: its client read nothing for too long")]
pub struct Stalled;

/// Finds out if the bytes that passed end between two events (WHATWG HTML, section 9.2.6: events
/// end with a blank line, of any of three line ends).
pub(super) struct EventBoundary {
    at_line_start: bool,
    after_carriage_return: bool,
    between_events: bool,
}

impl Default for EventBoundary {
    fn default() -> Self {
        Self { at_line_start: true, after_carriage_return: false, between_events: true }
    }
}

impl EventBoundary {
    pub(super) fn pass(&mut self, data: &[u8]) {
        for byte in data {
            let ends_pair = std::mem::replace(&mut self.after_carriage_return, *byte == b'\r')
                && *byte == b'\n';
            if ends_pair {
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.between_events |= self.at_line_start;
                self.at_line_start = true;
            } else {
                self.at_line_start = false;
                self.between_events = false;
            }
        }
    }

    /// `true` between two events. A lone carriage return may be half of a line end.
    pub(super) fn is_at(&self) -> bool {
        self.between_events && !self.after_carriage_return
    }
}

/// Finds out if the bytes that passed end between two messages of gRPC-Web: each has a byte of
/// flags and four of its length before it.
#[derive(Default)]
pub(super) struct MessageBoundary {
    /// The bytes before the current message, as far as they have passed.
    prefix: Vec<u8>,
    /// Bytes of the current message that are still to come.
    left: usize,
}

impl MessageBoundary {
    pub(super) fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data = data.get(skipped..).unwrap_or_default();
            let wanted = (5 - self.prefix.len()).min(data.len());
            if let Some((prefix, rest)) = data.split_at_checked(wanted)
                && self.left == 0
            {
                self.prefix.extend_from_slice(prefix);
                data = rest;
            }
            if let [_, a, b, c, d] = *self.prefix {
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.prefix.clear();
            }
        }
    }

    pub(super) fn is_at(&self) -> bool {
        self.left == 0 && self.prefix.is_empty()
    }
}

/// Returns the last frame of a gRPC-Web stream: trailers as the text of HTTP/1 header fields.
fn web_trailers(fields: &HeaderMap) -> Bytes {
    let lines = fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let text: Vec<u8> =
        lines.flat_map(|(name, value)| [name, b":", value, b"\r\n"].concat()).collect();
    let mut frame = BytesMut::with_capacity(text.len() + 5);
    frame.put_u8(0x80);
    frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    frame.put_slice(&text);
    frame.freeze()
}

fn error_event(rejection: &Rejection, style: DenialStyle) -> Bytes {
    let problem = rejection.body(style);
    let mut event = BytesMut::with_capacity(problem.len() + 32);
    event.put_slice(b"event: error\ndata: ");
    event.put_slice(&problem);
    event.put_slice(b"\n\n");
    event.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_message_ends_where_its_length_says_however_it_is_cut() {
        let message =
            |length: u8| [&[0, 0, 0, 0, length][..], &vec![7; usize::from(length)]].concat();
        let stream = [message(3), message(0), message(9), message(0)].concat();
        let ends = [0, 8, 13, 27, 32];
        for end in 0..=stream.len() {
            for cut in 0..=end {
                let mut boundary = MessageBoundary::default();
                boundary.pass(&stream[..cut]);
                boundary.pass(&stream[cut..end]);
                assert_eq!(boundary.is_at(), ends.contains(&end), "{end} cut at {cut}");
            }
        }
        let fields = HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), "8".parse().unwrap()),
            ("x".parse().unwrap(), "y".parse().unwrap()),
        ]);
        let frame = web_trailers(&fields);
        assert_eq!(&frame[..], b"\x80\0\0\0\x14grpc-status:8\r\nx:y\r\n");
    }

    #[test]
    fn an_event_ends_with_a_blank_line_of_any_kind() {
        for (stream, at) in [
            ("", true),
            ("data: 1\n\n", true),
            ("data: 1\r\n\r\n", true),
            ("data: 1\n\ndata", false),
            ("data: 1\n", false),
            ("data: 1\r\n", false),
            ("data: 1\r\r", false),
            ("data: 1\n\n\n", true),
            (": comment\n\n", true),
        ] {
            for cut in 0..=stream.len() {
                let mut boundary = EventBoundary::default();
                boundary.pass(&stream.as_bytes()[..cut]);
                boundary.pass(&stream.as_bytes()[cut..]);
                assert_eq!(boundary.is_at(), at, "{stream:?} cut at {cut}");
            }
        }
    }
}
