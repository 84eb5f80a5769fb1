//! The memory of this node for request bodies that are read before the service is called, and the
//! number of denied uploads that are read on for long.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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

impl UploadBudget {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(total) })
    }

    /// Reserves so much; `None` if less is left.
    pub(super) fn reserve(self: &Arc<Self>, amount: usize) -> Option<Reserved> {
        let mut reserved = Reserved { budget: Arc::clone(self), amount: 0 };
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
