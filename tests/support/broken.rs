//! A ledger that is never there.

use std::time::Duration;

use tower_credits::{
    Account, Period,
    ledger::{Amendment, Answer, Ledger, LedgerError, LedgerFuture, Renewal, Statement, Terms},
};

/// A ledger that fails.
#[derive(Debug)]
pub struct Broken;

impl Ledger for Broken {
    fn renew<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: &'a Renewal,
        _: Duration,
    ) -> LedgerFuture<'a, Answer> {
        Box::pin(async { Err(LedgerError::Unreachable { reason: "broken".into(), source: None }) })
    }

    fn statement<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        Box::pin(async { Err(LedgerError::Unreachable { reason: "broken".into(), source: None }) })
    }

    fn amend<'a>(&'a self, _: &'a Account, _: Amendment) -> LedgerFuture<'a, bool> {
        Box::pin(async { Err(LedgerError::Unreachable { reason: "broken".into(), source: None }) })
    }
}
