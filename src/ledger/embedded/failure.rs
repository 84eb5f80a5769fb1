//! [`Failure`]: what failed, a call or the file.

use super::super::LedgerError;
use crate::database_file::{DatabaseFailed, FileError, Purpose};

/// Purpose of the file.
pub(super) const PURPOSE: Purpose = Purpose {
    name: "ledger",
    schema: "2",
    older: &["1"],
    if_in_use: "end that one, or name another file (for several processes, use Redis)",
    if_damaged: "put a copy of it back, or name another file",
};

/// Reason why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file: all calls fail until it is opened again.
    File(String),
    /// This call.
    Call(LedgerError),
}

/// Every error of the database means that the file has failed.
impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let DatabaseFailed(reason) = DatabaseFailed::from(error);
        Self::File(reason)
    }
}

impl From<FileError> for LedgerError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Unfit(reason) => Self::Unfit(reason),
            FileError::Away(reason) => Self::Unreachable { reason, source: None },
        }
    }
}
