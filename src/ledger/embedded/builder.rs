//! Settings of the ledger in a file.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use super::{
    super::{LedgerError, MAX_LINES},
    ledger::EmbeddedLedger,
};
use crate::clock::{Clock, SystemClock};

/// Settings of an [`EmbeddedLedger`]: it comes from [`EmbeddedLedger::builder`].
#[derive(Clone, Debug)]
pub struct EmbeddedLedgerBuilder {
    path: PathBuf,
    max_lines: usize,
    clock: Arc<dyn Clock>,
}

impl EmbeddedLedger {
    /// Opens a ledger in a file, and makes the file if there is none. Its folder must be there.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unfit`] if another process uses the file, or if it is no ledger, is damaged,
    /// or has another schema version. [`LedgerError::Unreachable`] if it cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LedgerError> {
        Self::builder(path).open()
    }

    /// Returns a builder, for settings before opening.
    pub fn builder(path: impl Into<PathBuf>) -> EmbeddedLedgerBuilder {
        EmbeddedLedgerBuilder {
            path: path.into(),
            max_lines: MAX_LINES,
            clock: Arc::new(SystemClock),
        }
    }
}

impl EmbeddedLedgerBuilder {
    /// Stores up to `max_lines` usage lines of a month one by one; further usage is added to one
    /// line, `other`. Default [`MAX_LINES`](crate::ledger::MAX_LINES).
    #[must_use]
    pub const fn max_lines(mut self, max_lines: NonZeroUsize) -> Self {
        self.max_lines = max_lines.get();
        self
    }

    /// Sets the ledger's clock. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the ledger.
    ///
    /// # Errors
    ///
    /// As [`EmbeddedLedger::open`].
    pub fn open(self) -> Result<EmbeddedLedger, LedgerError> {
        EmbeddedLedger::start(&self.path, self.clock, self.max_lines)
    }
}
