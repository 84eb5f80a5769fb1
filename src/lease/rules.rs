//! The times of the lease protocol.

use std::time::Duration;

/// The times of the lease protocol. The defaults fit a ledger in the same data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRules {
    /// How long a call to the ledger may take, and how long a request waits for its admission, counted from its arrival. Default 250 ms.
    pub(crate) deadline: Duration,
    /// How long spending may stay unreported. Default 100 ms.
    pub(crate) flush: Duration,
    /// How long after sending a renewal requests are admitted on its answer. Default 10 s.
    pub(crate) admit_for: Duration,
    /// How long the ledger keeps a hold without hearing of the lease. Default 10 min.
    pub(crate) ttl: Duration,
    /// Whether leases ask for more than running requests own.
    pub(crate) ahead: Option<Ahead>,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            flush: Duration::from_millis(100),
            admit_for: Duration::from_secs(10),
            ttl: Duration::from_secs(600),
            ahead: None,
        }
    }
}

impl LeaseRules {
    /// After how long without use and without news a lease speaks once more, and is then quiet until it says goodbye. Longer than what a failover
    /// of the ledger can forget, and than two that follow each other closely: they lag by seconds, not by minutes.
    pub(crate) fn idle(&self) -> Duration {
        self.ttl / 3
    }
}

/// A surplus that leases ask for, so that most requests are admitted without asking the ledger.
///
/// The ledger grants at most a quarter of what is left, so near zero this becomes strict by itself. What is held ahead on one node is not there
/// for another node until it is given back, ten seconds after the last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    pub(crate) slices: u32,
}

impl Ahead {
    /// A surplus of `slices` times what one request takes at its admission.
    pub const fn slices(slices: std::num::NonZeroU32) -> Self {
        Self { slices: slices.get() }
    }
}

/// A surplus of eight slices.
impl Default for Ahead {
    fn default() -> Self {
        Self { slices: 8 }
    }
}
