//! The node's side of the ledger: credits on hold under a lease, requests admitted and charged
//! against them locally.
//!
//! * [`Lease`] is pure: what is on hold, what is spent, which requests run on which slices, who
//!   waits, and what the next renewal says.
//! * [`Worker`] is the edge: one background task that sends renewals when leases say so, and hands
//!   their answers back; [`Keeper`] is its handle.
//! * [`Desk`] is what requests meet: they ask it for a [`Charge`](crate::meter), wait for one, and
//!   close it.
//!
//! Always `spent + slices <= budget`, but for what `finish` requests use beyond their slices, which
//! is debt.

mod batch;
mod breaker;
mod desk;
mod herald;
mod keeper;
#[expect(clippy::module_inception, reason = "the lease is what this module is named for")]
mod lease;
mod rules;
mod seat;
#[cfg(test)]
mod simulation;
mod worker;

pub(crate) use self::{
    desk::{Admission, Beside, Desk, Refusal, Ticket, Verdict},
    herald::Watch,
    keeper::Keeper,
    lease::{Denial, Run, RunId, Want},
    rules::LeaseRules,
    seat::{Ended, Place, Seat, SeatTaken},
    worker::Worker,
};
pub use self::{
    keeper::{Settlement, Unsettled},
    rules::HoldAhead,
};
