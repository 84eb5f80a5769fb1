//! [`Rejection`]: the reason of a denial, and what follows from it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use ::http::{HeaderName, StatusCode};

use crate::{
    Credits, Name, Part, Period,
    clock::UnixTime,
    keeper::AdmissionError,
    ledger::{LimitStanding, Span, Standing},
    limit::RateState,
    metering::BillingContext,
    plan::{BodyProblem, Currency, RequestQuota},
};

/// The longest wait after which clients should retry by themselves. Some SDKs sleep for as long as
/// they are told to, in silence.
const MAX_AUTOMATIC_RETRY_SECONDS: u64 = 60;

/// Reason why a request was denied.
///
/// The layer puts it into the extensions of each denial that it sends, so that the host's own
/// middleware can tell a denial from an answer of the service. Its [`Display`](std::fmt::Display)
/// is the text that clients read: what happened, and what they can do.
///
/// A host with routes of its own, which the layer does not cover, can deny in the same way:
///
/// ```
/// use http::{Response, StatusCode};
/// use tower_credits::{DenialFormat, Rejection};
///
/// let denied = Rejection::Unauthenticated { invalid: false, api_key_header: None };
/// assert_eq!(denied.reason(), "UNAUTHENTICATED");
/// assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
///
/// let response: Response<bytes::Bytes> = denied.into_http_response(DenialFormat::Problem);
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(response.headers()["www-authenticate"], "Bearer");
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
///
/// With the feature `axum`, it implements axum's `IntoResponse`, so that handlers can return
/// `Result<_, Rejection>`.
///
/// Status codes are the defaults. Those that are 503 can be changed with
/// [`unavailable_status`](crate::CreditMeterBuilder::unavailable_status).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The request has no credentials, or (`invalid`) credentials that are not known. 401.
    Unauthenticated {
        /// `true` if credentials were sent.
        invalid: bool,
        /// The field in which a token may be sent, beside `Authorization`.
        api_key_header: Option<HeaderName>,
    },
    /// The subject may not bill the organisation, or there is no organisation of that name. The two
    /// are not told apart, so that nobody can find out which organisations exist. 403.
    NotAMember,
    /// The request is authenticated by a cookie, and another site's page may have made it. 403.
    CrossOrigin,
    /// The plan has no route for the path. 404.
    NotInPlan,
    /// The plan does not have the model that the request names. 404.
    UnknownModel {
        /// The model that the request names.
        model: Arc<str>,
        /// The plan's models.
        offered: Arc<[Name]>,
    },
    /// The path, the query or the header field in which the request has to name a model does not
    /// name one that can be read in one way only. 400.
    ModelNotNamed {
        /// The plan's models.
        offered: Arc<[Name]>,
    },
    /// The request's body has to say what it runs, and does not. 400, 408, 413 or 415, as its
    /// problem says.
    InvalidBody {
        /// The reason why it cannot be read.
        problem: BodyProblem,
        /// The plan's models.
        offered: Arc<[Name]>,
    },
    /// The rest of the period's credits does not pay for 50 ms of compute. 402: the caller can
    /// wait for the next month or day, or get more credits.
    CreditsUsedUp {
        /// Period whose credits are used up.
        period: Period,
        /// The end of the day if the tier [includes credits each
        /// day](crate::plan::Tier::included_per_day); `None` if more are included next month.
        day_ends_at: Option<UnixTime>,
        /// Credits that are left: too few to run on.
        left: Credits,
        /// The tier's own [hint](crate::plan::Tier::hint).
        hint: Option<Arc<str>>,
    },
    /// The month's usage has reached [`Credits::MAX`], the largest amount that a ledger can record.
    /// 402.
    LargestAmount {
        /// Period whose usage reached it.
        period: Period,
    },
    /// The account was erased with [`Accounts::erase`](crate::Accounts::erase). 403.
    AccountErased,
    /// The remaining credits are on hold: for running requests, as what another node
    /// [holds ahead](crate::HoldAhead), or by a node that died. 429: the caller can try again.
    CreditsOnHold {
        /// Credits that are left, those on hold for running requests included.
        left: Credits,
        /// The tier's own [hint](crate::plan::Tier::hint).
        hint: Option<Arc<str>>,
    },
    /// The account has reached the limit that its owner set
    /// ([`Amendment::SpendingLimit`](crate::ledger::Amendment::SpendingLimit)). 403.
    SpendingLimit {
        /// Period whose limit was reached.
        period: Period,
        /// The end of the day if the tier [includes credits each
        /// day](crate::plan::Tier::included_per_day); `None` if more are included next month.
        day_ends_at: Option<UnixTime>,
    },
    /// A [limit](crate::Limits) of the account's day, of a [part](crate::Part) along the caller's
    /// path, or of [models](crate::plan::Tier::models) is reached, while the account itself has
    /// credits. 403.
    Budget {
        /// The part whose limit it is; `None` for the account's own day. One that begins with `/`
        /// stands for the models that match the rest.
        part: Option<Part>,
        /// The time that the limit is for.
        span: Span,
        /// The limit.
        limit: Credits,
        /// Credits that are left of it: too few to run on.
        left: Credits,
        /// The end of that day or month.
        resets_at: UnixTime,
        /// The label of amounts in the text.
        currency: Currency,
    },
    /// The account's tier does not [allow](crate::plan::Tier::models) the model. 403.
    ModelDenied {
        /// The model.
        model: Name,
        /// The tier's own [hint](crate::plan::Tier::hint).
        hint: Option<Arc<str>>,
    },
    /// The account exceeded its [request quota](crate::plan::Tier::requests). 429: the caller can
    /// try again after `retry_after`.
    RequestRate {
        /// Time until the next request is accepted.
        retry_after: Duration,
        /// The quota that was exceeded.
        quota: RequestQuota,
        /// The tier's own [hint](crate::plan::Tier::hint).
        hint: Option<Arc<str>>,
    },
    /// The account has as many requests running or waiting as its tier
    /// [allows](crate::plan::Tier::most_running). 429: the caller can try again when one of them
    /// has ended.
    TooManyRunning {
        /// The largest number of concurrent requests.
        limit: NonZeroU32,
    },
    /// The request used all that its tier allows [one
    /// request](crate::plan::Tier::most_per_request), and was cut off. 403.
    RequestCap,
    /// The request reached the limit that its client set (`x-max-cost`, `x-max-compute`), or that
    /// does not pay for its begin. It was cut off, or its service not called. 403.
    ClientCap,
    /// A limit that the client set cannot be read. 400.
    InvalidCap {
        /// The header field.
        field: &'static str,
    },
    /// The ledger does not answer, and the tier does not admit requests without it. 503.
    LedgerUnreachable,
    /// The credentials cannot be checked at the moment. 503.
    CredentialsUnchecked,
    /// This node serves as many accounts as it can, or has no memory left for request bodies. 503.
    Busy,
    /// This node is shutting down. 503.
    ShuttingDown,
    /// The host's classifier panicked, or the plan takes the model from the body and the layer
    /// reads none ([`CreditMeter::buffer_bodies`](crate::CreditMeter::buffer_bodies)). 500.
    Unclassified,
    /// The identity has a tier that is not in the plan: the operator has to add it. 500.
    UnknownTier,
    /// The `period` of a billing route is not a month. 400.
    NoSuchPeriod,
    /// The handler switched protocols without keeping its [`ComputeClock`](crate::ComputeClock), so
    /// that the connection could not be charged. 500.
    UnmeteredUpgrade,
}

impl Rejection {
    /// Returns the reason why a request to an account with this standing is granted less than the
    /// least that it needs.
    pub(crate) fn of(standing: &Standing, context: &BillingContext) -> Self {
        let (least, period) = (context.plan.want.min_slice, context.period);
        let hint = context.plan.tier.hint.as_deref();
        if let Some(LimitStanding { level, span, limit, used, resets_at, .. }) = standing.tightest {
            let left = limit.saturating_sub(used);
            if left >= least {
                return Self::CreditsOnHold { left, hint: hint.map(Into::into) };
            }
            let at = level.checked_sub(1);
            let part = at.and_then(|at| context.stated.parts.get(at));
            let part = part.map(|terms| terms.part.clone());
            let currency = context.plan.currency;
            return Self::Budget { part, span, limit, left, resets_at, currency };
        }
        let is_daily = !context.plan.tier.included_per_day.is_zero();
        let day_ends_at = is_daily.then(|| standing.at.next_day());
        let left = standing.limit.saturating_sub(standing.used);
        if left >= least {
            Self::CreditsOnHold { left, hint: hint.map(Into::into) }
        } else if standing.limited_by_owner {
            Self::SpendingLimit { period, day_ends_at }
        } else if standing.limit == Credits::MAX {
            Self::LargestAmount { period }
        } else {
            Self::CreditsUsedUp { period, day_ends_at, left, hint: hint.map(Into::into) }
        }
    }

    /// Returns the machine-readable reason, for example `CREDITS_USED_UP`. It is the `reason` of a
    /// problem, the `code` of an OpenAI error (in lower case), and the `reason` of gRPC's
    /// `ErrorInfo`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "UNAUTHENTICATED",
            Self::NotAMember => "NOT_A_MEMBER",
            Self::CrossOrigin => "CROSS_ORIGIN",
            Self::NotInPlan => "NOT_IN_PLAN",
            Self::UnknownModel { .. } => "MODEL_NOT_FOUND",
            Self::ModelNotNamed { .. } => "MODEL_NOT_NAMED",
            Self::InvalidBody { problem, .. } => match problem {
                BodyProblem::TooLarge(_) => "BODY_TOO_LARGE",
                BodyProblem::Stalled => "BODY_STALLED",
                BodyProblem::ContentType | BodyProblem::Encoded => "BODY_NOT_READABLE",
                _ => "INVALID_BODY",
            },
            Self::CreditsUsedUp { .. } => "CREDITS_USED_UP",
            Self::LargestAmount { .. } => "LARGEST_AMOUNT",
            Self::AccountErased => "ACCOUNT_ERASED",
            Self::CreditsOnHold { .. } => "CREDITS_ON_HOLD",
            Self::SpendingLimit { .. } => "SPENDING_LIMIT",
            Self::Budget { .. } => "BUDGET",
            Self::ModelDenied { .. } => "MODEL_DENIED",
            Self::RequestRate { .. } => "REQUEST_RATE",
            Self::TooManyRunning { .. } => "TOO_MANY_RUNNING",
            Self::RequestCap => "REQUEST_CAP",
            Self::ClientCap => "CLIENT_CAP",
            Self::InvalidCap { .. } => "INVALID_CAP",
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

    /// Returns the status of the HTTP response. A meter whose
    /// [`unavailable_status`](crate::CreditMeterBuilder::unavailable_status) is set sends that one
    /// instead of 503.
    pub const fn status(&self) -> StatusCode {
        self.status_or(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Returns the status of the HTTP response. `unavailable` replaces 503.
    pub(crate) const fn status_or(&self, unavailable: StatusCode) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::NotAMember
            | Self::CrossOrigin
            | Self::SpendingLimit { .. }
            | Self::Budget { .. }
            | Self::ModelDenied { .. }
            | Self::AccountErased
            | Self::RequestCap
            | Self::ClientCap => StatusCode::FORBIDDEN,
            Self::NotInPlan | Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::NoSuchPeriod | Self::ModelNotNamed { .. } | Self::InvalidCap { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::InvalidBody { problem, .. } => match problem {
                BodyProblem::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                BodyProblem::Stalled => StatusCode::REQUEST_TIMEOUT,
                BodyProblem::ContentType | BodyProblem::Encoded => {
                    StatusCode::UNSUPPORTED_MEDIA_TYPE
                }
                _ => StatusCode::BAD_REQUEST,
            },
            Self::CreditsUsedUp { .. } | Self::LargestAmount { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::CreditsOnHold { .. } | Self::RequestRate { .. } | Self::TooManyRunning { .. } => {
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

    /// Returns the time until another try, in whole seconds; `None` if trying again does not help.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RequestRate { .. } => self.rate_state().map(|state| state.reset_seconds()),
            Self::CreditsOnHold { .. }
            | Self::TooManyRunning { .. }
            | Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => Some(1),
            _ => None,
        }
    }

    /// `true` if a client that retries by itself should do so: trying again helps, and soon.
    pub(crate) fn is_worth_an_automatic_retry(&self) -> bool {
        self.retry_after().is_some_and(|seconds| seconds <= MAX_AUTOMATIC_RETRY_SECONDS)
    }

    /// Returns the state of the request rate, if that is the reason.
    pub(crate) fn rate_state(&self) -> Option<RateState> {
        match self {
            Self::RequestRate { retry_after, quota, .. } => {
                Some(RateState { quota: *quota, remaining: 0, reset: *retry_after })
            }
            _ => None,
        }
    }

    /// Returns the moment at which the credits reset, if the caller can wait for it.
    pub(crate) fn resets_at(&self) -> Option<String> {
        match self {
            Self::CreditsUsedUp { day_ends_at: Some(at), .. }
            | Self::SpendingLimit { day_ends_at: Some(at), .. } => Some(at.to_string()),
            Self::CreditsUsedUp { period, .. }
            | Self::LargestAmount { period }
            | Self::SpendingLimit { period, .. } => Some(period.resets_at()),
            Self::Budget { resets_at, .. } => Some(resets_at.to_string()),
            _ => None,
        }
    }

    /// Returns the member of the request that is wrong, if it is one.
    pub(crate) fn parameter(&self) -> Option<&str> {
        match self {
            Self::UnknownModel { .. } | Self::ModelDenied { .. } | Self::ModelNotNamed { .. } => {
                Some("model")
            }
            Self::InvalidBody {
                problem:
                    BodyProblem::Missing(field)
                    | BodyProblem::NotAString(field)
                    | BodyProblem::Repeated(field)
                    | BodyProblem::Similar(field),
                ..
            } => Some(field),
            _ => None,
        }
    }

    /// Returns the model that the request names, if that is the reason.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::UnknownModel { model, .. } => Some(model),
            Self::ModelDenied { model, .. } => Some(model.as_str()),
            _ => None,
        }
    }

    /// Returns the credits that the account has left, if they are the reason.
    pub(crate) const fn left(&self) -> Option<Credits> {
        match self {
            Self::CreditsUsedUp { left, .. }
            | Self::CreditsOnHold { left, .. }
            | Self::Budget { left, .. } => Some(*left),
            _ => None,
        }
    }

    /// Returns the limit that was reached, if it is one of a part or of a day: the part, the time
    /// that it is for, and the amount.
    pub(crate) fn budget(&self) -> Option<(Option<&Part>, Span, Credits)> {
        match self {
            Self::Budget { part, span, limit, .. } => Some((part.as_ref(), *span, *limit)),
            _ => None,
        }
    }
}

impl Rejection {
    /// Returns the denial of a request that cannot ask for credits.
    pub(crate) fn of_admission(error: AdmissionError, context: &BillingContext) -> Self {
        match error {
            AdmissionError::BeyondRate(wait) => Self::beyond_rate(wait, context),
            error => error.into(),
        }
    }

    /// Returns the denial of a request beside which as many run on all nodes as may.
    pub(crate) fn too_many_running(context: &BillingContext) -> Self {
        let limit = context.plan.want.most_running;
        limit.map_or(Self::Busy, |limit| Self::TooManyRunning { limit })
    }

    /// Returns the denial of a request for which there is no permit for some time.
    pub(crate) fn beyond_rate(retry_after: Duration, context: &BillingContext) -> Self {
        match context.plan.tier.requests {
            Some(quota) => {
                let hint = context.plan.tier.hint.as_deref().map(Into::into);
                Self::RequestRate { retry_after, quota, hint }
            }
            None => Self::Busy,
        }
    }
}

impl From<AdmissionError> for Rejection {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::BeyondRate(_) | AdmissionError::TooManyAccounts => Self::Busy,
            AdmissionError::ShuttingDown => Self::ShuttingDown,
            AdmissionError::TooManyRunning(limit) => Self::TooManyRunning { limit },
        }
    }
}
