//! Corrections of a month: refunds, and its close.

use crate::{
    Credits,
    clock::UnixTime,
    ledger::{Book, LedgerError, Record, Refund},
    names::RefundId,
};

/// The most refunds of a month.
pub(in crate::ledger) const MAX_REFUNDS: usize = 2_000;

impl Book {
    /// Refunds part of the month's cost: of pay-as-you-go first, then of purchased credits, which
    /// go back to grants that have not expired, then of included ones. Returns `false` if the id is
    /// known already: nothing changed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the amount is zero or more than the month's cost, if the month
    /// is closed, or if it has 2 000 refunds. Nothing changed then.
    pub(crate) fn refund(
        &mut self,
        record: &mut Record,
        id: RefundId,
        refund: Refund,
        now: UnixTime,
    ) -> Result<bool, LedgerError> {
        if self.refunds.contains_key(&id) {
            return Ok(false);
        }
        let (period, amount) = (self.period, refund.amount);
        // The terms of a book that was lost are not known before a request states them, or someone
        // reads the statement.
        let missing = if self.is_empty() { Credits::ZERO } else { self.missing() };
        let cost = self.net().saturating_add(missing);
        let refused = if record.is_closed(period, now) {
            Some(format!("{period} is closed: refund in a later month, or grant credits"))
        } else if amount.is_zero() {
            Some("a refund of nothing: refund some amount".to_owned())
        } else if amount > cost {
            Some(format!(
                "a refund of {amount} is more than {period} costs: refund at most {cost}, or \
                 grant credits"
            ))
        } else if self.refunds.len() >= MAX_REFUNDS {
            Some(format!("{period} has {MAX_REFUNDS} refunds already: grant credits"))
        } else {
            None
        };
        if let Some(reason) = refused {
            return Err(LedgerError::Refused(reason));
        }
        self.repair(record, missing, now);
        let after_pay_as_you_go = amount.saturating_sub(self.pay_as_you_go(record));
        self.charged = self.charged.saturating_sub(amount);
        self.refunded = self.refunded.saturating_add(amount);
        let returned = record.give_back(period, after_pay_as_you_go.min(self.purchased_used), now);
        self.purchased_used = self.purchased_used.saturating_sub(returned);
        self.refunds.insert(id, refund);
        Ok(true)
    }

    /// Closes the month, and all before: its usage stays as it is from now on. Returns `false` if
    /// it is closed already.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if it has not ended. Nothing changed then.
    pub(crate) fn close(
        &mut self,
        record: &mut Record,
        now: UnixTime,
    ) -> Result<bool, LedgerError> {
        let ends = self.period.ends();
        if now < ends {
            return Err(LedgerError::Refused(format!(
                "{} has not ended: close it from {ends}",
                self.period
            )));
        }
        if record.is_closed(self.period, now) {
            return Ok(false);
        }
        if !self.is_empty() {
            self.repair(record, self.missing(), now);
        }
        record.closed = Some(self.period);
        Ok(true)
    }
}
