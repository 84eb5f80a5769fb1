//! Concurrent requests over all nodes: the messages by which leases ask for a share of those that
//! may run.

use std::{num::NonZeroU32, time::Duration};

/// The time for which a lease has its share without a renewal: of a node that died, others get it
/// then.
pub(crate) const SHARE_LIFETIME: Duration = Duration::from_secs(30);

/// Asks in a [`Renewal`](super::Renewal) for a share of the requests that may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct ConcurrencyRequest {
    /// The most requests of the account that may run at the same time, by its tier.
    pub most: NonZeroU32,
    /// The lease's requests that run: as far as its share has them already, it keeps them.
    pub running: u32,
    /// The share that it wants in all.
    pub wanted: u32,
}

/// The answer to a [`ConcurrencyRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Concurrency {
    /// The lease's share: so many of its requests may run until it is renewed again, for 30 s at
    /// most.
    pub granted: u32,
    /// Rest of the limit after this.
    pub remaining: u32,
}
