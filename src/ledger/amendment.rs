//! What an operator or an account's owner changes.

use std::time::Duration;

use crate::{Credits, Name, Period};

/// A change of what an account keeps, or a correction of one of its months.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amendment {
    /// Adds purchased credits; a second grant of the same id changes nothing, so that it can be
    /// sent again where it is not known whether it arrived, or after a failover that may have
    /// forgotten it.
    Grant {
        /// Names the grant: a payment's or an order's id, say.
        id: Name,
        /// How much.
        amount: Credits,
        /// Until when requests are admitted on it, since the Unix epoch, in whole milliseconds;
        /// `None` for ever.
        expires: Option<Duration>,
    },
    /// Sets how many seats the account has; 1 until it is set.
    Seats(std::num::NonZeroU32),
    /// Sets or removes the owner's limit on pay-as-you-go spending in a period; where it is
    /// reached, requests are denied with 403.
    SpendingLimit(Option<Credits>),
    /// Refunds part of what a month cost; a second refund of the same id in the same month changes
    /// nothing. See [`Book::refund`](crate::ledger::Book::refund).
    Refund {
        /// The month.
        period: Period,
        /// Names the refund.
        id: Name,
        /// How much, and why.
        refund: Refund,
    },
    /// Closes a month that has ended, and all before; what nodes report of it later is debited in
    /// the current month, in the line [`LineKey::Late`](crate::ledger::LineKey::Late). See [`Book::close`](crate::ledger::Book::close).
    Close(Period),
    /// Erases the account: its months, its purchased credits, all. What nodes still report of it is
    /// [refused](crate::ledger::Outcome::Erased) for 93 days; after that the name may be used again.
    Erase,
}

/// A correction of what a month cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// How much.
    pub amount: Credits,
    /// Why, for people.
    pub reason: Name,
}
