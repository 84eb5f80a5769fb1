//! The calls of one rule, on an account of its own.

use std::{fmt::Debug, sync::Arc, time::Duration};

use super::error::ContractError;
use crate::{
    Account, Credits, Name, Period,
    clock::{ManualClock, UnixTime},
    identify::Subject,
    ledger::{
        Amendment, Answer, LeaseId, Ledger, LedgerError, LineKey, Outcome, Renewal, Standing,
        Statement, Terms, Usage, UsageLine,
    },
};

/// Time that a call may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Lifetime of holds, unless a rule waits for their end.
pub(super) const TTL: Duration = Duration::from_secs(600);

/// A handle that moves the clock of a ledger under test.
pub trait MoveClock: Send + Sync {
    /// Moves the ledger's clock on.
    fn advance(&self, by: Duration);
}

impl MoveClock for ManualClock {
    fn advance(&self, by: Duration) {
        Self::advance(self, by);
    }
}

/// An account of one rule, and a lease's view of it.
pub(super) struct Probe<'a> {
    pub(super) ledger: &'a dyn Ledger,
    pub(super) rule: &'static str,
    pub(super) account: Account,
    /// The month that it is by the ledger's clock.
    pub(super) period: Period,
    /// The ledger's clock.
    pub(super) now: UnixTime,
}

impl<'a> Probe<'a> {
    /// Takes an account that the ledger does not know, and reads the ledger's clock.
    pub(super) async fn new(
        ledger: &'a dyn Ledger,
        rule: &'static str,
    ) -> Result<Self, ContractError> {
        // Any text that may be in an account's name must be all right.
        let random = LeaseId::random();
        let id = format!(
            "contract: ü/{}",
            random.map_err(|error| ContractError::Unnamed(error.into()))?
        );
        let account = Account::user(&id)?;
        let now = UnixTime::now();
        let mut probe = Self { ledger, rule, account, period: Period::containing(now), now };
        probe.read_clock().await?;
        Ok(probe)
    }

    /// Reads the ledger's clock with a renewal that settles and holds nothing: every answer has it.
    pub(super) async fn read_clock(&mut self) -> Result<(), ContractError> {
        let farewell = Renewal { forget: true, ..self.renewal(0, 1) };
        self.now = self.renew_in(self.period, &farewell).await?.now;
        self.period = Period::containing(self.now);
        Ok(())
    }

    /// A renewal that settles and holds nothing, of a tier that includes 1 000 nano-dollars.
    pub(super) fn renewal(&self, lease: u128, seq: u64) -> Renewal {
        Renewal {
            lease: LeaseId::from_bits(lease),
            seq,
            batch: seq,
            settled: Credits::ZERO,
            reported: Credits::ZERO,
            lines: Arc::default(),
            keep: Credits::ZERO,
            refill: Credits::ZERO,
            need: Credits::ZERO,
            extra: Credits::ZERO,
            terms: TERMS,
            terms_at: self.now,
            ttl: TTL,
            forget: false,
            most_per_day: None,
            parts: std::sync::Arc::default(),
            permits: None,
            concurrency: None,
        }
    }

    pub(super) async fn renew_in(
        &self,
        period: Period,
        renewal: &Renewal,
    ) -> Result<Answer, ContractError> {
        let answer = self.ledger.renew(&self.account, period, renewal, WITHIN).await;
        answer.map_err(|source| self.failed(source))
    }

    /// Renews in the current month, and expects an outcome.
    pub(super) async fn expect(
        &self,
        renewal: &Renewal,
        outcome: Outcome,
    ) -> Result<(), ContractError> {
        let answer = self.renew_in(self.period, renewal).await?;
        self.equal("", &answer.outcome, &outcome)
    }

    /// Renews in the current month, and expects a hold of so many nano-dollars.
    pub(super) async fn expect_hold(
        &self,
        step: &str,
        renewal: &Renewal,
        expected: i64,
    ) -> Result<Standing, ContractError> {
        let answer = self.renew_in(self.period, renewal).await?;
        let Outcome::Renewed { hold, standing, .. } = answer.outcome else {
            return Err(self.broken(step, "`Renewed`", &answer.outcome));
        };
        self.equal(&format!("{step}, the hold"), &hold, &nanos(expected))?;
        Ok(standing)
    }

    /// Expects that a renewal is refused as a whole.
    pub(super) async fn expect_refused(&self, renewal: &Renewal) -> Result<(), ContractError> {
        let answer = self.ledger.renew(&self.account, self.period, renewal, WITHIN).await;
        self.refused("", answer)
    }

    /// Reads the statement of a month, by [`TERMS`], and expects that its lines add up.
    pub(super) async fn statement(&self, period: Period) -> Result<Statement, ContractError> {
        let statement = self.ledger.statement(&self.account, period, Some(TERMS)).await;
        let statement = statement.map_err(|source| self.failed(source))?;
        let lines = statement.lines.iter();
        let sum = lines.fold(Credits::ZERO, |sum, line| sum.saturating_add(line.usage.cost));
        self.equal("the costs of the statement's lines together", &sum, &statement.used)?;
        Ok(statement)
    }

    /// Amends the account, and expects that it is new or was made already.
    pub(super) async fn amend(
        &self,
        step: &str,
        amendment: Amendment,
        is_new: bool,
    ) -> Result<(), ContractError> {
        let done = self.ledger.amend(&self.account, amendment).await;
        let done = done.map_err(|source| self.failed(source))?;
        self.equal(step, &done, &is_new)
    }

    /// Expects that an amendment is refused.
    pub(super) async fn refuse(
        &self,
        step: &str,
        amendment: Amendment,
    ) -> Result<(), ContractError> {
        let answer = self.ledger.amend(&self.account, amendment).await;
        self.refused(step, answer)
    }

    /// Expects that two values are equal.
    pub(super) fn equal<T: PartialEq + Debug>(
        &self,
        step: &str,
        found: &T,
        expected: &T,
    ) -> Result<(), ContractError> {
        if found == expected {
            return Ok(());
        }
        Err(self.broken(step, &format!("{expected:?}"), found))
    }

    fn refused<T: Debug>(
        &self,
        step: &str,
        answer: Result<T, LedgerError>,
    ) -> Result<(), ContractError> {
        match answer {
            Err(LedgerError::Refused(_)) => Ok(()),
            other => Err(self.broken(step, "`Err(LedgerError::Refused(_))`", &other)),
        }
    }

    pub(super) fn broken(&self, step: &str, expected: &str, found: &dyn Debug) -> ContractError {
        let step = if step.is_empty() { String::new() } else { format!(" ({step})") };
        let (expected, found) = (format!("{expected}{step}"), format!("{found:?}"));
        ContractError::Broken { rule: self.rule, expected, found }
    }

    pub(super) const fn failed(&self, source: LedgerError) -> ContractError {
        ContractError::Failed { rule: self.rule, source }
    }
}

/// The terms of renewals, unless a rule needs others: 1 000 nano-dollars a month, and no more.
pub(super) const TERMS: Terms = Terms {
    included: nanos(1_000),
    included_per_day: Credits::ZERO,
    per_seat: false,
    pay_as_you_go: Credits::ZERO,
};

pub(super) const fn nanos(amount: i64) -> Credits {
    Credits::clamped(amount)
}

/// A usage line of two requests.
pub(super) fn line(cost: i64) -> UsageLine {
    let name = Name::known("contract");
    UsageLine {
        key: LineKey::Of {
            day: 1,
            model: name.clone(),
            hardware: name.clone(),
            feature: name.clone(),
            subject: Subject::known("contract"),
        },
        usage: Usage { requests: 2, compute_micros: 5, cost: nanos(cost) },
    }
}
