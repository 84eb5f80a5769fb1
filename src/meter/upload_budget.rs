//! The memory of this node for request bodies that are read before the service is called, and the
//! number of denied uploads that are read on for long.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::Account;

/// The part of the node's memory that one account's bodies may take: a fourth.
const ACCOUNTS_PART: usize = 4;

/// The number of accounts from which those that have no bodies in memory are looked for.
const MIN_SWEPT_ACCOUNTS: usize = 1_024;

/// An amount of which at most so much is in use at a time.
#[derive(Debug)]
pub(super) struct UploadBudget {
    left: AtomicUsize,
}

/// A share of a budget. It returns when this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    budget: Arc<UploadBudget>,
    amount: usize,
}

/// The memory of this node for request bodies, of which no account takes all.
#[derive(Debug)]
pub(super) struct UploadMemory {
    node: Arc<UploadBudget>,
    of_account: usize,
    accounts: Mutex<HashMap<Account, Weak<UploadBudget>>>,
}

/// The memory of one body.
#[derive(Debug)]
pub(super) struct Share {
    account: Reserved,
    node: Reserved,
}

impl UploadMemory {
    /// `total` bytes, of which one account may take a fourth, but at least one body of `largest`.
    pub(super) fn new(total: usize, largest: usize) -> Self {
        // A body's buffer may be twice as large as the body.
        let of_account = (total / ACCOUNTS_PART).max(largest.saturating_mul(2)).min(total);
        Self { node: UploadBudget::new(total), of_account, accounts: Mutex::default() }
    }

    /// Returns an empty share for a body of this account.
    pub(super) fn share_of(&self, account: &Account) -> Share {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.get(account).and_then(Weak::upgrade);
        let budget = known.unwrap_or_else(|| {
            if accounts.len() >= MIN_SWEPT_ACCOUNTS && accounts.len() == accounts.capacity() {
                accounts.retain(|_, budget| budget.strong_count() > 0);
            }
            let budget = UploadBudget::new(self.of_account);
            accounts.insert(account.clone(), Arc::downgrade(&budget));
            budget
        });
        drop(accounts);
        Share { account: budget.nothing(), node: self.node.nothing() }
    }
}

impl Share {
    /// Reserves so much more; `false` if less is left.
    pub(super) fn grow(&mut self, by: usize) -> bool {
        self.account.grow(by) && self.node.grow(by)
    }
}

impl UploadBudget {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(total) })
    }

    /// Reserves nothing yet.
    fn nothing(self: &Arc<Self>) -> Reserved {
        Reserved { budget: Arc::clone(self), amount: 0 }
    }

    /// Reserves so much; `None` if less is left.
    pub(super) fn reserve(self: &Arc<Self>, amount: usize) -> Option<Reserved> {
        let mut reserved = self.nothing();
        reserved.grow(amount).then_some(reserved)
    }
}

impl Reserved {
    /// Reserves so much more; `false` if less is left.
    pub(super) fn grow(&mut self, by: usize) -> bool {
        let take = |left: usize| left.checked_sub(by);
        let is_taken =
            self.budget.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok();
        if is_taken {
            self.amount += by;
        }
        is_taken
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.amount, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_takes_all() {
        let memory = UploadMemory::new(1_000, 10);
        let account = |name: &str| Account::user(name).unwrap();
        let mut greedy = memory.share_of(&account("greedy"));
        assert!(greedy.grow(250) && !greedy.grow(1));
        assert!(!memory.share_of(&account("greedy")).grow(1), "nor by another body");
        assert!(memory.share_of(&account("other")).grow(250));
        drop(greedy);
        assert!(memory.share_of(&account("greedy")).grow(250));
        for number in 0..10_000 {
            memory.share_of(&account(&format!("user-{number}")));
        }
        let left = memory.accounts.lock().unwrap().len();
        assert!(left < 5_000, "{left} accounts without a body are remembered");
    }

    #[test]
    fn what_is_reserved_comes_back_and_no_more_is_given_than_there_is() {
        let budget = UploadBudget::new(10);
        let mut first = budget.reserve(4).unwrap();
        assert!(first.grow(3) && !first.grow(4));
        let second = budget.reserve(3).unwrap();
        assert!(budget.reserve(1).is_none());
        drop(first);
        assert!(budget.reserve(8).is_none() && budget.reserve(7).is_some());
        drop(second);
        assert!(budget.reserve(10).is_some());
    }
}
