//! An account in a month, as this node knows it: its lease, and its request rate.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    Credits, Period,
    clock::UnixTime,
    compact_time::CompactTime,
    lease::{Lease, RunId},
    ledger::{LeaseId, MAX_LEASE_PARTS, Standing},
    limit::RequestRate,
    metering::RunningRequest,
    terms::{LeaseScope, StatedTerms},
};

/// An account's entry in the [table](super::AccountTable) for one month. What each request touches
/// comes first, close together: with many accounts it comes from memory that is far away.
#[repr(C)]
pub(super) struct AccountEntry {
    /// In a box, so that a weak handle keeps little memory.
    state: Mutex<Box<EntryState>>,
    /// It is no longer in the table, and has to be looked up again. Set under the lock.
    is_removed: AtomicBool,
    /// It is in the inbox.
    pub(super) is_queued: AtomicBool,
    /// Of a part of the account: the entry of the account as a whole, which has what all parts
    /// share.
    whole: Option<WholeAccount>,
    pub(super) rate: RequestRate,
    pub(super) id: u64,
    pub(super) scope: LeaseScope,
    /// Of the account as a whole: the entries of its parts, and how many of their requests run or
    /// wait.
    parts: AtomicUsize,
    running_in_parts: Arc<AtomicUsize>,
}

pub(super) struct EntryState {
    pub(super) lease: AccountLease,
    pub(super) stated: Arc<StatedTerms>,
    /// Moment at which a request last brought the terms.
    pub(super) terms_at: StatedAt,
    /// Next examination by the worker.
    pub(super) timer: Option<CompactTime>,
    /// The moment by which the worker was asked to examine it since the last examination, if it
    /// was.
    asked_by: Option<CompactTime>,
    /// The part that most accounts have none of.
    rare: Option<Box<RareState>>,
    /// It waits in the worker's backlog.
    pub(super) is_in_backlog: bool,
    /// It has no lease any more, only a request rate or an outage allowance that is used up. It may
    /// make room for others.
    pub(super) is_dormant: bool,
    /// It was logged that its month can take no more.
    pub(super) is_full_logged: bool,
    /// The thread that writes the journal looks at it.
    #[cfg(feature = "journal")]
    pub(super) is_in_journal_list: bool,
}

/// The part of an entry's state that most accounts have none of, or for a moment only.
#[derive(Default)]
pub(super) struct RareState {
    /// Leases that are being closed while a newer one is in use.
    retired: Vec<AccountLease>,
    /// Those who wait for a report of all that is spent: the lease and the number of the batch that
    /// brings it. They are told by dropping the sender.
    readers: Vec<(LeaseId, u64, oneshot::Sender<()>)>,
    /// If the host has a hook for thresholds.
    thresholds_seen: ThresholdsSeen,
    /// Last log line that says that its lease could not be renewed.
    failure_logged_at: Option<CompactTime>,
}

impl RareState {
    /// Returns `true` if nothing is lost with it.
    fn is_empty(&self) -> bool {
        let Self { retired, readers, thresholds_seen, failure_logged_at } = self;
        retired.is_empty()
            && readers.is_empty()
            && *thresholds_seen == ThresholdsSeen::default()
            && failure_logged_at.is_none()
    }
}

/// One bit for each threshold that was seen to be reached, by the account and by the parts that it
/// draws on.
#[derive(Default, PartialEq, Eq)]
pub(super) struct ThresholdsSeen {
    /// The limit at which thresholds that can come again were last looked for.
    pub(super) limit: Option<Credits>,
    pub(super) account: u32,
    pub(super) parts: [u32; MAX_LEASE_PARTS],
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
    /// The ledger has no permit of the account's request rate for this time.
    BeyondRate(Duration),
    /// As many requests of the account run on all nodes as may.
    TooManyRunning,
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
    /// The ledger has said that it has no permit of the account's request rate for this time.
    BeyondRate(Duration),
    /// So many of the account's requests run or wait, which is the most that may.
    TooManyRunning(NonZeroU32),
}

impl AccountEntry {
    pub(super) fn new(
        id: u64,
        scope: LeaseScope,
        whole: Option<WholeAccount>,
        lease: AccountLease,
    ) -> Self {
        Self {
            id,
            scope,
            whole,
            rate: RequestRate::default(),
            parts: AtomicUsize::new(0),
            running_in_parts: Arc::default(),
            is_queued: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            state: Mutex::new(Box::new(EntryState {
                lease,
                stated: Arc::new(StatedTerms::nothing()),
                terms_at: StatedAt::Here(Duration::ZERO),
                timer: None,
                asked_by: None,
                rare: None,
                is_in_backlog: false,
                is_dormant: false,
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

    /// Returns how many requests of the account run or wait, those of its parts included. The
    /// caller holds the lock of this entry.
    pub(super) fn running_and_waiting(&self, state: &EntryState) -> usize {
        let here = state.lease.running_and_waiting();
        let Some(WholeAccount(whole)) = &self.whole else {
            return here + self.running_in_parts.load(Ordering::Acquire);
        };
        let in_parts = whole.running_in_parts.load(Ordering::Acquire);
        whole.lock().lease.running_and_waiting() + in_parts
    }

    /// The entry of the account as a whole.
    pub(super) fn whole(&self) -> &Self {
        self.whole.as_ref().map_or(self, |WholeAccount(entry)| entry)
    }

    /// `true` if it is of a part of the account.
    pub(super) const fn is_part(&self) -> bool {
        self.whole.is_some()
    }

    /// `true` if parts of the account are in use.
    pub(super) fn has_parts(&self) -> bool {
        self.parts.load(Ordering::Acquire) > 0
    }

    /// Returns how many requests of the account's parts run or wait.
    pub(super) fn running_in_parts(&self) -> &Arc<AtomicUsize> {
        &self.running_in_parts
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<EntryState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of the account as a whole. It stays in the table while a part has this.
pub(super) struct WholeAccount(Arc<AccountEntry>);

impl WholeAccount {
    /// `None` if the entry is no longer in the table.
    pub(super) fn of(entry: &Arc<AccountEntry>) -> Option<Self> {
        let state = entry.lock();
        if entry.is_removed() {
            return None;
        }
        entry.parts.fetch_add(1, Ordering::AcqRel);
        drop(state);
        Some(Self(Arc::clone(entry)))
    }
}

impl Drop for WholeAccount {
    fn drop(&mut self) {
        self.0.parts.fetch_sub(1, Ordering::AcqRel);
    }
}

impl EntryState {
    /// Goes on with a new lease while the old one is closed.
    pub(super) fn replace_lease(&mut self, id: LeaseId, now: Duration) {
        let old = std::mem::replace(&mut self.lease, Lease::new(id, now));
        self.lease.inherit(&old);
        self.add_retired(old);
    }

    /// Has a lease closed while a newer one is in use.
    pub(super) fn add_retired(&mut self, lease: AccountLease) {
        self.rare().retired.push(lease);
    }

    /// Returns `true` if leases are being closed while a newer one is in use.
    pub(super) fn has_retired(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.retired.is_empty())
    }

    /// Keeps only those of the leases that are being closed for which `keep` is `true`.
    pub(super) fn retain_retired(&mut self, keep: impl FnMut(&AccountLease) -> bool) {
        if let Some(rare) = &mut self.rare {
            rare.retired.retain(keep);
        }
        self.rare.take_if(|rare| rare.is_empty());
    }

    /// Returns when it was last logged that its lease could not be renewed.
    pub(super) fn failure_logged_at(&self) -> Option<Duration> {
        self.rare.as_ref()?.failure_logged_at.map(CompactTime::get)
    }

    /// Notes that it is logged that its lease could not be renewed.
    pub(super) fn log_failure_at(&mut self, now: Duration) {
        self.rare().failure_logged_at = Some(now.into());
    }

    /// Returns the lease in use, and the thresholds that were seen to be reached.
    pub(super) fn lease_and_thresholds(&mut self) -> (&mut AccountLease, &mut ThresholdsSeen) {
        (&mut self.lease, &mut self.rare.get_or_insert_default().thresholds_seen)
    }

    /// Returns the leases, and the terms that requests stated.
    pub(super) fn leases_and_terms(
        &mut self,
    ) -> (impl Iterator<Item = &mut AccountLease>, &StatedTerms) {
        let retired = self.rare.iter_mut().flat_map(|rare| &mut rare.retired);
        (std::iter::once(&mut self.lease).chain(retired), &self.stated)
    }

    /// Forgets which thresholds were seen to be reached.
    pub(super) fn forget_thresholds(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.thresholds_seen = ThresholdsSeen::default();
        }
    }

    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// Returns `true` if the worker has to be told to examine it by `due`, because it does not on
    /// its own, and has not been told. The caller tells it, once the lock is released.
    pub(super) fn must_ask_for(&mut self, due: Duration) -> bool {
        let due = CompactTime::from(due);
        let is_known = |at: Option<CompactTime>| at.is_some_and(|at| at <= due);
        if due.get() == Duration::MAX || is_known(self.timer) || is_known(self.asked_by) {
            return false;
        }
        self.asked_by = Some(due);
        true
    }

    /// Notes that the worker examines it now. Returns the moment by which it was asked to do so.
    pub(super) fn examined(&mut self) -> Option<Duration> {
        self.asked_by.take().map(CompactTime::get)
    }

    /// Has all that is spent reported now. The answer comes once the ledger has answered; `None` if
    /// there is nothing to report.
    pub(super) fn report_now(&mut self) -> Option<oneshot::Receiver<()>> {
        let batch = self.lease.report_now()?;
        let (sender, receiver) = oneshot::channel();
        let id = self.lease.id();
        let readers = &mut self.rare().readers;
        readers.retain(|(_, _, reader)| !reader.is_closed());
        readers.push((id, batch, sender));
        Some(receiver)
    }

    /// Tells those who wait for a report that it is there, or that the ledger did not answer.
    pub(super) fn tell_readers(&mut self, landed: LeaseId, is_answered: bool) {
        let Some(rare) = self.rare.as_mut().filter(|rare| !rare.readers.is_empty()) else { return };
        let mut readers = std::mem::take(&mut rare.readers);
        readers.retain(|(of, batch, _)| {
            let lease = self.leases().find(|lease| lease.id() == *of);
            lease.is_some_and(|lease| *of != landed || (is_answered && !lease.has_reported(*batch)))
        });
        self.rare().readers = readers;
    }

    /// Notes the terms that a request states.
    pub(super) fn state_terms(&mut self, stated: &Arc<StatedTerms>, at: StatedAt) {
        if !Arc::ptr_eq(&self.stated, stated) {
            self.stated = Arc::clone(stated);
        }
        self.terms_at = at;
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &AccountLease> {
        let retired = self.rare.iter().flat_map(|rare| &rare.retired);
        std::iter::once(&self.lease).chain(retired)
    }

    pub(super) fn leases_mut(&mut self) -> impl Iterator<Item = &mut AccountLease> {
        self.leases_and_terms().0
    }
}
