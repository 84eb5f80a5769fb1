//! [`JournalList`]: the accounts that are in use, for the thread that writes the journal.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::super::entry::{AccountEntry, EntryState};

/// The accounts that came into use since they were last taken.
#[derive(Default)]
pub(in super::super) struct JournalList {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: Vec<Arc<AccountEntry>>,
    /// The table is gone, or the node has shut down: write once more, and end.
    is_closing: bool,
    /// The thread has ended.
    is_closed: bool,
}

impl JournalList {
    /// Notes that an account is in use, unless that is noted already. The caller holds its lock.
    pub(in super::super) fn note(&self, entry: &Arc<AccountEntry>, state: &mut EntryState) {
        if !std::mem::replace(&mut state.is_in_journal_list, true) {
            self.lock().entries.push(Arc::clone(entry));
            self.changed.notify_all();
        }
    }

    /// Ends the thread once it has written what is there.
    pub(in super::super) fn close(&self) {
        self.lock().is_closing = true;
        self.changed.notify_all();
    }

    /// Waits until the thread has ended, up to a time.
    pub(in super::super) fn wait_closed(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut state = self.lock();
        while !state.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    pub(super) fn set_closed(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits until there is something to do, and takes the accounts. With `until`, no longer than
    /// that. `None` once it is closing.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Vec<Arc<AccountEntry>>> {
        let mut state = self.lock();
        loop {
            if state.is_closing {
                return None;
            }
            let wait = match until {
                // What is already known is written at its time, and what is new with it.
                Some(until) => until.saturating_duration_since(Instant::now()),
                None if state.entries.is_empty() => Duration::MAX,
                None => Duration::ZERO,
            };
            if wait.is_zero() {
                return Some(std::mem::take(&mut state.entries));
            }
            state = if wait == Duration::MAX {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.changed.wait_timeout(state, wait);
                waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
            };
        }
    }

    /// Takes what is left.
    pub(super) fn take_rest(&self) -> Vec<Arc<AccountEntry>> {
        std::mem::take(&mut self.lock().entries)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
