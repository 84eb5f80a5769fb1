//! One node's share of an account's credits in a month, as pure arithmetic. The
//! [keeper](crate::keeper) renews leases, and admits requests on them.
//!
//! A lease is made of parts. Each has a file, a state of its own, and the invariants of that state
//! in its docs:
//!
//! | part | state |
//! |---|---|
//! | `lease.rs`: `Lease` | the parts below; the conversation with the ledger |
//! | `record.rs`: `LeaseRecord` | what a journal keeps of it |
//! | `last_standing.rs`: `LastStanding` | the account's balance in the ledger's last answer |
//! | `life.rs`: `Life` | its stages, from its first renewal to its last |
//! | `exchange.rs`: `Exchange` | the numbers of renewals, the one in flight, retries |
//! | `pool.rs`: `Pool` | the parts below; which request gets a slice of the spare credits |
//! | `slices.rs`: `Slices` | the requests that run, and the sum of their slices |
//! | `running.rs`: `Running` | one of these: its slice, what is settled, what it needs |
//! | `memory.rs`: `RunMemory` | the memory in which they run |
//! | `queue.rs`: `Queue` | the requests that wait |
//! | `hold.rs`: `Hold` | the budget |
//! | `permits.rs`: `PermitPool` | permits of a request rate over all nodes |
//! | `concurrency.rs`: `ConcurrencyPool` | the share of the requests that may run at the same time |
//! | `surplus.rs`: `Surplus` | the credits held ahead of requests |
//! | `outbox.rs`: `Outbox` | the credits that are spent, and those that the ledger has acknowledged |
//!
//! Always `spent + slices <= budget`, except for debt: what `finish` requests use beyond their
//! slices, and what is granted without the ledger while it does not answer.
//!
//! Numbers in parentheses, as in "(3)", are the rules of `docs/lease-protocol.md`. They stand in
//! the code where it keeps them.

mod batch;
mod concurrency;
mod exchange;
#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod fuzz;
mod hold;
mod hold_ahead;
mod last_standing;
#[expect(clippy::module_inception, reason = "the lease is what this module is named for")]
mod lease;
mod life;
mod memory;
mod outbox;
mod permits;
mod pool;
mod queue;
mod record;
#[cfg(any(test, feature = "journal"))]
mod recovery;
mod rules;
mod run;
mod running;
#[cfg(test)]
mod simulation;
mod slices;
mod surplus;
#[cfg(test)]
mod tests;

pub use self::hold_ahead::HoldAhead;
#[cfg(feature = "journal")]
pub(crate) use self::record::LeaseRecord;
pub(crate) use self::{
    lease::{Lease, Next},
    memory::{ReusesMemory, RunMemory},
    permits::PermitAnswer,
    rules::{LeaseRules, MAX_RENEWAL_DELAY},
    run::{Closing, RefillDenial, Run, RunId, Served, SliceRequest},
};
