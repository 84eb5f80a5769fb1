//! The policy on which requests are billed: the plan's `unbilled`, and the host's code. A request
//! that either of them forgives is not billed.

use std::{fmt, sync::Arc};

use http::response::Parts;

use crate::{
    contained::contained,
    metering::{End, FinishedRequest},
    plan::{Ending, Unbilled},
    rejection::{grpc_status_of, is_grpc_message, is_grpc_web_message},
};

/// The code of gRPC for a call that ended without one.
const UNKNOWN: u8 = 2;

/// The status of a service that failed without a response.
const INTERNAL_SERVER_ERROR: u16 = 500;

/// The policy for one request, as far as it is not decided yet.
#[derive(Clone, Debug)]
pub(crate) struct BillPolicy {
    host: Option<HostPolicy>,
    plan: Option<Arc<Unbilled>>,
    /// The response is one of gRPC.
    is_grpc: bool,
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
        is_any.then(|| Box::new(Self { host: host.cloned(), plan: plan.cloned(), is_grpc: false }))
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
        self.is_grpc = is_grpc;
        if let Some(unbilled) = &self.plan {
            let has_code = is_grpc || is_grpc_web_message(&head.headers);
            let code = if has_code { grpc_status_of(&head.headers) } else { None };
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

    /// Decides for a connection that is no longer HTTP: it has no outcome that the plan knows.
    /// `None` if its end decides.
    pub(super) fn decide_at_upgrade(&mut self) -> Option<bool> {
        self.plan = None;
        self.host.is_none().then_some(true)
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
            // A stream of gRPC that ends without a code is UNKNOWN to its client.
            let is_unknown = self.is_grpc && finished.end == End::Complete;
            let code = finished.grpc_status.or(is_unknown.then_some(UNKNOWN));
            // A service that fails without a response is a server's error.
            let failed = finished.end == End::Failed && finished.status.is_none();
            if unbilled.has_ending(ending)
                || code.is_some_and(|code| unbilled.has_grpc_code(code))
                || (failed && unbilled.has_status(INTERNAL_SERVER_ERROR))
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
