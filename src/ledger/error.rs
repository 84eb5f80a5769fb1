//! Why a ledger gave no answer.

use std::{sync::Arc, time::Duration};

use crate::MoneyError;

/// Why a ledger gave no answer, or none that counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// No answer within the deadline. What was asked may have been done all the same.
    #[error("the ledger gave no answer within {0:?}")]
    Deadline(Duration),
    /// The ledger cannot be reached or is failing.
    #[error("the ledger cannot be reached: {reason}")]
    Unreachable {
        /// What the client or the server said.
        reason: String,
        /// The error of the client library, where there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger answered, with an error: of this account, say, or of the part of the ledger that
    /// has it. It changed nothing, or what it changed is found by the next renewal.
    #[error("the ledger answered with an error: {reason}")]
    Failed {
        /// What the server said.
        reason: String,
        /// The error of the client library, where there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger is set up in a way that would lose or mix money.
    #[error("the ledger cannot be used: {0}")]
    Unfit(String),
    /// What the ledger was sent makes no sense; it changed nothing.
    #[error("the ledger refused: {0}")]
    Refused(String),
    /// What the ledger keeps of this account cannot be read; it changed nothing. Other accounts are
    /// well.
    #[error("what the ledger keeps of the account cannot be read: {0}")]
    Malformed(String),
    /// A total would be larger than [`Credits::MAX`](crate::Credits::MAX).
    #[error("an amount that the ledger keeps is too large: {0}")]
    TooLarge(#[from] MoneyError),
}

impl LedgerError {
    /// Says if nobody can be served: there was no answer, or none that another account would not
    /// get as well.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Unreachable { .. } | Self::Unfit(_))
    }

    /// Its name as a label.
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
