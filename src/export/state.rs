//! The state of an export: what was sent, and what may have been sent, in a file of this machine.
//!
//! | key | value |
//! |---|---|
//! | `s` | the version of the schema |
//! | `r`, `n` | the receiver's name, and the namespace |
//! | `t2026-11:user:alice` | [`SentTotals`] of an account's month |
//! | `p` and a number of eight bytes | an event that is not acknowledged: a [`Pending`] |
//!
//! An event is written, with the totals that count it, before it is sent, and removed once the
//! receiver has acknowledged it. So after a crash the same events are sent again, with the same
//! ids, and never others in their place.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::ReadableTable;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{event::UsageEvent, totals::SentTotals};
use crate::{
    Account, Period,
    clock::UnixTime,
    database_file::{
        DatabaseFailed, DatabaseFile, FileError, OpenDatabase, Purpose, ROWS, guarded, sealed,
        unsealed,
    },
    ledger::Statement,
};

/// Purpose of the file.
const PURPOSE: Purpose = Purpose {
    name: "export state",
    schema: "1",
    older: &[],
    if_in_use: "one export at a time can use it",
    // An older copy would send again what has been sent since.
    if_damaged: "find out from the receiver what it has; never put an older copy back",
};

/// The keys of the receiver's name, and of the text that goes into the ids of events.
const RECEIVER_KEY: &[u8] = b"r";
const NAMESPACE_KEY: &[u8] = b"n";

/// The state of an export to one receiver.
pub(super) struct ExportState {
    file: Arc<DatabaseFile>,
    /// Held by the work that is under way, also if nobody waits for it any more.
    work: Arc<Semaphore>,
}

/// An event that is not acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Its number. Events are sent in the order of their numbers.
    #[serde(skip)]
    pub(super) number: u64,
    pub(super) event: UsageEvent,
    /// Moment of the first delivery that had no answer, from which on it may have arrived.
    pub(super) sent_at: Option<UnixTime>,
    /// The receiver's reason, if it did not take the event the last time.
    pub(super) refused: Option<String>,
}

/// The reason why a state cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is no state in the file.
    #[error(
        "there is no state of an export in {0}: if nothing was exported to this receiver before, \
         create one; otherwise find the file, since without it everything would be sent again"
    )]
    Missing(PathBuf),
    /// There is a state in the file already.
    #[error("there is a state of an export in {0} already: open it, or name another file")]
    Exists(PathBuf),
    /// The file cannot be used. The text says why.
    #[error("{0}")]
    Unusable(String),
}

impl ExportState {
    /// Opens the state in a file, or makes one.
    pub(super) fn open(path: &Path, receiver: &str, create: bool) -> Result<Self, StateError> {
        if !create && !path.exists() {
            return Err(StateError::Missing(path.to_owned()));
        }
        let file = Arc::new(DatabaseFile::open(path, PURPOSE)?);
        let state = Self { file, work: Arc::new(Semaphore::new(1)) };
        let database = state.file.database()?;
        let stored = guarded(|| bind(&database, RECEIVER_KEY, receiver, create));
        match stored.map_err(|failed| state.failed(&database, &failed))? {
            None if create => Ok(state),
            None => Err(StateError::Missing(path.to_owned())),
            Some(_) if create => Err(StateError::Exists(path.to_owned())),
            Some(stored) if stored == receiver => Ok(state),
            Some(stored) => Err(StateError::Unusable(format!(
                "the state file {} is that of an export to `{stored}`, and not to `{receiver}`: \
                 give the path, the name of events and the measure as before, or name the state \
                 file of this receiver; a new one sends everything again",
                path.display()
            ))),
        }
    }

    /// Checks that the ids of events are made as before.
    pub(super) async fn check_namespace(&self, namespace: &str) -> Result<(), StateError> {
        let new = namespace.to_owned();
        let stored = self.write(move |database| bind(database, NAMESPACE_KEY, &new, true)).await?;
        match stored {
            Some(stored) if stored != namespace => Err(StateError::Unusable(format!(
                "the events of this state file have the namespace `{stored}`, and not \
                 `{namespace}`: give the one that they have"
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the totals that were sent of accounts' months.
    pub(super) async fn totals(
        &self,
        of: Vec<(Account, Period)>,
    ) -> Result<Vec<SentTotals>, StateError> {
        self.run(move |database| {
            let transaction = database.begin_read()?;
            let rows = transaction.open_table(ROWS)?;
            let totals = |(account, month): &(Account, Period)| {
                Ok(get(&rows, &totals_key(account, *month))?.unwrap_or_default())
            };
            of.iter().map(totals).collect()
        })
        .await
    }

    /// Returns the events that are not acknowledged, in their order.
    pub(super) async fn pending(&self) -> Result<Vec<Pending>, StateError> {
        self.run(move |database| {
            let transaction = database.begin_read()?;
            let rows = transaction.open_table(ROWS)?;
            let mut pending = Vec::new();
            for found in rows.range(pending_key(0).as_slice()..=pending_key(u64::MAX).as_slice())? {
                let (key, value) = found?;
                let event: Pending = read(key.value(), value.value())?;
                pending.push(Pending { number: number(key.value()), ..event });
            }
            Ok(pending)
        })
        .await
    }

    /// Makes events for what statements have more than was sent, and writes them, with the totals
    /// that count them, in one transaction, before they are sent. Returns them.
    pub(super) async fn intend(
        &self,
        namespace: &str,
        statements: Vec<Statement>,
        now: UnixTime,
    ) -> Result<Vec<Pending>, StateError> {
        let namespace = namespace.to_owned();
        self.write(move |database| {
            let transaction = database.begin_write()?;
            let mut intended = Vec::new();
            {
                let mut rows = transaction.open_table(ROWS)?;
                let last = rows
                    .range(pending_key(0).as_slice()..=pending_key(u64::MAX).as_slice())?
                    .next_back()
                    .transpose()?
                    .map(|(key, _)| number(key.value()));
                let mut next = last.map_or(0, |last| last + 1);
                for statement in &statements {
                    let key = totals_key(&statement.account, statement.period);
                    let mut totals: SentTotals = get(&rows, &key)?.unwrap_or_default();
                    let events = totals.advance(&namespace, statement, now);
                    if events.is_empty() {
                        continue;
                    }
                    rows.insert(key.as_slice(), row(&key, &totals)?.as_slice())?;
                    for event in events {
                        let pending = Pending { number: next, event, sent_at: None, refused: None };
                        let key = pending_key(next);
                        rows.insert(key.as_slice(), row(&key, &pending)?.as_slice())?;
                        intended.push(pending);
                        next += 1;
                    }
                }
            }
            if intended.is_empty() {
                transaction.abort()?;
            } else {
                transaction.commit()?;
            }
            Ok(intended)
        })
        .await
    }

    /// Writes events as they are now, before they are sent again or after they were refused.
    pub(super) async fn update(&self, pending: Vec<Pending>) -> Result<(), StateError> {
        self.settle(Vec::new(), pending).await
    }

    /// Removes events that were acknowledged, and writes others as they are now.
    pub(super) async fn settle(
        &self,
        acknowledged: Vec<u64>,
        changed: Vec<Pending>,
    ) -> Result<(), StateError> {
        self.write(move |database| {
            let transaction = database.begin_write()?;
            {
                let mut rows = transaction.open_table(ROWS)?;
                for number in &acknowledged {
                    rows.remove(pending_key(*number).as_slice())?;
                }
                for pending in &changed {
                    let key = pending_key(pending.number);
                    rows.insert(key.as_slice(), row(&key, pending)?.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Writes to the file.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenDatabase) -> Result<T, DatabaseFailed> + Send + 'static,
    ) -> Result<T, StateError> {
        let done = self.run(work).await?;
        self.file.committed(1);
        Ok(done)
    }

    /// Works on the file, on a thread that may wait for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenDatabase) -> Result<T, DatabaseFailed> + Send + 'static,
    ) -> Result<T, StateError> {
        let permit = Arc::clone(&self.work).acquire_owned().await;
        let (file, database) = (Arc::clone(&self.file), self.file.database()?);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            guarded(|| work(&database))
                .map_err(|DatabaseFailed(reason)| file.failed(&database, &reason))
        });
        match done.await {
            Ok(done) => Ok(done?),
            Err(error) => Err(StateError::Unusable(error.to_string())),
        }
    }

    fn failed(
        &self,
        database: &Arc<OpenDatabase>,
        DatabaseFailed(reason): &DatabaseFailed,
    ) -> StateError {
        self.file.failed(database, reason).into()
    }
}

/// Returns the text that is stored under a key, and stores one if there is none and it may.
fn bind(
    database: &OpenDatabase,
    key: &[u8],
    text: &str,
    may_store: bool,
) -> Result<Option<String>, DatabaseFailed> {
    let transaction = database.begin_write()?;
    let stored = {
        let mut rows = transaction.open_table(ROWS)?;
        let stored: Option<String> = get(&rows, key)?;
        if stored.is_none() && may_store {
            rows.insert(key, row(key, &text)?.as_slice())?;
        }
        stored
    };
    transaction.commit()?;
    Ok(stored)
}

fn totals_key(account: &Account, period: Period) -> Vec<u8> {
    format!("t{period}:{account}").into_bytes()
}

fn pending_key(number: u64) -> Vec<u8> {
    [b"p".as_slice(), &number.to_be_bytes()].concat()
}

fn number(key: &[u8]) -> u64 {
    key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn row(key: &[u8], value: &impl Serialize) -> Result<Vec<u8>, DatabaseFailed> {
    let text = serde_json::to_vec(value).map_err(|error| DatabaseFailed(error.to_string()))?;
    Ok(sealed(key, text))
}

fn get<T: DeserializeOwned>(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<T>, DatabaseFailed> {
    rows.get(key)?.map(|row| read(key, row.value())).transpose()
}

fn read<T: DeserializeOwned>(key: &[u8], row: &[u8]) -> Result<T, DatabaseFailed> {
    let damaged = || DatabaseFailed(format!("a row is damaged: {}", PURPOSE.if_damaged));
    let text = unsealed(key, row).ok_or_else(damaged)?;
    serde_json::from_slice(text).map_err(|_| damaged())
}

impl From<FileError> for StateError {
    fn from(error: FileError) -> Self {
        let (FileError::Unfit(reason) | FileError::Away(reason)) = error;
        Self::Unusable(reason)
    }
}

impl fmt::Debug for ExportState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExportState").field(&self.file.path()).finish()
    }
}
