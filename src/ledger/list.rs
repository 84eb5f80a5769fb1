//! The list of a month's accounts, page by page.

use std::{fmt, str::FromStr};

use super::book::Book;
use crate::{Account, Credits};

/// One page of [`Accounts::list`](super::Accounts::list).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountsPage {
    /// The accounts.
    pub accounts: Vec<AccountSummary>,
    /// From where to go on; `None` where this was the last page.
    pub next: Option<Cursor>,
}

/// An account's month in short; its [`Statement`](super::Statement) has the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSummary {
    /// Which account.
    pub account: Account,
    /// Debited so far, refunds not subtracted.
    pub used: Credits,
    /// What of it was refunded.
    pub refunded: Credits,
    /// On hold by all leases, those that expired since the last renewal included.
    pub held: Credits,
    /// `true` if the month is closed for it.
    pub closed: bool,
}

impl AccountSummary {
    pub(super) fn of(account: Account, book: &Book, closed: bool) -> Self {
        // As the statement has it: a closed month stays what it is, unless its book was lost.
        let lacking = if closed && !book.is_blank() { Credits::ZERO } else { book.lacking() };
        Self {
            account,
            used: book.used().saturating_add(lacking),
            refunded: book.refunded(),
            held: book.held(),
            closed,
        }
    }
}

/// Where a page of [`Accounts::list`](super::Accounts::list) ended: a text that the ledger
/// understands, good for as long as its server is not started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor of a ledger's own making.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Cursor {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
