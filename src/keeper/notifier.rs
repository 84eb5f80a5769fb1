//! Notifies the host of thresholds that accounts reached: once, whatever the number of nodes.
//!
//! Every node sees the standing of its accounts in the ledger's answers. The first node that sees a
//! threshold reached claims it in the ledger, and then calls the host's hook. A claim that was not
//! answered is repeated under the same name, which the ledger grants again. So the hook is called
//! once, with two exceptions: if a node dies between the claim and the call, the hook is never
//! called; and if a failover of the ledger forgets a claim, another node may call it again.

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

use super::entry::{AccountEntry, ThresholdsSeen};
use crate::{
    Credits, Part, Threshold, ThresholdReached,
    ledger::{LeaseId, Ledger, LedgerError, MAX_LEASE_PARTS, MonthStanding, Standing},
    terms::PartTerms,
    threshold::ThresholdHook,
};

/// The most claims that are under way at once.
const MAX_CLAIMS: usize = 16;

/// The time that a claim may take.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between a claim that failed and the next try.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

/// Claims thresholds and notifies the host. Each threshold of an account that is in use is here at
/// most once, so memory is bounded by their number.
pub(super) struct ThresholdNotifier {
    hook: ThresholdHook,
    queue: VecDeque<Claim>,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
}

pub(super) struct Claim {
    entry: Arc<AccountEntry>,
    threshold: Threshold,
    /// The part that reached it; `None` if the account did.
    part: Option<Part>,
    used: Credits,
    of: Credits,
    /// Its name: the same in each repetition.
    by: LeaseId,
    not_before: Duration,
}

/// A claim, and the ledger's answer.
pub(super) type Answered = (Claim, Result<bool, LedgerError>);

impl ThresholdNotifier {
    pub(super) fn new(hook: ThresholdHook) -> Self {
        Self { hook, queue: VecDeque::new(), under_way: FuturesUnordered::new() }
    }

    /// Checks an account's standing, and those of the parts that its entry draws on. `seen` has a
    /// bit for each threshold that was seen before. Returns what is still to be spent until the
    /// next threshold.
    pub(super) fn check(
        &mut self,
        entry: &Arc<AccountEntry>,
        seen: &mut ThresholdsSeen,
        (standing, months): (&Standing, &[Option<MonthStanding>; MAX_LEASE_PARTS]),
        parts: &[PartTerms],
        now: Duration,
    ) -> Credits {
        let mut next = Credits::MAX;
        let thresholds = Arc::clone(&self.hook.thresholds);
        if seen.limit.replace(standing.limit) != Some(standing.limit) {
            for (bit, _) in thresholds.iter().enumerate().filter(|(_, of)| of.can_come_again()) {
                seen.account &= !(1 << bit);
            }
        }
        for (bit, &threshold) in thresholds.iter().enumerate() {
            next = next.min(threshold.distance(standing));
            // The limit of a month that has ended shrinks with the purchased credits that later
            // months draw.
            if !(standing.ended && matches!(threshold, Threshold::Limit(_) | Threshold::Left(_)))
                && let Some(of) = threshold.reached(standing)
            {
                self.note(entry, &mut seen.account, bit, (threshold, None, standing.used, of), now);
            }
            let parts = parts.iter().zip(months).zip(&mut seen.parts);
            for ((PartTerms { part, .. }, month), seen) in parts {
                let Some(month) = month.as_ref().filter(|_| part.models().is_none()) else {
                    continue;
                };
                next = next.min(threshold.distance_of_part(month));
                if let Some(of) = threshold.reached_by_part(month) {
                    let reached = (threshold, Some(part.clone()), month.used, of);
                    self.note(entry, seen, bit, reached, now);
                }
            }
        }
        next
    }

    /// Queues the claim of a threshold, unless it was seen before.
    fn note(
        &mut self,
        entry: &Arc<AccountEntry>,
        seen: &mut u32,
        bit: usize,
        (threshold, part, used, of): (Threshold, Option<Part>, Credits, Credits),
        now: Duration,
    ) {
        // Without randomness, the next answer is tried.
        if *seen & (1 << bit) == 0
            && let Ok(by) = LeaseId::random()
        {
            *seen |= 1 << bit;
            let entry = Arc::clone(entry);
            self.queue.push_back(Claim { entry, threshold, part, used, of, by, not_before: now });
        }
    }

    /// Makes the claims that are due. Returns when the next one is.
    pub(super) fn claim(&mut self, ledger: &Arc<dyn Ledger>, now: Duration) -> Option<Duration> {
        while self.under_way.len() < MAX_CLAIMS
            && self.queue.front().is_some_and(|claim| claim.not_before <= now)
            && let Some(claim) = self.queue.pop_front()
        {
            let Some(name) = claim.threshold.name(claim.part.as_ref(), claim.of) else { continue };
            let ledger = Arc::clone(ledger);
            self.under_way.push(Box::pin(async move {
                let claiming = async {
                    ledger
                        .claim(&claim.entry.scope.account, claim.entry.scope.period, name, claim.by)
                        .await
                };
                let answer =
                    match timeout(CLAIM_TIMEOUT, AssertUnwindSafe(claiming).catch_unwind()).await {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(_)) => Err(LedgerError::Unreachable {
                            reason: "the ledger's code panicked".into(),
                            source: None,
                        }),
                        Err(_) => Err(LedgerError::Deadline(CLAIM_TIMEOUT)),
                    };
                (claim, answer)
            }));
        }
        self.queue
            .front()
            .filter(|_| self.under_way.len() < MAX_CLAIMS)
            .map(|claim| claim.not_before)
    }

    /// Returns the next claim that was answered; never, if none is under way.
    pub(super) async fn answered(&mut self) -> Answered {
        match self.under_way.next().await {
            Some(answered) => answered,
            None => std::future::pending().await,
        }
    }

    /// Calls the hook, or repeats the claim.
    pub(super) fn land(&mut self, (claim, answer): Answered, now: Duration) {
        let Claim { entry, threshold, part, used, of, .. } = &claim;
        match answer {
            Ok(true) => {
                let reached = ThresholdReached {
                    account: entry.scope.account.clone(),
                    part: part.clone(),
                    period: entry.scope.period,
                    threshold: *threshold,
                    used: *used,
                    of: *of,
                };
                // A fault of the host's code must not stop the worker.
                if catch_unwind(AssertUnwindSafe(|| (self.hook.call)(reached))).is_err() {
                    tracing::error!(
                        target: "tower_credits", account = %entry.scope.account, %threshold,
                        "the hook for thresholds panicked"
                    );
                }
            }
            Ok(false) => {}
            Err(error @ LedgerError::Refused(_)) => {
                tracing::error!(
                    target: "tower_credits", account = %entry.scope.account, %threshold, %error,
                    "the hook is not called for a threshold that was reached"
                );
            }
            // The account's next entry sees it again.
            Err(error) if entry.is_removed() => {
                tracing::error!(
                    target: "tower_credits", account = %entry.scope.account, %threshold, %error,
                    "a threshold could not be claimed in time"
                );
            }
            Err(error) => {
                tracing::warn!(
                    target: "tower_credits", account = %entry.scope.account, %threshold, %error,
                    "a threshold could not be claimed; it is tried again"
                );
                self.queue.push_back(Claim { not_before: now + CLAIM_PAUSE, ..claim });
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }
}
