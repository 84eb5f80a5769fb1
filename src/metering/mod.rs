//! The measurement of a running request: its compute time, and the context by which that becomes a
//! cost. Pure state; the [keeper](crate::keeper) holds it with the request's slice.
//!
//! * [`BillingContext`] is the same for all requests of an identity for a workload in a month. Its
//!   [`PlanContext`] is the same for all of a tier: prices, slice size, limits.
//! * [`Compute`] is the compute time of one request; [`Pace`] estimates the part of it that cannot
//!   be seen.
//! * [`SharedClock`](shared_clock::SharedClock) is the time of hardware that runs several requests
//!   at once.
//! * [`RunningRequest`] is one request while it runs. It implements [`Run`](crate::lease::Run): the
//!   lease asks it what it has used, and tells it what it may use.
//! * [`FinishedRequest`] says how a request ended.

mod client_caps;
mod compute;
mod context;
mod end;
mod moment;
mod origin;
mod pace;
mod read_ahead;
mod refill;
mod report_history;
mod running;
mod shared_clock;
#[cfg(test)]
mod tests;

#[cfg(feature = "axum")]
pub(crate) use self::context::MIN_ADMITTED_TIME;
pub use self::end::{End, FinishedRequest};
pub(crate) use self::{
    context::{BillingContext, Instruments, PlanContext, PlanContexts},
    origin::Origin,
    pace::Pace,
    read_ahead::{ReadAheadBudget, ReadAheadLimits},
    report_history::ReportHistories,
    running::{Passed, RemainingTime, RunningRequest},
    shared_clock::SharedClocks,
};
