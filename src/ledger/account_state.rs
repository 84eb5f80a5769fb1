//! The state of one account, and the functions that change it: the pure part of every ledger.

use std::{collections::BTreeMap, num::NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::{
    AccountSummary, Amendment, Answer, Audit, Book, LeaseId, LedgerError, MAX_LINES, Record,
    Renewal, Statement, Terms,
};
use crate::{Account, Name, Period, clock::UnixTime};

/// The number of periods of an account that are stored. The oldest is removed first.
pub(super) const MAX_PERIODS: usize = 13;

/// The state of one account: its [`Record`], and a [`Book`] for each period.
///
/// A ledger of your own stores one of these for each account, and calls these functions for the
/// methods of [`Ledger`](super::Ledger), each in one atomic step: read the state, change it, store
/// it, and only then answer. `now` is always the ledger's own clock, of which there must be one.
/// `examples/own_ledger.rs` does so with a file.
///
/// It implements serde's traits, so that it can be stored. A newer version of this crate reads what
/// an older one stored, unless the change log says otherwise.
///
/// ```
/// use tower_credits::{Account, Period, clock::UnixTime, ledger::{AccountState, Amendment}};
///
/// let mut state = AccountState::default();
/// let grant =
///     Amendment::Grant { id: "order-17".parse()?, amount: "10.00".parse()?, expires: None };
/// let now = UnixTime::now();
/// assert!(state.amend(grant.clone(), now)?);
/// assert!(!state.amend(grant, now)?, "a second grant of the same id changes nothing");
///
/// let stored = serde_json::to_string(&state)?;
/// let state: AccountState = serde_json::from_str(&stored)?;
/// let (alice, month) = (Account::user("alice")?, Period::containing(now));
/// assert_eq!(state.statement(&alice, month, None, now).purchased_left, "10.00".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct AccountState {
    pub(super) record: Record,
    pub(super) books: BTreeMap<Period, Book>,
    pub(super) max_lines: usize,
}

impl Default for AccountState {
    fn default() -> Self {
        Self { record: Record::default(), books: BTreeMap::new(), max_lines: MAX_LINES }
    }
}

impl AccountState {
    /// Stores up to `max_lines` usage lines of a month one by one; further usage is added to one
    /// line, `other`. Default [`MAX_LINES`].
    #[must_use]
    pub fn with_max_lines(self, max_lines: NonZeroUsize) -> Self {
        Self { max_lines: max_lines.get(), ..self }
    }

    /// The part of the account that outlives its periods.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The account's ledger of a period; `None` if nothing happened in it.
    pub fn book(&self, period: Period) -> Option<&Book> {
        self.books.get(&period)
    }

    /// Renews a lease, for [`Ledger::renew`](super::Ledger::renew). `not_after` is the last moment
    /// at which the renewal may act: `now`, plus what is left of `within`, if the state is changed
    /// at once.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the lines cost more than is newly settled. Nothing changed then.
    pub fn renew(
        &mut self,
        period: Period,
        renewal: &Renewal,
        not_after: UnixTime,
        now: UnixTime,
    ) -> Result<Answer, LedgerError> {
        let today = Period::containing(now);
        let mut book = self
            .books
            .remove(&period)
            .unwrap_or_else(|| Book::new(period))
            .with_max_lines(self.max_lines);
        // Usage of closed months, and of those that have not begun, is debited in the current one.
        let needs_current = (today > period && self.record.closed.is_some()) || today < period;
        let current = needs_current.then(|| book_of(&mut self.books, today));
        let answer = book.renew(&mut self.record, renewal, current, not_after, now);
        self.books.insert(period, book);
        self.remove_oldest();
        answer
    }

    /// Changes the account, for [`Ledger::amend`](super::Ledger::amend). Returns `false` for an
    /// amendment that was made already, by its id: nothing changed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the amendment cannot be made. Nothing changed then.
    pub fn amend(&mut self, amendment: Amendment, now: UnixTime) -> Result<bool, LedgerError> {
        amendment.check()?;
        if !matches!(amendment, Amendment::Erase) {
            self.check_not_erased(now)?;
        }
        let Self { record, books, .. } = self;
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
            Amendment::Limits { part, limits } => record.set_limits(part, limits).map(|()| true),
            Amendment::Refund { period, id, refund } => {
                book_of(books, period).refund(record, id, refund, now)
            }
            Amendment::Close(period) => book_of(books, period).close(record, now),
            Amendment::Erase if record.is_erased(now) => Ok(false),
            Amendment::Erase => {
                (*record, *books) = (Record::of_erased(now), BTreeMap::new());
                Ok(true)
            }
        };
        self.remove_oldest();
        done
    }

    /// Decides which lease reports to the host that a threshold was reached, for
    /// [`Ledger::claim`](super::Ledger::claim): the first that claims it. Returns `true` if that is
    /// `by`.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] if the account was erased.
    pub fn claim(
        &mut self,
        period: Period,
        threshold: Name,
        by: LeaseId,
        now: UnixTime,
    ) -> Result<bool, LedgerError> {
        self.check_not_erased(now)?;
        let is_claimed = book_of(&mut self.books, period).claim(threshold, by);
        self.remove_oldest();
        Ok(is_claimed)
    }

    /// Returns the statement of a period, for [`Ledger::statement`](super::Ledger::statement).
    pub fn statement(
        &self,
        account: &Account,
        period: Period,
        terms: Option<Terms>,
        now: UnixTime,
    ) -> Statement {
        let empty = Book::new(period);
        let book = self.book(period).unwrap_or(&empty);
        Statement::from_book(account, book, &self.record, terms, now)
    }

    /// Audits a month, for [`Ledger::audit`](super::Ledger::audit).
    pub fn audit(&self, account: &Account, period: Period, now: UnixTime) -> Audit {
        let empty = Book::new(period);
        Audit::of(account, self.book(period).unwrap_or(&empty), &self.record, now)
    }

    /// Returns the account's entry for [`Ledger::list`](super::Ledger::list); `None` if it used
    /// nothing in the period.
    pub fn summary(
        &self,
        account: &Account,
        period: Period,
        now: UnixTime,
    ) -> Option<AccountSummary> {
        let book = self.book(period).filter(|book| !book.is_empty())?;
        let is_closed = self.record.is_closed(period, now);
        Some(AccountSummary::from_book(account.clone(), book, is_closed))
    }

    fn check_not_erased(&self, now: UnixTime) -> Result<(), LedgerError> {
        if self.record.is_erased(now) {
            return Err(LedgerError::Refused(
                "the account was erased: it can be used again 93 days after that".into(),
            ));
        }
        Ok(())
    }

    fn remove_oldest(&mut self) {
        while self.books.len() > MAX_PERIODS {
            self.books.pop_first();
        }
    }
}

fn book_of(books: &mut BTreeMap<Period, Book>, period: Period) -> &mut Book {
    books.entry(period).or_insert_with(|| Book::new(period))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{Credits, ledger::book::tests::settling};

    #[test]
    fn a_fourteenth_month_removes_the_oldest() {
        let mut state = AccountState::default();
        let first: Period = "2026-01".parse().unwrap();
        let mut period = first;
        for months in 1..=14 {
            let by = LeaseId::from_bits(1);
            assert!(state.claim(period, "used-up".parse().unwrap(), by, period.begins()).unwrap());
            assert_eq!(
                (state.books.len(), state.book(first).is_some()),
                (months.min(13), months < 14)
            );
            period = period.next();
        }
    }

    #[test]
    fn only_usage_of_a_closed_month_makes_a_book_of_the_current_one() {
        let (november, december) = ("2026-11".parse().unwrap(), "2026-12".parse().unwrap());
        let now = Period::begins(december);
        let mut state = AccountState::default();
        let renew = |state: &mut AccountState, seq, settled| {
            let renewal = Renewal { seq, ..settling(1, settled) };
            state.renew(november, &renewal, now, now).unwrap();
        };
        renew(&mut state, 1, 5);
        assert_eq!(state.book(december), None);
        assert!(state.amend(Amendment::Close(november), now).unwrap());
        renew(&mut state, 2, 7);
        let used = |month| state.book(month).map(Book::used);
        assert_eq!(used(november), Some(Credits::clamped(5)));
        assert_eq!(used(december), Some(Credits::clamped(2)));
    }

    #[test]
    fn amendments_are_in_the_record() {
        let mut state = AccountState::default();
        let seats = NonZeroU32::new(3).unwrap();
        assert!(state.amend(Amendment::Seats(seats), UnixTime::now()).unwrap());
        assert_eq!(state.record().seats, seats);
    }
}
