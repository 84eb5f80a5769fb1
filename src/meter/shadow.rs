//! Shadow mode: books of their own, and the sums of what would have been denied.
//!
//! In shadow mode a meter's ledger is a [`ShadowLedger`], under which each account has a shadow
//! with a record and months of its own. So nothing that was used in shadow mode counts when denials
//! are enforced. Purchases, seats and limits that come through this meter are the account's and its
//! shadow's.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    Account, Name, Period, RequestId,
    ledger::{
        AccountsPage, Amendment, Answer, Audit, Cursor, LeaseId, Ledger, LedgerFuture, Renewal,
        RequestCost, Statement, Terms,
    },
};

/// The most accounts whose denials are summed up one by one.
const MAX_ACCOUNTS: usize = 10_000;

/// Requests that were admitted, or not cut off, only because of shadow mode, by account and reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ShadowDenials {
    /// The account; `None` for callers that are not known, and for the accounts beyond 10 000.
    pub account: Option<Account>,
    /// [Reason](crate::Rejection::reason) of the denial.
    pub reason: &'static str,
    /// Number of requests.
    pub requests: u64,
}

/// Counts requests that would have been denied.
#[derive(Debug, Default)]
pub(super) struct ShadowCounts(Mutex<HashMap<Option<Account>, HashMap<&'static str, u64>>>);

impl ShadowCounts {
    pub(super) fn count(&self, account: Option<&Account>, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let account = account.cloned();
        let has_room = counts.len() < MAX_ACCOUNTS || counts.contains_key(&account);
        let account = account.filter(|_| has_room);
        *counts.entry(account).or_default().entry(reason).or_default() += 1;
    }

    /// Returns the sums, the largest first.
    pub(super) fn sums(&self) -> Vec<ShadowDenials> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = counts.iter().flat_map(|(account, reasons)| {
            reasons.iter().map(|(reason, requests)| {
                let account = account.clone();
                ShadowDenials { account, reason, requests: *requests }
            })
        });
        let mut sums: Vec<_> = sums.collect();
        sums.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.cmp(b)));
        sums
    }
}

/// A ledger on which accounts are their shadows.
#[derive(Debug)]
pub(super) struct ShadowLedger(pub(super) Arc<dyn Ledger>);

impl Ledger for ShadowLedger {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let shadow = account.shadow();
        Box::pin(async move { self.0.renew(&shadow, period, renewal, within).await })
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        let shadow = account.shadow();
        Box::pin(async move {
            let statement = self.0.statement(&shadow, period, terms).await?;
            Ok(Statement { account: account.clone(), ..statement })
        })
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        let shadow = account.shadow();
        Box::pin(async move {
            match amendment {
                // Corrections of what was used.
                Amendment::Refund { .. } | Amendment::Close(_) => {
                    self.0.amend(&shadow, amendment).await
                }
                // What an account may use counts in shadow mode, and after it.
                amendment => {
                    self.0.amend(&shadow, amendment.clone()).await?;
                    self.0.amend(account, amendment).await
                }
            }
        })
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let shadow = account.shadow();
        Box::pin(async move { self.0.claim(&shadow, period, threshold, by).await })
    }

    fn shard(&self, account: &Account) -> u64 {
        self.0.shard(&account.shadow())
    }

    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        let shadow = account.shadow();
        Box::pin(async move {
            let audit = self.0.audit(&shadow, period).await?;
            Ok(Audit { account: account.clone(), ..audit })
        })
    }

    fn describe(&self) -> String {
        format!("{}, with shadow accounts", self.0.describe())
    }

    fn check(&self, within: Duration) -> LedgerFuture<'_, ()> {
        self.0.check(within)
    }

    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        let shadow = account.shadow();
        Box::pin(async move { self.0.keep_costs(&shadow, costs, keep_for).await })
    }

    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        let shadow = account.shadow();
        Box::pin(async move { self.0.costs(&shadow, ids).await })
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        Box::pin(async move {
            let mut page = self.0.list(period, from, page_size).await?;
            page.accounts.retain_mut(|summary| match summary.account.unshadowed() {
                Some(account) => {
                    summary.account = account;
                    true
                }
                None => false,
            });
            Ok(page)
        })
    }
}
