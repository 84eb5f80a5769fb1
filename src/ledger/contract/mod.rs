//! The contract of a ledger, as a check that every [`Ledger`](super::Ledger) must pass.
//!
//! [`check`] plays a node and an operator, and compares each answer with the rule. It reports the
//! first rule that is broken, with the answer that was expected and the one that was found. The
//! ledgers of this crate pass it, and so does `examples/own_ledger.rs`.
//!
//! ```
//! use tower_credits::{MemoryLedger, clock::ManualClock, ledger::contract};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let clock = ManualClock::at("2026-11".parse()?);
//! let ledger = MemoryLedger::with_clock(clock.clone());
//! contract::check(&ledger, Some(&clock)).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accounts;
mod check;
mod corrections;
mod error;
mod probe;
mod renewals;
mod time;

pub use self::{check::check, error::ContractError, probe::MoveClock};
