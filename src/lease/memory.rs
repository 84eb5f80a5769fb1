//! The memory in which requests run.

use slab::Slab;

use super::{run::Run, running::Running};

/// Memory in which requests of a lease ran, and those of another may.
pub(crate) struct RunMemory<R>(pub(super) Slab<Running<R>>);

impl<R> RunMemory<R> {
    /// Memory that is not there yet.
    pub(crate) fn new() -> Self {
        Self(Slab::new())
    }
}

/// A request that can run in memory that others left. With a lease for each of many accounts,
/// memory that each kept for itself would be far away when its next request comes.
pub(crate) trait ReusesMemory: Run + Sized {
    /// Returns memory for the requests of a lease of which none runs.
    fn take_memory() -> RunMemory<Self> {
        RunMemory::new()
    }

    /// Takes the memory of a lease of which no request runs any more.
    fn leave_memory(_memory: RunMemory<Self>) {}
}
