//! Requests that shadow mode lets pass: their events, and their sums.

use std::sync::Arc;

use super::{
    credit_meter::CreditMeter,
    denied::{Denied, Whose},
};
use crate::{
    Rejection,
    clock::Now,
    keeper::CutRequest,
    metering::{Origin, Passed},
    observe,
};

impl CreditMeter {
    /// Reports a request that is admitted only because of shadow mode.
    pub(super) fn would_deny(&self, denied: &Denied, origin: &Origin) {
        let event = denied.event(&origin.id, origin.path().unwrap_or_default());
        origin.in_scope(|_| observe::would_deny(&event));
        self.inner.shadow_denials.count(event.account, event.reason);
    }

    /// Reports a request that ended, and that only shadow mode did not cut off.
    pub(super) fn would_cut_off(&self, ended: &CutRequest, now: Now) {
        let CutRequest { request, standing } = ended;
        let rejection = match request.passed_in_shadow(now.compute) {
            None => return,
            Some(Passed::RequestCap) => Rejection::RequestCap,
            Some(Passed::ClientCap) => Rejection::ClientCap,
            Some(Passed::Credits) => Rejection::of(standing, &request.context),
        };
        let whose = Whose::Request(Arc::clone(&request.context));
        self.would_deny(&Denied { rejection, whose }, &request.origin);
    }
}
