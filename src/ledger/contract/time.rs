//! Rules for which time passes.

use std::time::Duration;

use super::{
    ContractError, MoveClock,
    accounts::grant,
    probe::{Probe, TERMS, TTL, nanos},
};
use crate::ledger::{Amendment, Ledger, Outcome, Renewal, Terms};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const HOLDS_EXPIRE: &str = "a hold that nobody renews expires after its `ttl`, and not before";

pub(super) async fn holds_expire(
    ledger: &dyn Ledger,
    clock: &dyn MoveClock,
) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, HOLDS_EXPIRE).await?;
    let held = Renewal { need: nanos(900), ..probe.renewal(1, 1) };
    probe.expect_hold("held", &held, 900).await?;
    let tick = Duration::from_millis(1);
    clock.advance(TTL - tick);
    let other = Renewal { need: nanos(1_000), ..probe.renewal(2, 1) };
    probe.expect_hold("a millisecond before that", &other, 100).await?;
    clock.advance(tick);
    let statement = probe.statement(probe.period).await?;
    probe.equal("held after that", &statement.held, &nanos(100))?;
    let again = Renewal { keep: nanos(100), need: nanos(900), ..probe.renewal(2, 2) };
    probe.expect_hold("others can hold it", &again, 1_000).await?;
    // What the expired lease holds no more it cannot keep, but it settles.
    let late = Renewal { settled: nanos(900), keep: nanos(900), ..probe.renewal(1, 2) };
    let standing = probe.expect_hold("the lease comes back", &late, 0).await?;
    probe.equal("used", &standing.used, &nanos(900))
}

/// The same on a clock that cannot be moved.
pub(super) async fn holds_expire_by_themselves(ledger: &dyn Ledger) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, HOLDS_EXPIRE).await?;
    let ttl = Duration::from_millis(200);
    let held = Renewal { need: nanos(900), ttl, ..probe.renewal(1, 1) };
    probe.expect_hold("held", &held, 900).await?;
    let mut left = nanos(900);
    for _ in 0..100 {
        tokio::time::sleep(ttl / 4).await;
        left = probe.statement(probe.period).await?.held;
        if left.is_zero() {
            break;
        }
    }
    probe.equal("held five seconds later", &left, &nanos(0))?;
    let other = Renewal { need: nanos(1_000), ..probe.renewal(2, 1) };
    probe.expect_hold("others can hold it", &other, 1_000).await.map(drop)
}

pub(super) async fn grants_expire(
    ledger: &dyn Ledger,
    clock: &dyn MoveClock,
) -> Result<(), ContractError> {
    let probe = Probe::new(ledger, "no request is admitted on a grant from its expiry on").await?;
    let expires = probe.now + Duration::from_secs(60);
    probe.amend("a grant", grant("order 1", 50, Some(expires)), true).await?;
    let renewal = Renewal { need: nanos(10_000), ..probe.renewal(1, 1) };
    probe.expect_hold("before that", &renewal, 1_050).await?;
    clock.advance(Duration::from_secs(60));
    let other = Renewal { seq: 2, ..renewal };
    probe.expect_hold("from then on", &other, 1_000).await.map(drop)
}

pub(super) async fn month_ends(
    ledger: &dyn Ledger,
    clock: &dyn MoveClock,
) -> Result<(), ContractError> {
    let mut probe = Probe::new(
        ledger,
        "a month that has ended keeps its terms, grants no new requests, and settles for 62 days",
    )
    .await?;
    let month = probe.period;
    let first = Renewal { need: nanos(300), ..probe.renewal(1, 1) };
    probe.expect_hold("held", &first, 300).await?;
    clock.advance(month.ends() - probe.now);
    probe.read_clock().await?;
    let terms = Terms { included: nanos(5_000), ..TERMS };
    let (keep, refill, need) = (nanos(300), nanos(10), nanos(100));
    let running = Renewal { keep, refill, need, terms, ..probe.renewal(2, 1) };
    let answer = probe.renew_in(month, &running).await?;
    let Outcome::Renewed { hold, standing, .. } = answer.outcome else {
        return Err(probe.broken("after the end", "`Renewed`", &answer.outcome));
    };
    let found = (hold, standing.included, standing.ended);
    let expected = (nanos(310), TERMS.included, true);
    probe.equal("hold of running requests, included credits, ended", &found, &expected)?;
    let fresh = probe.statement(probe.period).await?;
    probe.equal("used in the next month", &fresh.used, &nanos(0))?;

    clock.advance(month.ends() + 62 * DAY - probe.now);
    probe.read_clock().await?;
    let settles = Renewal { settled: nanos(20), ..probe.renewal(2, 2) };
    probe.renew_in(month, &settles).await?;
    let statement = probe.statement(month).await?;
    probe.equal("used 62 days later", &statement.used, &nanos(20))?;
    clock.advance(Duration::from_millis(1));
    let later = Renewal { settled: nanos(30), ..probe.renewal(2, 3) };
    let answer = probe.renew_in(month, &later).await?;
    probe.equal("a millisecond later", &answer.outcome, &Outcome::Closed)
}

pub(super) async fn erasure_ends(
    ledger: &dyn Ledger,
    clock: &dyn MoveClock,
) -> Result<(), ContractError> {
    let mut probe =
        Probe::new(ledger, "the name of an erased account can be used again after 93 days").await?;
    probe.amend("erased", Amendment::Erase, true).await?;
    clock.advance(93 * DAY - Duration::from_millis(1));
    probe.read_clock().await?;
    let renewal = Renewal { need: nanos(10), ..probe.renewal(1, 1) };
    probe.expect(&renewal, Outcome::Erased).await?;
    clock.advance(Duration::from_millis(1));
    probe.expect_hold("after that", &renewal, 10).await.map(drop)
}
