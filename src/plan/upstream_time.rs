//! The place where a service's answer says its compute time.

use std::time::Duration;

use http::HeaderName;
use serde_json::Value;

/// The place where the answer of a model's service says how long it computed. That time is billed
/// then, in place of the time that the layer measures; if an answer does not say it, the measured
/// time is.
///
/// Use it only if the service runs one request at a time: one that batches reports the same second
/// for each of its requests ([shared hardware](super::PlanBuilder::shared_hardware) is for that).
///
/// | service | place |
/// |---|---|
/// | Text Embeddings Inference | header field `x-inference-time`, milliseconds |
/// | Text Generation Inference | header field `x-compute-time`, seconds |
/// | llama.cpp, with one slot | fields `timings.prompt_ms` and `timings.predicted_ms`, milliseconds |
/// | mistral.rs | field `usage.total_time_sec`, seconds |
/// | Dynamo | a field of `nvext.timing` |
/// | Ollama | field `total_duration`, nanoseconds; loading the model included |
///
/// ```
/// use tower_credits::plan::{TimeUnit, UpstreamTime};
///
/// let embeddings = UpstreamTime::header("x-inference-time".parse()?, TimeUnit::Milliseconds);
/// let llama = UpstreamTime::fields(
///     ["timings.prompt_ms", "timings.predicted_ms"],
///     TimeUnit::Milliseconds,
/// );
/// # Ok::<(), http::header::InvalidHeaderName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTime {
    place: Place,
    unit: TimeUnit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(HeaderName),
    /// Paths into the answer's last JSON object, whose values are added up.
    Fields(Vec<String>),
}

/// The unit in which a service says its compute time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeUnit {
    /// Seconds, `s`.
    Seconds,
    /// Milliseconds, `ms`.
    Milliseconds,
    /// Microseconds, `us`.
    Microseconds,
    /// Nanoseconds, `ns`.
    Nanoseconds,
}

impl UpstreamTime {
    /// A field of the response's head.
    pub const fn header(name: HeaderName, unit: TimeUnit) -> Self {
        Self { place: Place::Header(name), unit }
    }

    /// Fields of a JSON answer or, if it is a stream of JSON objects, of the last one that has
    /// them. A field is a path of names, `usage.total_time_sec`. The values are added up.
    pub fn fields<T: Into<String>>(paths: impl IntoIterator<Item = T>, unit: TimeUnit) -> Self {
        Self { place: Place::Fields(paths.into_iter().map(Into::into).collect()), unit }
    }

    /// Returns the field of the head, if that is the place.
    pub(crate) const fn header_name(&self) -> Option<&HeaderName> {
        match &self.place {
            Place::Header(name) => Some(name),
            Place::Fields(_) => None,
        }
    }

    /// Returns the paths, if fields of the body are the place.
    pub(crate) fn paths(&self) -> Option<&[String]> {
        match &self.place {
            Place::Header(_) => None,
            Place::Fields(paths) => Some(paths),
        }
    }

    /// Returns the time that a text says: a decimal number.
    pub(crate) fn of_text(&self, text: &str) -> Option<Duration> {
        self.of_number(text.trim().parse().ok()?)
    }

    /// Returns the time that a JSON object says. `None` if it lacks one of the fields.
    pub(crate) fn of_json(&self, object: &Value) -> Option<Duration> {
        let values = self
            .paths()?
            .iter()
            .map(|path| path.split('.').try_fold(object, |value, name| value.get(name))?.as_f64());
        self.of_number(values.sum::<Option<f64>>()?)
    }

    fn of_number(&self, number: f64) -> Option<Duration> {
        Duration::try_from_secs_f64(number * self.unit.seconds()).ok()
    }
}

impl TimeUnit {
    const fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 1e-3,
            Self::Microseconds => 1e-6,
            Self::Nanoseconds => 1e-9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_its_unit_or_not_at_all() {
        let header = |unit| UpstreamTime::header(HeaderName::from_static("x"), unit);
        for (text, unit, time) in [
            ("12", TimeUnit::Milliseconds, Some(Duration::from_millis(12))),
            (" 0.5 ", TimeUnit::Seconds, Some(Duration::from_millis(500))),
            ("7", TimeUnit::Nanoseconds, Some(Duration::from_nanos(7))),
            ("7", TimeUnit::Microseconds, Some(Duration::from_micros(7))),
            ("-1", TimeUnit::Seconds, None),
            ("NaN", TimeUnit::Seconds, None),
            ("inf", TimeUnit::Seconds, None),
            ("1e300", TimeUnit::Seconds, None),
            ("12ms", TimeUnit::Seconds, None),
            ("", TimeUnit::Seconds, None),
        ] {
            assert_eq!(header(unit).of_text(text), time, "{text}");
        }
        let fields = UpstreamTime::fields(["timings.a", "timings.b"], TimeUnit::Milliseconds);
        let read = |json| fields.of_json(&serde_json::from_str(json).unwrap());
        assert_eq!(read(r#"{"timings":{"a":1.5,"b":2}}"#), Some(Duration::from_micros(3_500)));
        for json in [r#"{"timings":{"a":1}}"#, r#"{"timings":3}"#, r#"{"timings":{"a":"1","b":2}}"#]
        {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
