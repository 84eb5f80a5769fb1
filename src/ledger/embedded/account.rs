//! An account as rows: what a call may change is read, changed, and written as far as it changed.

use std::collections::BTreeMap;

use redb::Table;

use super::{
    super::{AccountState, Book, LineKey, Usage, account_state::MAX_PERIODS},
    failure::Failure,
    rows::{self, RecordRow},
};
use crate::{Account, Period};

/// The rows of the database, in a transaction that writes.
pub(super) type Rows<'a> = Table<'a, &'static [u8], &'static [u8]>;

/// A part of an account: the record, some months, and some of their usage lines.
pub(super) struct Excerpt<'a> {
    account: &'a Account,
    record: RecordRow,
    /// As they are stored; `None` for a month that is not.
    books: BTreeMap<Period, Option<Book>>,
    max_lines: usize,
}

impl<'a> Excerpt<'a> {
    /// Reads the part that a call may change: these months, and of their usage lines these, and
    /// those to which usage without a line of its own is added.
    pub(super) fn read(
        rows: &Rows<'_>,
        account: &'a Account,
        periods: &[Period],
        lines: &[LineKey],
        max_lines: usize,
    ) -> Result<Self, Failure> {
        let record = rows::record(rows, account)?;
        let mut books = BTreeMap::new();
        for period in periods {
            let mut book = rows::book(rows, *period, account)?;
            if let Some(book) = &mut book {
                for line in lines.iter().chain(&[LineKey::Late, LineKey::Other]) {
                    if let Some(usage) = rows::line(rows, *period, account, line)? {
                        book.lines.insert(line.clone(), usage);
                    }
                }
            }
            books.insert(*period, book);
        }
        Ok(Self { account, record, books, max_lines })
    }

    /// Returns the state of that part, in which `period` has room for as many usage lines as the
    /// whole has.
    pub(super) fn state(&self, period: Period) -> AccountState {
        let books: BTreeMap<_, _> =
            self.books.iter().filter_map(|(period, book)| Some((*period, book.clone()?))).collect();
        let stored = self.record.months.get(&period).copied().unwrap_or_default();
        let read = books.get(&period).map_or(0, |book| book.lines.len());
        // A book has room if its lines are fewer than this.
        let max_lines = self.max_lines.saturating_sub(stored.saturating_sub(read));
        AccountState { record: self.record.record.clone(), books, max_lines }
    }

    /// Writes what a call changed. Months that are not in this part stay, but for the oldest; if
    /// the account `was_erased`, none does.
    pub(super) fn write(
        self,
        rows: &mut Rows<'_>,
        changed: AccountState,
        was_erased: bool,
    ) -> Result<(), Failure> {
        let Self { account, record: before, books, max_lines } = self;
        let mut record = RecordRow { record: changed.record, months: before.months.clone() };
        if was_erased {
            for period in before.months.keys() {
                remove(rows, *period, account)?;
            }
            record.months.clear();
        }
        for (period, mut book) in changed.books {
            book.max_lines = max_lines;
            let lines = std::mem::take(&mut book.lines);
            let known = books.get(&period).and_then(Option::as_ref);
            let known_lines = known.map(|known| &known.lines);
            let stored = record.months.entry(period).or_default();
            for (line, usage) in &lines {
                match known_lines.and_then(|known| known.get(line)) {
                    Some(known) if known == usage => continue,
                    Some(_) => {}
                    None => *stored += 1,
                }
                put(rows, &rows::line_key(period, account, line), usage)?;
            }
            let is_as_before = known.is_some_and(|known| {
                let known = Book { lines: BTreeMap::new(), ..known.clone() };
                known == book
            });
            if !is_as_before {
                put(rows, &rows::book_key(period, account), &book)?;
            }
        }
        while record.months.len() > MAX_PERIODS {
            if let Some((oldest, _)) = record.months.pop_first() {
                remove(rows, oldest, account)?;
            }
        }
        if record != before {
            put(rows, &rows::record_key(account), &record)?;
        }
        Ok(())
    }
}

fn put(rows: &mut Rows<'_>, key: &[u8], value: &impl serde::Serialize) -> Result<(), Failure> {
    rows.insert(key, &*rows::row(key, value))?;
    Ok(())
}

/// Removes a month.
fn remove(rows: &mut Rows<'_>, period: Period, account: &Account) -> Result<(), Failure> {
    rows.remove(&*rows::book_key(period, account))?;
    let lines = rows::lines_of(period, account);
    rows.retain_in(&*lines.start..&*lines.end, |_, _| false)?;
    Ok(())
}

/// A month with all its usage lines.
pub(super) fn whole(book: Book, lines: BTreeMap<LineKey, Usage>) -> Book {
    Book { lines, ..book }
}
