//! The keeper: the handle of the worker's owner, and the shutdown.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::timeout;

use super::{
    ended::record_running,
    handle::{AccountHandle, deliver},
    phase::{Phase, SHUTDOWN_TIMEOUT},
    table::AccountTable,
    worker::Worker,
};
#[cfg(feature = "metrics")]
use crate::observe;
use crate::{
    Account, Credits, Period,
    clock::{Time, UnixTime},
    lease::{Lease, LeaseRules, Served},
    ledger::Ledger,
    records::{RecordStats, Records},
    threshold::ThresholdHook,
};

/// The time that the last write of the journal may take at a shutdown.
#[cfg(feature = "journal")]
const JOURNAL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Owner of a table and its [`Worker`]. When it is dropped, the worker settles what is left and
/// ends.
pub(crate) struct Keeper {
    table: Arc<AccountTable>,
}

/// The result of a shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// Everything that this node settled in its life.
    pub settled: Credits,
    /// Amounts that the ledger did not acknowledge: they may or may not have been debited. With a
    /// journal, the next start settles them.
    pub unsettled: Vec<Unsettled>,
    /// Number of usage records that were not [delivered](crate::records), of all sinks.
    pub lost_records: u64,
}

/// An amount that may or may not have been debited.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsettled {
    /// The account.
    pub account: Account,
    /// The month.
    pub period: Period,
    /// The amount.
    pub amount: Credits,
}

impl Keeper {
    /// Makes a keeper; nothing is spawned.
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        time: Time,
        rules: LeaseRules,
        max_accounts: usize,
        hook: Option<ThresholdHook>,
        records: Records,
    ) -> Self {
        let table = AccountTable::new(ledger, time, rules, max_accounts, hook, records);
        Self { table: Arc::new(table) }
    }

    /// Goes on with the leases of a journal, and writes it from now on.
    #[cfg(feature = "journal")]
    pub(crate) fn keep_journal(&self, journal: super::Journal) -> std::io::Result<()> {
        let list = Arc::new(super::journal::JournalList::default());
        let writer = super::journal::Writer::recover(journal, &self.table, Arc::clone(&list));
        writer.start()?;
        // Nobody else sets it.
        let _ = self.table.journal.set(list);
        Ok(())
    }

    /// Returns the table.
    pub(crate) const fn table(&self) -> &Arc<AccountTable> {
        &self.table
    }

    /// Returns the worker, unless another one runs or the work is done.
    pub(crate) fn worker(&self) -> Option<Worker> {
        Worker::take_up(Arc::clone(&self.table))
    }

    /// `true` if a worker runs, or its work is done.
    pub(crate) fn has_worker(&self) -> bool {
        self.table.has_worker()
    }

    /// Returns when the ledger last answered a renewal; `None` before that.
    pub(crate) fn last_answer(&self) -> Option<UnixTime> {
        let millis = self.table.last_answer.load(Ordering::Acquire);
        (millis > 0).then(|| UnixTime::from_millis(millis))
    }

    /// Returns what the ledger has not acknowledged yet: of requests that ended, and of those that
    /// run.
    pub(crate) fn unsettled(&self) -> Credits {
        self.table.entries().iter().fold(Credits::ZERO, |sum, entry| {
            entry.lock().leases().fold(sum, |sum, lease| sum.saturating_add(lease.unreported()))
        })
    }

    /// Returns the time by the ledger's clock, as far as its last answer said it.
    pub(crate) fn ledger_time(&self) -> UnixTime {
        self.table.ledger_time()
    }

    /// Returns what became of usage records.
    pub(crate) fn record_stats(&self) -> Vec<RecordStats> {
        self.table.records.stats()
    }

    /// Returns the sums over all accounts of this node.
    #[cfg(feature = "metrics")]
    pub(crate) fn load(&self) -> observe::Load {
        let mut load = observe::Load::default();
        for entry in self.table.entries() {
            let state = entry.lock();
            for lease in state.leases() {
                let (running, waiting, held) = lease.load();
                load.leases += 1;
                load.running += running;
                load.waiting += waiting;
                load.held = load.held.saturating_add(held);
                load.unreported = load.unreported.saturating_add(lease.unreported());
            }
        }
        load
    }

    /// Waits until the journal has what is left.
    async fn close_journal(&self) {
        #[cfg(feature = "journal")]
        if let Some(journal) = self.table.journal.get().cloned() {
            journal.close();
            let closed = move || journal.wait_closed(JOURNAL_TIMEOUT);
            drop(tokio::task::spawn_blocking(closed).await);
        }
    }

    /// Denies new requests, ends those that run at what they have used so far, and waits until
    /// everything is settled, five seconds at most.
    pub(crate) async fn shutdown(&self) -> Settlement {
        let mut done = self.table.done.subscribe();
        self.table.phase.advance(Phase::Closing);
        self.table.inbox.wake();
        // Without a worker, its part is in `unsettled` below.
        let limit = SHUTDOWN_TIMEOUT + self.table.rules.deadline;
        let _ = timeout(limit, done.wait_for(|done| *done)).await;

        let mut unsettled = Vec::new();
        for entry in self.table.entries() {
            let mut state = entry.lock();
            let settled = state.leases_mut().flat_map(Lease::settle_pending).collect();
            let amount = state
                .leases()
                .fold(Credits::ZERO, |sum, lease| sum.saturating_add(lease.unreported()));
            if !amount.is_zero() {
                let (account, period) = (entry.scope.account.clone(), entry.scope.period);
                unsettled.push(Unsettled { account, period, amount });
            }
            drop(state);
            record_running(&self.table, &entry);
            let handle = AccountHandle { table: Arc::clone(&self.table), entry };
            deliver(&handle, Served { settled, ..Served::none() }, None);
        }
        self.close_journal().await;
        let settled = Credits::clamped(self.table.settled.load(Ordering::Acquire));
        self.table.records.close();
        let lost_records = self.table.records.closed().await;
        Settlement { settled, unsettled, lost_records }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.table.phase.advance(Phase::Orphaned);
        self.table.inbox.wake();
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("accounts", &self.table.len()).finish_non_exhaustive()
    }
}
