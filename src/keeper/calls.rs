//! The calls of the ledger that are under way: at most one of a lease, and of all leases of a
//! server as many as its [`Breaker`](super::breaker::Breaker) allows.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::{
    future::FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::Instant;

use super::{entry::AccountEntry, shards::Shards};
use crate::{
    clock::until,
    ledger::{Answer, LeaseId, Ledger, LedgerError, Renewal},
    observe::{self, LedgerAway},
};

/// The calls that are under way.
pub(super) struct Calls {
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    /// Number of calls that a request waits for.
    awaited: usize,
    ledger_away: LedgerAway,
}

/// A call that was answered, or given up.
pub(super) struct Landed {
    pub(super) entry: Arc<AccountEntry>,
    /// The server behind the ledger that had the account when the call was sent.
    pub(super) shard: u64,
    pub(super) lease: LeaseId,
    pub(super) seq: u64,
    pub(super) answer: Result<Answer, LedgerError>,
    is_awaited: bool,
    took: Duration,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self { in_flight: FuturesUnordered::new(), awaited: 0, ledger_away: LedgerAway::default() }
    }

    /// Forgets the calls that are under way, whose answers nobody reads, and what was known of the
    /// ledger.
    pub(super) fn abandon(&mut self) {
        self.ledger_away.reset();
        self.in_flight = FuturesUnordered::new();
        self.awaited = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// `true` if a request waits for one of them.
    pub(super) const fn are_awaited(&self) -> bool {
        self.awaited > 0
    }

    /// Sends a renewal. `is_awaited` if a request waits for it.
    pub(super) fn send(
        &mut self,
        ledger: Arc<dyn Ledger>,
        timeout: Duration,
        (entry, shard): (Arc<AccountEntry>, u64),
        renewal: Renewal,
        is_awaited: bool,
    ) {
        self.awaited += usize::from(is_awaited);
        self.in_flight.push(Box::pin(async move {
            let sent_at = Instant::now();
            let renewing = AssertUnwindSafe(async {
                ledger.renew(&entry.scope.account, entry.scope.period, &renewal, timeout).await
            })
            .catch_unwind();
            let answer = match until(sent_at + timeout, renewing).await {
                None => Err(LedgerError::Deadline(timeout)),
                Some(Ok(answer)) => answer,
                Some(Err(_)) => Err(LedgerError::Unreachable {
                    reason: "the ledger's code panicked".into(),
                    source: None,
                }),
            };
            Landed {
                entry,
                shard,
                lease: renewal.lease,
                seq: renewal.seq,
                answer,
                is_awaited,
                took: sent_at.elapsed(),
            }
        }));
    }

    /// Returns the next call that lands; `None` if none is under way.
    pub(super) async fn next(&mut self) -> Option<Landed> {
        self.in_flight.next().await
    }

    /// Returns a call that has landed already.
    pub(super) fn next_now(&mut self) -> Option<Landed> {
        self.in_flight.next().now_or_never().flatten()
    }

    /// Takes note of a call that landed.
    pub(super) fn count(&mut self, landed: &Landed, shards: &mut Shards, now: Duration) {
        self.awaited -= usize::from(landed.is_awaited);
        let outcome =
            landed.answer.as_ref().map_or_else(LedgerError::label, |answer| answer.outcome.label());
        observe::renewed(outcome, landed.took);
        shards.get(landed.shard).landed(landed.entry.id, !landed.is_outage(), now);
        self.ledger_away.set(shards.is_one_silent());
    }
}

impl Landed {
    /// `true` if the ledger did not answer.
    pub(super) fn is_outage(&self) -> bool {
        matches!(&self.answer, Err(error) if error.is_outage())
    }
}
