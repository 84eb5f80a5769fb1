//! The thread that writes: it makes the calls that wait in one transaction, and answers them once
//! that is on the disk.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use redb::ReadableTable;
use tokio::sync::oneshot;

use super::{
    super::{Amendment, Answer, LeaseId, LedgerError, LineKey, Renewal, RequestCost},
    account::{Excerpt, Rows},
    failure::Failure,
    rows,
};
use crate::{
    Account, Name, Period,
    clock::{Clock, UnixTime},
    database_file::{DatabaseFailed, DatabaseFile, ROWS, SCHEMA_KEY},
};

/// The most calls of a transaction.
const MAX_BATCH: usize = 1_024;

/// The most rows of old costs that are removed in a transaction.
const MAX_REMOVED: usize = 1_000;

/// A call, and where its answer goes.
pub(super) enum Call {
    Renew {
        account: Account,
        period: Period,
        renewal: Box<Renewal>,
        called_at: Instant,
        within: Duration,
        answer: oneshot::Sender<Result<Answer, LedgerError>>,
    },
    Amend {
        account: Account,
        amendment: Amendment,
        answer: oneshot::Sender<Result<bool, LedgerError>>,
    },
    /// Writes something, to know that it can be written.
    Check { answer: oneshot::Sender<Result<bool, LedgerError>> },
    KeepCosts {
        account: Account,
        costs: Vec<RequestCost>,
        keep_for: Duration,
        answer: oneshot::Sender<Result<bool, LedgerError>>,
    },
    Claim {
        account: Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
        answer: oneshot::Sender<Result<bool, LedgerError>>,
    },
}

/// An answer that is sent once the transaction is on the disk.
#[expect(clippy::large_enum_variant, reason = "most are the large one")]
enum Reply {
    Answer(oneshot::Sender<Result<Answer, LedgerError>>, Result<Answer, LedgerError>),
    Bool(oneshot::Sender<Result<bool, LedgerError>>, Result<bool, LedgerError>),
}

/// The writer's settings.
pub(super) struct Writer {
    pub(super) file: Arc<DatabaseFile>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_lines: usize,
}

impl Writer {
    /// Starts the thread. It ends when the sender of calls is dropped.
    pub(super) fn start(
        self,
        calls: mpsc::Receiver<Call>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        let name = "tower-credits-ledger".to_owned();
        thread::Builder::new().name(name).spawn(move || {
            while let Ok(first) = calls.recv() {
                let mut batch = vec![first];
                batch.extend(calls.try_iter().take(MAX_BATCH - 1));
                // A panic, for instance of the host's clock, costs this batch its answers.
                if catch_unwind(AssertUnwindSafe(|| self.write(batch))).is_err() {
                    tracing::error!(
                        target: "tower_credits", "the thread that writes the ledger panicked: it \
                         goes on"
                    );
                }
            }
            self.file.close();
        })
    }

    /// Makes calls in one transaction, and answers them.
    fn write(&self, batch: Vec<Call>) {
        let database = match self.file.database() {
            Ok(database) => database,
            Err(error) => {
                let error = error.into();
                return batch.into_iter().for_each(|call| call.fail(&error));
            }
        };
        let mut replies = Vec::with_capacity(batch.len());
        let begun = database.begin_write().map_err(|DatabaseFailed(reason)| Failure::File(reason));
        let written = begun.and_then(|transaction| {
            {
                let mut rows = transaction.open_table(ROWS)?;
                let mut may_remove = MAX_REMOVED;
                for call in batch {
                    replies.push(self.run(&mut rows, call, &mut may_remove)?);
                }
            }
            Ok(transaction.commit()?)
        });
        match written {
            Ok(()) => {
                self.file.committed(replies.len());
                replies.into_iter().for_each(Reply::send);
            }
            // Calls that were not run yet are dropped with their senders.
            Err(failure) => {
                let reason = match failure {
                    Failure::File(reason) => reason,
                    Failure::Call(error) => error.to_string(),
                };
                let error = self.file.failed(&database, &reason).into();
                replies.into_iter().for_each(|reply| reply.fail(&error));
            }
        }
    }

    /// Makes a call. Only a failure of the file is an error.
    fn run(
        &self,
        rows: &mut Rows<'_>,
        call: Call,
        may_remove: &mut usize,
    ) -> Result<Reply, Failure> {
        let now = self.clock.unix_time();
        let today = Period::containing(now);
        Ok(match call {
            Call::Renew { account, period, renewal, called_at, within, answer } => {
                let reply = match within.checked_sub(called_at.elapsed()) {
                    // Nobody waits any more.
                    None => Err(LedgerError::Deadline(within)),
                    Some(left) => call_result(self.renew(
                        rows,
                        &account,
                        (period, today),
                        &renewal,
                        now + left,
                        now,
                    ))?,
                };
                Reply::Answer(answer, reply)
            }
            Call::Amend { account, amendment, answer } => {
                let done = self.amend(rows, &account, today, amendment, now);
                Reply::Bool(answer, call_result(done)?)
            }
            Call::Check { answer } => {
                let schema = rows.get(SCHEMA_KEY)?.map(|schema| schema.value().to_vec());
                rows.insert(SCHEMA_KEY, &*schema.unwrap_or_default())?;
                Reply::Bool(answer, Ok(true))
            }
            Call::KeepCosts { account, costs, keep_for, answer } => {
                let done = keep_costs(rows, &account, &costs, now);
                // Some of those that were kept for long enough, once in a transaction: who waits
                // for it is not to wait for long.
                let most = std::mem::take(may_remove);
                let kept_since = now.saturating_sub(keep_for).days();
                remove(rows, &rows::costs_before(kept_since), most)?;
                Reply::Bool(answer, call_result(done)?)
            }
            Call::Claim { account, period, threshold, by, answer } => {
                let done = self.change(rows, &account, &[period], &[], |state| {
                    state.claim(period, threshold, by, now)
                });
                Reply::Bool(answer, call_result(done)?)
            }
        })
    }

    pub(super) fn renew(
        &self,
        rows: &mut Rows<'_>,
        account: &Account,
        (period, today): (Period, Period),
        renewal: &Renewal,
        not_after: UnixTime,
        now: UnixTime,
    ) -> Result<Answer, Failure> {
        let lines: Vec<LineKey> = renewal.lines.iter().map(|line| line.key.clone()).collect();
        self.change(rows, account, &[period, today], &lines, |state| {
            state.renew(period, renewal, not_after, now)
        })
    }

    pub(super) fn amend(
        &self,
        rows: &mut Rows<'_>,
        account: &Account,
        today: Period,
        amendment: Amendment,
        now: UnixTime,
    ) -> Result<bool, Failure> {
        let period = match &amendment {
            Amendment::Refund { period, .. } | Amendment::Close(period) => *period,
            _ => today,
        };
        if matches!(amendment, Amendment::Erase) {
            erase_costs(rows, account)?;
        }
        self.change(rows, account, &[period], &[], |state| state.amend(amendment, now))
    }

    /// Changes a part of an account: the first of `periods`, and what the call may change besides.
    pub(super) fn change<T>(
        &self,
        rows: &mut Rows<'_>,
        account: &Account,
        periods: &[Period],
        lines: &[LineKey],
        change: impl FnOnce(&mut super::super::AccountState) -> Result<T, LedgerError>,
    ) -> Result<T, Failure> {
        let part = Excerpt::read(rows, account, periods, lines, self.max_lines)?;
        let mut state = part.state(periods[0]);
        let was_erased = state.record.erased;
        let answer = change(&mut state).map_err(Failure::Call)?;
        let is_erased = state.record.erased != was_erased;
        part.write(rows, state, is_erased)?;
        Ok(answer)
    }
}

/// Removes the costs of an account, of all days that there are.
fn erase_costs(rows: &mut Rows<'_>, account: &Account) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let first =
            rows.range(&*rows::costs_from(from).start..&*rows::costs_from(from).end)?.next();
        let Some(day) = first.transpose()?.and_then(|(key, _)| rows::day_of_cost(key.value()))
        else {
            return Ok(());
        };
        remove(rows, &rows::costs_of(day, account), usize::MAX)?;
        from = day + 1;
    }
}

/// Keeps the costs of requests.
fn keep_costs(
    rows: &mut Rows<'_>,
    account: &Account,
    costs: &[RequestCost],
    now: UnixTime,
) -> Result<bool, Failure> {
    if rows::record(rows, account)?.record.is_erased(now) {
        return Ok(false);
    }
    for RequestCost { id, cost } in costs {
        let key = rows::cost_key(now.days(), account, id);
        rows.insert(&*key, &*rows::row(&key, &cost.as_nano_usd()))?;
    }
    Ok(true)
}

/// Removes rows, `most` at most.
fn remove(rows: &mut Rows<'_>, keys: &Range<Vec<u8>>, most: usize) -> Result<(), Failure> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for row in rows.range(&*keys.start..&*keys.end)?.take(most) {
        found.push(row?.0.value().to_vec());
    }
    for key in found {
        rows.remove(&*key)?;
    }
    Ok(())
}

/// Separates what failed: the call, or the file.
fn call_result<T>(done: Result<T, Failure>) -> Result<Result<T, LedgerError>, Failure> {
    match done {
        Ok(answer) => Ok(Ok(answer)),
        Err(Failure::Call(error)) => Ok(Err(error)),
        Err(failure) => Err(failure),
    }
}

impl Call {
    fn fail(self, error: &LedgerError) {
        match self {
            Self::Renew { answer, .. } => Reply::Answer(answer, Err(again(error))).send(),
            Self::Amend { answer, .. }
            | Self::Claim { answer, .. }
            | Self::KeepCosts { answer, .. }
            | Self::Check { answer } => {
                Reply::Bool(answer, Err(again(error))).send();
            }
        }
    }
}

impl Reply {
    fn send(self) {
        // Nobody may wait any more.
        match self {
            Self::Answer(to, answer) => drop(to.send(answer)),
            Self::Bool(to, answer) => drop(to.send(answer)),
        }
    }

    fn fail(self, error: &LedgerError) {
        match self {
            Self::Answer(to, _) => drop(to.send(Err(again(error)))),
            Self::Bool(to, _) => drop(to.send(Err(again(error)))),
        }
    }
}

/// The same error for another call.
fn again(error: &LedgerError) -> LedgerError {
    match error {
        LedgerError::Unfit(reason) => LedgerError::Unfit(reason.clone()),
        LedgerError::Unreachable { reason, source } => {
            LedgerError::Unreachable { reason: reason.clone(), source: source.clone() }
        }
        other => LedgerError::Unreachable { reason: other.to_string(), source: None },
    }
}
