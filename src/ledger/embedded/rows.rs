//! The rows of the database: keys, and values as JSON with a checksum.
//!
//! | key | value |
//! |---|---|
//! | `s` | the version of this schema |
//! | `r` account | the account's record, and its months with the number of their usage lines |
//! | `m` month NUL account | the month's book, without usage lines |
//! | `l` month NUL account NUL line | what the usage line adds up to |
//! | `c` day NUL account NUL id | the cost of a request, in nano-dollars |
//!
//! An account and a line's JSON have no control characters, so the keys of a month's accounts, and
//! of an account's lines, are in a row.

use std::{collections::BTreeMap, ops::Range};

use redb::ReadableTable;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    super::{Book, LedgerError, LineKey, Record, Usage},
    failure::Failure,
};
use crate::{
    Account, Credits, Period, RequestId,
    database_file::{sealed, unsealed},
};

/// Row of an account's record, which outlives its months.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RecordRow {
    pub(super) record: Record,
    /// The number of usage lines of each month that is stored.
    pub(super) months: BTreeMap<Period, usize>,
}

pub(super) fn record_key(account: &Account) -> Vec<u8> {
    [b"r", account.as_str().as_bytes()].concat()
}

pub(super) fn book_key(period: Period, account: &Account) -> Vec<u8> {
    [b"m", period.to_string().as_bytes(), b"\0", account.as_str().as_bytes()].concat()
}

/// The keys of a month's books, of accounts after `after`.
pub(super) fn books_after(period: Period, after: Option<&str>) -> Range<Vec<u8>> {
    let month = period.to_string();
    // The key of an account with one more byte is after all that the account has.
    let (after, next) = after.map_or(("", &b""[..]), |after| (after, b"\0"));
    let from = [b"m", month.as_bytes(), b"\0", after.as_bytes(), next].concat();
    from..[b"m", month.as_bytes(), b"\x01"].concat()
}

/// The account of a book's key.
pub(super) fn account_of(key: &[u8]) -> Option<Account> {
    let at = key.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&key[at + 1..]).ok()?.parse().ok()
}

/// The keys of a month's usage lines.
pub(super) fn lines_of(period: Period, account: &Account) -> Range<Vec<u8>> {
    let of = |end: &[u8]| {
        [b"l", period.to_string().as_bytes(), b"\0", account.as_str().as_bytes(), end].concat()
    };
    of(b"\0")..of(b"\x01")
}

pub(super) fn line_key(period: Period, account: &Account, line: &LineKey) -> Vec<u8> {
    let mut key = lines_of(period, account).start;
    key.extend(text(line));
    key
}

/// Reads the line of a line's key.
pub(super) fn read_line(key: &[u8], lines: &Range<Vec<u8>>) -> Result<LineKey, Failure> {
    read_json(key.get(lines.start.len()..).unwrap_or_default())
}

/// The keys of the costs of an account's requests on a day.
pub(super) fn costs_of(day: u64, account: &Account) -> Range<Vec<u8>> {
    let of = |end: &[u8]| {
        [format!("c{day:08}").as_bytes(), b"\0", account.as_str().as_bytes(), end].concat()
    };
    of(b"\0")..of(b"\x01")
}

/// The keys of the costs of a day and all later ones.
pub(super) fn costs_from(day: u64) -> Range<Vec<u8>> {
    format!("c{day:08}").into_bytes()..b"d".to_vec()
}

/// The day of the key of a cost.
pub(super) fn day_of_cost(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.get(1..9)?).ok()?.parse().ok()
}

/// The keys of the costs of all days before one.
pub(super) fn costs_before(day: u64) -> Range<Vec<u8>> {
    b"c".to_vec()..format!("c{day:08}").into_bytes()
}

pub(super) fn cost_key(day: u64, account: &Account, id: &RequestId) -> Vec<u8> {
    let mut key = costs_of(day, account).start;
    key.extend(id.to_string().into_bytes());
    key
}

/// Reads the cost of a request.
pub(super) fn cost(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    day: u64,
    account: &Account,
    id: &RequestId,
) -> Result<Option<Credits>, Failure> {
    let nanos: Option<i64> = get(rows, &cost_key(day, account, id))?;
    nanos.map(|nanos| Credits::from_nano_usd(nanos).map_err(|error| malformed(&error))).transpose()
}

/// Returns the row of a value.
pub(super) fn row(key: &[u8], value: &impl Serialize) -> Vec<u8> {
    sealed(key, text(value))
}

fn text(value: &impl Serialize) -> Vec<u8> {
    // Plain data whose maps have texts for keys.
    serde_json::to_vec(value).unwrap_or_default()
}

fn read<T: DeserializeOwned>(key: &[u8], row: &[u8]) -> Result<T, Failure> {
    let value = unsealed(key, row).ok_or_else(|| malformed("a row has another checksum"))?;
    read_json(value)
}

fn read_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| malformed(&error))
}

fn malformed(error: &(impl ToString + ?Sized)) -> Failure {
    Failure::Call(LedgerError::Malformed(error.to_string()))
}

/// Reads a row, if there is one.
fn get<T: DeserializeOwned>(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<T>, Failure> {
    rows.get(key)?.map(|row| read(key, row.value())).transpose()
}

pub(super) fn record(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    account: &Account,
) -> Result<RecordRow, Failure> {
    Ok(get(rows, &record_key(account))?.unwrap_or_default())
}

/// Reads a month's book, without usage lines.
pub(super) fn book(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    period: Period,
    account: &Account,
) -> Result<Option<Book>, Failure> {
    get(rows, &book_key(period, account))
}

/// Reads one usage line.
pub(super) fn line(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    period: Period,
    account: &Account,
    line: &LineKey,
) -> Result<Option<Usage>, Failure> {
    get(rows, &line_key(period, account, line))
}

/// Reads all usage lines of a month.
pub(super) fn lines(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    period: Period,
    account: &Account,
) -> Result<BTreeMap<LineKey, Usage>, Failure> {
    let keys = lines_of(period, account);
    let mut lines = BTreeMap::new();
    for row in rows.range(&*keys.start..&*keys.end)? {
        let (key, value) = row?;
        lines.insert(read_line(key.value(), &keys)?, read(key.value(), value.value())?);
    }
    Ok(lines)
}
