//! The entries that want the worker's attention. Each is in the inbox at most once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use super::entry::AccountEntry;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Account, lease::Lease, ledger::LeaseId};

    #[test]
    fn an_entry_is_there_once_and_can_be_added_again_once_it_was_taken() {
        let inbox = Inbox::new();
        let lease = Lease::new(LeaseId::from_bits(1), Duration::ZERO);
        let alice = Account::user("alice").unwrap();
        let scope = crate::terms::LeaseScope::of(alice, "2026-11".parse().unwrap());
        let entry = Arc::new(AccountEntry::new(1, scope, None, lease));
        for _ in 0..2 {
            inbox.add(&entry, Duration::ZERO);
            inbox.add(&entry, Duration::ZERO);
            // A worker that panics now has examined nothing.
            assert_eq!(inbox.take().len(), 1);
        }
        assert!(inbox.take().is_empty());
        assert!(!inbox.set_next_read(None));
        inbox.add(&entry, Duration::ZERO);
        assert!(inbox.set_next_read(None), "it was added before the worker slept");
    }
}
