//! Calls of the host's code: a panic there is that code's failure, and no more.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The host's code panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} panicked")]
pub(crate) struct Panicked(&'static str);

impl Panicked {
    /// Says so in the log.
    pub(crate) fn of(whose: &'static str) -> Self {
        tracing::error!(target: "tower_credits", whose, "the host's code panicked");
        Self(whose)
    }
}

/// Calls the host's code. The panic's own message is printed by the panic hook.
pub(crate) fn contained<T>(whose: &'static str, call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Panicked::of(whose))
}
