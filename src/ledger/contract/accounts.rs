//! Rules of what an operator changes.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use super::{
    ContractError,
    probe::{Probe, TERMS, nanos},
};
use crate::{
    Credits, Name, Period, RequestId,
    clock::UnixTime,
    ledger::{
        AccountSummary, Amendment, GrantId, LeaseId, Ledger, LedgerError, Outcome, Renewal,
        RequestCost, Terms,
    },
};

pub(super) fn grant(id: &'static str, amount: i64, expires: Option<UnixTime>) -> Amendment {
    Amendment::Grant { id: GrantId::known(id), amount: nanos(amount), expires }
}

pub(super) async fn grants(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "one id grants once, and grants are used after included credits")
            .await?;
    for is_new in [true, false] {
        probe.amend("whether it is new", grant("order 1", 50, None), is_new).await?;
    }
    // A moment that is over: 1970.
    probe.amend("whether it is new", grant("old", 500, Some(UnixTime::EPOCH)), true).await?;
    let renewal = Renewal { settled: nanos(1_020), need: nanos(100), ..probe.renewal(1, 1) };
    let standing = probe.expect_hold("30 of 50 are left", &renewal, 30).await?;
    probe.equal("the limit", &standing.limit, &nanos(1_050))?;
    let statement = probe.statement(probe.period).await?;
    let found = (statement.purchased_used, statement.purchased_left);
    probe.equal("purchased credits used and left", &found, &(nanos(20), nanos(30)))
}

pub(super) async fn seats(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "a tier includes credits for each seat").await?;
    let seats = NonZeroU32::MIN.saturating_add(2);
    for _ in 0..2 {
        probe.amend("seats can be set again", Amendment::Seats(seats), true).await?;
    }
    let terms = Terms { per_seat: true, ..TERMS };
    let renewal = Renewal { need: nanos(10_000), terms, ..probe.renewal(1, 1) };
    let standing = probe.expect_hold("three seats", &renewal, 3_000).await?;
    probe.equal("included", &standing.included, &nanos(3_000))
}

pub(super) async fn spending_limit(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "the owner's limit bounds pay-as-you-go spending").await?;
    let limit = Amendment::SpendingLimit(Some(nanos(7)));
    probe.amend("the limit is set", limit, true).await?;
    let terms = Terms { pay_as_you_go: Credits::MAX, ..TERMS };
    let bounded = Renewal { settled: nanos(1_005), need: nanos(100), terms, ..probe.renewal(1, 1) };
    let standing = probe.expect_hold("2 of 7 are left", &bounded, 2).await?;
    probe.equal("limited by the owner", &standing.limited_by_owner, &true)?;
    let statement = probe.statement(probe.period).await?;
    let found = (statement.pay_as_you_go, statement.spending_limit);
    probe.equal("pay-as-you-go and its limit", &found, &(nanos(5), Some(nanos(7))))?;
    probe.amend("the limit is removed", Amendment::SpendingLimit(None), true).await?;
    let unbounded = Renewal { seq: 2, batch: 2, ..bounded };
    let standing = probe.expect_hold("without a limit", &unbounded, 100).await?;
    probe.equal("limited by the owner", &standing.limited_by_owner, &false)
}

pub(super) async fn costs(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "costs of requests are found by account and id").await?;
    let other = Probe::new(ledger, probe.rule).await?;
    let [a, b, free, unknown] = ["a", "order-17", "free", "unknown"].map(RequestId::known);
    let cost = |id: &RequestId, nano_usd| RequestCost { id: id.clone(), cost: nanos(nano_usd) };
    let day = Duration::from_secs(24 * 60 * 60);
    for costs in [&[cost(&a, 7), cost(&free, 0)][..], &[cost(&a, 7), cost(&b, 9)]] {
        match ledger.keep_costs(&probe.account, costs, day).await {
            Ok(()) => {}
            // The ledger keeps no costs.
            Err(LedgerError::Refused(_)) => return Ok(()),
            Err(error) => return Err(probe.failed(error)),
        }
    }
    let found = |probe: &Probe<'_>| {
        let (account, ids) = (probe.account.clone(), [&b, &unknown, &free, &a].map(Clone::clone));
        async move { ledger.costs(&account, &ids).await }
    };
    let sorted = |mut costs: Vec<RequestCost>| {
        costs.sort_by(|a, b| a.id.cmp(&b.id));
        costs
    };
    let costs = sorted(found(&probe).await.map_err(|error| probe.failed(error))?);
    let expected = [cost(&a, 7), cost(&free, 0), cost(&b, 9)].to_vec();
    probe.equal("those that are known", &costs, &expected)?;
    let costs = found(&other).await.map_err(|error| other.failed(error))?;
    other.equal("of another account", &costs, &Vec::new())?;
    probe.amend("whether it is erased now", Amendment::Erase, true).await?;
    let again = ledger.keep_costs(&probe.account, &[cost(&a, 7)], day).await;
    again.map_err(|error| probe.failed(error))?;
    let costs = found(&probe).await.map_err(|error| probe.failed(error))?;
    probe.equal("of an account that was erased", &costs, &Vec::new())
}

pub(super) async fn thresholds(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "a threshold is reported by the lease that claims it first").await?;
    for (by, expected) in [(1, true), (2, false), (1, true)] {
        let (threshold, by) = (Name::known("included 80"), LeaseId::from_bits(by));
        match ledger.claim(&probe.account, probe.period, threshold, by).await {
            Ok(claimed) => {
                probe.equal("one claims, another, the first again", &claimed, &expected)?;
            }
            // The ledger has no thresholds.
            Err(LedgerError::Refused(_)) => return Ok(()),
            Err(error) => return Err(probe.failed(error)),
        }
    }
    Ok(())
}

pub(super) async fn listed(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "an account that used something is listed").await?;
    let renewal = Renewal { settled: nanos(40), need: nanos(2), ..probe.renewal(1, 1) };
    probe.expect_hold("settled", &renewal, 2).await?;
    let expected = AccountSummary {
        account: probe.account.clone(),
        used: nanos(40),
        refunded: nanos(0),
        held: nanos(2),
        closed: false,
    };
    match find(&probe, probe.period).await {
        Ok(found) => probe.equal("this month", &found, &Some(expected))?,
        // The ledger has no list.
        Err(ContractError::Failed { source: LedgerError::Refused(_), .. }) => return Ok(()),
        Err(error) => return Err(error),
    }
    let found = find(&probe, probe.period.previous()).await?;
    probe.equal("the month before, in which it used nothing", &found, &None)
}

/// The account's entry in the list of a month, read in small pages.
async fn find(probe: &Probe<'_>, period: Period) -> Result<Option<AccountSummary>, ContractError> {
    let page_size = NonZeroUsize::MIN.saturating_add(1);
    let mut cursor = None;
    loop {
        let page = probe.ledger.list(period, cursor.as_ref(), page_size).await;
        let page = page.map_err(|source| probe.failed(source))?;
        let mut accounts = page.accounts.into_iter();
        if let Some(summary) = accounts.find(|summary| summary.account == probe.account) {
            return Ok(Some(summary));
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(None);
        }
    }
}

pub(super) async fn erased(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "nothing is left of an erased account").await?;
    let renewal = Renewal { settled: nanos(40), need: nanos(2), ..probe.renewal(1, 1) };
    probe.expect_hold("settled", &renewal, 2).await?;
    for is_new in [true, false] {
        probe.amend("whether it is erased now", Amendment::Erase, is_new).await?;
    }
    let later = Renewal { settled: nanos(50), ..probe.renewal(1, 2) };
    probe.expect(&later, Outcome::Erased).await?;
    probe.refuse("a grant", grant("order 1", 50, None)).await?;
    let statement = probe.statement(probe.period).await?;
    probe.equal("used and held", &(statement.used, statement.held), &(nanos(0), nanos(0)))
}
