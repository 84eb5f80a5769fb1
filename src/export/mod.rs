//! Usage out, as totals: sends what accounts used to systems that make invoices.
//!
//! An [`Exporter`] reads the statements of a month. For each usage line it sends the difference
//! between the line's running total and what it sent before, as a [`UsageEvent`], to a
//! [`Receiver`]. It reads the ledger only, so it can run anywhere and at any time: once a month or
//! every minute, beside the service or far from it.
//!
//! * An event is written to a state file before it is sent, and removed when the receiver has
//!   acknowledged it. After a crash, a lost answer or a failover, the same events are sent again
//!   with the same ids, by which the receiver drops repetitions. So the receiver's sum over an
//!   account's month is the ledger's.
//! * A receiver may remember ids for some time only, Stripe for 24 hours. An event that may have
//!   arrived longer ago is not sent again by itself: the report has it as [in
//!   doubt](ExportReport::in_doubt), until you [decide](Exporter::resolve).
//! * Cost is all usage, also what included and purchased credits paid for. To invoice the rest
//!   only, use [`pay_as_you_go`](crate::ledger::Statement::pay_as_you_go), or give equal credits at
//!   the receiver.
//! * Events are never negative. If a failover of Redis forgets usage that was sent, the ledger
//!   [recovers](crate::ledger::StatementLine::model) it in a line without details, and that line is
//!   sent only as far as the receiver does not have it already. Refunds are not sent: give them as
//!   credit notes in the system that made the invoice.
//! * The state file belongs to one receiver. If you lose it, find out what the receiver has before
//!   you begin a new one, since a new one sends everything again under other ids.
//!
//! Receivers of this crate: [`EventFile`], [`OpenMeter`], [`StripeMeter`] and [`Lago`].
//!
//! ```no_run
//! use tower_credits::{Accounts, Period, RedisLedger, clock::UnixTime};
//! use tower_credits::export::{EventFile, Exporter};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let accounts = Accounts::new(RedisLedger::connect("redis://127.0.0.1/").await?);
//! let file = EventFile::json_lines("usage-events.jsonl")?;
//! let exporter = Exporter::create(accounts, file, "usage-events.state")?;
//!
//! // Usage of last month can still come in until that is closed.
//! let month = Period::containing(UnixTime::now());
//! let report = exporter.export(&[month.previous(), month]).await?;
//! println!("{} events, {}", report.events, report.cost());
//! # Ok(())
//! # }
//! ```

mod customers;
mod delivery;
mod error;
mod event;
mod event_file;
mod exporter;
mod lago;
mod openmeter;
mod receiver;
mod report;
mod state;
mod stripe;
mod totals;
mod value;

pub use self::{
    customers::{Customers, CustomersError},
    error::ExportError,
    event::UsageEvent,
    event_file::EventFile,
    exporter::{Doubt, Exporter},
    lago::Lago,
    openmeter::OpenMeter,
    receiver::{Receiver, ReceiverError, ReceiverFuture, Refusal},
    report::ExportReport,
    state::StateError,
    stripe::StripeMeter,
    value::{Measure, MeasureError},
};
