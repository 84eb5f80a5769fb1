//! Tells the host of thresholds that accounts reached: once, whatever the number of nodes.
//!
//! Every node sees in the ledger's answers how its accounts stand. The first that sees a threshold
//! reached claims it in the ledger, and then calls the host's hook. A claim that was not answered
//! is made again under the same name, which the ledger grants again. So the hook is called once,
//! but for a node that ends between the two, and for a failover of the ledger that forgets a claim.

use std::{
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    future::FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::timeout;

use super::desk::{Beside, Cell};
use crate::{
    Credits, Threshold, ThresholdReached,
    ledger::{LeaseId, Ledger, LedgerError, Standing},
};

/// How many claims are under way at once.
const MOST_CLAIMS: usize = 16;

/// How long a claim may take.
const WITHIN: Duration = Duration::from_secs(5);

/// How long after one that failed a claim is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the host wants to hear of, and how.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) thresholds: Arc<[Threshold]>,
    pub(crate) hook: Arc<dyn Fn(ThresholdReached) + Send + Sync>,
}

/// Claims thresholds and tells the host. Each threshold of an account that is in use is here at
/// most once, so memory is bounded by their number.
pub(super) struct Herald<B: Beside> {
    watch: Watch,
    queue: VecDeque<Claim<B>>,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = Answered<B>> + Send>>>,
}

pub(super) struct Claim<B: Beside> {
    cell: Arc<Cell<B>>,
    threshold: Threshold,
    used: Credits,
    of: Credits,
    /// The same however often it is made.
    by: LeaseId,
    not_before: Duration,
}

/// A claim, and what the ledger said.
pub(super) type Answered<B> = (Claim<B>, Result<bool, LedgerError>);

impl<B> Herald<B>
where
    B: Beside + Send + Sync + 'static,
{
    pub(super) fn new(watch: Watch) -> Self {
        Self { watch, queue: VecDeque::new(), under_way: FuturesUnordered::new() }
    }

    /// Looks at how an account stands. `told` has a bit for each threshold that was seen before.
    pub(super) fn look(
        &mut self,
        cell: &Arc<Cell<B>>,
        told: &mut u32,
        standing: &Standing,
        now: Duration,
    ) {
        for (bit, &threshold) in self.watch.thresholds.iter().enumerate() {
            let bit = 1 << bit;
            if *told & bit == 0
                // What an ended month may use shrinks with the purchased credits that later ones
                // take.
                && !(standing.ended && matches!(threshold, Threshold::Limit(_)))
                && let Some(of) = threshold.reached(standing)
                // Where there is no randomness, the next answer is as good.
                && let Ok(by) = LeaseId::random()
            {
                *told |= bit;
                self.queue.push_back(Claim {
                    cell: Arc::clone(cell),
                    threshold,
                    used: standing.used,
                    of,
                    by,
                    not_before: now,
                });
            }
        }
    }

    /// Makes the claims whose time has come; answers when to come again.
    pub(super) fn claim(&mut self, ledger: &Arc<dyn Ledger>, now: Duration) -> Option<Duration> {
        while self.under_way.len() < MOST_CLAIMS
            && self.queue.front().is_some_and(|claim| claim.not_before <= now)
            && let Some(claim) = self.queue.pop_front()
        {
            let Some(name) = claim.threshold.name() else { continue };
            let ledger = Arc::clone(ledger);
            self.under_way.push(Box::pin(async move {
                let claiming = async {
                    ledger.claim(&claim.cell.account, claim.cell.period, name, claim.by).await
                };
                let answer = match timeout(WITHIN, AssertUnwindSafe(claiming).catch_unwind()).await
                {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(LedgerError::Unreachable {
                        reason: "the ledger's code panicked".into(),
                        source: None,
                    }),
                    Err(_) => Err(LedgerError::Deadline(WITHIN)),
                };
                (claim, answer)
            }));
        }
        self.queue
            .front()
            .filter(|_| self.under_way.len() < MOST_CLAIMS)
            .map(|claim| claim.not_before)
    }

    /// The next claim that was answered; never, where none is under way.
    pub(super) async fn answered(&mut self) -> Answered<B> {
        match self.under_way.next().await {
            Some(answered) => answered,
            None => std::future::pending().await,
        }
    }

    /// Tells the host, or asks again.
    pub(super) fn land(&mut self, (claim, answer): Answered<B>, now: Duration) {
        let Claim { cell, threshold, used, of, .. } = &claim;
        match answer {
            Ok(true) => {
                let reached = ThresholdReached {
                    account: cell.account.clone(),
                    period: cell.period,
                    threshold: *threshold,
                    used: *used,
                    of: *of,
                };
                // What the host does wrong must not stop what settles.
                if catch_unwind(AssertUnwindSafe(|| (self.watch.hook)(reached))).is_err() {
                    tracing::error!(target: "tower_credits", account = %cell.account, %threshold, "the hook for thresholds panicked");
                }
            }
            Ok(false) => {}
            Err(error @ LedgerError::Refused(_)) => {
                tracing::error!(target: "tower_credits", account = %cell.account, %threshold, %error, "nobody is told that a threshold was reached");
            }
            // The next one of this account sees it again.
            Err(error) if cell.is_gone() => {
                tracing::error!(target: "tower_credits", account = %cell.account, %threshold, %error, "a threshold could not be claimed in time");
            }
            Err(error) => {
                tracing::warn!(target: "tower_credits", account = %cell.account, %threshold, %error, "a threshold could not be claimed; it is tried again");
                self.queue.push_back(Claim { not_before: now + AGAIN, ..claim });
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }
}
