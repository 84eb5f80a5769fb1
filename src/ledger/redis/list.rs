//! The list of a month's accounts, by scanning keys: of a server, or of each server of a cluster.
//!
//! If slots of a cluster moved since a list began, it begins anew, because accounts may have moved
//! to a server that was scanned already. So a list ends once no slots move.

use std::{collections::BTreeMap, num::NonZeroUsize, str::FromStr, sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{
    super::{AccountSummary, AccountsPage, Book, Cursor, LedgerError},
    call::{self, SUMMARY_FIELDS},
    codec,
    schema::{self, Keys},
};
use crate::{
    Account, Period,
    clock::UnixTime,
    redis_server::{Cluster, Connection, Link, Servers},
};

/// About the most keys that are scanned for one page.
const MAX_SCANNED_KEYS: usize = 100_000;

/// Lists a month's accounts.
pub(super) struct Listing<'a> {
    pub(super) servers: &'a Servers,
    pub(super) prefix: &'a str,
    pub(super) period: Period,
    /// The most that each step may take.
    pub(super) timeout: Duration,
}

/// Place where a list of a cluster's accounts goes on.
struct Place {
    /// The version of the topology that says which servers there are.
    version: u64,
    /// Which of them.
    server: usize,
    /// The server's cursor.
    scan: u64,
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
        match self.servers {
            Servers::One(one) => {
                let connection = &one.connection;
                let from = from.map_or(Ok(0), |from| from.as_str().parse()).map_err(unknown)?;
                let (found, next) = self.scan(connection, from, page_size.get()).await?;
                let next = (next != 0).then(|| Cursor::new(next.to_string()));
                Ok(AccountsPage { accounts: self.summaries(connection, &found).await?, next })
            }
            Servers::Cluster(cluster) => self.page_of_cluster(cluster, from, page_size).await,
        }
    }

    async fn page_of_cluster(
        &self,
        cluster: &Cluster,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let from: Option<Place> =
            from.map(|from| from.as_str().parse()).transpose().map_err(unknown)?;
        let (servers, version) = cluster.masters(self.timeout).await?;
        let place = from
            .filter(|from| from.version == version && from.server < servers.len())
            .unwrap_or(Place { version, server: 0, scan: 0 });
        let connection = servers[place.server].connection();
        let (found, scan) = self.scan(connection, place.scan, page_size.get()).await?;
        let accounts = match self.summaries(connection, &found).await {
            Ok(accounts) => accounts,
            // A slot moves: each value is asked for where it is.
            Err(error) if is_moved(&error) => self.summaries_one_by_one(cluster, &found).await?,
            Err(error) => return Err(error),
        };
        let next = if scan != 0 {
            Some(Place { scan, ..place })
        } else if place.server + 1 < servers.len() {
            Some(Place { server: place.server + 1, scan, ..place })
        } else {
            let now = cluster.read_version(self.timeout).await?;
            (now != version).then_some(Place { version: now, server: 0, scan })
        };
        Ok(AccountsPage { accounts, next: next.map(Cursor::from) })
    }

    /// Finds about `page_size` accounts, and where to go on; 0 for the end.
    async fn scan(
        &self,
        connection: &Connection,
        from: u64,
        page_size: usize,
    ) -> Result<(Found, u64), LedgerError> {
        let pattern = &schema::books_pattern(self.prefix, self.period);
        let count = page_size.clamp(10, 1_000);
        let (mut found, mut cursor, mut scanned) = (Found::new(), from, 0);
        while found.len() < page_size && scanned < MAX_SCANNED_KEYS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
            let scan = &scan;
            let scan = |mut link| async move { scan.query_async(&mut link).await };
            let (next, keys): (u64, Vec<String>) = connection.run(self.timeout, scan).await?;
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

    async fn summaries(
        &self,
        connection: &Connection,
        found: &Found,
    ) -> Result<Vec<AccountSummary>, LedgerError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> =
            found.keys().map(|account| Keys::new(self.prefix, account, self.period)).collect();
        let mut pipe = redis::pipe();
        for keys in &keys {
            for (key, field) in call::summary(keys) {
                pipe.cmd("HGET").arg(key).arg(field);
            }
        }
        let pipe = &pipe;
        let read = |mut link: Link| async move {
            let values: Vec<Option<String>> = pipe.query_async(&mut link).await?;
            Ok((values, Arc::clone(link.clock())))
        };
        let (values, clock) = connection.run(self.timeout, read).await?;
        self.summarize(found, &keys, &values, clock.now())
    }

    /// Reads the same, value by value, from the servers that have them.
    async fn summaries_one_by_one(
        &self,
        cluster: &Cluster,
        found: &Found,
    ) -> Result<Vec<AccountSummary>, LedgerError> {
        let keys: Vec<_> =
            found.keys().map(|account| Keys::new(self.prefix, account, self.period)).collect();
        let (mut values, mut now) = (Vec::new(), UnixTime::EPOCH);
        for (key, field) in keys.iter().flat_map(call::summary) {
            let mut get = redis::cmd("HGET");
            get.arg(key).arg(field);
            let get = &get;
            let read = |mut link: Link| async move {
                let value: Option<String> = get.query_async(&mut link).await?;
                Ok((value, link.clock().now()))
            };
            let (value, at) = cluster.run(key, self.timeout, read).await?;
            values.push(value);
            now = now.max(at);
        }
        self.summarize(found, &keys, &values, now)
    }

    fn summarize(
        &self,
        found: &Found,
        keys: &[Keys],
        values: &[Option<String>],
        now: UnixTime,
    ) -> Result<Vec<AccountSummary>, LedgerError> {
        let mut values = values.iter().map(Option::as_deref);
        let mut summaries = Vec::new();
        for ((account, is_book), keys) in found.iter().zip(keys) {
            let values: [_; SUMMARY_FIELDS] = std::array::from_fn(|_| values.next().flatten());
            let [total, closed, ..] = values;
            // An account of which only the leases were found is listed with its book, if it has
            // one.
            if *is_book || total.is_none() {
                let book = match codec::read_summary(keys, values) {
                    Ok(book) => book,
                    // Its own trouble: the others are listed, and an audit names what is wrong.
                    Err(error @ LedgerError::Malformed(_)) => {
                        tracing::warn!(
                            target: "tower_credits", %account, %error,
                            "an account is listed with zeros"
                        );
                        Book::new(self.period)
                    }
                    Err(error) => return Err(error),
                };
                // Months are written so that later ones are greater.
                let is_closed = now >= self.period.ends()
                    && closed.is_some_and(|closed| *self.period.to_string() <= *closed);
                summaries.push(AccountSummary::from_book(account.clone(), &book, is_closed));
            }
        }
        Ok(summaries)
    }
}

fn unknown<E>(_: E) -> LedgerError {
    let refused = "this ledger did not return that cursor: begin again without one";
    LedgerError::Refused(refused.into())
}

/// `true` if a slot has moved to another server.
fn is_moved(error: &LedgerError) -> bool {
    let LedgerError::Failed { source: Some(source), .. } = error else { return false };
    let moved = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
    source
        .downcast_ref::<RedisError>()
        .is_some_and(|error| moved.map(ErrorKind::Server).contains(&error.kind()))
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let mut part = || parts.next().flatten().ok_or(());
        let place = Self {
            version: part()?,
            server: usize::try_from(part()?).map_err(drop)?,
            scan: part()?,
        };
        if parts.next().is_some() { Err(()) } else { Ok(place) }
    }
}

impl From<Place> for Cursor {
    fn from(Place { version, server, scan }: Place) -> Self {
        Self::new(format!("{version:x}.{server:x}.{scan:x}"))
    }
}
