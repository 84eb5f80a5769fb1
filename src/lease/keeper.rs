//! The handle of the background task that renews leases.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::timeout;

use super::{
    desk::{Beside, CLOSING, Desk, GRACE, OPEN, ORPHANED, Shared},
    herald::Watch,
    lease::{Lease, Served},
    rules::LeaseRules,
    seat::tell,
    worker::Worker,
};
use crate::{Account, Credits, Period, clock::Time, ledger::Ledger};

/// The handle of a [`Worker`]. When the last one is dropped, the worker settles what is left and
/// ends.
pub(crate) struct Keeper<B: Beside> {
    shared: Arc<Shared<B>>,
}

/// What a shutdown settled, and what it could not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// All that this node settled in its life.
    pub settled: Credits,
    /// What the ledger did not acknowledge: it may or may not have been debited.
    pub unsettled: Vec<Unsettled>,
}

/// What one account could not be debited for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsettled {
    /// Whose.
    pub account: Account,
    /// Of which month.
    pub period: Period,
    /// How much.
    pub amount: Credits,
}

impl<B> Keeper<B>
where
    B: Beside + Send + Sync + 'static,
{
    /// A keeper, and the desk that it serves; nothing is spawned.
    pub(crate) fn pair(
        ledger: Arc<dyn Ledger>,
        time: Time,
        rules: LeaseRules,
        most_accounts: usize,
        watch: Option<Watch>,
    ) -> (Self, Desk<B>) {
        let desk = Desk::new(ledger, time, rules, most_accounts, watch);
        (Self { shared: Arc::clone(&desk.0) }, desk)
    }

    /// The task that does the work, if nobody has it: there was none yet, or it ended with its
    /// runtime.
    pub(crate) fn worker(&self) -> Option<Worker<B>> {
        Worker::take_up(Arc::clone(&self.shared))
    }

    /// Says if somebody has the task, or it is done.
    pub(crate) fn has_worker(&self) -> bool {
        self.shared.has_worker()
    }

    /// Admits nobody any more, ends what runs at what it used so far, and waits until all is
    /// settled, five seconds at most.
    pub(crate) async fn shutdown(&self) -> Settlement {
        let mut done = self.shared.done.subscribe();
        self.shared.phase.store(CLOSING, Ordering::Release);
        self.shared.wake.notify_one();
        // Where the worker is not run, its part is missing below.
        let _ = timeout(GRACE + self.shared.rules.deadline, done.wait_for(|done| *done)).await;

        let mut unsettled = Vec::new();
        for cell in
            self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect::<Vec<_>>()
        {
            let mut inner = cell.lock();
            let settled = inner.leases_mut().flat_map(Lease::give_up).collect();
            let amount = inner
                .leases()
                .fold(Credits::ZERO, |sum, lease| sum.saturating_add(lease.unreported()));
            if !amount.is_zero() {
                unsettled.push(Unsettled {
                    account: cell.account.clone(),
                    period: cell.period,
                    amount,
                });
            }
            drop(inner);
            tell(&self.shared, &cell, Served { settled, ..Served::nobody() }, None);
        }
        Settlement {
            settled: Credits::clamped(self.shared.settled.load(Ordering::Acquire)),
            unsettled,
        }
    }
}

impl<B: Beside> Drop for Keeper<B> {
    fn drop(&mut self) {
        let _ =
            self.shared.phase.compare_exchange(OPEN, ORPHANED, Ordering::AcqRel, Ordering::Acquire);
        self.shared.wake.notify_one();
    }
}

impl<B: Beside> fmt::Debug for Keeper<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("accounts", &self.shared.cells.len()).finish_non_exhaustive()
    }
}
