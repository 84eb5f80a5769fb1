//! Errors of a ledger.

use std::{sync::Arc, time::Duration};

use crate::MoneyError;

/// The reason why a ledger gave no answer, or none that counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// No answer came within the deadline. The call may have taken effect all the same.
    #[error("the ledger gave no answer within {0:?}")]
    Deadline(Duration),
    /// The ledger cannot be reached or is failing.
    #[error("the ledger cannot be reached: {reason}")]
    Unreachable {
        /// The message of the client or the server.
        reason: String,
        /// The error of the client library, if there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger answered with an error, for example of this account, or of the part of the ledger
    /// that has it. It changed nothing, or the next renewal finds what it changed.
    #[error("the ledger answered with an error: {reason}")]
    Failed {
        /// The message of the server.
        reason: String,
        /// The error of the client library, if there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger is set up in a way that would lose or mix money.
    #[error("the ledger cannot be used: {0}")]
    Unfit(String),
    /// The call makes no sense to the ledger. It changed nothing.
    #[error("the ledger refused: {0}")]
    Refused(String),
    /// The stored data of this account cannot be read. The call changed nothing. Other accounts are
    /// not affected.
    #[error("the account's stored data cannot be read: {0}")]
    Malformed(String),
    /// A total would be larger than [`Credits::MAX`](crate::Credits::MAX).
    #[error("an amount in the ledger is too large: {0}")]
    TooLarge(#[from] MoneyError),
}

impl LedgerError {
    /// `true` if nobody can be served: there was no answer, or one that every other account would
    /// get as well.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Unreachable { .. } | Self::Unfit(_))
    }

    /// The variant's name, as a label of metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Unreachable { .. } => "unreachable",
            Self::Failed { .. } => "failed",
            Self::Unfit(_) => "unfit",
            Self::Refused(_) | Self::Malformed(_) | Self::TooLarge(_) => "refused",
        }
    }
}
