//! The store of balances: leases are renewed in it, and statements are read from it.
//!
//! A lease is one node's share of an account's credits in one period. With each [`Renewal`] the
//! node reports the lease's **running total** of settled cost and asks for the hold that it wants
//! now; the ledger debits the difference to the total that it last saw. Totals only grow, and the
//! ledger keeps the largest, so a renewal that is repeated, late or reordered changes nothing the
//! second time.
//!
//! # Example
//!
//! Grant credits and read a statement, as a payment webhook and a back office do:
//!
//! ```
//! use tower_credits::{Account, Accounts, MemoryLedger, Period};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let accounts = Accounts::new(MemoryLedger::new());
//! let alice = Account::user("alice")?;
//! let is_new = accounts.grant(&alice, "order-17".parse()?, "10.00".parse()?, None).await?;
//! let again = accounts.grant(&alice, "order-17".parse()?, "10.00".parse()?, None).await?;
//! assert!(is_new && !again, "one id grants once");
//!
//! let month: Period = "2026-11".parse()?;
//! let statement = accounts.statement(&alice, month).await?;
//! assert_eq!(statement.purchased_left, "10.00".parse()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Parts
//!
//! * [`Accounts`]: the operator's handle. It is the one way to change an account.
//! * [`Statement`], [`AccountsPage`]: what it reads.
//! * [`MemoryLedger`], [`EmbeddedLedger`], [`RedisLedger`]: the ledgers of this crate.
//! * [`Ledger`]: the interface of every ledger. Its messages are [`Renewal`] and [`Answer`], and
//!   [`Amendment`] for changes.
//! * [`AccountState`]: the rules as pure functions, on which to build a ledger of your own. It
//!   consists of a [`Record`] and [`Book`]s. `RedisLedger` runs the same functions as Lua scripts,
//!   which are checked against it.
//! * [`contract`]: a check that every ledger must pass.
//!
//! The types of the protocol ([`Renewal`], [`Terms`], [`Answer`], [`Outcome`], [`Standing`],
//! [`UsageLine`], [`LineKey`], [`Usage`], and of accounts [`Grant`], [`Refund`], [`AccountsPage`],
//! [`AccountSummary`], [`RequestCost`]) are closed: a ledger of your own builds and matches them as
//! a whole, and a change of them is a change of the protocol.

mod account_state;
mod accounts;
mod amendment;
mod audit;
mod book;
mod concurrency;
pub mod contract;
mod costs;
mod day_credits;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
#[cfg(test)]
mod histories;
mod holds;
mod interface;
mod leases;
mod list;
mod memory;
mod parts;
mod protocol;
mod rates;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod shares;
mod statement;
mod stored;
mod terms_in_force;

#[cfg(feature = "axum")]
pub(crate) use self::costs::MAX_REQUEST_IDS;
#[cfg(feature = "embedded")]
pub use self::embedded::{EmbeddedLedger, EmbeddedLedgerBuilder};
#[cfg(feature = "redis")]
pub use self::redis::{RedisLedger, RedisLedgerBuilder, ServerReport};
pub use self::{
    account_state::AccountState,
    accounts::Accounts,
    amendment::{Amendment, Refund},
    audit::{Audit, AuditsPage, Finding},
    book::Book,
    concurrency::{Concurrency, ConcurrencyRequest},
    costs::RequestCost,
    error::LedgerError,
    interface::{Ledger, LedgerFuture},
    list::{AccountSummary, AccountsPage, Cursor},
    memory::MemoryLedger,
    protocol::{
        Answer, LeaseId, LimitStanding, LineKey, MAX_LINES, MonthStanding, Outcome, Renewal, Span,
        Standing, Usage, UsageLine,
    },
    rates::{AccountRate, PermitRequest, Permits},
    record::{Grant, Record},
    statement::{Statement, StatementLine, StatementPart, StatementRefund},
};
pub(crate) use self::{
    concurrency::SHARE_LIFETIME,
    costs::MAX_KEPT_FOR,
    protocol::{CLOCK_SKEW, MAX_LEASE_PARTS, SETTLEMENT_WINDOW, SURPLUS_DIVISOR},
};
pub use crate::{
    names::{GrantId, Reason, RefundId},
    terms::{PartTerms, Terms},
};
