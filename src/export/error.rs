//! [`ExportError`]: why an export ended before its end.

use super::{receiver::ReceiverError, state::StateError};
use crate::ledger::LedgerError;

/// Reason why an export ended before its end. What was sent until then is kept in mind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A statement or the list of accounts could not be read.
    #[error("cannot read the ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The state file cannot be used.
    #[error("cannot use the state of the export: {0}")]
    State(#[from] StateError),
    /// The receiver did not take a delivery. The next export sends the same events again.
    #[error("cannot send to {receiver}: {error}{}", remedy(.error))]
    Receiver {
        /// Name of the receiver.
        receiver: String,
        /// Reason of its last answer.
        #[source]
        error: ReceiverError,
    },
}

fn remedy(error: &ReceiverError) -> &'static str {
    match error {
        ReceiverError::Unavailable { .. } => "; export again: the same events are sent",
        ReceiverError::Denied { .. } => "; correct the key or the URL, then export again",
    }
}
