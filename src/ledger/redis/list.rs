//! The list of a month's accounts, by scanning keys.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use super::{
    super::{AccountSummary, AccountsPage, Cursor, LedgerError},
    call::{self, SUMMARY_FIELDS},
    codec,
    schema::{self, Keys},
};
use crate::{Account, Period, clock::UnixTime, redis_server::Connection};

/// About the most keys that are scanned for one page.
const MAX_SCANNED_KEYS: usize = 100_000;

/// Lists a month's accounts on a server.
pub(super) struct Listing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) prefix: &'a str,
    pub(super) period: Period,
    /// The most that each step may take.
    pub(super) timeout: Duration,
    /// The server's clock.
    pub(super) now: UnixTime,
}

/// The accounts of which keys were found; `true` if the book was among them, or only the leases.
type Found = BTreeMap<Account, bool>;

impl Listing<'_> {
    /// Reads the page that begins at a cursor.
    pub(super) async fn page(
        &self,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let unknown = |_| {
            let refused = "this ledger did not return that cursor: begin again without one";
            LedgerError::Refused(refused.into())
        };
        let from = from.map_or(Ok(0), |from| from.as_str().parse().map_err(unknown))?;
        let (found, next) = self.scan(from, page_size.get()).await?;
        let next = (next != 0).then(|| Cursor::new(next.to_string()));
        Ok(AccountsPage { accounts: self.summaries(&found).await?, next })
    }

    /// Finds about `page_size` accounts, and where to go on; 0 for the end.
    async fn scan(&self, from: u64, page_size: usize) -> Result<(Found, u64), LedgerError> {
        let pattern = &schema::books_pattern(self.prefix, self.period);
        let count = page_size.clamp(10, 1_000);
        let (mut found, mut cursor, mut scanned) = (Found::new(), from, 0);
        while found.len() < page_size && scanned < MAX_SCANNED_KEYS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
            let scan = &scan;
            let scan = |mut link| async move { scan.query_async(&mut link).await };
            let (next, keys): (u64, Vec<String>) = self.connection.run(self.timeout, scan).await?;
            let accounts =
                keys.iter().filter_map(|key| schema::account_of(key, self.prefix, self.period));
            for (account, is_book) in accounts {
                *found.entry(account).or_default() |= is_book;
            }
            (cursor, scanned) = (next, scanned + count);
            if cursor == 0 {
                break;
            }
        }
        Ok((found, cursor))
    }

    async fn summaries(&self, found: &Found) -> Result<Vec<AccountSummary>, LedgerError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> =
            found.keys().map(|account| Keys::new(self.prefix, account, self.period)).collect();
        let mut pipe = redis::pipe();
        keys.iter().for_each(|keys| call::summary(&mut pipe, keys));
        let pipe = &pipe;
        let read = |mut link| async move { pipe.query_async(&mut link).await };
        let values: Vec<Option<String>> = self.connection.run(self.timeout, read).await?;
        let mut values = values.iter().map(Option::as_deref);
        let mut summaries = Vec::new();
        for ((account, is_book), keys) in found.iter().zip(&keys) {
            let values: [_; SUMMARY_FIELDS] = std::array::from_fn(|_| values.next().flatten());
            let [total, closed, ..] = values;
            // An account of which only the leases were found is listed with its book, if it has
            // one.
            if *is_book || total.is_none() {
                let book = codec::read_summary(keys, values)?;
                // Months are written so that later ones are greater.
                let is_closed = self.now >= self.period.ends()
                    && closed.is_some_and(|closed| *self.period.to_string() <= *closed);
                summaries.push(AccountSummary::from_book(account.clone(), &book, is_closed));
            }
        }
        Ok(summaries)
    }
}
