//! [`RedisLedger`]: the calls of a ledger, as calls of scripts.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        AccountsPage, Amendment, Answer, Cursor, LeaseId, Ledger, LedgerError, LedgerFuture,
        Outcome, Renewal, Statement, Terms,
    },
    call,
    codec::{Hash, Hashes},
    list::Listing,
    schema::{self, Keys},
    script::LoadedScript,
    server_clock::{ServerClock, server_time},
};
use crate::{
    Account, Name, Period,
    clock::UnixTime,
    redis_server::{Connection, Fault, concerns_one_account, says},
};

/// The error that a node's copy of the server's clock may have, beyond a renewal's own deadline.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// A ledger in one Redis server (6.0 or newer). Clones share one connection.
///
/// The server must not lose acknowledged writes: set `appendonly yes`. Its `maxmemory-policy` must
/// be `noeviction`, which is checked when you connect.
#[derive(Clone, Debug)]
pub struct RedisLedger {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    prefix: String,
    timeout: Duration,
    max_lines: usize,
    renew: LoadedScript,
    amend: LoadedScript,
    read: LoadedScript,
    clock: ServerClock,
}

impl RedisLedger {
    pub(super) fn new(
        connection: Connection,
        prefix: String,
        timeout: Duration,
        max_lines: usize,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                connection,
                prefix,
                timeout,
                max_lines,
                renew: LoadedScript::renew(),
                amend: LoadedScript::amend(),
                read: LoadedScript::read(),
                clock: ServerClock::default(),
            }),
        }
    }

    /// Reads the server's clock, so that the first renewal can state until when it may act.
    pub(super) async fn read_clock(&self, within: Duration) -> Result<UnixTime, LedgerError> {
        let time = |mut link| async move { redis::cmd("TIME").query_async(&mut link).await };
        let now = server_time(self.inner.connection.run(within, time).await?);
        self.inner.clock.set(now);
        Ok(now)
    }

    /// The server's clock, which is read if it is not known.
    async fn now(&self, within: Duration) -> Result<UnixTime, LedgerError> {
        match self.inner.clock.now() {
            Some(now) => Ok(now),
            None => self.read_clock(within).await,
        }
    }

    async fn renew(
        &self,
        account: &Account,
        period: Period,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answer, LedgerError> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.now(within).await?;
        let answer = self.send(account, period, renewal, left()).await?;
        if !matches!(answer.outcome, Outcome::Late | Outcome::NotBegun) {
            return Ok(answer);
        }
        // The server's clock is another than it was, for example after a failover. Now it is known.
        self.send(account, period, renewal, left()).await
    }

    async fn send(
        &self,
        account: &Account,
        period: Period,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answer, LedgerError> {
        let inner = &*self.inner;
        let keys = Keys::new(&inner.prefix, account, period);
        let now = self.now(within).await?;
        let not_after = now + (within + CLOCK_TOLERANCE);
        let call =
            |how: (&str, &str)| call::renewal(how, &keys, renewal, inner.max_lines, now, not_after);
        let invoke = |link| inner.renew.call(link, call);
        let answer: String = inner.connection.run(within, invoke).await?;
        let answer = call::read_answer(&answer)?;
        inner.clock.set(answer.now);
        Ok(answer)
    }

    async fn read(
        &self,
        account: &Account,
        period: Period,
        terms: Option<Terms>,
    ) -> Result<Statement, LedgerError> {
        let inner = &*self.inner;
        let keys = &Keys::new(&inner.prefix, account, period);
        let call = |how: (&str, &str)| call::statement(how, keys);
        let read = |link| inner.read.call(link, call);
        let (time, record, book, holds, leases): (_, Hash, Hash, Hash, Hash) =
            inner.connection.run(inner.timeout, read).await?;
        let hashes =
            Hashes { keys, record, spent: Hash::new(), book, leases, holds, claims: Hash::new() };
        let (book, record) = (hashes.book()?, hashes.record()?);
        Ok(Statement::from_book(account, &book, &record, terms, server_time(time)))
    }

    async fn change(&self, account: &Account, amendment: Amendment) -> Result<bool, LedgerError> {
        let inner = &*self.inner;
        let now = self.now(inner.timeout).await?;
        let call =
            |how: (&str, &str)| call::amendment(how, &inner.prefix, account, &amendment, now);
        let written: bool =
            inner.connection.run(inner.timeout, |link| inner.amend.call(link, call)).await?;
        Ok(call::read_amended(&amendment, written))
    }

    async fn claim(
        &self,
        account: &Account,
        period: Period,
        threshold: &Name,
        by: LeaseId,
    ) -> Result<bool, LedgerError> {
        let inner = &*self.inner;
        let keys = Keys::new(&inner.prefix, account, period);
        let call = |how: (&str, &str)| call::claim(how, &keys, threshold, by);
        Ok(inner.connection.run(inner.timeout, |link| inner.amend.call(link, call)).await?)
    }

    async fn list(
        &self,
        period: Period,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let Inner { connection, prefix, timeout, .. } = &*self.inner;
        let now = self.now(*timeout).await?;
        let listing = Listing { connection, prefix, period, timeout: *timeout, now };
        listing.page(from, page_size).await
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("connection", &self.connection)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Ledger for RedisLedger {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        Box::pin(self.renew(account, period, renewal, within))
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        Box::pin(self.read(account, period, terms))
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        Box::pin(self.change(account, amendment))
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        Box::pin(async move { self.claim(account, period, &threshold, by).await })
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        Box::pin(self.list(period, from, page_size))
    }
}

impl From<Fault> for LedgerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Deadline(within) => Self::Deadline(within),
            Fault::Unfit(reason) => Self::Unfit(reason),
            Fault::Failed { reason, source } => match source {
                Some(error) if says(&error, schema::MALFORMED) => Self::Malformed(reason),
                Some(error) if says(&error, schema::REFUSED) => Self::Refused(reason),
                Some(error) if concerns_one_account(&error) => {
                    Self::Failed { reason, source: Some(error as _) }
                }
                source => Self::Unreachable { reason, source: source.map(|error| error as _) },
            },
        }
    }
}
