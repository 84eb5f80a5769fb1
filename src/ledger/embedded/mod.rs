//! The ledger in a file: balances of one machine, which survive restarts, crashes and power
//! failures.
//!
//! The file is a redb database. One thread writes to it: it takes the calls that wait, makes them
//! one after the other in one transaction, and answers them once that is on the disk. So a call
//! costs a part of a flush of the disk, a smaller one the more there are at a time. Statements and
//! lists are read beside it, from the last transaction.
//!
//! The rules are those of [`AccountState`](super::AccountState). Of an account, only what a call
//! may change is read and written: its record, the months that the call is about without their
//! usage lines, and those lines that it adds to.
//!
//! * `builder.rs`: settings.
//! * `ledger.rs`: [`EmbeddedLedger`], the implementation of [`Ledger`](super::Ledger).
//! * `writer.rs`: the thread that writes.
//! * `failure.rs`: what failed, a call or the file.
//! * `rows.rs`: keys and values; `account.rs`: an account as rows.

mod account;
mod builder;
mod failure;
#[cfg(test)]
mod fuzz;
mod ledger;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{builder::EmbeddedLedgerBuilder, ledger::EmbeddedLedger};
