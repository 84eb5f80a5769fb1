//! The calls of the ledger that are under way: at most one of a lease, and of all leases as many as
//! the [`Breaker`] allows.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::{
    future::FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::Instant;

use super::{breaker::Breaker, entry::AccountEntry};
use crate::{
    clock::until,
    ledger::{Answer, LeaseId, Ledger, LedgerError, Renewal},
    observe,
};

/// The calls that are under way.
pub(super) struct Calls {
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    breaker: Breaker,
    /// Number of calls that a request waits for.
    awaited: usize,
    /// The ledger was reported as away.
    is_away: bool,
}

/// A call that was answered, or given up.
pub(super) struct Landed {
    pub(super) entry: Arc<AccountEntry>,
    pub(super) lease: LeaseId,
    pub(super) seq: u64,
    pub(super) answer: Result<Answer, LedgerError>,
    is_awaited: bool,
    took: Duration,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self {
            in_flight: FuturesUnordered::new(),
            breaker: Breaker::new(),
            awaited: 0,
            is_away: false,
        }
    }

    /// Forgets the calls that are under way: nobody reads their answers.
    pub(super) fn abandon(&mut self) {
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

    /// `true` if another call may be made.
    pub(super) fn are_allowed(&self, now: Duration) -> bool {
        self.breaker.allows(self.in_flight.len(), now)
    }

    /// `true` if the ledger does not answer: no request needs to wait to learn that.
    pub(super) const fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Returns the moment of the next try while the ledger does not answer and no call is under
    /// way.
    pub(super) fn next_try(&self) -> Option<Duration> {
        self.breaker.next_try().filter(|_| self.in_flight.is_empty())
    }

    /// Sends a renewal. `is_awaited` if a request waits for it.
    pub(super) fn send(
        &mut self,
        ledger: Arc<dyn Ledger>,
        timeout: Duration,
        entry: Arc<AccountEntry>,
        renewal: Renewal,
        is_awaited: bool,
    ) {
        self.awaited += usize::from(is_awaited);
        self.in_flight.push(Box::pin(async move {
            let sent_at = Instant::now();
            let renewing = AssertUnwindSafe(async {
                ledger.renew(&entry.account, entry.period, &renewal, timeout).await
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
    pub(super) fn count(&mut self, landed: &Landed, now: Duration) {
        self.awaited -= usize::from(landed.is_awaited);
        let outcome =
            landed.answer.as_ref().map_or_else(LedgerError::label, |answer| answer.outcome.label());
        observe::renewed(outcome, landed.took);
        if landed.is_outage() {
            self.breaker.failed(landed.entry.id, now);
        } else {
            // It answers, even if it cannot serve this account.
            self.breaker.answered();
        }
        let is_silent = self.breaker.is_silent();
        if std::mem::replace(&mut self.is_away, is_silent) != is_silent {
            observe::ledger_away(is_silent);
        }
    }
}

impl Landed {
    /// `true` if the ledger did not answer.
    pub(super) fn is_outage(&self) -> bool {
        matches!(&self.answer, Err(error) if error.is_outage())
    }
}
