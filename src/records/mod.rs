//! Usage records: for each request that ended, what it used and cost, for systems outside of the
//! ledger.
//!
//! A [`UsageRecord`] is made when a request has ended, billed or not. It goes into the queue of
//! each [`RecordSink`] that the meter was [given](crate::CreditMeterBuilder::records), and a task
//! of that queue delivers it, in batches. Requests never wait for this, and debits do not depend on
//! it: the ledger's totals are right whatever becomes of the records.
//!
//! * A batch that the sink cannot take now is delivered again, with the same ids, until it is
//!   taken. So a record can reach a receiver more than once. Receivers drop the repetitions by the
//!   [id](UsageRecord::id).
//! * A queue has a [maximum](RecordDelivery::queue_size). While it is full, new records are
//!   dropped. They are counted, logged, and in [`RecordStats`].
//! * Records that were not delivered are lost with the process if it is killed. [`shutdown`]
//!   delivers them, for five seconds at most.
//!
//! [`shutdown`]: crate::CreditMeter::shutdown
//!
//! Sinks of this crate: [`JsonLines`], a file or the standard output; and, with the feature
//! `cloud-events`, [`CloudEvents`], over HTTP to OpenMeter and others.
//!
//! ```
//! use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
//! use tower_credits::records::{JsonLines, RecordDelivery};
//!
//! # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
//! let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
//!     .records(RecordDelivery::to(JsonLines::file("usage.jsonl")?).queue_size(100_000))
//!     .build()?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cloud-events")]
mod cloud_events;
mod delivery;
mod json_lines;
mod kept_costs;
mod queue;
mod record;
mod settings;
mod sink;

#[cfg(feature = "cloud-events")]
pub use self::cloud_events::CloudEvents;
pub use self::{
    json_lines::JsonLines,
    record::UsageRecord,
    settings::{RecordDelivery, RecordStats},
    sink::{RecordSink, SinkError, SinkFuture},
};
pub(crate) use self::{kept_costs::KeptCosts, queue::Records};
