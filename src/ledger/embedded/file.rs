//! The database, which is opened again after a failure.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redb::{Database, DatabaseError, ReadableDatabase, StorageError};

use super::{
    super::LedgerError,
    rows::{ROWS, SCHEMA, SCHEMA_KEY},
};

/// Time between two tries to open the file again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The memory that the database may use for pages of the file.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// The file of a ledger.
pub(super) struct File {
    path: PathBuf,
    state: Mutex<State>,
    /// It failed, and was not written since. Each outage is logged once.
    is_failing: AtomicBool,
    /// Transactions that were committed, and the calls that they made.
    #[cfg(test)]
    commits: Mutex<(usize, usize)>,
}

enum State {
    Open(Arc<Database>),
    /// It failed, or is being opened again.
    Failed {
        reason: String,
        tried_at: Instant,
    },
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file: all calls fail until it is opened again.
    File(String),
    /// This call.
    Call(LedgerError),
}

impl File {
    /// Opens the file, and makes it if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let database = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State::Open(Arc::new(database))),
            is_failing: AtomicBool::new(false),
            #[cfg(test)]
            commits: Mutex::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn commits(&self) -> (usize, usize) {
        *self.commits.lock().unwrap()
    }

    /// Takes note that calls are on the disk.
    pub(super) fn committed(&self, calls: usize) {
        if self.is_failing.swap(false, Ordering::AcqRel) {
            tracing::info!(
                target: "tower_credits", file = %self.path.display(), calls,
                "the ledger's file can be written again"
            );
        }
        #[cfg(test)]
        {
            let mut commits = self.commits.lock().unwrap();
            *commits = (commits.0 + 1, commits.1 + calls);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the database. After a failure it is opened again.
    pub(super) fn database(&self) -> Result<Arc<Database>, LedgerError> {
        let mut state = self.lock();
        match &*state {
            State::Open(database) => return Ok(Arc::clone(database)),
            State::Failed { reason, tried_at } if tried_at.elapsed() < REOPEN_PAUSE => {
                return Err(self.away(reason.clone()));
            }
            State::Failed { .. } => {}
        }
        match open(&self.path) {
            Ok(database) => {
                let database = Arc::new(database);
                *state = State::Open(Arc::clone(&database));
                Ok(database)
            }
            Err(error) => {
                let reason = error.to_string();
                *state = State::Failed { reason: reason.clone(), tried_at: Instant::now() };
                Err(self.away(reason))
            }
        }
    }

    /// Takes note that a database failed: none of its calls would succeed any more.
    pub(super) fn failed(&self, database: &Arc<Database>, reason: String) -> LedgerError {
        let mut state = self.lock();
        if let State::Open(open) = &*state
            && Arc::ptr_eq(open, database)
        {
            if !self.is_failing.swap(true, Ordering::AcqRel) {
                tracing::error!(
                    target: "tower_credits", file = %self.path.display(), reason,
                    "the ledger's file failed: it is opened again until it can be written"
                );
            }
            let tried_at = Instant::now().checked_sub(REOPEN_PAUSE).unwrap_or_else(Instant::now);
            *state = State::Failed { reason: reason.clone(), tried_at };
        }
        self.away(reason)
    }

    /// Closes the file.
    pub(super) fn close(&self) {
        let reason = "the ledger is closed".to_owned();
        *self.lock() = State::Failed { reason, tried_at: Instant::now() };
    }

    fn away(&self, reason: String) -> LedgerError {
        LedgerError::Unreachable {
            reason: format!("the file {}: {reason}", self.path.display()),
            source: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a database whose rows this crate reads.
fn open(path: &Path) -> Result<Database, LedgerError> {
    let file = path.display();
    let unfit = |reason: String| LedgerError::Unfit(format!("the file {file} {reason}"));
    let away = |reason: String| LedgerError::Unreachable {
        reason: format!("the file {file} cannot be opened: {reason}"),
        source: None,
    };
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let database = builder.create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => unfit(
            "is in use by another process: end that one, or name another file (for several \
             processes, use Redis)"
                .to_owned(),
        ),
        DatabaseError::UpgradeRequired(version) => {
            unfit(format!("has format {version} of redb: it is of another version"))
        }
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            unfit(format!("is no ledger ({error}): name another one"))
        }
        DatabaseError::Storage(StorageError::Corrupted(what)) => {
            unfit(format!("is damaged ({what}): put a copy of it back, or name another file"))
        }
        error => away(error.to_string()),
    })?;
    let found = schema(&database).map_err(|failure| match failure {
        Failure::File(reason) => away(reason),
        Failure::Call(error) => error,
    })?;
    match found.as_deref() {
        Some(SCHEMA) => Ok(database),
        Some(found) => Err(unfit(format!(
            "has schema version {found}, and this version of tower-credits reads version \
             {SCHEMA}: name another file, or use the version that wrote it"
        ))),
        None => match store_schema(&database) {
            Ok(()) => Ok(database),
            Err(Failure::File(reason)) => Err(away(reason)),
            Err(Failure::Call(error)) => Err(error),
        },
    }
}

fn schema(database: &Database) -> Result<Option<String>, Failure> {
    let rows = match database.begin_read()?.open_table(ROWS) {
        Ok(rows) => rows,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stored = rows.get(SCHEMA_KEY)?;
    Ok(stored.map(|stored| String::from_utf8_lossy(stored.value()).into_owned()))
}

fn store_schema(database: &Database) -> Result<(), Failure> {
    let transaction = begin_write(database)?;
    transaction.open_table(ROWS)?.insert(SCHEMA_KEY, SCHEMA.as_bytes())?;
    transaction.commit()?;
    Ok(())
}

/// Begins a transaction whose commit is on the disk, and after which a crash costs no repair that
/// walks the whole file.
pub(super) fn begin_write(database: &Database) -> Result<redb::WriteTransaction, Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Every error of the database means that the file has failed.
impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::File(error.into().to_string())
    }
}
