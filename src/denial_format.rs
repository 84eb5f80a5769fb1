//! The format of a denial's body, and the formats that well-known clients read.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, USER_AGENT},
};

/// A field that only browsers send (Fetch Metadata).
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Fields that the SDKs of OpenAI and Anthropic send.
const SDK_FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("x-stainless-lang"), HeaderName::from_static("anthropic-version")];

/// Parts of the `User-Agent` of clients that read `error` as an object.
const OPENAI_AGENTS: [&[u8]; 6] =
    [b"openai", b"anthropic", b"litellm", b"langchain", b"ai-sdk", b" ai/"];

/// Parts of the `User-Agent` of Hugging Face's clients, which read `error` as a string.
const HUGGING_FACE_AGENTS: [&[u8]; 2] = [b"huggingface", b"hf_hub"];

/// Format of a denial's body. gRPC calls are always denied with a gRPC status.
///
/// All formats have the members of problem details (RFC 9457) and `reason`, for programs. They
/// differ in `error`, of which some clients want a string and others an object, and in the content
/// type. By default, a meter chooses the format that the caller's client reads: the one of the
/// plan's route, if it has one, or else [`of_client`](Self::of_client).
///
/// ```
/// use tower_credits::{CreditMeter, DenialFormat};
/// # use tower_credits::{BearerTokens, MemoryLedger, Plan, meter::ConfigError as Error};
/// # fn example(plan: Plan, ledger: MemoryLedger, tokens: BearerTokens) -> Result<(), Error> {
/// let meter = CreditMeter::builder(plan, ledger, tokens)
///     .denial_format(DenialFormat::OpenAi) // for every client
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenialFormat {
    /// Problem details as `application/problem+json`; `error` is the `detail` as a string.
    #[default]
    Problem,
    /// The same as `application/json`, the only type of which Hugging Face's JavaScript client
    /// reads the `error`.
    HuggingFace,
    /// `application/json` in which `error` is the object that the clients of OpenAI and Anthropic
    /// read: `{"message", "type", "param", "code"}`.
    OpenAi,
}

impl DenialFormat {
    /// Returns the format that a client reads, as far as its request says what it is. The first row
    /// that matches counts:
    ///
    /// | for requests with | format |
    /// |---|---|
    /// | `x-stainless-lang` or `anthropic-version`, or a `User-Agent` that names OpenAI, Anthropic, LiteLLM, LangChain or the AI SDK | `OpenAi` |
    /// | a `User-Agent` that names Hugging Face | `HuggingFace` |
    /// | `Accept` with `application/problem+json` | `Problem` |
    /// | `Accept` with `application/json` or `text/event-stream`, or a browser's `Sec-Fetch-Mode` | `HuggingFace` |
    /// | all else | `Problem` |
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue};
    /// use tower_credits::DenialFormat;
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert("user-agent", HeaderValue::from_static("OpenAI/Python 2.8.0"));
    /// assert_eq!(DenialFormat::of_client(&headers), DenialFormat::OpenAi);
    /// ```
    pub fn of_client(headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
        let names = |parts: &[&[u8]]| parts.iter().any(|part| contains(agent, part));
        if SDK_FIELDS.iter().any(|field| headers.contains_key(field))
            || names(&OPENAI_AGENTS)
            || starts_with(agent, b"ai/")
        {
            return Self::OpenAi;
        }
        if names(&HUGGING_FACE_AGENTS) {
            return Self::HuggingFace;
        }
        let accepts = |media_type: &[u8]| {
            let fields = headers.get_all(ACCEPT).iter();
            let mut ranges = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
            ranges.any(|range| starts_with(range.trim_ascii_start(), media_type))
        };
        let wants_json = || {
            accepts(b"application/json")
                || accepts(b"text/event-stream")
                || headers.contains_key(FETCH_MODE)
        };
        if !accepts(b"application/problem+json") && wants_json() {
            Self::HuggingFace
        } else {
            Self::Problem
        }
    }

    /// Returns the content type of a body in this format.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::HuggingFace | Self::OpenAi => "application/json",
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

fn starts_with(text: &[u8], part: &[u8]) -> bool {
    text.split_at_checked(part.len()).is_some_and(|(start, _)| start.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_reads() {
        use DenialFormat::{HuggingFace, OpenAi, Problem};
        let browser = ("sec-fetch-mode", "cors");
        for (fields, format) in [
            (&[][..], Problem),
            (&[("user-agent", "curl/8.5.0"), ("accept", "*/*")], Problem),
            (&[("user-agent", "python-httpx/0.28.1"), ("accept", "*/*")], Problem),
            (&[("x-stainless-lang", "python"), ("accept", "application/json")], OpenAi),
            (&[("user-agent", "AsyncOpenAI/Python 2.8.0")], OpenAi),
            (&[("user-agent", "Anthropic/JS 0.60.0")], OpenAi),
            (&[("anthropic-version", "2023-06-01")], OpenAi),
            (&[("user-agent", "ai/5.0.0 ai-sdk/provider-utils/3.0.0 runtime/node.js")], OpenAi),
            (&[("user-agent", "litellm/1.80.0")], OpenAi),
            (&[("user-agent", "unknown/None; hf_hub/1.1.5; python/3.12.3")], HuggingFace),
            (&[("user-agent", "@huggingface/inference/4.13.3")], HuggingFace),
            (&[browser, ("accept", "*/*")], HuggingFace),
            (&[browser, ("accept", "application/problem+json")], Problem),
            (&[("accept", "application/problem+json, application/json;q=0.5")], Problem),
            (&[("accept", "text/plain, Application/JSON;q=0.5")], HuggingFace),
            (&[("accept", "text/event-stream")], HuggingFace),
            // `ai` is a word of its own.
            (&[("user-agent", "mail/1.0")], Problem),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(DenialFormat::of_client(&headers), format, "{fields:?}");
        }
    }
}
