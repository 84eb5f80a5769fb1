//! The table of the accounts that this node has leases of, and everything that they share.

use std::{
    borrow::Borrow,
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashSet;
use tokio::{sync::watch, time::Instant};

#[cfg(feature = "journal")]
use super::journal::JournalList;
use super::{
    entry::{AccountEntry, AccountLease, AdmissionError, EntryState, Verdict, WholeAccount},
    inbox::Inbox,
    phase::{Phase, SharedPhase},
    shards::AwayShards,
};
use crate::{
    Account,
    clock::{Time, UnixTime},
    lease::{Lease, LeaseRules},
    ledger::{LeaseId, Ledger},
    records::Records,
    terms::LeaseScope,
    threshold::ThresholdHook,
};

/// The most dormant entries that are examined to make room for one.
const MAX_EXAMINED_FOR_ROOM: usize = 16;

/// The accounts that this node has leases of. The worker and all handles share it.
pub(crate) struct AccountTable {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) time: Time,
    pub(super) rules: LeaseRules,
    entries: DashSet<ByScope>,
    max_accounts: usize,
    next_id: AtomicU64,
    pub(super) inbox: Inbox,
    pub(super) phase: SharedPhase,
    /// The servers behind the ledger that do not answer: no request waits to learn that.
    pub(super) away: AwayShards,
    /// Moment of the ledger's last answer, in milliseconds since the Unix epoch; 0 before the
    /// first.
    pub(super) last_answer: AtomicU64,
    /// Milliseconds that the ledger's clock is ahead of this node's.
    ledger_ahead: AtomicI64,
    /// Nano-dollars that were settled in all.
    pub(super) settled: AtomicI64,
    /// `true` once the worker has nothing more to do.
    pub(super) done: watch::Sender<bool>,
    pub(super) hook: Option<ThresholdHook>,
    /// Queues of records, for each sink of the host's.
    pub(super) records: Records,
    #[cfg(feature = "journal")]
    pub(super) journal: std::sync::OnceLock<Arc<JournalList>>,
    /// Dormant entries, the oldest first. They make room for others.
    dormant: Mutex<VecDeque<Weak<AccountEntry>>>,
    worker: AtomicU8,
}

/// An entry that is found by its scope, which is stored once.
struct ByScope(Arc<AccountEntry>);

impl Borrow<LeaseScope> for ByScope {
    fn borrow(&self) -> &LeaseScope {
        &self.0.scope
    }
}

impl PartialEq for ByScope {
    fn eq(&self, other: &Self) -> bool {
        self.0.scope == other.0.scope
    }
}

impl Eq for ByScope {}

impl Hash for ByScope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.scope.hash(state);
    }
}

/// No worker runs.
const WORKER_VACANT: u8 = 0;
/// One runs.
const WORKER_TAKEN: u8 = 1;
/// The work is done.
const WORKER_DONE: u8 = 2;

impl AccountTable {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        time: Time,
        rules: LeaseRules,
        max_accounts: usize,
        hook: Option<ThresholdHook>,
        records: Records,
    ) -> Self {
        Self {
            ledger,
            time,
            rules,
            entries: DashSet::new(),
            max_accounts,
            next_id: AtomicU64::new(0),
            inbox: Inbox::new(),
            phase: SharedPhase::open(),
            away: AwayShards::default(),
            last_answer: AtomicU64::new(0),
            ledger_ahead: AtomicI64::new(0),
            settled: AtomicI64::new(0),
            done: watch::Sender::new(false),
            hook,
            records,
            #[cfg(feature = "journal")]
            journal: std::sync::OnceLock::new(),
            dormant: Mutex::default(),
            worker: AtomicU8::new(WORKER_VACANT),
        }
    }

    /// Returns the time in which leases are counted.
    pub(super) fn now(&self) -> Duration {
        self.time.now().lease
    }

    /// Notes the time that the ledger's clock says now.
    pub(super) fn note_ledger_time(&self, ledger: UnixTime) {
        let millis = |time: UnixTime| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let ahead = millis(ledger) - millis(self.time.unix_time());
        self.ledger_ahead.store(ahead, Ordering::Relaxed);
    }

    /// Returns the time by the ledger's clock, as far as its last answer said it.
    pub(super) fn ledger_time(&self) -> UnixTime {
        let (now, ahead) = (self.time.unix_time(), self.ledger_ahead.load(Ordering::Relaxed));
        let by = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 { now - by } else { now + by }
    }

    /// Returns the moment of tokio's clock that is `at` of the leases' time.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        Instant::now().checked_add(at.saturating_sub(self.now()))
    }

    /// `true` if the server that has an account does not answer.
    pub(super) fn is_away(&self, account: &Account) -> bool {
        self.away.is_any() && self.away.contains(self.ledger.shard(account))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns all entries, so that none of the map's shards is locked while they are examined.
    pub(super) fn entries(&self) -> Vec<Arc<AccountEntry>> {
        self.entries.iter().map(|entry| Arc::clone(&entry.0)).collect()
    }

    /// Returns the entry of an account, or of a part of it, if there is one.
    pub(super) fn find(&self, scope: &LeaseScope) -> Option<Arc<AccountEntry>> {
        self.entries.get(scope).map(|entry| Arc::clone(&entry.0))
    }

    /// Returns the entry of an account, or of a part of it, and makes it if there is none.
    pub(super) fn entry(&self, scope: &LeaseScope) -> Result<Arc<AccountEntry>, AdmissionError> {
        if self.phase.get() == Phase::Closing {
            return Err(AdmissionError::ShuttingDown);
        }
        if let Some(entry) = self.find(scope) {
            return Ok(entry);
        }
        let mut whole = None;
        while let (None, Some(scope)) = (&whole, scope.whole()) {
            whole = WholeAccount::of(&self.entry(&scope)?);
        }
        if self.entries.len() >= self.max_accounts && !self.make_room() {
            return Err(AdmissionError::TooManyAccounts);
        }
        let lease = Lease::new(new_lease_id()?, self.now());
        let entry = self.insert(scope, whole, lease);
        // So that an entry that is never used is removed in time.
        self.attend_by(&entry, self.now() + self.rules.quiet_after());
        Ok(entry)
    }

    /// Returns the entry of an account that a journal has a lease of, however many there are.
    #[cfg(feature = "journal")]
    pub(super) fn entry_of_recovered(&self, scope: &LeaseScope) -> Option<Arc<AccountEntry>> {
        if let Some(entry) = self.find(scope) {
            return Some(entry);
        }
        let mut whole = None;
        while let (None, Some(scope)) = (&whole, scope.whole()) {
            whole = WholeAccount::of(&self.entry_of_recovered(&scope)?);
        }
        let lease = Lease::new(new_lease_id().ok()?, self.now());
        Some(self.insert(scope, whole, lease))
    }

    /// Inserts an entry, and returns it; or the one that somebody else has inserted meanwhile.
    fn insert(
        &self,
        scope: &LeaseScope,
        whole: Option<WholeAccount>,
        lease: AccountLease,
    ) -> Arc<AccountEntry> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(AccountEntry::new(id, scope.clone(), whole, lease));
        loop {
            if self.entries.insert(ByScope(Arc::clone(&entry))) {
                return entry;
            }
            if let Some(other) = self.find(scope) {
                return other;
            }
        }
    }

    /// Has the journal written while the account is in use. The caller holds its lock.
    #[cfg(feature = "journal")]
    pub(super) fn note_in_journal(&self, entry: &Arc<AccountEntry>, state: &mut EntryState) {
        if let Some(journal) = self.journal.get() {
            journal.note(entry, state);
        }
    }

    /// There is no journal.
    #[cfg(not(feature = "journal"))]
    #[expect(clippy::unused_self, reason = "as with a journal")]
    pub(super) const fn note_in_journal(&self, _: &Arc<AccountEntry>, _: &mut EntryState) {}

    /// Has the worker examine an entry now.
    pub(super) fn attend(&self, entry: &Arc<AccountEntry>) {
        self.attend_by(entry, Duration::ZERO);
    }

    /// Has the worker examine an entry by `due`.
    pub(super) fn attend_by(&self, entry: &Arc<AccountEntry>, due: Duration) {
        self.inbox.add(entry, due);
    }

    /// Removes an entry that is marked as removed. The caller has released the entry's lock: nobody
    /// waits for a lock of the map while it holds an entry's.
    pub(super) fn remove(&self, entry: &AccountEntry) {
        self.entries.remove_if(&entry.scope, |known| known.0.id == entry.id);
    }

    /// Notes that an entry is dormant.
    pub(super) fn add_dormant(&self, entry: &Arc<AccountEntry>) {
        let mut dormant = self.dormant.lock().unwrap_or_else(PoisonError::into_inner);
        if dormant.len() > 2 * self.entries.len() + MAX_EXAMINED_FOR_ROOM {
            dormant.retain(|entry| entry.strong_count() > 0);
        }
        dormant.push_back(Arc::downgrade(entry));
    }

    /// Removes the entry that has been dormant for longest, unless its request rate is used up.
    fn make_room(&self) -> bool {
        let mut dormant = self.dormant.lock().unwrap_or_else(PoisonError::into_inner);
        let mut examined = 0;
        while examined < MAX_EXAMINED_FOR_ROOM
            && let Some(entry) = dormant.pop_front()
        {
            let Some(entry) = entry.upgrade().filter(|entry| !entry.is_removed()) else { continue };
            examined += 1;
            let mut state = entry.lock();
            if !state.lease.is_leaving() || state.has_retired() {
                // It is in use again; once it is not, it comes back.
                state.is_dormant = false;
                continue;
            }
            if !entry.rate.is_full(self.now()) || entry.has_parts() {
                dormant.push_back(Arc::downgrade(&entry));
                continue;
            }
            entry.set_removed(&mut state);
            drop(state);
            self.remove(&entry);
            return true;
        }
        false
    }

    /// `true` if nothing is lost with an entry: no request rate that is used up, and no outage
    /// allowance that was taken this month.
    pub(super) fn is_removable(&self, entry: &AccountEntry, state: &EntryState) -> bool {
        if entry.is_removed() {
            return true;
        }
        let month_ended = self.time.unix_time() >= entry.scope.period.ends();
        entry.rate.is_full(self.now())
            && !entry.has_parts()
            && (month_ended || !state.lease.has_granted_unbacked())
    }

    /// `true` if a worker runs, or its work is done.
    pub(super) fn has_worker(&self) -> bool {
        self.worker.load(Ordering::Acquire) != WORKER_VACANT
    }
}

/// Returns a random name for a lease. A node that has no randomness takes no more accounts.
pub(super) fn new_lease_id() -> Result<LeaseId, AdmissionError> {
    LeaseId::random().map_err(|_| AdmissionError::TooManyAccounts)
}

/// The permit to be the worker: one has it at a time. It is free again if its holder is dropped,
/// for instance with a runtime that ends.
pub(super) struct WorkerPermit(Arc<AccountTable>);

impl WorkerPermit {
    pub(super) fn take(table: Arc<AccountTable>) -> Option<Self> {
        let taken = table.worker.compare_exchange(
            WORKER_VACANT,
            WORKER_TAKEN,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        taken.ok().map(|_| Self(table))
    }

    /// Says that the work is done: nobody takes the permit again.
    pub(super) fn done(&self) {
        self.0.worker.store(WORKER_DONE, Ordering::Release);
    }
}

impl Drop for WorkerPermit {
    fn drop(&mut self) {
        let freed = self.0.worker.compare_exchange(
            WORKER_TAKEN,
            WORKER_VACANT,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if freed.is_err() {
            return;
        }
        // Requests that wait spawn another worker.
        for entry in self.0.entries() {
            let waiting: Vec<_> = entry.lock().leases_mut().flat_map(Lease::drain_queue).collect();
            for waiter in waiting {
                drop(waiter.send(Verdict::WorkerGone));
            }
        }
    }
}

#[cfg(feature = "journal")]
impl Drop for AccountTable {
    fn drop(&mut self) {
        if let Some(journal) = self.journal.get() {
            journal.close();
        }
    }
}

impl fmt::Debug for AccountTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountTable")
            .field("ledger", &self.ledger)
            .field("accounts", &self.entries.len())
            .finish_non_exhaustive()
    }
}
