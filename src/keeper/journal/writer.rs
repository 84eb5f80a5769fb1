//! The thread that writes the journal.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        entry::{AccountEntry, AccountLease, StatedAt},
        table::AccountTable,
    },
    handle::{Journal, Row},
    list::JournalList,
};
use crate::{
    clock::UnixTime,
    database_file::{DatabaseFailed, DatabaseFile, ROWS, guarded, sealed},
    lease::Lease,
    ledger::LeaseId,
    observe,
};

/// The interval at which it is written while something is in use.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// Time between a write that failed and the next.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The thread's state.
pub(in super::super) struct Writer {
    file: DatabaseFile,
    list: Arc<JournalList>,
    table: Weak<AccountTable>,
    /// The accounts that are written at each interval.
    active: Vec<Arc<AccountEntry>>,
    /// The rows of each account, by its number, as they were written.
    rows: HashMap<u64, Vec<Row>>,
    /// Number of all rows.
    leases: usize,
}

/// Change of an account's rows.
struct Change {
    entry: Arc<AccountEntry>,
    put: Vec<Row>,
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
        let unsettled = journal.unsettled();
        let Journal { file, rows: recovered } = journal;
        if !recovered.is_empty() {
            tracing::info!(
                target: "tower_credits", leases = recovered.len(), %unsettled,
                file = %file.path().display(),
                "the journal has leases of a process that did not end: they are settled"
            );
        }
        let mut writer = Self {
            file,
            list,
            table: Arc::downgrade(table),
            active: Vec::new(),
            rows: HashMap::new(),
            leases: 0,
        };
        let now = table.now();
        // Their numbers are ahead of all that were sent before, also by a process that recovered
        // them and died: what is sent is on the disk first.
        let recovered: Vec<(Row, AccountLease)> = recovered
            .into_iter()
            .filter_map(|row| {
                let mut lease = Lease::recovered(row.lease.clone(), &table.rules, now);
                let record = lease.store(now)?;
                Some((Row { lease: record, ..row }, lease))
            })
            .collect();
        let rows: Vec<_> = recovered.iter().map(|(row, _)| row).collect();
        if !rows.is_empty() && !writer.change(&rows, &[]) {
            tracing::error!(
                target: "tower_credits", file = %writer.file.path().display(),
                "the journal cannot be written: what is in it is not settled before the next start"
            );
            return writer;
        }
        for (row, lease) in recovered {
            let Some(entry) = table.entry_of_recovered(&row.scope()) else { continue };
            let mut state = entry.lock();
            // Of several leases of an account, the terms that were stated last.
            let known = writer.rows.get(&entry.id).into_iter().flatten();
            if known.clone().all(|known| known.terms_at <= row.terms_at) {
                state.state_terms(&Arc::new(row.stated()), StatedAt::Before(row.terms_at));
            }
            state.add_retired(lease);
            writer.list.note(&entry, &mut state);
            drop(state);
            writer.rows.entry(entry.id).or_default().push(row);
            writer.leases += 1;
            table.attend(&entry);
        }
        writer
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
        // After a panic, some are listed.
        let mut next = (!self.active.is_empty()).then(Instant::now);
        while let Some(entries) = self.list.take(next) {
            next = Some(Instant::now() + WRITE_INTERVAL);
            self.active.extend(entries);
            let Some(is_written) = self.write() else { return };
            if !is_written {
                next = Some(Instant::now() + PAUSE_AFTER_FAILURE);
            }
            if self.active.is_empty() {
                next = None;
            }
        }
        self.active.extend(self.list.take_rest());
        self.write();
    }

    /// Writes what changed, in one transaction. Returns `false` if that failed, and `None` if the
    /// table is gone.
    fn write(&mut self) -> Option<bool> {
        let table = self.table.upgrade()?;
        let (now, unix_now) = (table.now(), table.time.unix_time());
        // They stay listed until this is done, also if the host's clock panics.
        let changes: Vec<_> = self
            .active
            .iter()
            .map(|entry| self.changes_of(Arc::clone(entry), now, unix_now))
            .collect();
        let is_news =
            changes.iter().any(|change| !change.put.is_empty() || !change.remove.is_empty());
        let begin = Instant::now();
        let is_written = !is_news || self.commit(&changes);
        let took = begin.elapsed();
        self.active.clear();
        for change in changes {
            self.land(&table, change, is_written);
        }
        if is_news {
            observe::journal_written(is_written, took, self.leases);
        }
        Some(is_written)
    }

    /// Reads what an account's rows are to be.
    fn changes_of(&self, entry: Arc<AccountEntry>, now: Duration, unix_now: UnixTime) -> Change {
        let known = self.rows.get(&entry.id).map(Vec::as_slice).unwrap_or_default();
        let mut state = entry.lock();
        let (stated, terms_at) = (state.stated.clone(), state.terms_at.unix(now, unix_now));
        let (mut put, mut kept, mut stays_active) = (Vec::new(), Vec::new(), false);
        for lease in state.leases_mut() {
            if let Some(record) = lease.store(now) {
                kept.push(record.id());
                let is_known = |row: &Row| row.lease == record && row.stated() == *stated;
                if !known.iter().any(is_known) {
                    put.push(Row::new(&entry.scope, &stated, terms_at, record));
                }
            }
            stays_active |= lease.needs_journal();
        }
        drop(state);
        let remove =
            known.iter().map(|row| row.lease.id()).filter(|id| !kept.contains(id)).collect();
        Change { entry, put, remove, stays_active }
    }

    fn commit(&self, changes: &[Change]) -> bool {
        let put: Vec<_> = changes.iter().flat_map(|change| &change.put).collect();
        let remove: Vec<_> = changes.iter().flat_map(|change| &change.remove).collect();
        self.change(&put, &remove)
    }

    /// Writes rows, and removes others.
    fn change(&self, put: &[&Row], remove: &[&LeaseId]) -> bool {
        let Ok(database) = self.file.database() else { return false };
        let written = guarded(|| {
            let transaction = database.begin_write()?;
            {
                let mut rows = transaction.open_table(ROWS)?;
                for id in remove {
                    rows.remove(&*key(**id))?;
                }
                for row in put {
                    let key = key(row.lease.id());
                    rows.insert(&*key, &*sealed(&key, to_json(row)))?;
                }
            }
            Ok(transaction.commit()?)
        });
        match written {
            Ok(()) => {
                self.file.committed(put.len() + remove.len());
                true
            }
            Err(DatabaseFailed(reason)) => {
                drop(self.file.failed(&database, &reason));
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
        let before = rows.len();
        rows.retain(|row| !remove.contains(&row.lease.id()));
        for row in put {
            match rows.iter_mut().find(|known| known.lease.id() == row.lease.id()) {
                Some(known) => *known = row,
                None => rows.push(row),
            }
        }
        self.leases = self.leases + rows.len() - before;
        let mut state = entry.lock();
        let has_row = |id| rows.iter().any(|row| row.lease.id() == id);
        let mut may_leave = false;
        for lease in state.leases_mut().filter(|lease| !has_row(lease.id())) {
            may_leave |= lease.removed_from_journal();
        }
        // It may have come into use meanwhile.
        let stays_active = stays_active || state.leases().any(Lease::needs_journal);
        state.is_in_journal_list = stays_active;
        drop(state);
        if rows.is_empty() && !stays_active {
            self.rows.remove(&entry.id);
        }
        if may_leave {
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
