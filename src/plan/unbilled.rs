//! The outcomes of requests that a plan does not bill.

use std::{ops::RangeInclusive, str::FromStr};

/// Outcome of a request that is not billed. Read from a word:
///
/// | word | outcome |
/// |---|---|
/// | `4xx`, `client_error` | status 400 to 499 |
/// | `5xx`, `server_error` | status 500 to 599, and a service that failed without a response |
/// | `503`, or another status | that status |
/// | `timeout` | status 408 or 504 |
/// | `UNAVAILABLE`, or another code | that code of gRPC |
/// | `failed` | the service failed without a response, or its body failed |
/// | `dropped` | the response was dropped before its end: the client went away, a timeout outside of the meter struck, or the handler panicked |
/// | `stalled` | the client read nothing for too long |
///
/// A status also stands for the codes of gRPC that [google.rpc.Code] maps to it: `5xx` for
/// `INTERNAL`, for example.
///
/// [google.rpc.Code]: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Statuses(Vec<RangeInclusive<u16>>),
    Grpc(u8),
    Failed,
    Dropped,
    Stalled,
}

/// Error that a word is no [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an outcome: write \"4xx\", \"5xx\", a status like \"503\", \"client_error\", \
     \"server_error\", \"timeout\", a code of gRPC like \"UNAVAILABLE\", \"failed\", \"dropped\" \
     or \"stalled\""
)]
pub struct OutcomeError;

/// The codes of gRPC in the order of their numbers, and the statuses that they are mapped to.
const GRPC_CODES: [(&str, u16); 17] = [
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
];

impl FromStr for Outcome {
    type Err = OutcomeError;

    fn from_str(word: &str) -> Result<Self, OutcomeError> {
        let kind = match word {
            "4xx" | "client_error" => Kind::Statuses(vec![400..=499]),
            "5xx" | "server_error" => Kind::Statuses(vec![500..=599]),
            "timeout" => Kind::Statuses(vec![408..=408, 504..=504]),
            "failed" => Kind::Failed,
            "dropped" => Kind::Dropped,
            "stalled" => Kind::Stalled,
            word => match GRPC_CODES.iter().position(|(code, _)| *code == word) {
                Some(code) => Kind::Grpc(u8::try_from(code).map_err(|_| OutcomeError)?),
                None => {
                    let status = word.parse().ok().filter(|status| (100..=599).contains(status));
                    let status = status.filter(|_| word.len() == 3).ok_or(OutcomeError)?;
                    Kind::Statuses(vec![status..=status])
                }
            },
        };
        Ok(Self(kind))
    }
}

/// The end of a request, as far as it decides if the plan bills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Failed,
    Dropped,
    Stalled,
    /// Any other.
    Other,
}

/// All outcomes that a plan does not bill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unbilled(Vec<Outcome>);

impl Unbilled {
    /// Returns what is not billed; `None` if everything is.
    pub(super) fn new(outcomes: Vec<Outcome>) -> Option<Self> {
        Some(Self(outcomes)).filter(|unbilled| !unbilled.0.is_empty())
    }

    /// `true` if a response of this status is not billed.
    pub(crate) fn has_status(&self, status: u16) -> bool {
        self.0.iter().any(|outcome| match &outcome.0 {
            Kind::Statuses(statuses) => statuses.iter().any(|range| range.contains(&status)),
            _ => false,
        })
    }

    /// `true` if a gRPC call of this code is not billed.
    pub(crate) fn has_grpc_code(&self, code: u8) -> bool {
        let is_named = self.0.iter().any(|outcome| outcome.0 == Kind::Grpc(code));
        let status = GRPC_CODES.get(usize::from(code)).map(|(_, status)| *status);
        is_named || (code != 0 && status.is_some_and(|status| self.has_status(status)))
    }

    /// `true` if requests that end like this are not billed.
    pub(crate) fn has_ending(&self, ending: Ending) -> bool {
        let kind = match ending {
            Ending::Failed => Kind::Failed,
            Ending::Dropped => Kind::Dropped,
            Ending::Stalled => Kind::Stalled,
            Ending::Other => return false,
        };
        self.0.iter().any(|outcome| outcome.0 == kind)
    }

    /// `true` if a client can end its request in such a way.
    pub(super) fn depends_on_clients(&self) -> bool {
        self.has_ending(Ending::Dropped) || self.has_ending(Ending::Stalled)
    }

    /// `true` if the head of a response does not decide it.
    pub(crate) fn depends_on_end(&self, is_grpc: bool) -> bool {
        is_grpc
            || [Ending::Failed, Ending::Dropped, Ending::Stalled]
                .map(|of| self.has_ending(of))
                .contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unbilled(words: &[&str]) -> Unbilled {
        Unbilled::new(words.iter().map(|word| word.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn a_word_stands_for_statuses_codes_or_an_end() {
        let of = unbilled(&["5xx", "429", "UNAUTHENTICATED"]);
        for status in [500, 503, 599, 429] {
            assert!(of.has_status(status), "{status}");
        }
        for status in [200, 400, 401, 428, 499, 600] {
            assert!(!of.has_status(status), "{status}");
        }
        // INTERNAL, UNAVAILABLE, RESOURCE_EXHAUSTED and UNAUTHENTICATED; not OK and NOT_FOUND.
        for (code, is_unbilled) in
            [(13, true), (14, true), (8, true), (16, true), (0, false), (5, false)]
        {
            assert_eq!(of.has_grpc_code(code), is_unbilled, "{code}");
        }
        assert!(!of.depends_on_end(false) && of.depends_on_end(true));
        let ends = unbilled(&["failed", "timeout"]);
        assert!(ends.has_ending(Ending::Failed) && !ends.has_ending(Ending::Dropped));
        assert!(ends.has_status(408) && ends.has_status(504) && !ends.has_status(503));
        assert!(ends.has_grpc_code(4) && ends.depends_on_end(false));
        for word in ["", "6xx", "99", "0200", "unavailable", "200-299", "+503"] {
            assert_eq!(word.parse::<Outcome>(), Err(OutcomeError), "{word:?}");
        }
    }
}
