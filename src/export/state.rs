//! The state of an export: what was sent, and what may have been sent, in a file of this machine.
//!
//! | key | value |
//! |---|---|
//! | `s` | the version of the schema |
//! | `r` | the receiver's name |
//! | `t2026-11:user:alice` | [`SentTotals`] of an account's month |
//! | `p` and a number of eight bytes | an event that is not acknowledged: a [`Pending`] |
//!
//! An event is written, with the totals that count it, before it is sent, and removed once the
//! receiver has acknowledged it. So after a crash the same events are sent again, with the same
//! ids, and never others in their place.

use std::{fmt, path::Path, sync::Arc};

use redb::ReadableTable;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{event::UsageEvent, totals::SentTotals};
use crate::{
    Account, Period,
    clock::UnixTime,
    database_file::{
        DatabaseFailed, DatabaseFile, FileError, OpenDatabase, Purpose, ROWS, guarded, sealed,
        unsealed,
    },
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

/// The key of the receiver's name.
const RECEIVER_KEY: &[u8] = b"r";

/// The state of an export to one receiver.
pub(super) struct ExportState {
    file: Arc<DatabaseFile>,
}

/// An event that is not acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Its number. Events are sent in the order of their numbers.
    #[serde(skip)]
    pub(super) number: u64,
    pub(super) event: UsageEvent,
    /// Moment from which on it may have arrived.
    pub(super) sent_at: UnixTime,
    /// The receiver's reason, if it did not take the event. It has not arrived then.
    pub(super) refused: Option<String>,
}

/// Totals of an account's month after events.
pub(super) struct Advanced {
    pub(super) account: Account,
    pub(super) period: Period,
    pub(super) totals: SentTotals,
    pub(super) events: Vec<UsageEvent>,
}

/// The reason why a state cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StateError {
    reason: String,
}

impl ExportState {
    /// Opens a state file, or makes it.
    pub(super) fn open(path: &Path, receiver: &str, create: bool) -> Result<Self, StateError> {
        let shown = path.display();
        match (path.exists(), create) {
            (false, false) => {
                return Err(StateError::new(format!(
                    "there is no state file {shown}: if nothing was exported to this receiver \
                     before, create one; otherwise find the file, since without it everything \
                     would be sent again"
                )));
            }
            (true, true) => {
                return Err(StateError::new(format!(
                    "the state file {shown} is there already: open it, or name another one"
                )));
            }
            _ => {}
        }
        let state = Self { file: Arc::new(DatabaseFile::open(path, PURPOSE)?) };
        let database = state.file.database()?;
        let stored = guarded(|| {
            let transaction = database.begin_write()?;
            let stored = {
                let mut rows = transaction.open_table(ROWS)?;
                let stored: Option<String> = get(&rows, RECEIVER_KEY)?;
                if stored.is_none() {
                    rows.insert(RECEIVER_KEY, row(RECEIVER_KEY, &receiver)?.as_slice())?;
                }
                stored
            };
            transaction.commit()?;
            Ok(stored)
        });
        match stored.map_err(|failed| state.failed(&database, &failed))? {
            Some(stored) if stored != receiver => Err(StateError::new(format!(
                "the state file {shown} is that of an export to `{stored}`, and not to \
                 `{receiver}`: name another file"
            ))),
            _ => Ok(state),
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
            of.iter()
                .map(|(account, period)| {
                    Ok(get(&rows, &totals_key(account, *period))?.unwrap_or_default())
                })
                .collect()
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

    /// Writes events, with the totals that count them, before they are sent. Returns them.
    pub(super) async fn intend(
        &self,
        advanced: Vec<Advanced>,
        now: UnixTime,
    ) -> Result<Vec<Pending>, StateError> {
        self.run(move |database| {
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
                for Advanced { account, period, totals, events } in &advanced {
                    let key = totals_key(account, *period);
                    rows.insert(key.as_slice(), row(&key, totals)?.as_slice())?;
                    for event in events {
                        let (number, event) = (next, event.clone());
                        let pending = Pending { number, event, sent_at: now, refused: None };
                        let key = pending_key(next);
                        rows.insert(key.as_slice(), row(&key, &pending)?.as_slice())?;
                        intended.push(pending);
                        next += 1;
                    }
                }
            }
            transaction.commit()?;
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
        self.run(move |database| {
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

    /// Works on the file, on a thread that may wait for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenDatabase) -> Result<T, DatabaseFailed> + Send + 'static,
    ) -> Result<T, StateError> {
        let (file, database) = (Arc::clone(&self.file), self.file.database()?);
        let done = tokio::task::spawn_blocking(move || {
            guarded(|| work(&database))
                .map_err(|DatabaseFailed(reason)| file.failed(&database, &reason))
        });
        match done.await {
            Ok(done) => Ok(done?),
            Err(error) => Err(StateError::new(error.to_string())),
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

impl StateError {
    const fn new(reason: String) -> Self {
        Self { reason }
    }
}

impl From<FileError> for StateError {
    fn from(error: FileError) -> Self {
        let (FileError::Unfit(reason) | FileError::Away(reason)) = error;
        Self::new(reason)
    }
}

impl fmt::Debug for ExportState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExportState").field(&self.file.path()).finish()
    }
}
