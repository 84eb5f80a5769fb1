//! An account in a month, as this node knows it: its lease, and its request rate.

use std::{
    num::NonZeroU32,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    Account, Period,
    clock::UnixTime,
    lease::{Lease, RunId},
    ledger::{LeaseId, Standing, Terms},
    limit::RequestRate,
    metering::RunningRequest,
};

/// An account's entry in the [table](super::AccountTable) for one month.
pub(super) struct AccountEntry {
    pub(super) id: u64,
    pub(super) account: Account,
    pub(super) period: Period,
    pub(super) rate: RequestRate,
    /// It is in the inbox.
    pub(super) is_queued: AtomicBool,
    /// It is no longer in the table, and has to be looked up again. Set under the lock.
    is_removed: AtomicBool,
    /// In a box, so that a weak handle keeps little memory.
    state: Mutex<Box<EntryState>>,
}

pub(super) struct EntryState {
    pub(super) lease: AccountLease,
    /// Leases that are being closed while a newer one is in use.
    pub(super) retired: Vec<AccountLease>,
    pub(super) terms: Terms,
    /// Moment at which a request last brought the terms.
    pub(super) terms_at: StatedAt,
    /// Next examination by the worker.
    pub(super) timer: Option<Duration>,
    /// It waits in the worker's backlog.
    pub(super) is_in_backlog: bool,
    /// One bit for each threshold that was seen to be reached.
    pub(super) thresholds_seen: u32,
    /// It has no lease any more, only a request rate or an outage allowance that is used up. It may
    /// make room for others.
    pub(super) is_dormant: bool,
    /// Last log line that says that its lease could not be renewed.
    pub(super) failure_logged_at: Option<Duration>,
    /// It was logged that its month can take no more.
    pub(super) is_full_logged: bool,
    /// The thread that writes the journal looks at it.
    #[cfg(feature = "journal")]
    pub(super) is_in_journal_list: bool,
}

/// Moment at which terms were stated.
#[derive(Clone, Copy)]
pub(super) enum StatedAt {
    /// In the time of this node's leases.
    Here(Duration),
    /// To a process that died.
    #[cfg(feature = "journal")]
    Before(UnixTime),
}

impl StatedAt {
    /// Returns the moment. It is `now` in the time of this node's leases, and `unix_now`.
    pub(super) fn unix(self, now: Duration, unix_now: UnixTime) -> UnixTime {
        match self {
            Self::Here(at) => unix_now - now.saturating_sub(at),
            #[cfg(feature = "journal")]
            Self::Before(at) => at,
        }
    }
}

/// An account's lease on this node.
pub(super) type AccountLease = Lease<Waiter, RunningRequest>;

/// The sender of the answer that a waiting request gets.
pub(super) type Waiter = oneshot::Sender<Verdict>;

/// The answer to a request that waited for the ledger.
pub(super) enum Verdict {
    /// It runs under this id.
    Admitted(RunId),
    /// The account does not have enough.
    NotEnough(Standing),
    /// By the ledger's clock it is another month.
    OtherPeriod(Period),
    /// The ledger cannot say anything about this account.
    Unanswered,
    /// The account was erased.
    Erased,
    /// The worker ended with its runtime: ask again.
    WorkerGone,
}

/// The reason why a request cannot ask for credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmissionError {
    /// The node has its maximum of accounts.
    TooManyAccounts,
    /// The node is shutting down.
    ShuttingDown,
    /// So many of the account's requests run or wait, which is the most that may.
    TooManyRunning(NonZeroU32),
}

impl AccountEntry {
    pub(super) fn new(id: u64, account: Account, period: Period, lease: AccountLease) -> Self {
        Self {
            id,
            account,
            period,
            rate: RequestRate::default(),
            is_queued: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            state: Mutex::new(Box::new(EntryState {
                lease,
                retired: Vec::new(),
                terms: Terms::nothing(),
                terms_at: StatedAt::Here(Duration::ZERO),
                timer: None,
                is_in_backlog: false,
                thresholds_seen: 0,
                is_dormant: false,
                failure_logged_at: None,
                is_full_logged: false,
                #[cfg(feature = "journal")]
                is_in_journal_list: false,
            })),
        }
    }

    pub(super) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// Marks it as removed. The caller holds the lock.
    pub(super) fn set_removed(&self, _: &mut EntryState) {
        self.is_removed.store(true, Ordering::Release);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<EntryState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntryState {
    /// Goes on with a new lease while the old one is closed.
    pub(super) fn replace_lease(&mut self, id: LeaseId, now: Duration) {
        let old = std::mem::replace(&mut self.lease, Lease::new(id, now));
        self.lease.inherit(&old);
        self.retired.push(old);
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &AccountLease> {
        std::iter::once(&self.lease).chain(&self.retired)
    }

    pub(super) fn leases_mut(&mut self) -> impl Iterator<Item = &mut AccountLease> {
        std::iter::once(&mut self.lease).chain(&mut self.retired)
    }
}
