//! The order in which the worker examines entries. Each entry has at most one timer, so memory is
//! bounded by the number of accounts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::entry::{AccountEntry, EntryState};
use crate::compact_time::CompactTime;

/// The worker's timers.
#[derive(Default)]
pub(super) struct Schedule {
    timers: BTreeMap<(CompactTime, u64), Arc<AccountEntry>>,
}

impl Schedule {
    pub(super) fn clear(&mut self) {
        self.timers.clear();
    }

    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// Removes an entry's timer.
    pub(super) fn cancel(&mut self, entry: &AccountEntry, state: &mut EntryState) {
        if let Some(timer) = state.timer.take() {
            self.timers.remove(&(timer, entry.id));
        }
    }

    /// Sets a timer for an entry whose state says so already.
    pub(super) fn set(&mut self, entry: &Arc<AccountEntry>, at: Duration) {
        self.timers.insert((at.into(), entry.id), Arc::clone(entry));
    }

    /// Returns the moment of the next timer.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| at.get())
    }

    /// Takes an entry whose timer is due by `due`.
    pub(super) fn pop_due(&mut self, due: Duration) -> Option<Arc<AccountEntry>> {
        let first = self.timers.first_entry().filter(|first| first.key().0.get() <= due)?;
        let entry = first.remove();
        entry.lock().timer = None;
        Some(entry)
    }
}
