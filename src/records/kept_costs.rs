//! Records as costs of requests in the ledger, from which their payers can read them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};
use crate::{
    Account,
    ledger::{Ledger, RequestCost},
};

/// The most calls of the ledger at once.
const MAX_CALLS: usize = 16;

/// [Sink](RecordSink) that keeps the costs of requests in the ledger: one call for each account of
/// a batch.
#[derive(Debug)]
pub(crate) struct KeptCosts {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) keep_for: Duration,
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
                    kept.map_err(|error| match error.is_outage() {
                        true => SinkError::Unavailable(error.to_string()),
                        false => SinkError::Refused(error.to_string()),
                    })?;
                }
            }
            Ok(())
        })
    }

    fn name(&self) -> String {
        "costs of requests, in the ledger".to_owned()
    }
}
