//! Calls of the host's code that contain a panic: it makes one call fail, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Error that the host's code panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} panicked")]
pub(crate) struct Panicked(&'static str);

impl Panicked {
    /// Logs the panic of that part of the host's code.
    pub(crate) fn of(whose: &'static str) -> Self {
        tracing::error!(target: "tower_credits", whose, "the host's code panicked");
        Self(whose)
    }
}

/// Calls the host's code; `whose` names it in the log and the error. The panic hook prints the
/// panic's own message.
pub(crate) fn contained<T>(whose: &'static str, call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Panicked::of(whose))
}
