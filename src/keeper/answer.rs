//! The effect of an answer of the ledger: on its lease, on requests that wait, and in the log.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    calls::Landed,
    entry::{AccountEntry, AccountLease, Verdict, Waiter},
    table::AccountTable,
};
use crate::{
    Credits, Period,
    lease::Served,
    ledger::{Answer, LeaseId, LedgerError, MAX_LEASE_PARTS, MonthStanding, Outcome, Standing},
    metering::RunningRequest,
    terms::LeaseScope,
};

/// Time between two log lines that say the same of an account, or of the ledger.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The effect of an answer, to be handed out once the account's lock is released.
pub(super) struct Effect {
    /// The requests that have their answer now.
    pub(super) served: Served<Waiter, RunningRequest>,
    /// The current month by the ledger's clock.
    pub(super) month: Option<Period>,
    /// Credits that were acknowledged now.
    pub(super) settled: Credits,
    /// The account's standing, and those of the parts that the lease draws on, if the ledger said
    /// them.
    pub(super) standing: Option<(Standing, [Option<MonthStanding>; MAX_LEASE_PARTS])>,
    /// The month has just become full.
    is_newly_full: bool,
}

/// Hands an answer to its lease. `None` if that lease is gone. `outage_logged_at` is when an outage
/// of the ledger was last logged.
pub(super) fn apply(
    table: &AccountTable,
    landed: &Landed,
    outage_logged_at: &mut Option<Duration>,
    now: Duration,
) -> Option<Effect> {
    let entry = &landed.entry;
    let mut state = entry.lock();
    let failure_logged_at = state.failure_logged_at();
    let mut failure_logged_now = failure_logged_at;
    let lease = state.leases_mut().find(|lease| lease.id() == landed.lease)?;
    let acknowledged = lease.acknowledged();
    if let Some(woke_at) = table.time.notice() {
        lease.mark_suspended(&table.rules, woke_at);
    }
    let mut effect = Effect {
        served: Served::none(),
        month: None,
        settled: Credits::ZERO,
        standing: None,
        is_newly_full: false,
    };
    match &landed.answer {
        Err(error) => {
            lease.unanswered(&table.rules, landed.seq, now);
            let logged_at = if landed.is_outage() {
                outage_logged_at
            } else {
                // Nobody needs to wait for what the ledger has said.
                send_all(lease.drain_queue(), || Verdict::Unanswered);
                &mut failure_logged_now
            };
            if logged_at.is_none_or(|at| now >= at + LOG_INTERVAL) {
                *logged_at = Some(now);
                log_failure(entry, error);
            }
        }
        Ok(answer) => {
            table.note_ledger_time(answer.now);
            effect.month = Some(Period::containing(answer.now));
            effect.served =
                lease.answered(&table.rules, landed.seq, answer, oneshot::Sender::is_closed, now);
            if let Outcome::Renewed { standing, parts, .. } = answer.outcome {
                effect.standing = Some((standing, parts));
            } else {
                handle_outcome(entry, landed.lease, lease, answer);
            }
        }
    }
    effect.settled = lease.acknowledged().saturating_sub(acknowledged);
    table.note_in_journal(entry, &mut state);
    state.tell_readers(landed.lease, landed.answer.is_ok());
    if failure_logged_now != failure_logged_at {
        state.log_failure_at(now);
    }
    let is_full = effect.standing.is_some_and(|(standing, _)| standing.used == Credits::MAX);
    effect.is_newly_full = is_full && !std::mem::replace(&mut state.is_full_logged, is_full);
    state.is_full_logged = is_full;
    Some(effect)
}

/// Goes on after a renewal that did not renew.
fn handle_outcome(entry: &AccountEntry, id: LeaseId, lease: &mut AccountLease, answer: &Answer) {
    let LeaseScope { account, period, .. } = &entry.scope;
    let other_period = || Verdict::OtherPeriod(Period::containing(answer.now));
    match answer.outcome {
        Outcome::Renewed { .. } | Outcome::Forgotten | Outcome::Late => {}
        Outcome::Superseded => {
            tracing::error!(
                target: "tower_credits", %account, lease = %id,
                "a lease was superseded: its name was used twice; it goes on under a new one"
            );
            if let Ok(id) = LeaseId::random() {
                lease.rename(id);
            }
        }
        Outcome::NotBegun => {
            tracing::warn!(
                target: "tower_credits", %period,
                "this node's clock is ahead of the ledger's: the month has not begun there"
            );
            send_all(lease.drain_queue(), other_period);
        }
        Outcome::Closed => {
            let lost = lease.unreported();
            tracing::error!(
                target: "tower_credits", %account, %period, %lost,
                "the month ended too long ago to settle in"
            );
            send_all(lease.drain_queue(), other_period);
        }
        Outcome::Erased => {
            let lost = lease.unreported();
            tracing::info!(
                target: "tower_credits", %account, %period, %lost,
                "the account was erased: its unreported usage on this node is dropped"
            );
            send_all(lease.drain_queue(), || Verdict::Erased);
        }
    }
}

fn send_all(waiters: Vec<Waiter>, verdict: impl Fn() -> Verdict) {
    for waiter in waiters {
        drop(waiter.send(verdict()));
    }
}

fn log_failure(entry: &Arc<AccountEntry>, error: &LedgerError) {
    let LeaseScope { account, period, .. } = &entry.scope;
    tracing::warn!(
        target: "tower_credits", %account, %period, %error,
        "a lease could not be renewed; it is tried again"
    );
}

impl Effect {
    /// Logs that the account's month has just become full. The caller has released its lock.
    pub(super) fn log_full(&self, entry: &AccountEntry) {
        if !self.is_newly_full {
            return;
        }
        let LeaseScope { account, period, .. } = &entry.scope;
        tracing::error!(
            target: "tower_credits", %account, %period, most = %Credits::MAX,
            "the account's month has reached the largest amount that can be stored: usage beyond \
             it is not billed"
        );
    }
}
