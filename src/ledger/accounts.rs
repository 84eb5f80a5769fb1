//! The operator's handle on accounts: what a back office, a payment webhook or a month's bill run
//! asks of the ledger.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use super::{AccountsPage, Amendment, Cursor, Ledger, LedgerError, Refund, Statement};
use crate::{Account, Credits, Name, Period};

/// The operator's handle: statements, the list of accounts, and everything that changes an account
/// beside its usage.
///
/// What moves money has an id: sent again with the same id, where it is not known whether it
/// arrived, it changes nothing the second time. Nodes learn of a change with the next renewal of
/// the account's lease: at the latest with the next request that needs the ledger.
///
/// The tier is not the ledger's: it is what [`Identify`](crate::identify::Identify) says. A change in
/// mid-month counts from the next renewal for the whole month; a month that has ended keeps the
/// terms it had, seats and all.
///
/// ```
/// use tower_credits::{Account, Accounts, Credits, MemoryLedger, Period};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let accounts = Accounts::new(MemoryLedger::new());
/// let alice = Account::user("alice")?;
/// let bought = accounts.grant(&alice, "order-17".parse()?, "10.00".parse()?, None).await?;
/// let again = accounts.grant(&alice, "order-17".parse()?, "10.00".parse()?, None).await?;
/// assert!(bought && !again);
///
/// let month: Period = "2026-11".parse()?;
/// let statement = accounts.statement(&alice, month).await?;
/// assert_eq!(statement.purchased_left, "10.00".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Accounts {
    ledger: Arc<dyn Ledger>,
}

impl Accounts {
    /// A handle on the accounts of a ledger;
    /// [`CreditMeter::accounts`](crate::CreditMeter::accounts) has that of a meter's.
    pub fn new(ledger: impl Ledger) -> Self {
        Self::of(Arc::new(ledger))
    }

    pub(crate) fn of(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger }
    }

    /// Reads what an account used in a month, by the terms of the month: those of its last renewal
    /// there. An account that used nothing has a statement of zeros.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer.
    pub async fn statement(
        &self,
        account: &Account,
        period: Period,
    ) -> Result<Statement, LedgerError> {
        self.ledger.statement(account, period, None).await
    }

    /// Lists the accounts that used something in a month, about `most` at a time, from the
    /// beginning or from where a page ended. A page may be empty and not the last, and an account
    /// may come twice where others are added meanwhile; none that is there all the while is left
    /// out, as long as Redis is not started anew: begin again then.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a cursor that makes no sense, another [`LedgerError`] where
    /// there was no answer.
    pub async fn list(
        &self,
        period: Period,
        from: Option<&Cursor>,
        most: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        self.ledger.list(period, from, most).await
    }

    /// Adds purchased credits, for good or until a moment since the Unix epoch (whole
    /// milliseconds). They are used after the included ones and before pay-as-you-go, the first to
    /// expire first, in whatever month. Answers `false` where the id is known already.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer: send it again with the same id.
    pub async fn grant(
        &self,
        account: &Account,
        id: Name,
        amount: Credits,
        expires: Option<Duration>,
    ) -> Result<bool, LedgerError> {
        self.ledger.amend(account, Amendment::Grant { id, amount, expires }).await
    }

    /// Refunds part of what a month cost, and says why on its statement: of what was charged on top
    /// first, then of purchased credits, which go back to grants that have not expired, then of
    /// included ones. What is refunded may be used again in that month. Answers `false` where the
    /// id is known already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where it is of nothing, where the month is closed or did not cost
    /// as much, another [`LedgerError`] where there was no answer: send it again with the same id.
    pub async fn refund(
        &self,
        account: &Account,
        period: Period,
        id: Name,
        amount: Credits,
        reason: Name,
    ) -> Result<bool, LedgerError> {
        self.ledger
            .amend(account, Amendment::Refund { period, id, refund: Refund { amount, reason } })
            .await
    }

    /// Sets how many seats an account has, from now on: months that ended keep theirs.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer.
    pub async fn set_seats(&self, account: &Account, seats: NonZeroU32) -> Result<(), LedgerError> {
        self.ledger.amend(account, Amendment::Seats(seats)).await.map(drop)
    }

    /// Sets or removes the limit on what an account is charged on top in a month: an
    /// organisation's, say, whose members cannot.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer.
    pub async fn set_spending_limit(
        &self,
        account: &Account,
        limit: Option<Credits>,
    ) -> Result<(), LedgerError> {
        self.ledger.amend(account, Amendment::SpendingLimit(limit)).await.map(drop)
    }

    /// Closes a month that has ended, and all before: what was used in it, its lines and its
    /// refunds stay as they are. What nodes report of it later is debited in the current month, in
    /// a line `late`. Requests that run across the month's end keep what they have on hold and get
    /// no more, so those that stop where credits end are cut. Answers `false` where it is closed
    /// already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the month has not ended by the ledger's clock, another
    /// [`LedgerError`] where there was no answer.
    pub async fn close(&self, account: &Account, period: Period) -> Result<bool, LedgerError> {
        self.ledger.amend(account, Amendment::Close(period)).await
    }

    /// Erases an account for good: its months, its purchased credits, its refunds, all. What nodes
    /// that run still report of it brings nothing back, and its requests are denied with 403 for 93
    /// days; after that the name may be used again. Take its tokens away first. Answers `false` if
    /// it is erased already.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer: send it again.
    pub async fn erase(&self, account: &Account) -> Result<bool, LedgerError> {
        self.ledger.amend(account, Amendment::Erase).await
    }
}
