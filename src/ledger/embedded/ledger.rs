//! [`EmbeddedLedger`]: the calls of a ledger, as jobs of the thread that writes and as reads beside
//! it.

use std::{
    fmt,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use redb::ReadOnlyTable;
use tokio::sync::oneshot;

use super::{
    super::{
        AccountState, AccountSummary, AccountsPage, Amendment, Answer, Audit, Book, Cursor,
        LeaseId, Ledger, LedgerError, LedgerFuture, Renewal, RequestCost, Statement, Terms, costs,
    },
    account::whole,
    failure::{Failure, PURPOSE},
    rows,
    writer::{Call, Writer},
};
use crate::{
    Account, Name, Period, RequestId,
    clock::{Clock, UnixTime},
    database_file::{DatabaseFailed, DatabaseFile, ROWS},
};

/// A ledger in a file of this machine, for a single process. Clones share it.
///
/// Balances survive a restart, a crash of the process, and a power failure: a call is answered once
/// it is on the disk. Calls that come at the same time are written together. While the disk cannot
/// be written (it is full, for example), calls fail as during any outage of a ledger; the file is
/// opened again until it can.
///
/// The file has an [`AccountState`] for each account, in rows. Copy it while the process does not
/// run, or copy a snapshot of the disk.
///
/// ```no_run
/// use tower_credits::{BearerTokens, CreditMeter, EmbeddedLedger, PlanFile};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = EmbeddedLedger::open("credits.redb")?;
/// let meter = CreditMeter::new(PlanFile::watch("plan.toml")?, ledger, BearerTokens::new());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EmbeddedLedger {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<DatabaseFile>,
    clock: Arc<dyn Clock>,
    /// To the thread that writes; `None` while this is dropped.
    calls: Option<mpsc::Sender<Call>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

/// The rows of the database, as the last transaction left them.
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl EmbeddedLedger {
    pub(super) fn start(
        path: &Path,
        clock: Arc<dyn Clock>,
        max_lines: usize,
    ) -> Result<Self, LedgerError> {
        let file = Arc::new(DatabaseFile::open(path, PURPOSE)?);
        let (calls, waiting) = mpsc::channel();
        let writer = Writer { file: Arc::clone(&file), clock: Arc::clone(&clock), max_lines };
        let writer = writer.start(waiting).map_err(|error| LedgerError::Unreachable {
            reason: format!("no thread could be started: {error}"),
            source: None,
        })?;
        let writer = Mutex::new(Some(writer));
        Ok(Self { inner: Arc::new(Inner { file, clock, calls: Some(calls), writer }) })
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &DatabaseFile {
        &self.inner.file
    }

    /// Number of transactions that were committed, and of the calls that they made.
    #[cfg(test)]
    pub(super) fn commits(&self) -> (usize, usize) {
        self.inner.file.commits()
    }

    /// Sends a call to the thread that writes, and waits for its answer.
    async fn call<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, LedgerError>>) -> Call,
    ) -> Result<T, LedgerError> {
        let (answer, answered) = oneshot::channel();
        // Without its thread, the channel is closed, and so is the answer's.
        let call = call(answer);
        let sent = self.inner.calls.as_ref().is_some_and(|calls| calls.send(call).is_ok());
        match answered.await {
            Ok(answer) if sent => answer,
            _ => Err(LedgerError::Unreachable {
                reason: format!("the file {} was not written", self.inner.file.path().display()),
                source: None,
            }),
        }
    }

    /// Reads beside the thread that writes, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Rows) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let inner = Arc::clone(&self.inner);
        let reading = tokio::task::spawn_blocking(move || {
            let database = inner.file.database()?;
            let rows = database
                .begin_read()
                .map_err(|DatabaseFailed(reason)| Failure::File(reason))
                .and_then(|transaction| Ok(transaction.open_table(ROWS)?));
            match rows.and_then(|rows| read(&rows)) {
                Ok(value) => Ok(value),
                Err(Failure::Call(error)) => Err(error),
                Err(Failure::File(reason)) => Err(inner.file.failed(&database, &reason).into()),
            }
        });
        reading.await.unwrap_or_else(|error| {
            Err(LedgerError::Unreachable {
                reason: format!("the ledger could not be read: {error}"),
                source: None,
            })
        })
    }
}

impl Ledger for EmbeddedLedger {
    fn describe(&self) -> String {
        format!("the file {}", self.inner.file.path().display())
    }

    fn check(&self, _: Duration) -> LedgerFuture<'_, ()> {
        Box::pin(async { self.call(|answer| Call::Check { answer }).await.map(drop) })
    }

    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let called_at = Instant::now();
        let (account, renewal) = (account.clone(), Box::new(renewal.clone()));
        Box::pin(self.call(move |answer| Call::Renew {
            account,
            period,
            renewal,
            called_at,
            within,
            answer,
        }))
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        let (account, now) = (account.clone(), self.inner.clock.unix_time());
        Box::pin(self.read(move |rows| {
            Ok(state(rows, &account, period)?.statement(&account, period, terms, now))
        }))
    }

    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        let (account, now) = (account.clone(), self.inner.clock.unix_time());
        Box::pin(
            self.read(move |rows| Ok(state(rows, &account, period)?.audit(&account, period, now))),
        )
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        let account = account.clone();
        Box::pin(self.call(|answer| Call::Amend { account, amendment, answer }))
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let account = account.clone();
        Box::pin(self.call(move |answer| Call::Claim { account, period, threshold, by, answer }))
    }

    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        let (account, costs) = (account.clone(), costs.to_vec());
        Box::pin(async move {
            let keep = |answer| Call::KeepCosts { account, costs, keep_for, answer };
            self.call(keep).await.map(drop)
        })
    }

    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        let (account, ids, now) = (account.clone(), ids.to_vec(), self.inner.clock.unix_time());
        Box::pin(self.read(move |rows| {
            let mut found = Vec::new();
            for id in ids {
                for day in costs::days(now) {
                    if let Some(cost) = rows::cost(rows, day, &account, &id)? {
                        found.push(RequestCost { id, cost });
                        break;
                    }
                }
            }
            Ok(found)
        }))
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        let now = self.inner.clock.unix_time();
        let keys = rows::books_after(period, from.map(Cursor::as_str));
        Box::pin(self.read(move |rows| {
            let (mut accounts, mut last, mut number) = (Vec::new(), None, 0);
            for row in rows.range(&*keys.start..&*keys.end)? {
                let (key, _) = row?;
                let Some(account) = rows::account_of(key.value()) else { continue };
                match summary(rows, &account, period, now) {
                    Ok(summary) => accounts.extend(summary),
                    // Its own trouble: the others are listed, and an audit names what is wrong.
                    Err(Failure::Call(error @ LedgerError::Malformed(_))) => {
                        tracing::warn!(
                            target: "tower_credits", %account, %error,
                            "an account is listed with zeros"
                        );
                        let book = Book::new(period);
                        let account = account.clone();
                        accounts.push(AccountSummary::from_book(account, &book, false));
                    }
                    Err(failure) => return Err(failure),
                }
                number += 1;
                if number == page_size.get() {
                    last = Some(Cursor::new(account.as_str()));
                    break;
                }
            }
            Ok(AccountsPage { accounts, next: last })
        }))
    }
}

/// Returns the summary of an account's month.
fn summary(
    rows: &Rows,
    account: &Account,
    period: Period,
    now: UnixTime,
) -> Result<Option<AccountSummary>, Failure> {
    let record = rows::record(rows, account)?.record;
    let books = rows::book(rows, period, account)?.map(|book| (period, book));
    let state =
        AccountState { record, books: books.into_iter().collect(), ..AccountState::default() };
    Ok(state.summary(account, period, now))
}

/// Reads an account's record, and one of its months.
fn state(rows: &Rows, account: &Account, period: Period) -> Result<AccountState, Failure> {
    let record = rows::record(rows, account)?.record;
    let mut state = AccountState { record, ..AccountState::default() };
    if let Some(book) = rows::book(rows, period, account)? {
        state.books.insert(period, whole(book, rows::lines(rows, period, account)?));
    }
    Ok(state)
}

/// Waits until all calls that were sent are on the disk, and the file is closed.
impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.calls.take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLedger").field("file", &self.inner.file.path()).finish()
    }
}
