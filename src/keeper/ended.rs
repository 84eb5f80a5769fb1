//! A request that ended, and the event and the record that say so.

use std::time::Duration;

use crate::{
    Credits,
    clock::Now,
    lease::Lease,
    ledger::{Standing, Usage},
    metering::{BillingContext, End, FinishedRequest, PlanContext, RunningRequest},
    observe::{self, MeteredRequest},
    records::UsageRecord,
};

use super::{entry::AccountEntry, table::AccountTable};

/// A request that ended, to be reported once its account's lock is released.
pub(super) struct EndedRequest<'a> {
    request: &'a RunningRequest,
    /// The usage that it was billed; `None` if it never began or is not billed.
    billed: Option<Usage>,
    /// The credits that the account has left, as far as this node knows.
    left: Credits,
}

/// The answer to who ended a request.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The usage that it was billed; `None` if it never began or is not billed.
    pub(crate) billed: Option<Usage>,
    /// `Some` if it was cut off, or is in shadow mode.
    pub(crate) cut: Option<Box<CutRequest>>,
}

/// A request that was cut off, or would have been but for shadow mode.
#[derive(Debug)]
pub(crate) struct CutRequest {
    pub(crate) request: RunningRequest,
    /// The account's standing, as far as this node knows.
    pub(crate) standing: Standing,
}

impl CutRequest {
    /// `true` if that is said of a request.
    pub(super) fn is_said_of(request: &RunningRequest) -> bool {
        let is_cut_off = request.finished().is_some_and(|finished| finished.end == End::CutOff);
        is_cut_off || request.is_shadow()
    }
}

impl<'a> EndedRequest<'a> {
    pub(super) fn new(request: &'a RunningRequest, billed: Option<Usage>, left: Credits) -> Self {
        Self { request, billed, left }
    }

    /// Emits the event of the request, and queues its record, if its service was called.
    pub(super) fn observe(&self, table: &AccountTable, now: Now) {
        let (Some(finished), Some(_)) = (self.request.finished(), self.request.age(now.compute))
        else {
            return;
        };
        self.emit(finished, now);
        if !table.records.is_empty() && !self.request.is_shut_down() {
            table.records.push(record_of(self.request, self.billed, finished, table, now));
        }
    }

    fn emit(&self, finished: FinishedRequest, now: Now) {
        let RunningRequest { context, origin, .. } = self.request;
        let BillingContext { account, part, subject, plan, .. } = &**context;
        let PlanContext { tier, workload, .. } = &**plan;
        let (compute, cost) = used(self.request, self.billed, now);
        let status = finished.status.map(|status| status.as_u16());
        let forgiven = self.billed.is_none().then(|| origin.path().unwrap_or_default());
        origin.in_scope(|span| {
            let ended = MeteredRequest {
                id: &origin.id,
                account,
                part: part.as_ref(),
                subject,
                tier: &tier.name,
                model: &workload.model,
                hardware: &workload.hardware,
                feature: &workload.feature,
                compute,
                overshoot: &|| compute.saturating_sub(self.request.runway_of_slice()),
                cost,
                left: self.left,
                status,
                end: (&finished.end, finished.end.as_str()),
                forgiven,
            };
            observe::ended(&ended, span);
        });
    }
}

/// Records the requests of an account that were ended while they ran, because the meter is shut
/// down: their owners end them too late for that.
pub(super) fn record_running(table: &AccountTable, entry: &AccountEntry) {
    if table.records.is_empty() {
        return;
    }
    let now = table.time.now();
    let end = FinishedRequest { status: None, grpc_status: None, end: End::ShutDown };
    let mut state = entry.lock();
    let ended = state.leases_mut().flat_map(Lease::unclaimed_mut).filter_map(|(run, billed)| {
        let is_new = run.finished().is_none() && run.age(now.compute).is_some();
        (is_new && run.shut_down()).then(|| record_of(run, billed, end, table, now))
    });
    let records: Vec<_> = ended.collect();
    drop(state);
    records.into_iter().for_each(|record| table.records.push(record));
}

/// Makes the record of a request.
fn record_of(
    request: &RunningRequest,
    billed: Option<Usage>,
    finished: FinishedRequest,
    table: &AccountTable,
    now: Now,
) -> UsageRecord {
    let BillingContext { account, part, subject, plan, .. } = &*request.context;
    let PlanContext { tier, workload, .. } = &**plan;
    let (compute, cost) = used(request, billed, now);
    let age = request.age(now.compute).unwrap_or_default();
    UsageRecord {
        id: request.origin.id.clone(),
        service_id: request.service_id().cloned(),
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
        status: finished.status.map(|status| status.as_u16()),
        grpc_status: finished.grpc_status,
        forgiven: billed.is_none(),
    }
}

/// Returns the compute time and the cost of a request: of one that was not billed, the time that
/// would have been.
fn used(request: &RunningRequest, billed: Option<Usage>, now: Now) -> (Duration, Credits) {
    match billed {
        Some(usage) => (Duration::from_micros(usage.compute_micros), usage.cost),
        None => (request.compute_so_far(now.compute), Credits::ZERO),
    }
}
