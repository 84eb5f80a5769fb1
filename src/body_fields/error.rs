//! The reasons why a field cannot be read.

/// Reason why a request's body does not say what it runs. Its `Display` is the text that the client
/// reads: what is wrong, and what to send instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyProblem {
    /// The body is neither JSON nor a multipart form. 415.
    #[error(
        "The body is read for `Content-Type: application/json` and `multipart/form-data` only. \
         Send the request with one of them."
    )]
    ContentType,
    /// The body is compressed. 415.
    #[error("The body has a `Content-Encoding`. Send it without one.")]
    Encoded,
    /// The body is not JSON, with the parser's reason. 400.
    #[error("The body is not valid JSON: {0}.")]
    Json(String),
    /// The body is not a JSON object. 400.
    #[error("The body is not a JSON object. Send `{{\"model\": \"<name>\", …}}`.")]
    NotAnObject,
    /// The body is not a multipart form that all parsers read alike. 400.
    #[error("The body is not a plain multipart form: {0}.")]
    Multipart(&'static str),
    /// The body has no field of this name. 400.
    #[error("The body has no field `{0}`. Add it.")]
    Missing(String),
    /// The field is not a text. 400.
    #[error("The body's field `{0}` is not a string. Send it as one.")]
    NotAString(String),
    /// The field is there more than once. 400.
    #[error(
        "The body has the field `{0}` more than once, and servers differ in which one they use. \
         Send it once."
    )]
    Repeated(String),
    /// A field has this name but for case, escapes or a suffix. 400.
    #[error(
        "The body has a field that some servers take for `{0}`: its name differs in case, is \
         written with escapes, or has a suffix. Send `{0}` exactly as it is written here."
    )]
    Similar(String),
    /// The body is larger than the meter reads. 413.
    #[error(
        "The body has more than {0} bytes, the most that this server reads to find out what a \
         request runs. Send a smaller one."
    )]
    TooLarge(usize),
    /// The body did not come within the meter's time for it. 408.
    #[error("The body did not arrive in time. Send it again, without pauses.")]
    Stalled,
    /// The body ended with an error before it was complete. 400.
    #[error("The body is incomplete: it ended early. Send all of it.")]
    Incomplete,
}
