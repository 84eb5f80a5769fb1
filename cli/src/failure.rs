//! Reasons why a command could not be done, and exit codes.

use std::process::ExitCode;

use tower_credits::{
    export::{CustomersError, ExportError, StateError},
    identify::RedisTokensError,
    ledger::LedgerError,
    plan::PlanError,
};

/// End of a command that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing is left to do.
    Well,
    /// Something was found that needs a person.
    Found,
}

/// Reason why a command could not be done. Each has a remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "no ledger is named: pass --ledger redis://host/ or the file of an embedded ledger, or set \
         CREDITS_LEDGER"
    )]
    NoLedger,
    #[error("{0}{hint}", hint = ledger_hint(.0))]
    Ledger(#[from] LedgerError),
    #[error("{0}")]
    Tokens(#[from] RedisTokensError),
    #[error("tokens are in Redis: pass --ledger with a URL (redis://host/), not a file")]
    TokensNeedRedis,
    #[error("there is no file {0}: name the embedded ledger's file, or a URL (redis://host/)")]
    NoFile(String),
    #[error("{0}")]
    Plan(#[from] PlanError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Export(#[from] ExportError),
    #[error("{0}")]
    Customers(#[from] CustomersError),
    #[error("cannot use {what}: {reason}")]
    Unusable { what: String, reason: String },
    #[error("{0}")]
    Refused(String),
    #[error("the command line is wrong: {0}")]
    Usage(String),
    #[error("nothing was changed: {0}")]
    NotConfirmed(String),
    /// The reader of the output is gone, as with `| head`.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    pub(crate) fn unusable(what: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> Self {
        Self::Unusable { what: what.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NoLedger | Self::Usage(_) => 2,
            Self::NotConfirmed(_) => 4,
            _ => 1,
        })
    }
}

fn ledger_hint(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::Deadline(_) => {
            "; look at the server with `credits doctor`, or pass a longer --timeout"
        }
        LedgerError::Unreachable { .. } => {
            "; is the address right, and does the server run? --ledger names another"
        }
        LedgerError::Unfit(reason) if reason.contains("in use by another process") => {
            "; stop the service that uses the file, or ask it by its billing routes"
        }
        _ => "",
    }
}
