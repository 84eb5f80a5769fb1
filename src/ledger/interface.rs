//! What every ledger does.

use std::{
    fmt,
    future::{Future, ready},
    num::NonZeroUsize,
    pin::Pin,
    time::Duration,
};

use super::{
    amendment::Amendment,
    error::LedgerError,
    list::{AccountsPage, Cursor},
    protocol::{Answer, LeaseId, Renewal},
    statement::Statement,
};
use crate::{Account, Name, Period, ledger::Terms};

/// A boxed future of a ledger's answer.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// Where leases are renewed and statements are read.
///
/// Implementations keep the contract of [`Book`](super::Book): `renew` is one atomic step, safe to repeat. The
/// contract suite of this crate's tests runs against every one of them.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Renews a lease: settles, and sets its hold.
    ///
    /// A renewal whose future was dropped may still take effect, but no later than `within` (and a
    /// little) from this call by the ledger's own clock; later it must have none.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer, or where the renewal was refused whole.
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer>;

    /// Reads what an account used in a period. An account that used nothing has a statement of
    /// zeros. `terms` are those of the account's tier now: a month that ended keeps its own.
    /// `None`: those that the ledger last heard for the month.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer.
    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement>;

    /// Changes what the account keeps, or corrects a month. Answers `false` for what was done
    /// already, by its id: it changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the amendment cannot be, another [`LedgerError`] where there
    /// was no answer.
    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool>;

    /// Answers whether it is for `by` to tell the host that the account reached a threshold in a
    /// period: for whoever asks first, and again for the same one. See [`Book::claim`](super::Book::claim).
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer: the same one asks again then.
    /// [`LedgerError::Refused`] from ledgers that do not do this, which is the default; those that
    /// wrap another one forward it.
    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let _ = (account, period, threshold, by);
        Box::pin(ready(Err(LedgerError::Refused("this ledger keeps no thresholds".into()))))
    }

    /// Lists the accounts that used something in a period, about `most` at a time. Where a page has
    /// a `next`, there may be more, though it be empty. An account that is there all the while is
    /// listed at least once.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a cursor that makes no sense, and from ledgers that do not do
    /// this, which is the default; another [`LedgerError`] where there was no answer.
    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        most: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        let _ = (period, from, most);
        Box::pin(ready(Err(LedgerError::Refused("this ledger does not list accounts".into()))))
    }
}
