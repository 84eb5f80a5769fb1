//! A request that ended, and the event that says so.

use std::time::Duration;

use crate::{
    Credits,
    ledger::{Standing, Usage},
    metering::{BillingContext, RunningRequest},
    observe::{self, MeteredRequest},
};

use super::entry::AccountLease;

/// A request that ended.
#[derive(Debug)]
pub(crate) struct EndedRequest {
    pub(crate) request: RunningRequest,
    /// The usage that it was billed; `None` if it never began or is not billed.
    pub(crate) billed: Option<Usage>,
    /// The account's standing when the ledger last answered.
    pub(crate) standing: Standing,
    /// Credits spent here that are not in `standing`.
    pub(crate) unreported: Credits,
}

impl EndedRequest {
    pub(super) fn new(
        request: RunningRequest,
        billed: Option<Usage>,
        lease: &AccountLease,
    ) -> Self {
        Self { request, billed, standing: lease.standing(), unreported: lease.unreported() }
    }

    /// Emits the event of the request, if it was billed.
    pub(crate) fn observe(&self) {
        let (Some(usage), Some(finished)) = (self.billed, self.request.finished()) else { return };
        let BillingContext { account, part, subject, tier, workload, .. } = &*self.request.context;
        let compute = Duration::from_micros(usage.compute_micros);
        observe::ended(&MeteredRequest {
            account,
            part: part.as_ref(),
            subject,
            tier: &tier.name,
            model: &workload.model,
            hardware: &workload.hardware,
            feature: &workload.feature,
            compute,
            overshoot: compute.saturating_sub(self.request.runway_of_slice()),
            cost: usage.cost,
            left: self.standing.left(self.unreported),
            status: finished.status.map(|status| status.as_u16()),
            end: (&finished.end, finished.end.as_str()),
        });
    }
}
