//! Denials of requests whose caller, path or model is not known.

use std::sync::Arc;

use super::credit_meter::{CreditMeter, Inner};
use crate::{
    Plan, Rejection,
    identify::{IdentifyError, RequestHead},
    observe,
};

/// A path that is not in the plan, or whose model is not.
pub(super) struct Unlisted {
    /// The path's beginning, and the model if the body named it: each is logged once.
    logged_as: String,
    /// `Some` if the path has a route to models: the model, if the request names one.
    model: Option<Option<Arc<str>>>,
    /// Advice to the operator, unless that was logged before.
    advice: Option<String>,
}

impl Inner {
    /// Logs once how the path or the model can be put into the plan: only for the operator, and
    /// only what known callers asked for.
    pub(super) fn not_in_plan(&self, plan: &Plan, unlisted: Unlisted) -> Rejection {
        if let Some(advice) = &unlisted.advice {
            self.log_unknown(&unlisted.logged_as, advice);
        }
        let offered = || Arc::clone(plan.models());
        match unlisted.model {
            None => Rejection::NotInPlan,
            Some(None) => Rejection::ModelNotNamed { offered: offered() },
            Some(Some(model)) => Rejection::UnknownModel { model, offered: offered() },
        }
    }
}

impl CreditMeter {
    /// Returns the denial of a request whose caller was not identified. It says where a token can
    /// be sent.
    pub(crate) fn not_identified(&self, error: IdentifyError) -> Rejection {
        match error.into() {
            Rejection::Unauthenticated { invalid, .. } => Rejection::Unauthenticated {
                invalid,
                api_key_header: self.inner.identify.api_key_header().cloned(),
            },
            other => other,
        }
    }

    /// A path that the plan does not have or, if `model` is `Some`, a path whose model it does not
    /// have.
    pub(super) fn unlisted(
        &self,
        head: RequestHead<'_>,
        plan: &Plan,
        model: Option<Option<Arc<str>>>,
    ) -> Unlisted {
        let path = observe::shortened(head.uri.path());
        let explain = || plan.explain_unknown(path, head.uri.query(), head.headers);
        let advice = self.inner.may_log(path).then(explain);
        Unlisted { logged_as: path.to_owned(), model, advice }
    }

    /// A model that the plan does not have, named in a body. Each is logged once.
    pub(super) fn unlisted_in_body(
        &self,
        head: RequestHead<'_>,
        model: Option<Arc<str>>,
    ) -> Unlisted {
        let path = observe::shortened(head.uri.path());
        let name = observe::shortened(model.as_deref().unwrap_or_default());
        let logged_as = format!("{path} {name}");
        let explain = || Plan::explain_unknown_model(path, name);
        let advice = self.inner.may_log(&logged_as).then(explain);
        Unlisted { logged_as, model: Some(model), advice }
    }
}

impl From<IdentifyError> for Rejection {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Missing => {
                Self::Unauthenticated { invalid: false, api_key_header: None }
            }
            IdentifyError::Invalid => Self::Unauthenticated { invalid: true, api_key_header: None },
            IdentifyError::NotAMember => Self::NotAMember,
            IdentifyError::CrossOrigin => Self::CrossOrigin,
            IdentifyError::Unavailable(error) => {
                tracing::warn!(target: "tower_credits", %error, "credentials cannot be checked");
                Self::CredentialsUnchecked
            }
        }
    }
}
