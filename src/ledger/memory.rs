//! The ledger of one process.

use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    AccountState, AccountSummary, AccountsPage, Amendment, Answer, Audit, Cursor, LeaseId, Ledger,
    LedgerFuture, Renewal, RequestCost, Statement, Terms, costs::DayCosts,
};
use crate::{
    Account, Name, Period, RequestId,
    clock::{Clock, SystemClock, UnixTime},
};

/// A ledger in this process's memory: an [`AccountState`] for each account behind one mutex.
///
/// It is for tests, for trying things out, and for a single server whose balances may end with it:
/// all is lost when the process ends.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    accounts: Arc<Mutex<HashMap<Account, AccountState>>>,
    costs: Arc<Mutex<DayCosts>>,
    clock: Arc<dyn Clock>,
    new_account: AccountState,
}

impl MemoryLedger {
    /// Returns an empty ledger on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// Returns an empty ledger on another clock.
    pub fn with_clock(clock: impl Clock) -> Self {
        Self {
            accounts: Arc::default(),
            costs: Arc::default(),
            clock: Arc::new(clock),
            new_account: AccountState::default(),
        }
    }

    /// Stores up to `max_lines` usage lines of a month one by one; further usage is added to one
    /// line, `other`. Default [`MAX_LINES`](crate::ledger::MAX_LINES). Accounts that the ledger has
    /// already keep their own maximum.
    #[must_use]
    pub fn max_lines(self, max_lines: NonZeroUsize) -> Self {
        Self { new_account: self.new_account.with_max_lines(max_lines), ..self }
    }

    fn now(&self) -> UnixTime {
        self.clock.unix_time()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Account, AccountState>> {
        // A state is changed by plain arithmetic that does not panic: the state behind a poisoned
        // mutex is whole.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn day_costs(&self) -> MutexGuard<'_, DayCosts> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state of an account, which it makes if there is none.
    fn change<T>(&self, account: &Account, change: impl FnOnce(&mut AccountState) -> T) -> T {
        let mut accounts = self.accounts();
        change(accounts.entry(account.clone()).or_insert_with(|| self.new_account.clone()))
    }
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger for MemoryLedger {
    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        let (accounts, now) = (self.accounts(), self.now());
        let state = accounts.get(account).unwrap_or(&self.new_account);
        Box::pin(ready(Ok(state.audit(account, period, now))))
    }

    fn describe(&self) -> String {
        "this process's memory, with which they end".to_owned()
    }

    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let now = self.now();
        let answer = self.change(account, |state| state.renew(period, renewal, now + within, now));
        Box::pin(ready(answer))
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        let (accounts, now) = (self.accounts(), self.now());
        let state = accounts.get(account).unwrap_or(&self.new_account);
        Box::pin(ready(Ok(state.statement(account, period, terms, now))))
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        let now = self.now();
        let is_erasure = matches!(amendment, Amendment::Erase);
        Box::pin(ready(self.change(account, |state| {
            if is_erasure {
                self.day_costs().erase(account);
            }
            state.amend(amendment, now)
        })))
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let now = self.now();
        Box::pin(ready(self.change(account, |state| state.claim(period, threshold, by, now))))
    }

    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        let (accounts, now) = (self.accounts(), self.now());
        // Under the lock of accounts, so that an account is not erased meanwhile.
        if !accounts.get(account).is_some_and(|state| state.record.is_erased(now)) {
            self.day_costs().keep(account, costs, keep_for, now);
        }
        Box::pin(ready(Ok(())))
    }

    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        Box::pin(ready(Ok(self.day_costs().find(account, ids, self.now()))))
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        // Accounts are in no order. Only the first of those after the cursor are collected.
        let now = self.now();
        let mut page: BTreeMap<&str, AccountSummary> = BTreeMap::new();
        let accounts = self.accounts();
        let is_next = |account: &Account| from.is_none_or(|from| account.as_str() > from.as_str());
        for (account, state) in accounts.iter().filter(|(account, _)| is_next(account)) {
            if let Some(summary) = state.summary(account, period, now) {
                page.insert(account.as_str(), summary);
                if page.len() > page_size.get() {
                    page.pop_last();
                }
            }
        }
        let next = (page.len() == page_size.get())
            .then(|| page.last_key_value().map(|(account, _)| Cursor::new(*account)))
            .flatten();
        Box::pin(ready(Ok(AccountsPage { accounts: page.into_values().collect(), next })))
    }
}
