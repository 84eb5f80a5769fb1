//! Rules of renewals.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{
    ContractError,
    probe::{Probe, TERMS, line, nanos},
};
use crate::{
    Credits,
    ledger::{LeaseId, Ledger, Outcome, Renewal, Terms},
};

pub(super) async fn nothing_used(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "an account that used nothing has a statement of zeros").await?;
    let statement = probe.statement(probe.period).await?;
    let found = (statement.used, statement.held, statement.included, statement.lines.len());
    probe.equal("", &found, &(nanos(0), nanos(0), TERMS.included, 0))
}

pub(super) async fn repeated(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "a repeated renewal changes nothing").await?;
    let renewal = Renewal { need: nanos(700), ..probe.renewal(1, 1) };
    for step in ["first", "repeated"] {
        let standing = probe.expect_hold(step, &renewal, 700).await?;
        probe.equal("on hold by all leases", &standing.held, &nanos(700))?;
    }
    Ok(())
}

pub(super) async fn superseded(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "a renewal older than the last one is superseded, without effect")
            .await?;
    let newer = Renewal { settled: nanos(10), need: nanos(5), ..probe.renewal(1, 2) };
    probe.expect_hold("the newer one", &newer, 5).await?;
    let older = Renewal { settled: nanos(90), need: nanos(500), ..probe.renewal(1, 1) };
    probe.expect(&older, Outcome::Superseded).await?;
    let statement = probe.statement(probe.period).await?;
    probe.equal("used and held", &(statement.used, statement.held), &(nanos(10), nanos(5)))
}

pub(super) async fn debited_once(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "a batch that is sent again is debited once").await?;
    let first =
        Renewal { settled: nanos(400), lines: Arc::new([line(400)]), ..probe.renewal(1, 1) };
    probe.expect_hold("first", &first, 0).await?;
    let again = Renewal { seq: 2, ..first };
    let standing = probe.expect_hold("again, under a new `seq`", &again, 0).await?;
    probe.equal("used", &standing.used, &nanos(400))?;
    let statement = probe.statement(probe.period).await?;
    let found = (statement.used, statement.lines.len(), statement.requests());
    probe.equal("used, lines and requests of the statement", &found, &(nanos(400), 1, 2))
}

pub(super) async fn bounded(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(
        ledger,
        "`need` is granted as far as there is any, and `extra` up to a quarter of the rest",
    )
    .await?;
    let one = Renewal { need: nanos(600), extra: nanos(1_000), ..probe.renewal(1, 1) };
    let standing = probe.expect_hold("600 and a quarter of 400", &one, 700).await?;
    probe.equal("the limit", &standing.limit, &nanos(1_000))?;
    let other = Renewal { need: nanos(600), ..probe.renewal(2, 1) };
    let standing = probe.expect_hold("the 300 that are left", &other, 300).await?;
    probe.equal("available", &standing.available(), &nanos(0))?;
    let none = Renewal { refill: nanos(1), extra: nanos(1), ..probe.renewal(3, 1) };
    probe.expect_hold("nothing is left", &none, 0).await.map(drop)
}

pub(super) async fn kept_by_right(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "`keep` that is on hold stays, even if the limit is lower now").await?;
    let held = Renewal { need: nanos(800), ..probe.renewal(1, 1) };
    probe.expect_hold("held", &held, 800).await?;
    let lower = Terms { included: nanos(100), ..TERMS };
    // Terms are the newest that were stated.
    let terms_at = probe.now + std::time::Duration::from_secs(1);
    let kept = Renewal { keep: nanos(500), terms: lower, terms_at, ..probe.renewal(1, 2) };
    probe.expect_hold("kept", &kept, 500).await?;
    let more = Renewal { keep: nanos(600), terms: lower, terms_at, ..probe.renewal(1, 3) };
    probe.expect_hold("more than is on hold", &more, 500).await?;
    let settled = Renewal { settled: nanos(200), seq: 4, batch: 4, ..more };
    probe.expect_hold("settled out of the hold", &settled, 300).await.map(drop)
}

pub(super) async fn never_refused_for_balance(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "usage is settled even beyond the limit").await?;
    let beyond = Renewal { settled: nanos(5_000), need: nanos(10), ..probe.renewal(1, 1) };
    let standing = probe.expect_hold("beyond the limit", &beyond, 0).await?;
    probe.equal("used", &standing.used, &nanos(5_000))
}

pub(super) async fn lines_within_settled(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "lines that cost more than is newly settled are refused").await?;
    let renewal =
        Renewal { settled: nanos(50), lines: Arc::new([line(51)]), ..probe.renewal(1, 1) };
    probe.expect_refused(&renewal).await?;
    let statement = probe.statement(probe.period).await?;
    probe.equal("used after that", &statement.used, &nanos(0))
}

pub(super) async fn recovered(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "usage without lines is debited, in a line `recovered`").await?;
    let renewal = Renewal { settled: nanos(50), ..probe.renewal(1, 1) };
    probe.expect_hold("settled", &renewal, 0).await?;
    let statement = probe.statement(probe.period).await?;
    let models: Vec<_> = statement.lines.iter().map(|line| line.model.as_str()).collect();
    probe.equal("the models of the lines", &models, &vec!["recovered"])
}

pub(super) async fn saturated(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "totals do not grow beyond `Credits::MAX`").await?;
    let most = Renewal { settled: Credits::MAX, ..probe.renewal(1, 1) };
    probe.expect_hold("the largest amount", &most, 0).await?;
    let more = Renewal { settled: nanos(1), need: nanos(10), ..probe.renewal(2, 1) };
    let standing = probe.expect_hold("more than that", &more, 0).await?;
    probe.equal("used", &standing.used, &Credits::MAX)?;
    probe.statement(probe.period).await.map(drop)
}

pub(super) async fn forgotten(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "`forget` removes the lease's entry and hold").await?;
    let held = Renewal { need: nanos(300), ..probe.renewal(1, 1) };
    probe.expect_hold("held", &held, 300).await?;
    let with_news = Renewal { settled: nanos(7), forget: true, ..probe.renewal(1, 2) };
    probe.expect_hold("one that settles is not forgotten", &with_news, 0).await?;
    let last = Renewal { settled: nanos(7), forget: true, ..probe.renewal(1, 3) };
    for _ in 0..2 {
        probe.expect(&last, Outcome::Forgotten).await?;
    }
    let statement = probe.statement(probe.period).await?;
    probe.equal("used and held", &(statement.used, statement.held), &(nanos(7), nanos(0)))
}

pub(super) async fn periods(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "a period takes no renewal before it begins, nor 62 days after its end")
            .await?;
    let renewal = Renewal { need: nanos(1), ..probe.renewal(1, 1) };
    let early = probe.renew_in(probe.period.next().next(), &renewal).await?;
    probe.equal("the month after the next one", &early.outcome, &Outcome::NotBegun)?;
    let mut long_ago = probe.period;
    for _ in 0..4 {
        long_ago = long_ago.previous();
    }
    let late = probe.renew_in(long_ago, &renewal).await?;
    probe.equal("four months ago", &late.outcome, &Outcome::Closed)
}

pub(super) async fn atomic(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe =
        Probe::new(ledger, "renewals at the same time do not hold the same credits").await?;
    let leases: Vec<_> =
        (1..=25).map(|lease| Renewal { need: nanos(70), ..probe.renewal(lease, 1) }).collect();
    let mut held = Credits::ZERO;
    for answer in join_all(leases.iter().map(|renewal| probe.renew_in(probe.period, renewal))).await
    {
        match answer?.outcome {
            Outcome::Renewed { hold, .. } => held = held.saturating_add(hold),
            other => return Err(probe.broken("each of 25", "`Renewed`", &other)),
        }
    }
    probe.equal("the holds together", &held, &TERMS.included)?;
    let settles: Vec<_> = (1..=25)
        .map(|lease| Renewal { settled: nanos(3), batch: 2, seq: 2, ..probe.renewal(lease, 2) })
        .collect();
    for answer in
        join_all(settles.iter().map(|renewal| probe.renew_in(probe.period, renewal))).await
    {
        answer?;
    }
    let statement = probe.statement(probe.period).await?;
    probe.equal("used and held", &(statement.used, statement.held), &(nanos(75), nanos(0)))?;
    let unknown = LeaseId::from_bits(99);
    let full = Renewal { lease: unknown, need: nanos(2_000), ..probe.renewal(99, 1) };
    probe.expect_hold("the rest", &full, 925).await.map(drop)
}
