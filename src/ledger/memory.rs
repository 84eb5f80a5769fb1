//! The ledger of one process: for tests, for trying things out, and for a single server whose
//! balances may end with it.

use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    AccountSummary, AccountsPage, Amendment, Answer, Book, Cursor, LeaseId, Ledger, LedgerError,
    LedgerFuture, MAX_LINES, Record, Renewal, Statement, Terms, whole_millis,
};
use crate::{
    Account, Name, Period,
    clock::{Clock, SystemClock},
};

/// How many periods of an account are kept; the oldest goes first.
const MOST_PERIODS: usize = 13;

/// A ledger in this process's memory: a [`Book`] for each account and period behind one mutex. All
/// is lost when the process ends.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    accounts: Arc<Mutex<HashMap<Account, Kept>>>,
    clock: Arc<dyn Clock>,
    max_lines: usize,
}

/// An account's record and books, and all that changes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) books: BTreeMap<Period, Book>,
}

impl MemoryLedger {
    /// An empty ledger on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// An empty ledger on another clock.
    pub fn with_clock(clock: impl Clock) -> Self {
        Self { accounts: Arc::default(), clock: Arc::new(clock), max_lines: MAX_LINES }
    }

    /// Keeps so many usage lines of a month apart at most; what would be more is added to one line,
    /// `other`. Default [`MAX_LINES`].
    #[must_use]
    pub fn max_lines(self, max_lines: NonZeroUsize) -> Self {
        Self { max_lines: max_lines.get(), ..self }
    }

    /// The clock in whole milliseconds, as every ledger counts.
    fn now(&self) -> Duration {
        whole_millis(self.clock.unix_time())
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Account, Kept>> {
        // A book is changed by plain arithmetic that does not panic: what a poisoned mutex holds is
        // whole.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self::new()
    }
}

impl Kept {
    pub(super) fn renew(
        &mut self,
        period: Period,
        renewal: &Renewal,
        max_lines: usize,
        not_after: Duration,
        now: Duration,
    ) -> Result<Answer, LedgerError> {
        let today = Period::containing(now);
        let mut book = self
            .books
            .remove(&period)
            .unwrap_or_else(|| Book::new(period))
            .with_max_lines(max_lines);
        // Made where it is wanted: of closed months, and of those that have not begun.
        let wants_current = (today > period && self.record.closed.is_some()) || today < period;
        let current = wants_current.then(|| book_of(&mut self.books, today));
        let answer = book.renew(&mut self.record, renewal, current, not_after, now);
        self.books.insert(period, book);
        self.forget_old();
        answer
    }

    pub(super) fn amend(
        &mut self,
        amendment: Amendment,
        now: Duration,
    ) -> Result<bool, LedgerError> {
        self.is_there(now).or_else(|error| {
            if matches!(amendment, Amendment::Erase) { Ok(()) } else { Err(error) }
        })?;
        let Self { record, books } = self;
        let done = match amendment {
            Amendment::Grant { id, amount, expires } => Ok(record.grant(id, amount, expires)),
            Amendment::Seats(seats) => {
                record.seats = seats;
                Ok(true)
            }
            Amendment::SpendingLimit(limit) => {
                record.spending_limit = limit;
                Ok(true)
            }
            Amendment::Refund { period, id, refund } => {
                book_of(books, period).refund(record, id, refund, now)
            }
            Amendment::Close(period) => book_of(books, period).close(record, now),
            Amendment::Erase if record.is_erased(now) => Ok(false),
            Amendment::Erase => {
                *self = Self { record: Record::of_erased(now), books: BTreeMap::new() };
                Ok(true)
            }
        };
        self.forget_old();
        done
    }

    pub(super) fn claim(
        &mut self,
        period: Period,
        threshold: Name,
        by: LeaseId,
        now: Duration,
    ) -> Result<bool, LedgerError> {
        self.is_there(now)?;
        let claimed = book_of(&mut self.books, period).claim(threshold, by);
        self.forget_old();
        Ok(claimed)
    }

    fn is_there(&self, now: Duration) -> Result<(), LedgerError> {
        if self.record.is_erased(now) {
            return Err(LedgerError::Refused(
                "the account was erased: it can be used again 93 days after that".into(),
            ));
        }
        Ok(())
    }

    fn forget_old(&mut self) {
        while self.books.len() > MOST_PERIODS {
            self.books.pop_first();
        }
    }
}

fn book_of(books: &mut BTreeMap<Period, Book>, period: Period) -> &mut Book {
    books.entry(period).or_insert_with(|| Book::new(period))
}

impl Ledger for MemoryLedger {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let now = self.now();
        let mut accounts = self.accounts();
        let kept = accounts.entry(account.clone()).or_default();
        let answer = kept.renew(period, renewal, self.max_lines, now + within, now);
        Box::pin(ready(answer))
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        let (accounts, empty) = (self.accounts(), (Record::default(), Book::new(period)));
        let kept = accounts.get(account);
        let record = kept.map_or(&empty.0, |kept| &kept.record);
        let book = kept.and_then(|kept| kept.books.get(&period)).unwrap_or(&empty.1);
        Box::pin(ready(Ok(Statement::of(account, book, record, terms, self.now()))))
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        let now = self.now();
        let done = self.accounts().entry(account.clone()).or_default().amend(amendment, now);
        Box::pin(ready(done))
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        let now = self.now();
        let claimed =
            self.accounts().entry(account.clone()).or_default().claim(period, threshold, by, now);
        Box::pin(ready(claimed))
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        most: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        // Accounts are in no order: the first of those that come next are kept, and no more.
        let now = self.now();
        let mut page: BTreeMap<&str, AccountSummary> = BTreeMap::new();
        let accounts = self.accounts();
        for (account, kept) in accounts
            .iter()
            .filter(|(account, _)| from.is_none_or(|from| account.as_str() > from.as_str()))
        {
            if let Some(book) = kept.books.get(&period).filter(|book| !book.is_blank()) {
                page.insert(
                    account.as_str(),
                    AccountSummary::of(account.clone(), book, kept.record.is_closed(period, now)),
                );
                if page.len() > most.get() {
                    page.pop_last();
                }
            }
        }
        let next = (page.len() == most.get())
            .then(|| page.last_key_value().map(|(account, _)| Cursor::new(*account)))
            .flatten();
        Box::pin(ready(Ok(AccountsPage { accounts: page.into_values().collect(), next })))
    }
}
