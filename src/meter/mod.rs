//! The middleware: [`CreditMeter`] is the layer, [`CreditService`] the service, [`ResponseFuture`]
//! and [`MeterBody`] what they return.
//!
//! A request's way through it:
//!
//! 1. The plan's routes say what it runs. Free requests go straight through.
//! 2. [`Identify`](crate::identify::Identify) says who asks, who pays, and which tier applies; the tier's
//!    request rate is counted.
//! 3. A slice of the account's credits is put on hold: locally where the account's lease covers it,
//!    else with one call to the ledger.
//! 4. The inner service is called. From now on its compute time is measured, on its future and on
//!    its response's body.
//! 5. The body is read ahead by a task of its own, unless it is whole with its head, so that
//!    nothing that is billed depends on who reads.
//! 6. When the body ends, fails or is dropped, the charge is closed: what was used is spent, the
//!    rest of the slice is free.
//!
//! What is denied gets a response; the inner service's error type stays what it is, and its future
//! is never boxed.

mod admission;
mod body;
mod builder;
mod charge;
mod compute;
mod compute_clock;
mod future;
mod head;
mod last_words;
mod layer;
mod pump;
mod read_ahead;
mod reporting;
mod service;
mod told;
mod usual;

#[cfg(feature = "axum")]
pub(crate) use self::usual::LEAST;
pub use self::{
    body::MeterBody,
    builder::{ConfigError, CreditMeterBuilder, CreditWorker},
    charge::{End, FinishedRequest},
    compute_clock::{ComputeClock, ComputeTime},
    future::ResponseFuture,
    last_words::{CutOff, Stalled},
    layer::CreditMeter,
    service::CreditService,
};
pub use crate::lease::{Settlement, Unsettled};
