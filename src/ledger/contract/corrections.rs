//! Rules of corrections: refunds, and the close of a month.

use super::{
    ContractError,
    accounts::grant,
    probe::{Probe, TERMS, nanos},
};
use crate::{
    Period,
    ledger::{Amendment, Ledger, Reason, Refund, RefundId, Renewal, Terms},
};

fn refund(period: Period, id: &'static str, amount: i64) -> Amendment {
    let reason = Reason::known("the contract's check");
    let refund = Refund { amount: nanos(amount), reason };
    Amendment::Refund { period, id: RefundId::known(id), refund }
}

pub(super) async fn refunded(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(
        ledger,
        "a refund is of pay-as-you-go first, then of purchased credits, then of included ones",
    )
    .await?;
    let month = probe.period;
    probe.amend("a grant", grant("order 1", 50, None), true).await?;
    let terms = Terms { pay_as_you_go: nanos(100), ..TERMS };
    let used = Renewal { settled: nanos(1_080), terms, ..probe.renewal(1, 1) };
    probe.expect_hold("settled", &used, 0).await?;
    for (id, amount, expected) in [("a", 10, (20, 50, 0)), ("b", 30, (0, 40, 10))] {
        for is_new in [true, false] {
            probe.amend("whether the id is new", refund(month, id, amount), is_new).await?;
        }
        let statement = probe.statement(month).await?;
        let (charged, purchased, left) = expected;
        let found = (statement.pay_as_you_go, statement.purchased_used, statement.purchased_left);
        let expected = (nanos(charged), nanos(purchased), nanos(left));
        probe.equal("pay-as-you-go, purchased credits used and left", &found, &expected)?;
    }
    probe.refuse("a refund of nothing", refund(month, "c", 0)).await?;
    probe.refuse("a refund of more than the month's cost", refund(month, "c", 1_041)).await?;
    let statement = probe.statement(month).await?;
    let found = (statement.used, statement.refunded, statement.refunds.len());
    probe.equal("used, refunded, refunds", &found, &(nanos(1_080), nanos(40), 2))?;
    let again = Renewal { need: nanos(1_000), seq: 2, ..used };
    probe.expect_hold("refunded credits can be used again", &again, 110).await.map(drop)
}

pub(super) async fn closed(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "late usage of a closed month is debited in the current one").await?;
    probe.refuse("a month that has not ended", Amendment::Close(probe.period)).await?;
    let before = probe.period.previous();
    let in_time = Renewal { settled: nanos(30), ..probe.renewal(1, 1) };
    probe.renew_in(before, &in_time).await?;
    for is_new in [true, false] {
        probe.amend("whether it is closed now", Amendment::Close(before), is_new).await?;
    }
    probe.refuse("a refund in a closed month", refund(before, "a", 1)).await?;
    let late = Renewal { settled: nanos(45), need: nanos(5), ..probe.renewal(1, 2) };
    for _ in 0..2 {
        probe.renew_in(before, &late).await?;
    }
    let (old, new) = (probe.statement(before).await?, probe.statement(probe.period).await?);
    probe.equal("the closed month", &(old.used, old.closed), &(nanos(30), true))?;
    probe.equal("the current month", &(new.used, new.closed), &(nanos(15), false))?;
    let models: Vec<_> = new.lines.iter().map(|line| line.model.as_str()).collect();
    probe.equal("the models of its lines", &models, &vec!["late"])
}
