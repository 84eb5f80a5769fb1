//! A request that ended, and the event and the record that say so.

use std::time::Duration;

use crate::{
    Credits,
    clock::Now,
    ledger::{Standing, Usage},
    metering::{BillingContext, RunningRequest},
    observe::{self, MeteredRequest},
    records::UsageRecord,
};

use super::{entry::AccountLease, table::AccountTable};

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

    /// Emits the event of the request, and queues its record, if its service was called.
    pub(super) fn observe(&self, table: &AccountTable, now: Now) {
        let (Some(finished), Some(age)) = (self.request.finished(), self.request.age(now.compute))
        else {
            return;
        };
        let RunningRequest { context, origin, .. } = &self.request;
        let BillingContext { account, part, subject, tier, workload, .. } = &**context;
        let (compute, cost) = match self.billed {
            Some(usage) => (Duration::from_micros(usage.compute_micros), usage.cost),
            None => (self.request.compute_so_far(now.compute), Credits::ZERO),
        };
        let status = finished.status.map(|status| status.as_u16());
        let forgiven = self.billed.is_none().then(|| origin.path().unwrap_or_default());
        origin.span.in_scope(|| {
            observe::ended(&MeteredRequest {
                id: &origin.id,
                account,
                part: part.as_ref(),
                subject,
                tier: &tier.name,
                model: &workload.model,
                hardware: &workload.hardware,
                feature: &workload.feature,
                compute,
                overshoot: compute.saturating_sub(self.request.runway_of_slice()),
                cost,
                left: self.standing.left(self.unreported),
                status,
                end: (&finished.end, finished.end.as_str()),
                forgiven,
            });
        });
        if table.records.is_empty() {
            return;
        }
        table.records.push(UsageRecord {
            id: origin.id.clone(),
            service_id: self.request.service_id().cloned(),
            account: account.clone(),
            part: part.clone(),
            subject: subject.clone(),
            tier: tier.name.clone(),
            model: workload.model.clone(),
            hardware: workload.hardware.clone(),
            feature: workload.feature.clone(),
            began_at: table.time.unix_time() - age,
            compute,
            cost,
            end: finished.end,
            status,
            grpc_status: finished.grpc_status,
            forgiven: forgiven.is_some(),
        });
    }
}
