//! The header fields and trailers in which a response says what it cost.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header::TE};

use crate::{Credits, ledger::Usage};

const CREDITS_REMAINING: HeaderName = HeaderName::from_static("x-credits-remaining");
/// As text-generation-inference names it.
pub(super) const COMPUTE_TIME: HeaderName = HeaderName::from_static("x-compute-time");
pub(super) const COST: HeaderName = HeaderName::from_static("x-cost-nano-usd");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds the credits that are left, the compute time and the cost, as far as they are known.
pub(super) fn add_to_head(
    headers: &mut HeaderMap,
    left: Option<Credits>,
    compute: Option<Duration>,
    cost: Option<Credits>,
) {
    let fields = [
        (CREDITS_REMAINING, left.map(|left| left.to_string().trim_start_matches('$').to_owned())),
        (COMPUTE_TIME, compute.map(in_seconds)),
        (COST, cost.map(|cost| cost.as_nano_usd().to_string())),
    ];
    if let Some(timing) =
        compute.and_then(|compute| HeaderValue::try_from(server_timing(compute)).ok())
    {
        headers.append(SERVER_TIMING, timing);
    }
    for (name, value) in fields {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// Adds the usage that was billed: zero if the host's policy forgave it.
pub(super) fn add_to_trailers(trailers: &mut HeaderMap, billed: Option<Usage>) {
    let Usage { compute_micros, cost, .. } = billed.unwrap_or_default();
    trailers.insert(COST, HeaderValue::from(cost.as_nano_usd()));
    if let Ok(time) = HeaderValue::try_from(in_seconds(Duration::from_micros(compute_micros))) {
        trailers.insert(COMPUTE_TIME, time);
    }
}

fn in_seconds(compute: Duration) -> String {
    format!("{:.6}", compute.as_secs_f64())
}

/// Writes milliseconds as browsers' developer tools read them (W3C Server Timing).
fn server_timing(compute: Duration) -> String {
    format!("compute;dur={:.3}", compute.as_secs_f64() * 1e3)
}

/// `true` if a client asked for trailers (RFC 9110, section 10.1.4), and the protocol has them.
pub(super) fn accepts_trailers<B>(request: &Request<B>) -> bool {
    let mut words = request
        .headers()
        .get_all(TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    matches!(request.version(), Version::HTTP_11 | Version::HTTP_2)
        && words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
