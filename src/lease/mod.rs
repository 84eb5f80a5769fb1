//! The node's side of the ledger: credits on hold under a lease, requests admitted and charged
//! against them locally.
//!
//! * [`Lease`](lease::Lease) is pure: it counts what is on hold, what is spent, which requests run
//!   on which slices and who waits, and composes what the next renewal says. It has no clock and
//!   does no I/O.
//! * [`Worker`] is the edge: one background task that sends renewals when leases say so, and hands
//!   their answers back; [`Keeper`] is its handle.
//! * [`Desk`] is what requests meet: they ask it for a [`Charge`](crate::meter), wait for one, and
//!   close it.
//!
//! A lease is made of parts. Each has a file, a state of its own, and the invariants of that state
//! in its docs:
//!
//! | part | state |
//! |---|---|
//! | `lease.rs`: `Lease` | the parts below; the conversation with the ledger |
//! | `life.rs`: `Life` | how far it is from its goodbye, and when it speaks regardless |
//! | `exchange.rs`: `Exchange` | the numbers of renewals, the one in flight, retries |
//! | `pool.rs`: `Pool` | the parts below; who gets a slice of what is spare |
//! | `slices.rs`: `Slices` | the requests that run, and the sum of their slices |
//! | `running.rs`: `Running` | one of these: its slice, what is settled, what it needs |
//! | `queue.rs`: `Queue` | the requests that wait |
//! | `hold.rs`: `Hold` | what may be spent |
//! | `surplus.rs`: `Surplus` | what is held beyond what requests own |
//! | `outbox.rs`: `Outbox` | what is spent, and what of it the ledger has acknowledged |
//!
//! Always `spent + slices <= budget`, but for debt: what `finish` requests use beyond their slices,
//! and what is granted without the ledger while it does not answer.
//!
//! Numbers in parentheses, as in "(3)", are the rules of `docs/lease-protocol.md`. They stand in
//! the code where it keeps them.

mod batch;
mod breaker;
mod desk;
mod exchange;
mod herald;
mod hold;
mod hold_ahead;
mod keeper;
#[expect(clippy::module_inception, reason = "the lease is what this module is named for")]
mod lease;
mod life;
mod outbox;
mod pool;
mod queue;
mod rules;
mod run;
mod running;
mod seat;
#[cfg(test)]
mod simulation;
mod slices;
mod surplus;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use self::{
    desk::{Admission, Beside, Desk, Refusal, Ticket, Verdict},
    herald::Watch,
    keeper::Keeper,
    rules::LeaseRules,
    run::{Denial, Run, RunId, Want},
    seat::{Ended, Place, Seat, SeatTaken},
    worker::Worker,
};
pub use self::{
    hold_ahead::HoldAhead,
    keeper::{Settlement, Unsettled},
};
