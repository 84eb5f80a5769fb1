//! The policy on which requests are billed: the plan's `unbilled`, and the host's code. A request
//! that either of them forgives is not billed.

use std::{fmt, sync::Arc};

use http::response::Parts;

use crate::{
    contained::contained,
    metering::{End, FinishedRequest},
    plan::{Ending, Unbilled},
    rejection::{grpc_status_of, is_grpc_message},
};

/// The policy for one request, as far as it is not decided yet.
#[derive(Clone, Debug)]
pub(crate) struct BillPolicy {
    host: Option<HostPolicy>,
    plan: Option<Arc<Unbilled>>,
}

/// The host's policy.
#[derive(Clone)]
pub(crate) enum HostPolicy {
    /// Decides once a request has ended.
    AtEnd(Arc<BillIf>),
    /// Decides by the head of its response; by `None` if there was none.
    AtHead(Arc<BillIfHead>),
}

pub(super) type BillIf = dyn Fn(&FinishedRequest) -> bool + Send + Sync;
pub(super) type BillIfHead = dyn Fn(Option<&Parts>) -> bool + Send + Sync;

impl BillPolicy {
    /// Returns the policy for a request; `None` if it is billed in any case.
    pub(super) fn new(
        host: Option<&HostPolicy>,
        plan: Option<&Arc<Unbilled>>,
    ) -> Option<Box<Self>> {
        let is_any = host.is_some() || plan.is_some();
        is_any.then(|| Box::new(Self { host: host.cloned(), plan: plan.cloned() }))
    }

    /// Decides by the head of the response; `None` if its end decides.
    pub(super) fn decide_at_head(&mut self, head: &Parts) -> Option<bool> {
        if let Some(HostPolicy::AtHead(bill_if)) =
            self.host.take_if(|host| matches!(host, HostPolicy::AtHead(_)))
            && !is_billed(|| bill_if(Some(head)))
        {
            return Some(false);
        }
        let is_grpc = is_grpc_message(&head.headers);
        if let Some(unbilled) = &self.plan {
            let code = if is_grpc { grpc_status_of(&head.headers) } else { None };
            if unbilled.has_status(head.status.as_u16())
                || code.is_some_and(|code| unbilled.has_grpc_code(code))
            {
                return Some(false);
            }
            if !unbilled.depends_on_end(is_grpc) {
                self.plan = None;
            }
        }
        (self.host.is_none() && self.plan.is_none()).then_some(true)
    }

    /// Decides for a request that ended, and that was not decided at its head.
    pub(super) fn decide_at_end(&self, finished: &FinishedRequest) -> bool {
        if let Some(unbilled) = &self.plan {
            let ending = match finished.end {
                End::Failed => Ending::Failed,
                End::Dropped => Ending::Dropped,
                End::Stalled => Ending::Stalled,
                End::Complete | End::CutOff | End::ShutDown => Ending::Other,
            };
            let code = finished.grpc_status;
            if unbilled.has_ending(ending) || code.is_some_and(|code| unbilled.has_grpc_code(code))
            {
                return false;
            }
        }
        match &self.host {
            None => true,
            Some(HostPolicy::AtEnd(bill_if)) => is_billed(|| bill_if(finished)),
            Some(HostPolicy::AtHead(bill_if)) => is_billed(|| bill_if(None)),
        }
    }
}

/// Returns the host's decision, or `true` if its code panics: in a drop while a handler panics,
/// too, where a second panic would abort the process.
fn is_billed(bill_if: impl FnOnce() -> bool) -> bool {
    contained("`bill_if`", bill_if).unwrap_or(true)
}

impl fmt::Debug for HostPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtEnd(_) => "AtEnd",
            Self::AtHead(_) => "AtHead",
        })
    }
}
