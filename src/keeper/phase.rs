//! The phases in the life of a keeper.

use std::time::Duration;

use super::sync::{AtomicU8, Ordering};

/// The time that a shutdown tries to settle.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A phase in the life of a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are admitted.
    Open,
    /// Its last owner is gone, so nobody asks any more; what runs goes on.
    Orphaned,
    /// It shuts down: everything ends now.
    Closing,
}

/// A phase that threads share. It only goes forward.
pub(super) struct SharedPhase(AtomicU8);

impl SharedPhase {
    pub(super) const fn open() -> Self {
        Self(AtomicU8::new(Phase::Open as u8))
    }

    pub(super) fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Orphaned,
            _ => Phase::Closing,
        }
    }

    pub(super) fn advance(&self, to: Phase) {
        self.0.fetch_max(to as u8, Ordering::AcqRel);
    }
}
