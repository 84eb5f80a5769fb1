//! The ledger in Redis: balances that any number of nodes share.
//!
//! `renew.lua` runs the whole of a renewal in one atomic step on the server, `amend.lua` a
//! correction of a month. The keys of an account share a slot:
//!
//! | key | what |
//! |---|---|
//! | `tc:{user:alice}` | the account's [`Record`](super::Record); does not expire, but for an erased account's: 93 days |
//! | `tc:{user:alice}:spent` | grants that are used up or expired; does not expire |
//! | `tc:{user:alice}:2026-11` | the period's totals, usage lines and refunds; 13 months |
//! | `tc:{user:alice}:2026-11:l` | its leases, and what they settled together; 62 days |
//! | `tc:{user:alice}:2026-11:h` | what they have on hold, each and together; for as long as there is any |
//! | `tc:{user:alice}:2026-11:n` | who told of which threshold; 13 months |
//! | `tc:schema` | the version of all this |
//!
//! A server can lose a key, or tear a write of several: a file that ends in the middle, memory that
//! is full, a hand that deletes. So what moves money is kept twice, as sums: what leases settled,
//! in the book and beside the leases; what a period drew from grants, in the book and in the
//! record; what was settled in one month and debited in another, in both months' books. Each
//! renewal compares them, and mends the one that is behind. Holds are added up anew whenever one
//! may have expired.

mod codec;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind};
use tokio::time::Instant;

use self::codec::{Hash, Hashes, Keys};
use super::{
    AccountSummary, AccountsPage, Amendment, Answer, Cursor, LeaseId, Ledger, LedgerError,
    LedgerFuture, MAX_LINES, Outcome, Renewal, Statement, Terms,
};
use crate::{
    Account, Name, Period,
    redis_server::{
        CONNECT_TIMEOUT, Connection, DEFAULT_PREFIX, Fault, Link, RedisServer,
        concerns_one_account, says,
    },
};

const CLOCK: &str = include_str!("clock.lua");
const ACCOUNT: &str = include_str!("account.lua");
const RENEW: &str = include_str!("renew.lua");
const AMEND: &str = include_str!("amend.lua");
const READ: &str = include_str!("read.lua");

/// The most keys that are looked at for one page of a list, about.
const MOST_SCANNED: usize = 100_000;

/// What the carried clock may be off by, on top of a renewal's own deadline.
const LITTLE: Duration = Duration::from_millis(50);

/// How long reading a statement or changing a record may take, unless it is set.
const READING: Duration = Duration::from_secs(2);

/// A ledger in one Redis server (6.0 or newer). Clones share one connection.
///
/// The server must keep what it acknowledged: set `appendonly yes`. Its `maxmemory-policy` must be
/// `noeviction`, which is checked at connect.
#[derive(Clone, Debug)]
pub struct RedisLedger {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    prefix: String,
    reading: Duration,
    max_lines: usize,
    renew: Scripted,
    amend: Scripted,
    read: Scripted,
    clock: Mutex<Option<LedgerClock>>,
}

/// A script, and its text for a server that forgot it.
struct Scripted {
    script: Script,
    text: String,
}

impl Scripted {
    fn new(text: String) -> Self {
        Self { script: Script::new(&text), text }
    }

    /// Calls it by its hash; where the server forgot it, and may be made to forget it again at
    /// once, with its text, which needs no memory.
    async fn call<T: FromRedisValue>(
        &self,
        mut link: Link,
        call: impl Fn((&str, &str)) -> Cmd,
    ) -> RedisResult<T> {
        match call(("EVALSHA", self.script.get_hash())).query_async(&mut link).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call(("EVAL", &self.text)).query_async(&mut link).await
            }
            answered => answered,
        }
    }
}

/// The server's clock as it last answered, carried on by this node's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct LedgerClock {
    told: Duration,
    at: Instant,
}

impl RedisLedger {
    /// Connects to a server: `redis://[user:password@]host[:port][/database]`, or whatever else a
    /// [`RedisServer`] can be made of.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where the server cannot be reached within five seconds, evicts keys, or
    /// holds keys of another schema version.
    pub async fn connect(server: impl Into<RedisServer>) -> Result<Self, LedgerError> {
        Self::builder(server).connect().await
    }

    /// Settings before connecting.
    pub fn builder(server: impl Into<RedisServer>) -> RedisLedgerBuilder {
        RedisLedgerBuilder {
            server: server.into(),
            prefix: DEFAULT_PREFIX.into(),
            timeout: READING,
            max_lines: MAX_LINES,
        }
    }

    fn new(connection: Connection, prefix: String, reading: Duration, max_lines: usize) -> Self {
        let of_account = |script| Scripted::new(format!("{CLOCK}{ACCOUNT}{script}"));
        let (renew, amend, read) =
            (of_account(RENEW), of_account(AMEND), Scripted::new(READ.to_owned()));
        Self {
            inner: Arc::new(Inner {
                connection,
                prefix,
                reading,
                max_lines,
                renew,
                amend,
                read,
                clock: Mutex::default(),
            }),
        }
    }

    /// Reads the server's clock, so that the first renewal can say how long it is good for.
    async fn learn_clock(&self, within: Duration) -> Result<(), LedgerError> {
        let time = |mut link| async move { redis::cmd("TIME").query_async(&mut link).await };
        let (seconds, micros): (u64, u64) = self.inner.connection.run(within, time).await?;
        self.inner.heard(Duration::from_secs(seconds) + Duration::from_millis(micros / 1000));
        Ok(())
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
        if self.inner.clock().is_none() {
            self.learn_clock(within).await?;
        }
        let answer = self.send(account, period, renewal, left()).await?;
        if !matches!(answer.outcome, Outcome::Late | Outcome::NotBegun) {
            return Ok(answer);
        }
        // The server's clock is another than it was: a failover's new one, say. Now it is known.
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
        let now = inner.now();
        let call = |how: (&str, &str)| {
            codec::renewal(how, &keys, renewal, inner.max_lines, now, now + within + LITTLE)
        };
        let invoke = |link| inner.renew.call(link, call);
        let answer: String = inner.connection.run(within, invoke).await?;
        let answer = codec::read_answer(&answer)?;
        inner.heard(answer.now);
        Ok(answer)
    }

    async fn read(
        &self,
        account: &Account,
        period: Period,
        terms: Option<Terms>,
    ) -> Result<Statement, LedgerError> {
        let keys = &Keys::new(&self.inner.prefix, account, period);
        let call = |how: (&str, &str)| {
            let mut call = redis::cmd(how.0);
            call.arg(how.1)
                .arg(4)
                .arg(&keys.record)
                .arg(&keys.book)
                .arg(&keys.holds)
                .arg(&keys.leases);
            call
        };
        let ((seconds, micros), record, book, holds, leases): ((u64, u64), Hash, Hash, Hash, Hash) =
            self.inner
                .connection
                .run(self.inner.reading, |link| self.inner.read.call(link, call))
                .await?;
        let hashes =
            Hashes { keys, record, spent: Hash::new(), book, leases, holds, notes: Hash::new() };
        let now = Duration::from_secs(seconds) + Duration::from_millis(micros / 1000);
        Ok(Statement::of(account, &hashes.book()?, &hashes.record()?, terms, now))
    }

    async fn change(&self, account: &Account, amendment: Amendment) -> Result<bool, LedgerError> {
        let inner = &*self.inner;
        if inner.clock().is_none() {
            self.learn_clock(inner.reading).await?;
        }
        let call = |how: (&str, &str)| {
            codec::amendment(how, &inner.prefix, account, &amendment, inner.now())
        };
        let written: bool =
            inner.connection.run(inner.reading, |link| inner.amend.call(link, call)).await?;
        Ok(codec::read_amended(&amendment, written))
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
        let call = |how: (&str, &str)| codec::claim(how, &keys, threshold, by);
        Ok(inner.connection.run(inner.reading, |link| inner.amend.call(link, call)).await?)
    }

    async fn list(
        &self,
        period: Period,
        from: Option<&Cursor>,
        most: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let inner = &*self.inner;
        let unknown = || {
            LedgerError::Refused("this ledger gave no such cursor: begin again without one".into())
        };
        let mut cursor =
            from.map_or(Ok(0), |from| from.as_str().parse::<u64>()).map_err(|_| unknown())?;
        let (pattern, count) =
            (&codec::books_pattern(&inner.prefix, period), most.get().clamp(10, 1_000));
        if inner.clock().is_none() {
            self.learn_clock(inner.reading).await?;
        }
        // By account: if its book was found, or only its leases.
        let (mut found, mut scanned) = (BTreeMap::new(), 0);
        while found.len() < most.get() && scanned < MOST_SCANNED {
            let scan = |mut link| async move {
                redis::cmd("SCAN")
                    .arg(cursor)
                    .arg("MATCH")
                    .arg(pattern)
                    .arg("COUNT")
                    .arg(count)
                    .query_async(&mut link)
                    .await
            };
            let (next, keys): (u64, Vec<String>) =
                inner.connection.run(inner.reading, scan).await?;
            for (account, is_book) in
                keys.iter().filter_map(|key| codec::account_of(key, &inner.prefix, period))
            {
                *found.entry(account).or_default() |= is_book;
            }
            (cursor, scanned) = (next, scanned + count);
            if cursor == 0 {
                break;
            }
        }
        let next = (cursor != 0).then(|| Cursor::new(cursor.to_string()));
        if found.is_empty() {
            return Ok(AccountsPage { accounts: Vec::new(), next });
        }
        let keys = &found;
        let read = |mut link| async move {
            let mut pipe = redis::pipe();
            for account in keys.keys() {
                let Keys { record, book, leases, holds, .. } =
                    Keys::new(&inner.prefix, account, period);
                pipe.cmd("HGET").arg(&book).arg(codec::TOTAL).cmd("HGET").arg(record).arg("closed");
                pipe.cmd("HGET").arg(holds).arg(codec::SUM).cmd("HGET").arg(leases).arg(codec::SUM);
                pipe.cmd("HGET").arg(book).arg(codec::TERMS);
            }
            pipe.query_async(&mut link).await
        };
        let read: Vec<Option<String>> = inner.connection.run(inner.reading, read).await?;
        let summary = |((account, is_book), read): ((&Account, &bool), &[Option<String>])| {
            let field = |at: usize| read.get(at).and_then(Option::as_deref);
            let keys = Keys::new(&inner.prefix, account, period);
            let mut book = codec::read_totals(period, &keys.book, field(0))?;
            book.holds = codec::read_held(&keys.holds, field(2))?;
            book.leases = codec::read_settled(&keys.leases, field(3))?;
            book.agreed = codec::read_agreed(&keys.book, field(4))?;
            // Months are written so that later ones are greater.
            let closed = inner.now() >= period.ends()
                && field(1).is_some_and(|closed| *period.to_string() <= *closed);
            // One whose leases alone came up here is listed where its book comes up, if it has one.
            let is_listed = *is_book || field(0).is_none();
            Ok::<_, LedgerError>(
                is_listed.then(|| AccountSummary::of(account.clone(), &book, closed)),
            )
        };
        let accounts = found.iter().zip(read.chunks(5)).map(summary).filter_map(Result::transpose);
        Ok(AccountsPage { accounts: accounts.collect::<Result<_, _>>()?, next })
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

impl Inner {
    /// The server's clock as far as it is known.
    fn now(&self) -> Duration {
        self.clock().map_or(Duration::ZERO, |clock| clock.told + clock.at.elapsed())
    }

    fn clock(&self) -> Option<LedgerClock> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, told: Duration) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(LedgerClock { told, at: Instant::now() });
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
        most: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        Box::pin(self.list(period, from, most))
    }
}

impl From<Fault> for LedgerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Deadline(within) => Self::Deadline(within),
            Fault::Unfit(reason) => Self::Unfit(reason),
            Fault::Failed { reason, source } => match source {
                Some(error) if says(&error, "MALFORMED") => Self::Malformed(reason),
                Some(error) if says(&error, "REFUSED") => Self::Refused(reason),
                Some(error) if concerns_one_account(&error) => {
                    Self::Failed { reason, source: Some(error as _) }
                }
                source => Self::Unreachable { reason, source: source.map(|error| error as _) },
            },
        }
    }
}

/// Settings of a [`RedisLedger`].
#[derive(Clone, Debug)]
pub struct RedisLedgerBuilder {
    server: RedisServer,
    prefix: String,
    timeout: Duration,
    max_lines: usize,
}

impl RedisLedgerBuilder {
    /// What every key begins with; default `tc`. Ledgers with different prefixes on one server do
    /// not see each other.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long reading a statement, changing an account or one step of a list may take; default
    /// two seconds. Renewals, on which requests wait, have the deadline of the
    /// [meter](crate::CreditMeterBuilder::ledger_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Keeps so many usage lines of a month apart at most; what would be more is added to one line,
    /// `other`. Default [`MAX_LINES`](crate::ledger::MAX_LINES). Lines are read whole for statements;
    /// renewals look only at those that they add to.
    #[must_use]
    pub const fn max_lines(mut self, max_lines: NonZeroUsize) -> Self {
        self.max_lines = max_lines.get();
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`RedisLedger::connect`]; also where the prefix holds a brace, which would move keys to
    /// other slots, and where the URL or what was said beside it cannot be used.
    pub async fn connect(self) -> Result<RedisLedger, LedgerError> {
        let connection = Connection::new(self.server, &self.prefix)?;
        let ledger = RedisLedger::new(connection, self.prefix, self.timeout, self.max_lines);
        ledger.learn_clock(CONNECT_TIMEOUT).await?;
        Ok(ledger)
    }
}
