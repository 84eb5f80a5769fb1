//! The operator's handle on accounts: for a back office, a payment webhook or a month's bill run.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use futures_util::future::join_all;

use super::{
    AccountsPage, Amendment, Audit, AuditsPage, Cursor, Ledger, LedgerError, Refund, RequestCost,
    Statement, costs::MAX_REQUEST_IDS,
};
use crate::names::{GrantId, Reason, RefundId};
use crate::{Account, Credits, Limits, Part, Period, RequestId, clock::UnixTime};

/// The operator's handle: statements, the list of accounts, and every change of an account except
/// its usage.
///
/// A change that moves money has an id. If you do not know that it arrived, send it again with the
/// same id: it changes nothing the second time. Nodes learn of a change with the next renewal of
/// the account's lease, at the latest with the next request that needs the ledger.
///
/// The tier is not the ledger's: [`Identify`](crate::identify::Identify) decides it. A change of
/// tier counts from the next renewal for the whole month. A month that has ended keeps the terms
/// that it had, seats included.
///
/// The [module](crate::ledger) has an example.
#[derive(Clone, Debug)]
pub struct Accounts {
    ledger: Arc<dyn Ledger>,
}

impl Accounts {
    /// Returns a handle on the accounts of a ledger.
    /// [`CreditMeter::accounts`](crate::CreditMeter::accounts) returns that of a meter's ledger.
    pub fn new(ledger: impl Ledger) -> Self {
        Self::of(Arc::new(ledger))
    }

    pub(crate) fn of(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger }
    }

    /// Reads an account's statement of a month, by the terms of its last renewal in that month. An
    /// account that used nothing has a statement of zeros.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer.
    pub async fn statement(
        &self,
        account: &Account,
        period: Period,
    ) -> Result<Statement, LedgerError> {
        self.ledger.statement(account, period, None).await
    }

    /// Reads the costs of requests of an account by their ids, if the meter
    /// [keeps](crate::CreditMeterBuilder::keep_costs) them: 10 000 ids at most. Ids that are not
    /// known, or not any more, are left out. A cost is there some seconds after the request's end.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for more ids and by ledgers that keep no costs, another
    /// [`LedgerError`] if there was no answer.
    pub async fn costs(
        &self,
        account: &Account,
        ids: &[RequestId],
    ) -> Result<Vec<RequestCost>, LedgerError> {
        if ids.len() > MAX_REQUEST_IDS {
            let reason = format!("{} ids: ask for {MAX_REQUEST_IDS} at most", ids.len());
            return Err(LedgerError::Refused(reason));
        }
        self.ledger.costs(account, ids).await
    }

    /// Lists the accounts that used something in a month, about `page_size` at a time, from the
    /// beginning or from the end of a page. A page that is empty need not be the last, and an
    /// account may be listed twice if others are added meanwhile. An account that exists during the
    /// whole listing is listed at least once, unless Redis is restarted, or a slot of a cluster is
    /// moving: list again then. The shadows of accounts are listed only by the handle of a meter in
    /// [shadow mode](crate::CreditMeterBuilder::shadow).
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a cursor that the ledger did not return, another
    /// [`LedgerError`] if there was no answer.
    pub async fn list(
        &self,
        period: Period,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let mut page = self.ledger.list(period, from, page_size).await?;
        page.accounts.retain(|summary| summary.account.unshadowed().is_none());
        Ok(page)
    }

    /// Audits what is stored of an account's month: whether usage, lines, holds, leases, refunds
    /// and purchases add up. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Malformed`] if what is stored cannot be read, [`LedgerError::Refused`] if the
    /// ledger has no audit, another [`LedgerError`] if there was no answer.
    pub async fn audit(&self, account: &Account, period: Period) -> Result<Audit, LedgerError> {
        self.ledger.audit(account, period).await
    }

    /// Audits the accounts that used something in a month, page by page as [`list`](Self::list)
    /// does.
    ///
    /// ```
    /// use tower_credits::{Period, ledger::{Accounts, LedgerError}};
    ///
    /// # async fn example(accounts: Accounts, month: Period) -> Result<(), LedgerError> {
    /// let mut from = None;
    /// loop {
    ///     let page = accounts.audit_page(month, from.as_ref(), 100.try_into().unwrap()).await?;
    ///     for audit in page.audits.iter().filter(|audit| !audit.is_sound()) {
    ///         println!("{audit}");
    ///     }
    ///     for (account, error) in &page.unreadable {
    ///         println!("{account}: {error}");
    ///     }
    ///     from = page.next;
    ///     if from.is_none() {
    ///         break Ok(());
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list). Accounts of which something cannot be read are in
    /// [`unreadable`](AuditsPage::unreadable).
    pub async fn audit_page(
        &self,
        period: Period,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AuditsPage, LedgerError> {
        let AccountsPage { accounts, next } = self.list(period, from, page_size).await?;
        let asked = accounts.iter().map(|account| self.ledger.audit(&account.account, period));
        let mut page = AuditsPage { audits: Vec::new(), unreadable: Vec::new(), next };
        for (account, audit) in accounts.iter().zip(join_all(asked).await) {
            match audit {
                Ok(audit) => page.audits.push(audit),
                Err(error @ LedgerError::Malformed(_)) => {
                    page.unreadable.push((account.account.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    /// Adds purchased credits, which expire at a moment or, for `None`, never. They are used after
    /// the included ones and before pay-as-you-go, the first to expire first, in whatever month.
    /// Returns `false` if the id is known already.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer: send it again with the same id.
    pub async fn grant(
        &self,
        account: &Account,
        id: GrantId,
        amount: Credits,
        expires: Option<UnixTime>,
    ) -> Result<bool, LedgerError> {
        self.ledger.amend(account, Amendment::Grant { id, amount, expires }).await
    }

    /// Refunds part of a month's cost, with a reason for the statement: first of what was charged
    /// as pay-as-you-go, then of purchased credits, which go back to grants that have not expired,
    /// then of included ones. Refunded credits can be used again in that month. Returns `false` if
    /// the id is known already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the amount is zero or more than the month's cost, if the month
    /// is closed, or if it has 2 000 refunds; another [`LedgerError`] if there was no answer: send
    /// it again with the same id.
    pub async fn refund(
        &self,
        account: &Account,
        period: Period,
        id: RefundId,
        amount: Credits,
        reason: Reason,
    ) -> Result<bool, LedgerError> {
        self.ledger
            .amend(account, Amendment::Refund { period, id, refund: Refund { amount, reason } })
            .await
    }

    /// Sets how many seats an account has from now on. Months that ended keep theirs.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer.
    pub async fn set_seats(&self, account: &Account, seats: NonZeroU32) -> Result<(), LedgerError> {
        self.ledger.amend(account, Amendment::Seats(seats)).await.map(drop)
    }

    /// Sets or removes the limit on an account's pay-as-you-go spending in a month, for example for
    /// an organisation, whose members cannot set it.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer.
    pub async fn set_spending_limit(
        &self,
        account: &Account,
        limit: Option<Credits>,
    ) -> Result<(), LedgerError> {
        self.ledger.amend(account, Amendment::SpendingLimit(limit)).await.map(drop)
    }

    /// Sets the limits of a part of an account, or with `None` that of the account's own day. A
    /// limit that is `None` is removed: the tier's counts then, if it has one. [`Credits::MAX`]
    /// stands for no limit, whatever the tier says. Of the account's own day, the lower of this
    /// limit and the tier's counts.
    ///
    /// Running requests learn of it with their next refill. What a part used
    /// before counts; the account's own day is counted only while it has a limit.
    ///
    /// ```
    /// use tower_credits::{Account, Accounts, Limits, MemoryLedger, Part};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let accounts = Accounts::new(MemoryLedger::new());
    /// let (acme, research): (Account, Part) = (Account::org("acme")?, "research".parse()?);
    /// let limits = Limits { per_month: Some("50.00".parse()?), per_day: None };
    /// accounts.set_limits(&acme, Some(&research), limits).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a month's limit of the account itself, which is
    /// [`set_spending_limit`](Self::set_spending_limit); another [`LedgerError`] if there was no
    /// answer.
    pub async fn set_limits(
        &self,
        account: &Account,
        part: Option<&Part>,
        limits: Limits,
    ) -> Result<(), LedgerError> {
        let amendment = Amendment::Limits { part: part.cloned(), limits };
        self.ledger.amend(account, amendment).await.map(drop)
    }

    /// Closes a month that has ended, and all before: its usage, lines and refunds stay as they
    /// are. Usage that nodes report of it later is debited in the current month, in a line `late`.
    /// Requests that run across the month's end keep their hold and get no more, so those that stop
    /// when credits end are cut. Returns `false` if the month is closed already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the month has not ended by the ledger's clock, another
    /// [`LedgerError`] if there was no answer.
    pub async fn close(&self, account: &Account, period: Period) -> Result<bool, LedgerError> {
        self.ledger.amend(account, Amendment::Close(period)).await
    }

    /// Erases an account: its months, its purchased credits, its refunds, the costs of its
    /// requests, and its books of [shadow mode](crate::CreditMeterBuilder::shadow). This cannot be
    /// undone. Usage that running nodes still report of it brings nothing back, and its requests
    /// are denied with 403 for 93 days; after that the name may be used again. Revoke its tokens
    /// first. Returns `false` if it is erased already.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer: send it again.
    pub async fn erase(&self, account: &Account) -> Result<bool, LedgerError> {
        if account.unshadowed().is_none() {
            self.ledger.amend(&account.shadow(), Amendment::Erase).await?;
        }
        self.ledger.amend(account, Amendment::Erase).await
    }
}
