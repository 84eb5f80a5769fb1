//! [`Journal`]: the open file, and the records that were in it.

use std::{fmt, path::PathBuf};

use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use crate::{
    Account, Credits, Part, Period,
    clock::UnixTime,
    database_file::{
        DatabaseFailed, DatabaseFile, FileError, OpenDatabase, Purpose, ROWS, SCHEMA_KEY, guarded,
        unsealed,
    },
    lease::LeaseRecord,
    ledger::Terms,
    terms::{LeaseScope, PartTerms, StatedTerms},
};

/// Purpose of the file.
const PURPOSE: Purpose = Purpose {
    name: "journal",
    schema: "2",
    older: &["1"],
    if_in_use: "give each node a journal of its own",
    // An older copy would settle again what leases have settled that are closed since.
    if_damaged: "name another file; never put an older copy back",
};

/// A file in which a node keeps what the ledger has not acknowledged yet, so that it is debited
/// even if the process is killed: when the node starts again with the same file.
///
/// Usage that had ended, and what running requests had used up to 20 ms before the crash (and a
/// flush of the disk) is debited once. Without a journal, a crash loses what was not reported: what
/// ended within [`report_within`](crate::CreditMeterBuilder::report_within), and during an outage
/// of the ledger all since it began. Running requests whose end decides what they cost (a handler
/// with a [`ComputeClock`](crate::ComputeClock), a [`bill_if`](crate::CreditMeterBuilder::bill_if))
/// are not in it until they end.
///
/// Requests do not wait for it. If the disk fails, they are served as without a journal, and the
/// log says so.
///
/// Never put an older copy of the file back: what was settled since would be debited again. Use it
/// with one ledger only. What a [shutdown](crate::CreditMeter::shutdown) could not settle is in it,
/// too, and the next start settles it.
///
/// Each node needs a file of its own, on a disk that outlives the process. Build the meter on a
/// tokio runtime, so that it settles what is in the file at once.
///
/// ```no_run
/// use tower_credits::{CreditMeter, Journal, Plan, RedisLedger, identify::IdentityFromExtensions};
///
/// # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = RedisLedger::connect("redis://127.0.0.1/").await?;
/// let meter = CreditMeter::builder(plan, ledger, IdentityFromExtensions)
///     .journal(Journal::open("/var/lib/inference/journal.redb")?)
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct Journal {
    pub(super) file: DatabaseFile,
    pub(super) rows: Vec<Row>,
}

/// A lease as the journal has it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) account: Account,
    pub(super) period: Period,
    pub(super) terms: Terms,
    pub(super) terms_at: UnixTime,
    pub(super) lease: LeaseRecord,
    #[serde(default)]
    pub(super) part: Option<Part>,
    #[serde(default)]
    pub(super) models: Option<Part>,
    #[serde(default)]
    pub(super) most_per_day: Option<Credits>,
    #[serde(default)]
    pub(super) parts: Vec<PartTerms>,
}

impl Row {
    pub(super) fn new(
        scope: &LeaseScope,
        stated: &StatedTerms,
        terms_at: UnixTime,
        lease: LeaseRecord,
    ) -> Self {
        let LeaseScope { account, part, models, period } = scope.clone();
        let StatedTerms { terms, most_per_day, parts } = stated;
        let (terms, most_per_day, parts) = (*terms, *most_per_day, parts.to_vec());
        Self { account, period, terms, terms_at, lease, part, models, most_per_day, parts }
    }

    pub(super) fn scope(&self) -> LeaseScope {
        let Self { account, part, models, period, .. } = self.clone();
        LeaseScope { account, part, models, period }
    }

    pub(super) fn stated(&self) -> StatedTerms {
        let Self { terms, most_per_day, parts, .. } = self;
        StatedTerms { terms: *terms, most_per_day: *most_per_day, parts: parts.as_slice().into() }
    }
}

/// The reason why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct JournalError {
    reason: String,
}

impl Journal {
    /// Opens a journal, and makes its file if there is none. The file's folder must be there.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if another process uses the file, if it is no journal or is damaged, or if
    /// it cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        let file = DatabaseFile::open(&path, PURPOSE)?;
        let database = file.database()?;
        let damaged = |reason: String| JournalError {
            reason: format!(
                "the journal {} is damaged ({reason}): {}",
                path.display(),
                PURPOSE.if_damaged
            ),
        };
        let rows = guarded(|| read(&database)).map_err(|DatabaseFailed(reason)| damaged(reason))?;
        Ok(Self { file, rows })
    }

    /// `true` if it has no leases: the process that wrote it ended, and settled them.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns what is to be settled of the process that wrote it.
    pub fn unsettled(&self) -> Credits {
        self.rows.iter().fold(Credits::ZERO, |sum, row| sum.saturating_add(row.lease.unreported()))
    }
}

/// Reads all rows. One that cannot be read is logged and stays where it is.
fn read(database: &OpenDatabase) -> Result<Vec<Row>, DatabaseFailed> {
    let table = database.begin_read()?.open_table(ROWS)?;
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        if key.value() == SCHEMA_KEY {
            continue;
        }
        match unsealed(key.value(), value.value()).map(serde_json::from_slice) {
            Some(Ok(row)) => rows.push(row),
            damaged => tracing::error!(
                target: "tower_credits", row = ?String::from_utf8_lossy(value.value()),
                error = damaged.and_then(Result::err).map(tracing::field::display),
                "a lease in the journal is damaged: it is not settled"
            ),
        }
    }
    Ok(rows)
}

impl From<FileError> for JournalError {
    fn from(error: FileError) -> Self {
        let (FileError::Unfit(reason) | FileError::Away(reason)) = error;
        Self { reason }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("file", &self.file.path())
            .field("leases", &self.rows.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database_file::sealed;

    /// A row as version 1 wrote it.
    const VERSION_1: &str = r#"{"account":"user:alice","period":"2026-11","terms":{"included":200,"per_seat":false,"pay_as_you_go":0},"terms_at":1794700800000,"lease":{"id":"00000000000000000000000000000001","seq":7,"outbox":{"spent":300,"acknowledged":200,"batches":2,"frozen":null,"lines":[]}}}"#;

    #[test]
    fn a_row_of_the_version_before_is_of_no_part() {
        let row: Row = serde_json::from_str(VERSION_1).unwrap();
        assert_eq!(row.scope().whole(), None);
        assert!(row.stated().parts.is_empty());
        assert_eq!(row.lease.unreported(), Credits::clamped(100));
    }

    /// The checksums of the database let it pass.
    #[test]
    fn a_row_that_is_not_what_was_written_costs_no_other_row() {
        let name = format!("tower-credits-journal-rows-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        {
            let file = DatabaseFile::open(&path, PURPOSE).unwrap();
            let transaction = file.database().unwrap().begin_write().unwrap();
            {
                let mut rows = transaction.open_table(ROWS).unwrap();
                for number in 0..9_u8 {
                    let user = format!("user:u{number}");
                    let mut row = sealed(&[number], VERSION_1.replace("user:alice", &user).into());
                    if number % 3 == 1 {
                        // Another user would pay.
                        let at = row.windows(7).position(|text| text == user.as_bytes()).unwrap();
                        row[at + 6] ^= 1;
                    }
                    rows.insert(&[number][..], &*row).unwrap();
                }
            }
            transaction.commit().unwrap();
        }
        let journal = Journal::open(&path).unwrap();
        let accounts: Vec<_> = journal.rows.iter().map(|row| row.account.as_str()).collect();
        assert_eq!(accounts, ["user:u0", "user:u2", "user:u3", "user:u5", "user:u6", "user:u8"]);
        drop(journal);
        std::fs::remove_file(path).unwrap();
    }
}
