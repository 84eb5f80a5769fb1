//! Records as costs of requests in the ledger, from which their payers can read them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};
use crate::{
    Account,
    ledger::{Ledger, LedgerError, RequestCost},
};

/// The most errors that are not an outage after which the same records are sent again.
const MAX_FAILURES: u32 = 5;

/// The most calls of the ledger at once.
const MAX_CALLS: usize = 16;

/// [Sink](RecordSink) that keeps the costs of requests in the ledger: one call for each account of
/// a batch.
#[derive(Debug)]
pub(crate) struct KeptCosts {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) keep_for: Duration,
    /// The number of errors one after the other that were not an outage.
    failures: AtomicU32,
}

impl KeptCosts {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, keep_for: Duration) -> Self {
        Self { ledger, keep_for, failures: AtomicU32::new(0) }
    }

    /// An error of one account may be over soon, and is not to hold up all others for good.
    fn failed(&self, error: &LedgerError) -> SinkError {
        let is_over_soon = error.is_outage()
            || (matches!(error, LedgerError::Failed { .. })
                && self.failures.fetch_add(1, Ordering::Relaxed) < MAX_FAILURES);
        match is_over_soon {
            true => SinkError::Unavailable(error.to_string()),
            false => SinkError::Refused(error.to_string()),
        }
    }
}

impl RecordSink for KeptCosts {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(async move {
            let mut accounts: HashMap<&Account, Vec<RequestCost>> = HashMap::new();
            for UsageRecord { id, service_id, account, cost, .. } in records.iter().map(|of| &**of)
            {
                let costs = accounts.entry(account).or_default();
                // The client may have seen either.
                for id in service_id.iter().chain([id]) {
                    costs.push(RequestCost { id: id.clone(), cost: *cost });
                }
            }
            let accounts: Vec<_> = accounts.into_iter().collect();
            for accounts in accounts.chunks(MAX_CALLS) {
                let keep = accounts
                    .iter()
                    .map(|(account, costs)| self.ledger.keep_costs(account, costs, self.keep_for));
                for kept in join_all(keep).await {
                    kept.map_err(|error| self.failed(&error))?;
                }
            }
            self.failures.store(0, Ordering::Relaxed);
            Ok(())
        })
    }

    fn name(&self) -> String {
        "costs of requests, in the ledger".to_owned()
    }
}
