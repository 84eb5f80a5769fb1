//! The middleware: [`CreditMeter`] is the layer, [`CreditService`] the service,
//! [`ResponseFuture`] and [`MeterBody`] are what it returns.
//!
//! A request passes through it in these steps:
//!
//! 1. The plan's routes say what the request runs. Free requests go straight through.
//! 2. [`Identify`](crate::identify::Identify) says who asks, who pays, and which tier applies. The
//!    request is counted against the tier's request rate.
//! 3. A slice of the account's credits is put on hold: locally if the account's lease covers it,
//!    else with one call to the ledger.
//! 4. The inner service is called. From now on its compute time is measured, on its future and on
//!    its response's body.
//! 5. The body is read ahead by a task of its own, unless it is whole with its head, so that the
//!    client's speed does not change what is billed.
//! 6. When the body ends, fails or is dropped, the charge is closed: the usage is spent, and the
//!    rest of the slice is free.
//!
//! A denial is a response. The inner service's error type does not change, and its future is never
//! boxed.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
//!
//! # fn example(plan: Plan) {
//! let meter = CreditMeter::new(plan, MemoryLedger::new(), IdentityFromExtensions);
//! let service = ServiceBuilder::new().layer(meter).service(service_fn(infer));
//! # let _ = service;
//! # }
//!
//! async fn infer(
//!     request: http::Request<String>,
//! ) -> Result<http::Response<String>, std::convert::Infallible> {
//!     Ok(http::Response::new(request.into_body()))
//! }
//! ```

mod admission;
mod bill_policy;
mod body;
mod buffered_body;
mod builder;
mod call;
mod charge;
mod compute_clock;
mod context_cache;
mod credit_meter;
mod cut_off;
mod cut_off_watch;
mod denials;
mod denied;
mod drain;
mod future;
#[cfg(test)]
mod fuzz;
mod head;
mod health;
mod pump;
mod queue;
#[cfg(test)]
mod queue_bounds;
#[cfg(test)]
mod races;
mod response;
mod service;
mod settings;
mod shadow;
mod sync;
mod unknown;
mod upload;
mod upload_budget;
mod upstream_time;
mod usage_headers;
mod would_deny;

pub use self::{
    body::MeterBody,
    buffered_body::{AsIs, BodyMode, Buffered, BufferedBody},
    builder::{ConfigError, CreditMeterBuilder, CreditWorker},
    compute_clock::{ComputeClock, ComputeTime},
    credit_meter::CreditMeter,
    cut_off::{CutOff, Stalled},
    future::ResponseFuture,
    health::Health,
    service::{BufferBodies, CreditService},
    shadow::ShadowDenials,
};
#[cfg(feature = "journal")]
pub use crate::keeper::JournalError;
pub use crate::{
    condition::Condition,
    keeper::{Settlement, Unsettled},
    metering::{End, FinishedRequest},
};
