//! One node's share of an account's credits in a month, as pure arithmetic.
//!
//! * [`Lease`] is what is on hold, what is spent, which requests run on which slices, which wait,
//!   and what the next renewal says.
//! * [`LeaseRules`] are the times of the protocol, [`HoldAhead`] the surplus that leases hold.
//!
//! Always `spent + slices <= budget`, except for what requests of `finish` tiers use beyond their
//! slices, which is debt. The [keeper](crate::keeper) renews leases.

mod batch;
#[expect(clippy::module_inception, reason = "the lease is what this module is named for")]
mod lease;
mod rules;
#[cfg(test)]
mod simulation;

pub use self::rules::HoldAhead;
pub(crate) use self::{
    lease::{Closing, Denial, Lease, Next, Run, RunId, Served, Want},
    rules::{A_LITTLE, LeaseRules},
};
