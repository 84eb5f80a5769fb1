//! A redb database in a file of this machine, which is opened again after a failure.
//!
//! It has one table of rows, whose keys and values are bytes. The key `s` has the version of their
//! schema.

use std::{
    hash::Hasher,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};
use siphasher::sip::SipHasher24;

/// The one table.
pub(crate) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// The key of the schema's version.
pub(crate) const SCHEMA_KEY: &[u8] = b"s";

/// Time between two tries to open the file again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The memory that the database may use for pages of the file.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// A database in a file.
pub(crate) struct DatabaseFile {
    path: PathBuf,
    purpose: Purpose,
    state: Mutex<State>,
    /// It failed, and was not written since. Each outage is logged once.
    is_failing: AtomicBool,
    /// Transactions that were committed, and the calls that they made.
    #[cfg(test)]
    commits: Mutex<(usize, usize)>,
}

enum State {
    Open(Arc<OpenDatabase>),
    /// It failed, or is being opened again.
    Failed {
        reason: String,
        tried_at: Instant,
    },
}

/// Purpose of a database.
#[derive(Clone, Copy)]
pub(crate) struct Purpose {
    /// Name of such a file, for messages: `ledger`.
    pub(crate) name: &'static str,
    /// The version of its rows' schema.
    pub(crate) schema: &'static str,
    /// The versions before, whose rows are rows of this one.
    pub(crate) older: &'static [&'static str],
    /// Remedy if another process uses the file.
    pub(crate) if_in_use: &'static str,
    /// Remedy if it is damaged.
    pub(crate) if_damaged: &'static str,
}

/// An open database. One that failed panics when it is closed, which must not reach its user.
pub(crate) struct OpenDatabase(Option<Database>);

impl OpenDatabase {
    /// Begins a transaction that reads.
    pub(crate) fn begin_read(&self) -> Result<redb::ReadTransaction, DatabaseFailed> {
        Ok(self.database()?.begin_read()?)
    }

    /// Begins a transaction whose commit is on the disk, and after which a crash costs no repair
    /// that walks the whole file.
    pub(crate) fn begin_write(&self) -> Result<redb::WriteTransaction, DatabaseFailed> {
        let mut transaction = self.database()?.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// It is there until it is dropped.
    fn database(&self) -> Result<&Database, DatabaseFailed> {
        self.0.as_ref().ok_or_else(|| DatabaseFailed("it is closed".to_owned()))
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

/// Reason why a file cannot be used.
#[derive(Debug)]
pub(crate) enum FileError {
    /// Its content, or another process that uses it. It stays so until somebody does something.
    Unfit(String),
    /// It cannot be read or written now.
    Away(String),
}

/// A database failed: none of its calls would succeed any more.
#[derive(Debug)]
pub(crate) struct DatabaseFailed(pub(crate) String);

impl DatabaseFile {
    /// Opens the file, and makes it if there is none.
    pub(crate) fn open(path: &Path, purpose: Purpose) -> Result<Self, FileError> {
        let database = open(path, purpose, true)?;
        Ok(Self {
            path: path.to_owned(),
            purpose,
            state: Mutex::new(State::Open(Arc::new(database))),
            is_failing: AtomicBool::new(false),
            #[cfg(test)]
            commits: Mutex::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn commits(&self) -> (usize, usize) {
        *self.commits.lock().unwrap()
    }

    /// Takes note that calls are on the disk.
    pub(crate) fn committed(&self, calls: usize) {
        if self.is_failing.swap(false, Ordering::AcqRel) {
            tracing::info!(
                target: "tower_credits", file = %self.path.display(), calls,
                "the {}'s file can be written again", self.purpose.name
            );
        }
        #[cfg(test)]
        {
            let mut commits = self.commits.lock().unwrap();
            *commits = (commits.0 + 1, commits.1 + calls);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the database. After a failure it is opened again.
    pub(crate) fn database(&self) -> Result<Arc<OpenDatabase>, FileError> {
        let mut state = self.lock();
        match &*state {
            State::Open(database) => return Ok(Arc::clone(database)),
            State::Failed { reason, tried_at } if tried_at.elapsed() < REOPEN_PAUSE => {
                return Err(self.away(reason));
            }
            State::Failed { .. } => {}
        }
        match open(&self.path, self.purpose, false) {
            Ok(database) => {
                let database = Arc::new(database);
                *state = State::Open(Arc::clone(&database));
                Ok(database)
            }
            Err(FileError::Unfit(reason) | FileError::Away(reason)) => {
                *state = State::Failed { reason: reason.clone(), tried_at: Instant::now() };
                Err(self.away(&reason))
            }
        }
    }

    /// Takes note that a database failed: none of its calls would succeed any more.
    pub(crate) fn failed(&self, database: &Arc<OpenDatabase>, reason: &str) -> FileError {
        let mut state = self.lock();
        if let State::Open(open) = &*state
            && Arc::ptr_eq(open, database)
        {
            if !self.is_failing.swap(true, Ordering::AcqRel) {
                tracing::error!(
                    target: "tower_credits", file = %self.path.display(), reason,
                    "the {}'s file failed: it is opened again until it can be written",
                    self.purpose.name
                );
            }
            let tried_at = Instant::now().checked_sub(REOPEN_PAUSE).unwrap_or_else(Instant::now);
            *state = State::Failed { reason: reason.to_owned(), tried_at };
        }
        self.away(reason)
    }

    /// Closes the file.
    #[cfg(any(feature = "embedded", feature = "journal"))]
    pub(crate) fn close(&self) {
        let reason = "it is closed".to_owned();
        *self.lock() = State::Failed { reason, tried_at: Instant::now() };
    }

    fn away(&self, reason: &str) -> FileError {
        FileError::Away(format!("the file {}: {reason}", self.path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a database whose rows this crate reads. One that is not there is made if `may_create`:
/// what was open once and is gone must not be replaced by an empty one.
fn open(path: &Path, purpose: Purpose, may_create: bool) -> Result<OpenDatabase, FileError> {
    let file = path.display();
    let Purpose { name, schema, older, if_in_use, if_damaged } = purpose;
    let unfit = |reason: String| FileError::Unfit(format!("the file {file} {reason}"));
    let away =
        |reason: String| FileError::Away(format!("the file {file} cannot be opened: {reason}"));
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Once, at the start: it reads the whole file.
    builder.set_check_integrity_on_open(may_create);
    let damaged = |what: &str| unfit(format!("is damaged ({what}): {if_damaged}"));
    let opened = guarded(|| Ok(if may_create { builder.create(path) } else { builder.open(path) }));
    let opened = opened.map_err(|DatabaseFailed(reason)| damaged(&reason))?;
    let database = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            unfit(format!("is in use by another process: {if_in_use}"))
        }
        DatabaseError::UpgradeRequired(version) => unfit(format!(
            "has format {version} of redb, and another one is read: name another file"
        )),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            unfit(format!("is no {name} ({error}): name another one"))
        }
        DatabaseError::Storage(StorageError::Corrupted(what)) => damaged(&what),
        error => away(error.to_string()),
    })?;
    let database = OpenDatabase(Some(database));
    let found = guarded(|| stored_schema(&database));
    let found = found.map_err(|DatabaseFailed(reason)| match &*reason {
        DAMAGED_PAGE => damaged(DAMAGED_PAGE),
        _ => away(reason),
    })?;
    match found {
        Some(found) if found == format!("{name} {schema}") => Ok(database),
        Some(found) if older.iter().any(|older| found == format!("{name} {older}")) => {
            // From now on it has rows that the version before does not know.
            let stored = guarded(|| store_schema(&database, &format!("{name} {schema}")));
            stored.map_err(|DatabaseFailed(reason)| away(reason))?;
            Ok(database)
        }
        Some(found) => Err(unfit(format!(
            "is a `{found}`, and this version of tower-credits reads a `{name} {schema}`: name \
             another file, or use the version that wrote it"
        ))),
        None if !may_create => Err(away("it is empty".to_owned())),
        None => {
            let stored = guarded(|| store_schema(&database, &format!("{name} {schema}")));
            stored.map_err(|DatabaseFailed(reason)| away(reason))?;
            Ok(database)
        }
    }
}

fn stored_schema(database: &OpenDatabase) -> Result<Option<String>, DatabaseFailed> {
    let rows = match database.begin_read()?.open_table(ROWS) {
        Ok(rows) => rows,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stored = rows.get(SCHEMA_KEY)?;
    Ok(stored.map(|stored| String::from_utf8_lossy(stored.value()).into_owned()))
}

fn store_schema(database: &OpenDatabase, schema: &str) -> Result<(), DatabaseFailed> {
    let transaction = database.begin_write()?;
    transaction.open_table(ROWS)?.insert(SCHEMA_KEY, schema.as_bytes())?;
    transaction.commit()?;
    Ok(())
}

/// The reason if the database panicked.
const DAMAGED_PAGE: &str = "a page of it is damaged";

/// Works on a database, which panics on pages that it did not write.
pub(crate) fn guarded<T>(
    work: impl FnOnce() -> Result<T, DatabaseFailed>,
) -> Result<T, DatabaseFailed> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DatabaseFailed(DAMAGED_PAGE.to_owned())))
}

/// The length of a row's checksum, in bytes.
const CHECKSUM_LENGTH: usize = 8;

/// Returns a row's value with a checksum of its key and itself: after a crash, the database does
/// not look at pages that it did not write, and disks return other bytes than they took.
pub(crate) fn sealed(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    value.extend(checksum(key, &value));
    value
}

/// Returns the value of a row; `None` if it is not what was written.
pub(crate) fn unsealed<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = row.split_at(row.len().checked_sub(CHECKSUM_LENGTH)?);
    (found == checksum(key, value)).then_some(value)
}

fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = SipHasher24::new();
    hasher.write_usize(key.len());
    hasher.write(key);
    hasher.write(value);
    hasher.finish().to_be_bytes()
}

impl<E: Into<redb::Error>> From<E> for DatabaseFailed {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}
