//! Data Studio's data: a small table for each owner, in memory, that SQL may read but not change.
//!
//! SQL comes from a model, or from whoever types it, so it is hostile until proven otherwise:
//! [`query`] has the bounds that it runs in. [`prompt()`] and [`grammar`] make the model write SQL.

mod import;
mod prompt;
mod query;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::{
    import::{Column, Kind},
    prompt::{grammar, prompt},
    query::Rows,
};

const SAMPLE: &[u8] = include_bytes!("sales.csv");
/// Databases in memory at a time. One has at most about 4 MiB.
const MOST_OWNERS: usize = 100;

/// A table as a page shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// The first rows.
    pub(crate) rows: Vec<Vec<Value>>,
    pub(crate) row_count: usize,
}

/// Refusals and failures. Their texts are for the owner of the table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StudioError {
    #[error("{0}")]
    Csv(String),
    #[error("Line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("The file is larger than 1 MiB. Upload a part of it.")]
    LargeFile,
    #[error("SQLite says: {0}.")]
    Sql(String),
    #[error("Only one SELECT that reads the table may run here: {0}.")]
    Forbidden(String),
    #[error("The query ran for longer than a second. Read fewer rows, or join less.")]
    Slow,
    #[error("The query needs too much memory. Read fewer rows, or make shorter texts.")]
    LargeQuery,
    #[error("Another query of yours is still running. Try again in a second.")]
    Busy,
    #[error("There is no room for more tables at the moment. Try again later.")]
    Full,
    #[error("The database failed.")]
    Database(#[source] rusqlite::Error),
}

impl StudioError {
    /// Returns the HTTP status of an answer that has this error.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Csv(_) | Self::Line { .. } | Self::Sql(_) | Self::Slow | Self::LargeQuery => 422,
            Self::LargeFile => 413,
            Self::Forbidden(_) => 403,
            Self::Busy => 429,
            Self::Full => 503,
            Self::Database(_) => 500,
        }
    }
}

/// An owner's table and the database that holds it.
struct Sheet {
    table: Arc<Table>,
    /// Locked by the query that runs, so an owner runs one at a time.
    connection: Mutex<Connection>,
}

struct Owner {
    sheet: Arc<Sheet>,
    uploaded: bool,
    last_use: u64,
}

#[derive(Default)]
struct Owners {
    by_name: HashMap<String, Owner>,
    uses: u64,
}

impl Owners {
    fn get(&mut self, owner: &str) -> Option<Arc<Sheet>> {
        self.uses += 1;
        let found = self.by_name.get_mut(owner)?;
        found.last_use = self.uses;
        Some(found.sheet.clone())
    }

    /// Inserts a table. If there are too many, drops another one: copies of the sample before
    /// uploads, and those not used for the longest time first.
    fn insert(&mut self, owner: &str, sheet: Arc<Sheet>, uploaded: bool) {
        if !self.by_name.contains_key(owner) && self.by_name.len() >= MOST_OWNERS {
            let oldest = self.by_name.iter().min_by_key(|(_, it)| (it.uploaded, it.last_use));
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.by_name.remove(&name);
            }
        }
        self.uses += 1;
        self.by_name.insert(owner.to_owned(), Owner { sheet, uploaded, last_use: self.uses });
    }
}

/// Tables of all owners. Who has uploaded none has the sample, `sales`.
pub(crate) struct Studio {
    sample: Arc<Table>,
    owners: Mutex<Owners>,
}

impl Studio {
    /// Returns a studio that has only the sample.
    ///
    /// # Errors
    ///
    /// Fails if the sample cannot be read.
    pub(crate) fn new() -> Result<Self, StudioError> {
        Ok(Self { sample: sample()?.table, owners: Mutex::default() })
    }

    /// Returns the owner's table.
    pub(crate) fn table(&self, owner: &str) -> Table {
        let sheet = self.owners().get(owner);
        sheet.map_or_else(|| Table::clone(&self.sample), |sheet| Table::clone(&sheet.table))
    }

    /// Replaces the owner's table with this CSV, whose first line has the columns' names. Blocks:
    /// call it where that is allowed.
    ///
    /// # Errors
    ///
    /// Fails if it is no CSV or too large. The owner's table then stays as it was.
    pub(crate) fn put(&self, owner: &str, name: &str, csv: &[u8]) -> Result<Table, StudioError> {
        let sheet = Arc::new(import::import(name, csv)?);
        let table = Table::clone(&sheet.table);
        self.owners().insert(owner, sheet, true);
        Ok(table)
    }

    /// Runs one SELECT over the owner's table. Blocks for at most about a second: call it where
    /// that is allowed.
    ///
    /// # Errors
    ///
    /// Fails if the SQL is wrong, does anything else than read the table, or passes a bound, and if
    /// another query of this owner is running.
    pub(crate) fn query(&self, owner: &str, sql: &str) -> Result<Rows, StudioError> {
        let known = self.owners().get(owner);
        let sheet = match known {
            Some(sheet) => sheet,
            None => {
                let sheet = Arc::new(sample()?);
                self.owners().insert(owner, sheet.clone(), false);
                sheet
            }
        };
        let mut connection = match sheet.connection.try_lock() {
            Ok(connection) => connection,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StudioError::Busy),
        };
        query::run(&mut connection, sql)
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sample() -> Result<Sheet, StudioError> {
    import::import("sales", SAMPLE)
}
