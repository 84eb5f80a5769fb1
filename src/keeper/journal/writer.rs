//! The thread that writes the journal.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{entry::AccountEntry, table::AccountTable},
    handle::{Journal, Row},
    list::JournalList,
};
use crate::{
    clock::UnixTime,
    database_file::{DatabaseFailed, DatabaseFile, ROWS, begin_write, guarded, sealed},
    lease::Lease,
    ledger::LeaseId,
};

/// The interval at which it is written while something is in use.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// The thread's state.
pub(in super::super) struct Writer {
    file: DatabaseFile,
    list: Arc<JournalList>,
    table: Weak<AccountTable>,
    /// The accounts that are written at each interval.
    active: Vec<Arc<AccountEntry>>,
    /// The leases of each account that have rows, by the account's number, and what was written.
    rows: HashMap<u64, Vec<(LeaseId, Vec<u8>)>>,
}

/// What an account's rows become.
struct Change {
    entry: Arc<AccountEntry>,
    put: Vec<(LeaseId, Vec<u8>)>,
    remove: Vec<LeaseId>,
    stays_active: bool,
}

impl Writer {
    /// Goes on with the leases of a journal, and returns the thread's state.
    pub(in super::super) fn recover(
        journal: Journal,
        table: &Arc<AccountTable>,
        list: Arc<JournalList>,
    ) -> Self {
        let Journal { file, rows: recovered } = journal;
        let unsettled = recovered
            .iter()
            .fold(crate::Credits::ZERO, |sum, row| sum.saturating_add(row.lease.unreported()));
        if !recovered.is_empty() {
            tracing::info!(
                target: "tower_credits", leases = recovered.len(), %unsettled,
                file = %file.path().display(),
                "the journal has leases of a process that did not end: they are settled"
            );
        }
        let mut rows: HashMap<u64, Vec<_>> = HashMap::new();
        let now = table.now();
        let unix_now = table.time.unix_time();
        for row in recovered {
            let text = to_json(&row);
            let Row { account, period, terms, terms_at, lease } = row;
            let id = lease.id();
            let Some(entry) = table.entry_of_recovered(&account, period) else { continue };
            rows.entry(entry.id).or_default().push((id, text));
            let mut state = entry.lock();
            state.retired.push(Lease::recovered(lease, &table.rules, now));
            (state.terms, state.terms_at) = (terms, now.saturating_sub(unix_now - terms_at));
            list.note(&entry, &mut state);
            drop(state);
            table.attend(&entry);
        }
        Self { file, list, table: Arc::downgrade(table), active: Vec::new(), rows }
    }

    /// Starts the thread. It ends when the table is gone, or the node has shut down.
    pub(in super::super) fn start(mut self) -> std::io::Result<()> {
        let name = "tower-credits-journal".to_owned();
        thread::Builder::new().name(name).spawn(move || {
            // A panic, for instance of the host's clock, does not end it.
            while catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
                tracing::error!(
                    target: "tower_credits", "the thread that writes the journal panicked: it goes \
                     on"
                );
                thread::sleep(WRITE_INTERVAL);
            }
            self.file.close();
            self.list.set_closed();
        })?;
        Ok(())
    }

    fn work(&mut self) {
        let mut next = None;
        while let Some(entries) = self.list.take(next) {
            next = Some(Instant::now() + WRITE_INTERVAL);
            self.active.extend(entries);
            if !self.write() {
                return;
            }
            if self.active.is_empty() {
                next = None;
            }
        }
        self.active.extend(self.list.take_rest());
        self.write();
    }

    /// Writes what changed, in one transaction. Returns `false` if the table is gone.
    fn write(&mut self) -> bool {
        let Some(table) = self.table.upgrade() else { return false };
        let (now, unix_now) = (table.now(), table.time.unix_time());
        let active = std::mem::take(&mut self.active);
        let changes: Vec<_> =
            active.into_iter().map(|entry| self.changes_of(entry, now, unix_now)).collect();
        let is_news =
            changes.iter().any(|change| !change.put.is_empty() || !change.remove.is_empty());
        let is_written = !is_news || self.commit(&changes);
        for change in changes {
            self.land(&table, change, is_written);
        }
        true
    }

    /// Reads what an account's rows are to be.
    fn changes_of(&self, entry: Arc<AccountEntry>, now: Duration, unix_now: UnixTime) -> Change {
        let known = self.rows.get(&entry.id).map(Vec::as_slice).unwrap_or_default();
        let mut state = entry.lock();
        let (terms, terms_at) = (state.terms, unix_now - now.saturating_sub(state.terms_at));
        let (mut put, mut kept, mut stays_active) = (Vec::new(), Vec::new(), false);
        for lease in state.leases_mut() {
            if let Some(record) = lease.store(now) {
                let (id, account) = (record.id(), entry.account.clone());
                kept.push(id);
                let row = Row { account, period: entry.period, terms, terms_at, lease: record };
                let text = to_json(&row);
                if !known.iter().any(|(known, before)| *known == id && *before == text) {
                    put.push((id, text));
                }
            }
            stays_active |= lease.needs_journal();
        }
        drop(state);
        let remove = known.iter().map(|(id, _)| *id).filter(|id| !kept.contains(id)).collect();
        Change { entry, put, remove, stays_active }
    }

    fn commit(&self, changes: &[Change]) -> bool {
        let Ok(database) = self.file.database() else { return false };
        let written = guarded(|| {
            let transaction = begin_write(&database)?;
            {
                let mut rows = transaction.open_table(ROWS)?;
                for Change { put, remove, .. } in changes {
                    for id in remove {
                        rows.remove(&*key(*id))?;
                    }
                    for (id, text) in put {
                        let key = key(*id);
                        rows.insert(&*key, &*sealed(&key, text.clone()))?;
                    }
                }
            }
            Ok(transaction.commit()?)
        });
        match written {
            Ok(()) => {
                self.file.committed(changes.len());
                true
            }
            Err(DatabaseFailed(reason)) => {
                drop(self.file.failed(&database, reason));
                false
            }
        }
    }

    /// Takes note of what is written, or is to be tried again.
    fn land(&mut self, table: &Arc<AccountTable>, change: Change, is_written: bool) {
        let Change { entry, put, remove, stays_active } = change;
        if !is_written {
            self.active.push(entry);
            return;
        }
        let rows = self.rows.entry(entry.id).or_default();
        rows.retain(|(id, _)| !remove.contains(id));
        for (id, text) in put {
            match rows.iter_mut().find(|(known, _)| *known == id) {
                Some((_, before)) => *before = text,
                None => rows.push((id, text)),
            }
        }
        let mut state = entry.lock();
        for lease in state.leases_mut().filter(|lease| remove.contains(&lease.id())) {
            lease.removed_from_journal();
        }
        // It may have come into use meanwhile.
        let stays_active = stays_active || state.leases().any(Lease::needs_journal);
        state.is_in_journal_list = stays_active;
        drop(state);
        if rows.is_empty() && !stays_active {
            self.rows.remove(&entry.id);
        }
        if !remove.is_empty() {
            // It may say goodbye now.
            table.attend(&entry);
        }
        if stays_active {
            self.active.push(entry);
        }
    }
}

/// The key of a lease's row.
fn key(id: LeaseId) -> Vec<u8> {
    [b"l", id.to_string().as_bytes()].concat()
}

fn to_json(row: &Row) -> Vec<u8> {
    // Plain data whose maps have texts for keys.
    serde_json::to_vec(row).unwrap_or_default()
}
