//! The compute time that a service's answer says itself: in a field of its head, in its JSON, or in
//! the last object of a stream.
//!
//! Nothing is changed or held back: frames are looked at as they pass.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
};
use memchr::{memchr, memmem};
use serde_json::Value;

use crate::plan::UpstreamTime;

/// The largest JSON answer that is looked at, and the largest object of a stream.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const MAX_OBJECT_BYTES: usize = 64 << 10;

/// Reads the time from an answer's body as it passes.
pub(super) struct UpstreamTimeReader {
    place: Arc<UpstreamTime>,
    form: Form,
    /// The answer so far, or the stream's current line.
    pending: Vec<u8>,
    /// `true` if the rest of the answer, or of the line, is too long.
    is_skipping: bool,
    /// The last time that the answer said.
    found: Option<Duration>,
}

/// The form of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One JSON object.
    Object,
    /// A JSON object on each line; those of an event stream begin with `data:`.
    Lines,
}

/// Returns the time that a head says.
pub(super) fn in_head(place: &UpstreamTime, headers: &HeaderMap) -> Option<Duration> {
    place.of_text(headers.get(place.header_name()?)?.to_str().ok()?)
}

impl UpstreamTimeReader {
    /// Returns a reader if the answer with this head can say its time in its body.
    pub(super) fn new(place: &Arc<UpstreamTime>, headers: &HeaderMap) -> Option<Self> {
        place.paths()?;
        if headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let form = match essence.trim_ascii().to_ascii_lowercase().as_slice() {
            b"text/event-stream"
            | b"application/x-ndjson"
            | b"application/ndjson"
            | b"application/jsonl"
            | b"application/json-lines" => Form::Lines,
            b"application/json" => Form::Object,
            _ => return None,
        };
        Some(Self {
            place: Arc::clone(place),
            form,
            pending: Vec::new(),
            is_skipping: false,
            found: None,
        })
    }

    /// Looks at the next bytes.
    pub(super) fn pass(&mut self, data: &Bytes) {
        if self.form == Form::Object {
            self.push(data, MAX_ANSWER_BYTES);
            return;
        }
        let mut rest: &[u8] = data;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            self.push(line, MAX_OBJECT_BYTES);
            self.end_line();
            rest = after.get(1..).unwrap_or_default();
        }
        self.push(rest, MAX_OBJECT_BYTES);
    }

    /// Returns the time, once the answer has ended.
    pub(super) fn finish(mut self) -> Option<Duration> {
        self.end_line();
        self.found
    }

    fn push(&mut self, data: &[u8], limit: usize) {
        if self.pending.len() + data.len() > limit {
            (self.is_skipping, self.pending) = (true, Vec::new());
        } else if !self.is_skipping {
            self.pending.extend_from_slice(data);
        }
    }

    fn end_line(&mut self) {
        let is_whole = !std::mem::take(&mut self.is_skipping);
        if is_whole && let Some(time) = self.time_in(&self.pending) {
            self.found = Some(time);
        }
        self.pending.clear();
    }

    fn time_in(&self, line: &[u8]) -> Option<Duration> {
        let json = line.strip_prefix(b"data:").unwrap_or(line);
        // Most objects of a stream do not say it.
        let first = self.place.paths()?.first()?;
        memmem::find(json, first.split('.').next()?.as_bytes())?;
        self.place.of_json(&serde_json::from_slice::<Value>(json).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::TimeUnit;

    fn read(content_type: &'static str, chunks: &[&[u8]]) -> Option<Duration> {
        let place = Arc::new(UpstreamTime::fields(["t.a", "t.b"], TimeUnit::Milliseconds));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let mut reader = UpstreamTimeReader::new(&place, &headers)?;
        chunks.iter().for_each(|chunk| reader.pass(&Bytes::copy_from_slice(chunk)));
        reader.finish()
    }

    #[test]
    fn the_last_object_that_says_it_counts_wherever_the_stream_is_cut() {
        let stream =
            b"data: {\"t\":{\"a\":1,\"b\":1}}\r\n\r\n: comment\ndata:{\"t\":{\"a\":1,\"b\":2}}\n\n\
                       data: {\"x\":1}\n\ndata: [DONE]\n\n";
        for cut in 0..stream.len() {
            let (one, two) = stream.split_at(cut);
            let time = read("text/event-stream; charset=utf-8", &[one, two]);
            assert_eq!(time, Some(Duration::from_millis(3)), "{cut}");
        }
        let lines = b"{\"x\":1}\n{\"t\":{\"a\":1,\"b\":2}}";
        assert_eq!(read("application/x-ndjson", &[lines]), Some(Duration::from_millis(3)));
        let object = b"{\n \"t\": {\"a\": 1,\n \"b\": 2}}";
        assert_eq!(read("application/json", &[object]), Some(Duration::from_millis(3)));
    }

    #[test]
    fn an_answer_that_does_not_say_it_is_measured() {
        assert_eq!(read("application/json", &[b"{\"t\":1}"]), None);
        assert_eq!(read("application/json", &[b"{\"t\":{\"a\":1,\"b\":2}"]), None, "cut off");
        assert_eq!(read("text/plain", &[b"{\"t\":{\"a\":1,\"b\":2}}"]), None);
        let long = vec![b' '; MAX_OBJECT_BYTES + 1];
        let said: &[u8] = b"{\"t\":{\"a\":1,\"b\":2}}";
        assert_eq!(
            read("text/event-stream", &[said, b"\n", &long, said, b"\n\n"]),
            Some(Duration::from_millis(3)),
            "a long line is passed over"
        );
        assert_eq!(read("text/event-stream", &[&long, said]), None);
    }
}
