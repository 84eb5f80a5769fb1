//! Why a request was denied.

use std::{sync::Arc, time::Duration};

use ::http::StatusCode;

use crate::{
    Credits, Period, keeper::AdmissionError, ledger::Standing, limit::RateState, plan::RequestQuota,
};

/// Why a request was denied. It is in the extensions of the response that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// No credentials, or (`invalid`) some that nobody knows. 401.
    Unauthenticated {
        /// `true` if credentials were sent.
        invalid: bool,
    },
    /// The subject may not bill that organisation, or there is none of that name. 403.
    NotAMember,
    /// A cookie came with a request that another site's page may have made. 403.
    CrossOrigin,
    /// The plan has no route or model for it. 404.
    NotInPlan,
    /// What is left of the period's credits does not pay for 50 ms of compute. 402: to wait for the
    /// next month, or to pay.
    CreditsUsedUp {
        /// The period whose credits they were.
        period: Period,
        /// What is left, which is too little to run on.
        left: Credits,
        /// The tier's own hint.
        hint: Option<Arc<str>>,
    },
    /// The month's usage has reached the largest amount that a ledger keeps, [`Credits::MAX`]. 402.
    LargestAmount {
        /// The period.
        period: Period,
    },
    /// The account was erased ([`Accounts::erase`](crate::Accounts::erase)). 403.
    AccountErased,
    /// What is left is on hold: by running requests, by what another node holds ahead, or by a node
    /// that died. 429: to try again.
    CreditsOnHold {
        /// What is left, running requests' holds among it.
        left: Credits,
        /// The tier's own hint.
        hint: Option<Arc<str>>,
    },
    /// The limit that the account's owner set is reached
    /// ([`Amendment::SpendingLimit`](crate::ledger::Amendment::SpendingLimit)). 403.
    SpendingLimit {
        /// The period whose limit it was.
        period: Period,
    },
    /// More requests than the [quota](crate::plan::Tier::requests) on this node. 429: to try again when
    /// it says.
    RequestRate {
        /// After how long the next one may come.
        retry_after: Duration,
        /// How many are allowed.
        quota: RequestQuota,
        /// The tier's own hint.
        hint: Option<Arc<str>>,
    },
    /// As many of the account's requests run or wait on this node as
    /// [may](crate::plan::Tier::most_running). 429: to try again when one has ended.
    TooManyRunning,
    /// The request used the most that [one request may](crate::plan::Tier::most_per_request), and was cut
    /// off. 403.
    RequestCap,
    /// The ledger does not answer, and the tier does not allow for that. 503, unless set otherwise.
    LedgerUnreachable,
    /// The credentials cannot be checked now. 503, unless set otherwise.
    CredentialsUnchecked,
    /// This node has too many accounts at once. 503, unless set otherwise.
    Busy,
    /// This node is shutting down. 503, unless set otherwise.
    ShuttingDown,
    /// The host's classifier panicked. 500.
    Unclassified,
    /// The identity has a tier that is not in the plan: the operator's mistake. 500.
    UnknownTier,
    /// The month that was asked about is none. 400.
    NoSuchPeriod,
    /// The handler switched protocols without keeping its `ComputeClock`: what follows could not be
    /// charged. 500.
    UnmeteredUpgrade,
}

impl Rejection {
    /// Why an account that stands like this gets less than `least`.
    pub(crate) fn of(
        standing: &Standing,
        least: Credits,
        period: Period,
        hint: Option<&str>,
    ) -> Self {
        let left = standing.limit.saturating_sub(standing.used);
        if left >= least {
            Self::CreditsOnHold { left, hint: hint.map(Into::into) }
        } else if standing.limited_by_owner {
            Self::SpendingLimit { period }
        } else if standing.limit == Credits::MAX {
            Self::LargestAmount { period }
        } else {
            Self::CreditsUsedUp { period, left, hint: hint.map(Into::into) }
        }
    }

    /// The machine-readable reason: `CREDITS_USED_UP`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "UNAUTHENTICATED",
            Self::NotAMember => "NOT_A_MEMBER",
            Self::CrossOrigin => "CROSS_ORIGIN",
            Self::NotInPlan => "NOT_IN_PLAN",
            Self::CreditsUsedUp { .. } => "CREDITS_USED_UP",
            Self::LargestAmount { .. } => "LARGEST_AMOUNT",
            Self::AccountErased => "ACCOUNT_ERASED",
            Self::CreditsOnHold { .. } => "CREDITS_ON_HOLD",
            Self::SpendingLimit { .. } => "SPENDING_LIMIT",
            Self::RequestRate { .. } => "REQUEST_RATE",
            Self::TooManyRunning => "TOO_MANY_RUNNING",
            Self::RequestCap => "REQUEST_CAP",
            Self::LedgerUnreachable => "LEDGER_UNREACHABLE",
            Self::CredentialsUnchecked => "CREDENTIALS_UNCHECKED",
            Self::Busy => "BUSY",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Unclassified => "UNCLASSIFIED",
            Self::UnknownTier => "UNKNOWN_TIER",
            Self::NoSuchPeriod => "NO_SUCH_PERIOD",
            Self::UnmeteredUpgrade => "UNMETERED_UPGRADE",
        }
    }

    /// The status of the HTTP response. `unavailable` is what the host sends where the service
    /// cannot tell or cannot take more.
    pub(crate) const fn status(&self, unavailable: StatusCode) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::NotAMember
            | Self::CrossOrigin
            | Self::SpendingLimit { .. }
            | Self::AccountErased
            | Self::RequestCap => StatusCode::FORBIDDEN,
            Self::NotInPlan => StatusCode::NOT_FOUND,
            Self::NoSuchPeriod => StatusCode::BAD_REQUEST,
            Self::CreditsUsedUp { .. } | Self::LargestAmount { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::CreditsOnHold { .. } | Self::RequestRate { .. } | Self::TooManyRunning => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => unavailable,
            Self::Unclassified | Self::UnknownTier | Self::UnmeteredUpgrade => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// In how many whole seconds to come again, where that helps.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RequestRate { .. } => self.rate_state().map(|state| state.reset_seconds()),
            Self::CreditsOnHold { .. }
            | Self::TooManyRunning
            | Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => Some(1),
            _ => None,
        }
    }

    /// How the request rate stands, where that is the reason.
    pub(crate) fn rate_state(&self) -> Option<RateState> {
        match self {
            Self::RequestRate { retry_after, quota, .. } => {
                Some(RateState { quota: *quota, remaining: 0, reset: *retry_after })
            }
            _ => None,
        }
    }

    /// When the credits reset, where that is what to wait for.
    pub(crate) fn resets_at(&self) -> Option<String> {
        match self {
            Self::CreditsUsedUp { period, .. }
            | Self::LargestAmount { period }
            | Self::SpendingLimit { period } => Some(period.resets_at()),
            _ => None,
        }
    }

    /// What the account has left, where that is known and in question.
    pub(crate) const fn left(&self) -> Option<Credits> {
        match self {
            Self::CreditsUsedUp { left, .. } | Self::CreditsOnHold { left, .. } => Some(*left),
            _ => None,
        }
    }

    pub(crate) const fn title(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "Not authenticated",
            Self::NotAMember => "Not a member",
            Self::CrossOrigin => "Another origin",
            Self::NotInPlan => "Not found",
            Self::NoSuchPeriod => "No such month",
            Self::CreditsUsedUp { .. } => "Credits used up",
            Self::LargestAmount { .. } => "Largest amount reached",
            Self::AccountErased => "Account erased",
            Self::CreditsOnHold { .. } => "Credits on hold",
            Self::SpendingLimit { .. } => "Spending limit reached",
            Self::RequestRate { .. } | Self::TooManyRunning => "Too many requests",
            Self::RequestCap => "Request too long",
            Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => "Temporarily unavailable",
            Self::Unclassified | Self::UnknownTier | Self::UnmeteredUpgrade => "Misconfigured",
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Unauthenticated { invalid: false } => {
                "Send your token: `Authorization: Bearer <token>`.".into()
            }
            Self::Unauthenticated { invalid: true } => "These credentials are not known.".into(),
            Self::NotAMember => {
                "You may not bill this organisation, or there is none of that name.".into()
            }
            Self::CrossOrigin => {
                "A cookie pays only for requests of this site's own pages. Send your token instead."
                    .into()
            }
            Self::NotInPlan => "There is no such model or path here.".into(),
            Self::CreditsUsedUp { period, hint, .. } => with_hint(
                &format!(
                    "Your credits for {period} are used up. They reset at {}.",
                    period.resets_at()
                ),
                hint.as_deref(),
            ),
            Self::LargestAmount { period } => format!(
                "This account's usage of {period} has reached ${}, the most that can be kept for a month. It may go on from {}.",
                Credits::MAX,
                period.resets_at()
            ),
            Self::AccountErased => "This account was erased.".into(),
            Self::CreditsOnHold { hint, .. } => {
                let detail = "All of your remaining credits are on hold by requests that are running. Try again when one has ended.";
                with_hint(detail, hint.as_deref())
            }
            Self::SpendingLimit { period } => {
                format!(
                    "The spending limit that is set for this account is reached for {period}. Its owner can raise it."
                )
            }
            Self::RequestRate { hint, .. } => {
                with_hint("Too many requests in a short time.", hint.as_deref())
            }
            Self::TooManyRunning => {
                "As many of your requests are running as may at once. Try again when one has ended."
                    .into()
            }
            Self::RequestCap => {
                "This request has used the most that one request may use here.".into()
            }
            Self::LedgerUnreachable => {
                "Your credit balance cannot be checked just now. Try again soon.".into()
            }
            Self::CredentialsUnchecked => {
                "Your credentials cannot be checked just now. Try again soon.".into()
            }
            Self::Busy => "This server has too many accounts at once. Try again soon.".into(),
            Self::ShuttingDown => {
                "This server is shutting down. Try again; another may answer.".into()
            }
            Self::NoSuchPeriod => "Write the month like `period=2026-11`.".into(),
            Self::Unclassified => "This server could not tell what the request runs.".into(),
            Self::UnknownTier => "Your account's tier is not set up on this server.".into(),
            Self::UnmeteredUpgrade => {
                "This server cannot charge for the connection it was about to open.".into()
            }
        }
    }
}

impl From<AdmissionError> for Rejection {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::TooManyAccounts => Self::Busy,
            AdmissionError::ShuttingDown => Self::ShuttingDown,
            AdmissionError::TooManyRunning(_) => Self::TooManyRunning,
        }
    }
}

fn with_hint(detail: &str, hint: Option<&str>) -> String {
    hint.map_or_else(|| detail.to_owned(), |hint| format!("{detail} {hint}"))
}
