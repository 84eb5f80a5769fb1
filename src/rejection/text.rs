//! The texts of a denial, for people: a title for each kind, and a sentence that says what happened
//! and what the caller can do.

use std::{fmt, num::NonZeroU32, time::Duration};

use ::http::StatusCode;

use super::Rejection;
use crate::{Credits, Name, ledger::Span};

/// The most models that a text lists.
const MAX_SHOWN_MODELS: usize = 20;

/// The most characters of a client's own text that are repeated.
const MAX_SHOWN_CHARACTERS: usize = 100;

impl Rejection {
    /// Returns the title: the same for each denial of one kind.
    pub(crate) const fn title(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "Authentication required",
            Self::NotAMember => "Not a member of the organisation",
            Self::CrossOrigin => "Cross-origin request",
            Self::NotInPlan => "Not found",
            Self::UnknownModel { .. } => "Model not found",
            Self::ModelNotNamed { .. } => "Model not named",
            Self::InvalidBody { .. } => "Invalid request body",
            Self::NoSuchPeriod => "Invalid month",
            Self::CreditsUsedUp { .. } => "Credits used up",
            Self::LargestAmount { .. } => "Largest amount reached",
            Self::AccountErased => "Account erased",
            Self::CreditsOnHold { .. } => "Credits on hold",
            Self::SpendingLimit { .. } => "Spending limit reached",
            Self::Budget { .. } => "Budget used up",
            Self::ModelDenied { .. } => "Model not allowed",
            Self::RequestRate { .. } => "Too many requests",
            Self::TooManyRunning { .. } => "Too many concurrent requests",
            Self::RequestCap => "Request used too much",
            Self::ClientCap => "Request reached its own limit",
            Self::InvalidCap { .. } => "Invalid limit",
            Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => "Temporarily unavailable",
            Self::Unclassified | Self::UnknownTier | Self::UnmeteredUpgrade => {
                "Server misconfigured"
            }
        }
    }
}

/// The text that a client reads: `detail` of a problem, `message` of an OpenAI error, and the
/// message of a gRPC status.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthenticated { invalid: false, api_key_header } => {
                f.write_str(
                    "The request has no credentials. Send your token: `Authorization: Bearer \
                     <token>`",
                )?;
                if let Some(name) = api_key_header {
                    write!(f, " or `{name}: <token>`")?;
                }
                f.write_str(".")
            }
            Self::Unauthenticated { invalid: true, .. } => f.write_str(
                "The credentials are not valid. Check that your token is complete and has not been \
                 revoked.",
            ),
            Self::NotAMember => f.write_str(
                "You cannot bill this organisation: it does not exist, or you are not a member of \
                 it. Check its name, or bill your own account.",
            ),
            Self::CrossOrigin => f.write_str(
                "A cookie authenticates only requests that come from this site's own pages. Send \
                 your token instead: `Authorization: Bearer <token>`.",
            ),
            Self::NotInPlan => f.write_str("This server does not offer this path. Check the URL."),
            Self::UnknownModel { model, offered } => {
                let model: String = model.chars().take(MAX_SHOWN_CHARACTERS).collect();
                write!(f, "This server does not offer the model {model:?}.{}", Offered(offered))
            }
            Self::ModelNotNamed { offered } => write!(
                f,
                "The request does not name a model that can be read in one way only.{}",
                Offered(offered)
            ),
            Self::InvalidBody { problem, offered } => {
                write!(f, "{problem}")?;
                // A smaller body, or one of another type, may name the same model.
                let is_wrong = self.status() == StatusCode::BAD_REQUEST;
                if is_wrong { write!(f, "{}", Offered(offered)) } else { Ok(()) }
            }
            Self::CreditsUsedUp { period, day_ends_at, hint, .. } => {
                match day_ends_at {
                    Some(at) => write!(
                        f,
                        "Your credits for today are used up. New ones are included from {at}."
                    )?,
                    None => write!(
                        f,
                        "Your credits for {} are used up. They reset at {}.",
                        period.name(),
                        period.resets_at()
                    )?,
                }
                write_hint(f, hint.as_deref())
            }
            Self::LargestAmount { period } => write!(
                f,
                "Your usage in {} has reached {}, the largest amount that can be recorded for one \
                 month. You can send requests again from {}.",
                period.name(),
                Credits::MAX,
                period.resets_at()
            ),
            Self::AccountErased => f.write_str(
                "This account was erased. Ask the operator of this service if you did not expect \
                 that.",
            ),
            Self::CreditsOnHold { hint, .. } => {
                f.write_str(
                    "Your remaining credits are on hold, usually for requests that are still \
                     running. Try again when one of them has ended.",
                )?;
                write_hint(f, hint.as_deref())
            }
            Self::SpendingLimit { period, .. } => write!(
                f,
                "This account has reached its spending limit for {}. Its owner can raise the \
                 limit. Otherwise you can send requests again from {}.",
                period.name(),
                self.resets_at().unwrap_or_default()
            ),
            Self::Budget { part, span, limit, left, resets_at, currency } => {
                match part.as_ref().map(|part| (part, part.models())) {
                    None => f.write_str("This account")?,
                    Some((_, Some(models))) => write!(f, "Your account, on the models {models},")?,
                    Some((part, None)) => write!(f, "The part {part} of this account")?,
                }
                let time = match span {
                    Span::Day => "a day",
                    Span::Month => "a month",
                };
                write!(f, " has reached its limit of {} for {time}", currency.amount(*limit))?;
                if left.is_zero() {
                    f.write_str(". ")?;
                } else {
                    let left = currency.amount(*left);
                    write!(f, ": what is left of it, {left}, does not pay for a request. ")?;
                }
                write!(f, "You can send requests again from {resets_at}")?;
                f.write_str(", or when the limit is raised.")
            }
            Self::ModelDenied { model, hint } => {
                write!(f, "Your account may not use the model {model}.")?;
                write_hint(f, hint.as_deref())
            }
            Self::RequestRate { quota, hint, .. } => {
                let (count, per) = (quota.count, Per(quota.per));
                write!(f, "You have exceeded your limit of {} {per}.", requests(count, ""))?;
                if let Some(seconds) = self.retry_after() {
                    write!(f, " Try again in {}.", Seconds(seconds))?;
                }
                write_hint(f, hint.as_deref())
            }
            Self::TooManyRunning { limit } => write!(
                f,
                "You have reached your limit of {}. Try again when one of them has ended.",
                requests(*limit, "concurrent ")
            ),
            Self::RequestCap => f.write_str(
                "The request was stopped: it has used the most that one request may use. Send a \
                 smaller request.",
            ),
            Self::ClientCap => f.write_str(
                "The request was stopped at the limit that it set in `x-max-cost` or \
                 `x-max-compute`. Set a higher one, or send a smaller request.",
            ),
            Self::InvalidCap { field } => write!(
                f,
                "The field `{field}` cannot be read. Write dollars in `x-max-cost` and seconds in \
                 `x-max-compute`, each once and with at most nine digits after the point, for \
                 example `{field}: 0.05`."
            ),
            Self::LedgerUnreachable => {
                f.write_str("Your credit balance cannot be checked at the moment. Try again soon.")
            }
            Self::CredentialsUnchecked => {
                f.write_str("Your credentials cannot be checked at the moment. Try again soon.")
            }
            Self::Busy => f.write_str("This server is too busy at the moment. Try again soon."),
            Self::ShuttingDown => {
                f.write_str("This server is shutting down. Try again: another server may answer.")
            }
            Self::NoSuchPeriod => f.write_str(
                "`period` is not a month. Write a year and a month, for example `period=2026-11`.",
            ),
            Self::Unclassified => f.write_str(
                "This server could not determine what the request runs. Report this to the \
                 operator of this service.",
            ),
            Self::UnknownTier => f.write_str(
                "Your account's tier is not set up on this server. Report this to the operator of \
                 this service.",
            ),
            Self::UnmeteredUpgrade => f.write_str(
                "This server cannot charge for the connection that it was about to open. Report \
                 this to the operator of this service.",
            ),
        }
    }
}

impl std::error::Error for Rejection {}

fn write_hint(f: &mut fmt::Formatter<'_>, hint: Option<&str>) -> fmt::Result {
    hint.map_or(Ok(()), |hint| write!(f, " {hint}"))
}

/// ` You can use: a, b, c.`
struct Offered<'a>(&'a [Name]);

impl fmt::Display for Offered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = self.0.split_at(self.0.len().min(MAX_SHOWN_MODELS));
        if shown.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = shown.iter().map(Name::as_str).collect();
        write!(f, " You can use: {}", names.join(", "))?;
        if !more.is_empty() {
            write!(f, ", and {} more", more.len())?;
        }
        f.write_str(".")
    }
}

/// `1 request`, `8 concurrent requests`.
fn requests(count: NonZeroU32, kind: &str) -> String {
    format!("{count} {kind}request{}", if count.get() == 1 { "" } else { "s" })
}

/// The time of a quota: `per second`, `in 60 seconds`, `in 1.5s`.
struct Per(Duration);

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_nanos()) {
            (1, 0) => f.write_str("per second"),
            (60, 0) => f.write_str("per minute"),
            (3600, 0) => f.write_str("per hour"),
            (seconds, 0) => write!(f, "in {}", Seconds(seconds)),
            _ => write!(f, "in {:?}", self.0),
        }
    }
}

/// `1 second`, `10 seconds`.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} second{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RequestQuota;

    #[test]
    fn limits_are_named_in_the_singular_and_in_the_plural() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rate = |count, per, wait| Rejection::RequestRate {
            retry_after: Duration::from_secs(wait),
            quota: RequestQuota::new(number(count), per),
            hint: None,
        };
        let minute = Duration::from_secs(60);
        for (rejection, text) in [
            (
                Rejection::TooManyRunning { limit: number(8) },
                "You have reached your limit of 8 concurrent requests. Try again when one of them \
                 has ended.",
            ),
            (
                Rejection::TooManyRunning { limit: number(1) },
                "You have reached your limit of 1 concurrent request. Try again when one of them \
                 has ended.",
            ),
            (
                rate(600, minute, 1),
                "You have exceeded your limit of 600 requests per minute. Try again in 1 second.",
            ),
            (
                rate(1, minute * 5, 300),
                "You have exceeded your limit of 1 request in 300 seconds. Try again in 300 \
                 seconds.",
            ),
        ] {
            assert_eq!(rejection.to_string(), text);
        }
    }
}
