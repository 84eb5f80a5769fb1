//! The ledger of one process: for tests, for trying things out, and for a single server whose balances may end with it.

use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Amendment, Answer, Answering, Book, Ledger, Record, Renewal, Statement, Terms, whole_millis};
use crate::{Account, Clock, Period, SystemClock};

/// How many periods of an account are kept; the oldest goes first.
const MOST_PERIODS: usize = 13;

/// A ledger in this process's memory: a [`Book`] for each account and period behind one mutex. All is lost when the process ends.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    accounts: Arc<Mutex<HashMap<Account, Kept>>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Kept {
    record: Record,
    books: BTreeMap<Period, Book>,
}

impl MemoryLedger {
    /// An empty ledger on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// An empty ledger on another clock.
    pub fn with_clock(clock: impl Clock) -> Self {
        Self { accounts: Arc::default(), clock: Arc::new(clock) }
    }

    /// The clock in whole milliseconds, as every ledger counts.
    fn now(&self) -> Duration {
        whole_millis(self.clock.unix_time())
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Account, Kept>> {
        // A book is changed by plain arithmetic that does not panic: what a poisoned mutex holds is whole.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger for MemoryLedger {
    fn renew<'a>(&'a self, account: &'a Account, period: Period, renewal: &'a Renewal, within: Duration) -> Answering<'a, Answer> {
        let now = self.now();
        let mut accounts = self.accounts();
        let kept = accounts.entry(account.clone()).or_default();
        let book = kept.books.entry(period).or_insert_with(|| Book::new(period));
        let answer = book.renew(&mut kept.record, renewal, now + within, now);
        while kept.books.len() > MOST_PERIODS {
            kept.books.pop_first();
        }
        Box::pin(ready(answer))
    }

    fn statement<'a>(&'a self, account: &'a Account, period: Period, terms: Terms) -> Answering<'a, Statement> {
        let (accounts, empty) = (self.accounts(), (Record::default(), Book::new(period)));
        let kept = accounts.get(account);
        let record = kept.map_or(&empty.0, |kept| &kept.record);
        let book = kept.and_then(|kept| kept.books.get(&period)).unwrap_or(&empty.1);
        Box::pin(ready(Ok(Statement::of(account, book, record, terms, self.now()))))
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> Answering<'a, bool> {
        let changed = self.accounts().entry(account.clone()).or_default().record.amend(amendment);
        Box::pin(ready(Ok(changed)))
    }
}
