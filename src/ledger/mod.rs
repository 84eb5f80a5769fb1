//! Where leases are renewed and statements are read.
//!
//! A [`Lease`](crate::lease) is one node's share of an account's credits in one period. With each
//! [`Renewal`] the node reports the lease's **running total** of settled cost and asks for the hold
//! it wants now; the ledger debits the difference to the total that it last saw. Totals only grow
//! and the ledger keeps the largest, so a renewal that is repeated, late or reordered changes
//! nothing the second time.
//!
//! The types of the protocol ([`Renewal`], [`Terms`], [`Answer`], [`Outcome`], [`Standing`],
//! [`UsageLine`], [`LineKey`], [`Usage`], and of accounts [`Record`], [`Grant`], [`Refund`],
//! [`AccountsPage`], [`AccountSummary`]) are closed: those who write a ledger of their own build
//! and match them whole, and a change of them is a change of the protocol.
//!
//! [`Book`] is that rule as a pure function. [`MemoryLedger`] is a `Book` for each account and
//! period behind a mutex; [`RedisLedger`] runs the same function as a Lua script, checked against
//! `Book`.

mod accounts;
mod agreed;
mod amendment;
mod book;
mod error;
mod holds;
mod interface;
mod leases;
mod list;
mod memory;
mod protocol;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod statement;

pub(crate) use self::protocol::{EARLY, LATE, SHARE, whole_millis};
#[cfg(feature = "redis")]
pub use self::redis::{RedisLedger, RedisLedgerBuilder};
pub use self::{
    accounts::Accounts,
    amendment::{Amendment, Refund},
    book::Book,
    error::LedgerError,
    interface::{Ledger, LedgerFuture},
    list::{AccountSummary, AccountsPage, Cursor},
    memory::MemoryLedger,
    protocol::{Answer, LeaseId, LineKey, MAX_LINES, Outcome, Renewal, Standing, Usage, UsageLine},
    record::{Grant, Record},
    statement::{Statement, StatementLine, StatementRefund},
};
pub use crate::terms::Terms;
