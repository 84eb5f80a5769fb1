//! The memory that responses may take while they wait for their clients.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// Limits on reading responses ahead of their clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAheadLimits {
    /// Bytes of one response. Default 256 KiB.
    pub(crate) per_response: usize,
    /// Bytes of all responses of a meter together. A queue that would exceed it holds one frame.
    /// Default 256 MiB.
    pub(crate) total: usize,
    /// Time after which a response is abandoned if its queue is full and the client takes nothing
    /// from it. Default 60 s.
    pub(crate) stall_timeout: Duration,
}

impl Default for ReadAheadLimits {
    fn default() -> Self {
        Self { per_response: 256 << 10, total: 256 << 20, stall_timeout: Duration::from_secs(60) }
    }
}

/// The bytes that all responses of a meter hold together, and their limits.
#[derive(Debug)]
pub(crate) struct ReadAheadBudget {
    pub(crate) limits: ReadAheadLimits,
    held: AtomicUsize,
}

impl ReadAheadBudget {
    pub(crate) const fn new(limits: ReadAheadLimits) -> Self {
        Self { limits, held: AtomicUsize::new(0) }
    }

    /// Returns the bytes that all responses hold now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// `true` if all responses together hold as much as they may.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.limits.total
    }
}
