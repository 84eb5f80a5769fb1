//! The list of a month's accounts, page by page.

use std::{fmt, str::FromStr};

use super::book::Book;
use crate::{Account, Credits};

/// One page of [`Accounts::list`](super::Accounts::list).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountsPage {
    /// The accounts.
    pub accounts: Vec<AccountSummary>,
    /// The start of the next page; `None` if this is the last one.
    pub next: Option<Cursor>,
}

/// An account's month in short. Its [`Statement`](super::Statement) has the rest. If what is stored
/// of it cannot be read, the amounts are zeros: an [audit](super::Accounts::audit) names what is
/// wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSummary {
    /// The account.
    pub account: Account,
    /// Debited so far, refunds not subtracted.
    pub used: Credits,
    /// The part of `used` that was refunded.
    pub refunded: Credits,
    /// On hold by all leases, including holds that expired since the last renewal.
    pub held: Credits,
    /// `true` if the month is closed.
    pub closed: bool,
}

impl AccountSummary {
    pub(super) fn from_book(account: Account, book: &Book, closed: bool) -> Self {
        // As on the statement: a closed month stays as it is, unless its book was lost.
        let missing = if closed && !book.is_empty() { Credits::ZERO } else { book.missing() };
        Self {
            account,
            used: book.used().saturating_add(missing),
            refunded: book.refunded(),
            held: book.held(),
            closed,
        }
    }
}

/// The end of a page of [`Accounts::list`](super::Accounts::list), as a text that the ledger
/// understands. It is valid until the ledger's server is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// Returns a cursor with a text of the ledger's choice.
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
