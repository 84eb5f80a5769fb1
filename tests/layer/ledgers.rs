//! The contract of ledgers: the memory ledger holds it, and so does a ledger of one's own. A ledger
//! that breaks a rule is told which.

use std::{sync::Mutex, time::Duration};

use tower_credits::{
    Account, MemoryLedger, Period,
    ledger::{
        Amendment, Answer, Ledger, LedgerFuture, Renewal, Statement, Terms,
        contract::{self, ContractError},
    },
};

use crate::support::{folder::Folder, november};

#[path = "../../examples/own_ledger.rs"]
mod own_ledger;

#[tokio::test]
async fn the_memory_ledger_holds_the_contract() {
    let clock = november();
    contract::check(&MemoryLedger::with_clock(clock.clone()), Some(&clock)).await.unwrap();
    contract::check(&MemoryLedger::new(), None).await.unwrap();
}

#[tokio::test]
async fn a_ledger_of_ones_own_holds_the_contract() {
    let folder = Folder::new("own-ledger");
    own_ledger::check(&folder.0.join("balances.json")).await.unwrap();
}

/// A fault of a [`Faulty`] ledger.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A renewal that is repeated is debited again.
    DebitsTwice,
    /// Holds last for ever.
    HoldsForever,
    /// Grants are counted whatever their id.
    GrantsTwice,
    /// The statement forgets a line.
    LosesLines,
    /// More is on hold than there is.
    Overspends,
}

#[derive(Debug)]
struct Faulty {
    ledger: MemoryLedger,
    fault: Fault,
    calls: Mutex<u64>,
}

impl Faulty {
    fn next(&self) -> u64 {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        *calls
    }
}

impl Ledger for Faulty {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let mut changed = renewal.clone();
        match self.fault {
            Fault::DebitsTwice => {
                changed.seq = self.next();
                changed.batch = changed.seq;
            }
            Fault::HoldsForever => changed.ttl = Duration::from_secs(80_000),
            Fault::Overspends => changed.terms.included = "1.00".parse().unwrap(),
            Fault::GrantsTwice | Fault::LosesLines => {}
        }
        Box::pin(async move { self.ledger.renew(account, period, &changed, within).await })
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        Box::pin(async move {
            let mut statement = self.ledger.statement(account, period, terms).await?;
            if matches!(self.fault, Fault::LosesLines) {
                statement.lines.pop();
            }
            Ok(statement)
        })
    }

    fn amend<'a>(
        &'a self,
        account: &'a Account,
        mut amendment: Amendment,
    ) -> LedgerFuture<'a, bool> {
        if let (Fault::GrantsTwice, Amendment::Grant { id, .. }) = (self.fault, &mut amendment) {
            *id = self.next().to_string().parse().unwrap();
        }
        self.ledger.amend(account, amendment)
    }
}

#[tokio::test]
async fn a_ledger_that_breaks_a_rule_is_told_which() {
    for (fault, broken) in [
        (Fault::DebitsTwice, "older than the last one is superseded"),
        (Fault::HoldsForever, "expires after its `ttl`"),
        (Fault::GrantsTwice, "one id grants once"),
        (Fault::LosesLines, "superseded"),
        (Fault::Overspends, "as far as there is any"),
    ] {
        let clock = november();
        let ledger = MemoryLedger::with_clock(clock.clone());
        let ledger = Faulty { ledger, fault, calls: Mutex::new(0) };
        let error = contract::check(&ledger, Some(&clock)).await.unwrap_err();
        assert!(
            matches!(&error, ContractError::Broken { rule, .. } if rule.contains(broken)),
            "{fault:?}: {error}"
        );
    }
}

/// A ledger need not be built on [`AccountState`](tower_credits::ledger::AccountState): all that it
/// returns can be built by others.
#[test]
fn statements_can_be_built_outside_of_the_crate() {
    use tower_credits::ledger::{LineKey, Refund, StatementLine, Usage, UsageLine};
    let mut statement =
        Statement::empty(Account::user("alice").unwrap(), "2026-11".parse().unwrap());
    let usage = Usage { requests: 1, compute_micros: 2, cost: "0.10".parse().unwrap() };
    statement.used = "0.12".parse().unwrap();
    statement.lines.push(UsageLine { key: LineKey::Other, usage }.into());
    statement.lines.push(StatementLine::recovered("0.02".parse().unwrap()));
    let refund = Refund { amount: "0.01".parse().unwrap(), reason: "slow".parse().unwrap() };
    statement.refunded = refund.amount;
    statement.refunds.push(("case 1".parse().unwrap(), refund).into());
    assert_eq!((statement.net(), statement.requests()), ("0.11".parse().unwrap(), 1));
}
