//! A denial, and whose it is: for the operator's log, and for shadow mode.

use std::sync::Arc;

use crate::{Identity, Rejection, RequestId, metering::BillingContext, observe::DeniedRequest};

/// A denied request.
pub(super) struct Denied {
    pub(super) rejection: Rejection,
    pub(super) whose: Whose,
}

/// The knowledge of a denied request.
pub(super) enum Whose {
    /// Its caller is not known.
    Unknown,
    /// Its caller is known, and not what it runs.
    Caller(Arc<Identity>),
    /// Its caller and what it runs are known.
    Request(Arc<BillingContext>),
}

impl Denied {
    /// Returns the event of the denial.
    pub(super) fn event<'a>(&'a self, id: &'a RequestId, path: &'a str) -> DeniedRequest<'a> {
        let Self { rejection, whose } = self;
        let budget = rejection.budget();
        let event = DeniedRequest {
            id,
            reason: rejection.reason(),
            path,
            account: None,
            // The part whose limit it is, or else the caller's.
            part: budget.and_then(|(part, ..)| part),
            subject: None,
            tier: None,
            model: rejection.model(),
            limit: budget.map(|(_, span, limit)| (span.as_str(), limit)),
            left: rejection.left(),
            resets_at: rejection.resets_at(),
        };
        match whose {
            Whose::Unknown => event,
            Whose::Caller(identity) => {
                let Identity { account, part, subject, tier, .. } = &**identity;
                let part = event.part.or(part.as_ref());
                let (account, subject, tier) = (Some(account), Some(subject), Some(tier));
                DeniedRequest { account, part, subject, tier, ..event }
            }
            Whose::Request(context) => {
                let BillingContext { account, part, subject, plan, .. } = &**context;
                let part = event.part.or(part.as_ref());
                let (account, subject) = (Some(account), Some(subject));
                let (tier, model) = (Some(&plan.tier.name), Some(plan.workload.model.as_str()));
                DeniedRequest { account, part, subject, tier, model, ..event }
            }
        }
    }
}
