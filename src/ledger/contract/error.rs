//! A rule of the contract that a ledger broke.

use crate::{BoxError, NameError, ledger::LedgerError};

/// The rule of the contract that a ledger broke first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// The ledger answered, but not as the rule says.
    #[error("{rule}: expected {expected}, found {found}")]
    Broken {
        /// The rule.
        rule: &'static str,
        /// The answer by the rule.
        expected: String,
        /// The ledger's answer.
        found: String,
    },
    /// The ledger returned an error to a call that the rule allows.
    #[error("{rule}: the ledger returned an error: {source}")]
    Failed {
        /// The rule.
        rule: &'static str,
        /// The ledger's error.
        source: LedgerError,
    },
    /// No account could be named, because the system gave no random bits.
    #[error("no account could be named: {0}")]
    Unnamed(#[source] BoxError),
}

impl From<NameError> for ContractError {
    fn from(error: NameError) -> Self {
        Self::Unnamed(error.into())
    }
}
