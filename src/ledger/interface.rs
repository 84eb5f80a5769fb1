//! The interface of every ledger.

use std::{
    fmt,
    future::{Future, ready},
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{
    amendment::Amendment,
    audit::Audit,
    costs::RequestCost,
    error::LedgerError,
    list::{AccountsPage, Cursor},
    protocol::{Answer, LeaseId, Renewal},
    statement::Statement,
};
use crate::{Account, Name, Period, RequestId, ledger::Terms};

/// A boxed future of a ledger's answer.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// A store of balances, in which leases are renewed and from which statements are read.
///
/// Each method is one atomic step on one account, and safe to repeat. To write a ledger of your
/// own, store [`AccountState`](super::AccountState)s, and check it with
/// [`contract::check`](super::contract::check). A ledger that wraps another one must forward every
/// method: the defaults of `shard` and `check` would hide a server that fails.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Renews a lease: settles its usage, and sets its hold.
    ///
    /// A renewal whose future was dropped may still take effect, but no later than `within` (and
    /// 50 ms) from this call by the ledger's own clock. Later it must have none.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer, or if the renewal was refused as a whole.
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer>;

    /// Reads the statement of an account for a period. An account that used nothing has a statement
    /// of zeros. `terms` are those of the account's tier now; a month that ended keeps its own.
    /// `None` stands for the terms that the ledger last heard for the month.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer.
    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement>;

    /// Changes an account, or corrects one of its months. Returns `false` for an amendment that was
    /// made already, by its id: nothing changed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the amendment cannot be made, another [`LedgerError`] if there
    /// was no answer.
    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool>;

    /// Decides which lease reports to the host that the account reached a threshold in a period:
    /// the first that claims it. Returns `true` if that is `by`, also if it claims it again.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if there was no answer: the same lease claims it again then.
    /// [`LedgerError::Refused`] by ledgers that have no thresholds, which is the default. A ledger
    /// that wraps another one must forward the call.
    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let _ = (account, period, threshold, by);
        let refused = "this ledger has no thresholds: implement `Ledger::claim`";
        Box::pin(ready(Err(LedgerError::Refused(refused.into()))))
    }

    /// Returns which server behind this ledger has an account: a number, the same for accounts on
    /// the same server. Accounts of one server fail together: while it does not answer, requests
    /// for them follow their tier's outage policy at once, and those of other servers do not. A
    /// ledger that wraps others must keep their numbers apart. Default: 0, for one server.
    ///
    /// It is asked often, and must answer from memory. The answer may change, when an account moves
    /// to another server.
    fn shard(&self, account: &Account) -> u64 {
        let _ = account;
        0
    }

    /// Audits what is stored of an account's month, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] by ledgers that have no audit, which is the default; another
    /// [`LedgerError`] if there was no answer.
    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        let _ = (account, period);
        let refused = "this ledger has no audit: implement `Ledger::audit`";
        Box::pin(ready(Err(LedgerError::Refused(refused.into()))))
    }

    /// Says in a few words where balances are, for the log line of a node that starts. Default:
    /// `a ledger of the host`.
    fn describe(&self) -> String {
        "a ledger of the host".to_owned()
    }

    /// Checks that every server behind this ledger answers and can write, within this time.
    /// [`CreditMeter::health`](crate::CreditMeter::health) calls it. Default: they do.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] names a server that does not answer, or is not fit for balances.
    fn check(&self, within: Duration) -> LedgerFuture<'_, ()> {
        let _ = within;
        Box::pin(ready(Ok(())))
    }

    /// Keeps the costs of requests of an account for [`costs`](Self::costs), for at least
    /// `keep_for`, which is at most seven days. A cost that is kept already, by its id, is
    /// replaced. An account that was erased keeps none.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] by ledgers that keep no costs, which is the default; another
    /// [`LedgerError`] if there was no answer: the same costs are sent again then.
    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        let _ = (account, costs, keep_for);
        let refused = "this ledger keeps no costs of requests: implement `Ledger::keep_costs`";
        Box::pin(ready(Err(LedgerError::Refused(refused.into()))))
    }

    /// Reads the costs of requests of an account. Ids that are not known, or whose costs are no
    /// longer kept, are left out.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] by ledgers that keep no costs, which is the default; another
    /// [`LedgerError`] if there was no answer.
    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        let _ = (account, ids);
        let refused = "this ledger keeps no costs of requests: implement `Ledger::costs`";
        Box::pin(ready(Err(LedgerError::Refused(refused.into()))))
    }

    /// Lists the accounts that used something in a period, about `page_size` at a time. If a page
    /// has a `next`, there may be more, even if the page is empty. An account that exists during
    /// the whole listing is listed at least once.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a cursor that the ledger did not return, and by ledgers that
    /// have no list, which is the default; another [`LedgerError`] if there was no answer.
    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        let _ = (period, from, page_size);
        let refused = "this ledger does not list accounts: implement `Ledger::list`";
        Box::pin(ready(Err(LedgerError::Refused(refused.into()))))
    }
}

/// A ledger that is chosen while the program runs.
impl<L: Ledger + ?Sized> Ledger for Arc<L> {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        (**self).renew(account, period, renewal, within)
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        (**self).statement(account, period, terms)
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        (**self).amend(account, amendment)
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        (**self).claim(account, period, threshold, by)
    }

    fn shard(&self, account: &Account) -> u64 {
        (**self).shard(account)
    }

    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        (**self).audit(account, period)
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        (**self).keep_costs(account, costs, keep_for)
    }

    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        (**self).costs(account, ids)
    }

    fn check(&self, within: Duration) -> LedgerFuture<'_, ()> {
        (**self).check(within)
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        (**self).list(period, from, page_size)
    }
}
