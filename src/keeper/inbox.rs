//! The entries that want the worker's attention. Each is in the inbox at most once.

use std::time::Duration;

use tokio::sync::{Notify, futures::Notified};

use super::{
    entry::AccountEntry,
    sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError},
};

/// The entries that the worker has yet to examine.
#[derive(Default)]
pub(super) struct Inbox {
    entries: Mutex<Vec<Arc<AccountEntry>>>,
    wake: Notify,
    /// Moment at which the worker reads the inbox on its own, in nanoseconds of the leases' time.
    next_read: AtomicU64,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { next_read: AtomicU64::new(u64::MAX), ..Self::default() }
    }

    /// Adds an entry that the worker has to examine by `due`. Waking it would be the most expensive
    /// part of a request, so it is woken only if it does not wake by then on its own.
    pub(super) fn add(&self, entry: &Arc<AccountEntry>, due: Duration) {
        // Under the lock: an entry that is marked as queued is in the inbox.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entry.is_queued.swap(true, Ordering::AcqRel) {
            entries.push(Arc::clone(entry));
        }
        drop(entries);
        if whole_nanos(due) < self.next_read.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Takes all entries out.
    pub(super) fn take(&self) -> Vec<Arc<AccountEntry>> {
        let entries =
            std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        for entry in &entries {
            entry.is_queued.store(false, Ordering::Release);
        }
        entries
    }

    /// Says that the worker reads the inbox at `at` again. Returns `true` if an entry was added
    /// before this was known.
    pub(super) fn set_next_read(&self, at: Option<Duration>) -> bool {
        self.next_read.store(at.map_or(u64::MAX, whole_nanos), Ordering::SeqCst);
        // Those who add an entry after this see the time; entries added before are seen here.
        !self.entries.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ready once somebody woke the worker.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }
}

fn whole_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
