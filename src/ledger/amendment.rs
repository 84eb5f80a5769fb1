//! Changes that an operator or an account's owner makes.

use std::num::NonZeroU32;

use super::LedgerError;
use crate::names::{GrantId, Reason, RefundId};
use crate::{Credits, Limits, Part, Period, clock::UnixTime};

/// A change of an account's record, or a correction of one of its months.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amendment {
    /// Adds purchased credits. A second grant of the same id changes nothing, so you can send it
    /// again if you do not know that it arrived, or after a failover that may have forgotten it.
    Grant {
        /// Names the grant.
        id: GrantId,
        /// The credits to add.
        amount: Credits,
        /// The moment from which no request is admitted on it; `None` if it does not expire.
        expires: Option<UnixTime>,
    },
    /// Sets how many seats the account has; 1 until it is set.
    Seats(NonZeroU32),
    /// Sets or removes the owner's limit on pay-as-you-go spending in a period. When it is reached,
    /// requests are denied with 403.
    SpendingLimit(Option<Credits>),
    /// Sets the limits of a part of the account, or with `None` that of the account's own day.
    /// Those that are `None` are removed: those of the tier count then. When one is reached,
    /// requests are denied with 403.
    Limits {
        /// The part; `None` for the account itself, whose month has
        /// [`SpendingLimit`](Self::SpendingLimit).
        part: Option<Part>,
        /// Its limits from now on.
        limits: Limits,
    },
    /// Refunds part of what a month cost: first of what was charged as pay-as-you-go, then of
    /// purchased credits, which go back to grants that have not expired, then of included ones. A
    /// second refund of the same id in the same month changes nothing.
    Refund {
        /// The month.
        period: Period,
        /// Names the refund.
        id: RefundId,
        /// The amount, and the reason.
        refund: Refund,
    },
    /// Closes a month that has ended, and all before. Usage that nodes report of it later is
    /// debited in the current month, in the line
    /// [`LineKey::Late`](crate::ledger::LineKey::Late).
    Close(Period),
    /// Erases the account: its months, its purchased credits, everything. Renewals of it are
    /// [refused](crate::ledger::Outcome::Erased) for 93 days; after that the name may be used
    /// again.
    Erase,
}

impl Amendment {
    /// Refuses what no ledger can do.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        match self {
            Self::Limits { part: None, limits: Limits { per_month: Some(_), .. } } => {
                Err(LedgerError::Refused(
                    "the month of an account is limited by its spending limit: set that, or name a \
                     part of the account"
                        .into(),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// A correction of what a month cost.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Refund {
    /// The amount.
    pub amount: Credits,
    /// The reason, for people.
    pub reason: Reason,
}
