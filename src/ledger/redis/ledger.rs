//! [`RedisLedger`]: the calls of a ledger, as calls of scripts.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        AccountsPage, Amendment, Answer, Audit, Book, Cursor, LeaseId, Ledger, LedgerError,
        LedgerFuture, Outcome, Record, Renewal, RequestCost, Statement, Terms,
    },
    buckets::Bucket,
    call,
    codec::{Hash, Hashes},
    list::Listing,
    renewals::Renewals,
    schema::{self, Keys},
    script::LoadedScript,
};
use crate::{
    Account, Credits, Name, Period, RequestId,
    clock::UnixTime,
    redis_server::{Fault, Link, Servers, concerns_one_account, says, server_time},
};

/// The most costs that are written or read in one call, so that others do not wait for long.
const MAX_COSTS_OF_CALL: usize = 1_000;

/// A ledger in Redis (6.0 or newer): on one server, on the master that Sentinels name, or in a
/// cluster. [`RedisServer`](crate::RedisServer) says where. Clones share their connections.
///
/// A server must not lose acknowledged writes: set `appendonly yes`. Its `maxmemory-policy` must
/// be `noeviction`, which is checked when you connect.
#[derive(Clone, Debug)]
pub struct RedisLedger {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Arc<Servers>,
    prefix: String,
    timeout: Duration,
    renewals: Renewals,
    amend: LoadedScript,
    read: LoadedScript,
    costs: LoadedScript,
}

impl RedisLedger {
    pub(super) fn new(
        servers: Servers,
        prefix: String,
        timeout: Duration,
        max_lines: usize,
    ) -> Self {
        let servers = Arc::new(servers);
        Self {
            inner: Arc::new(Inner {
                renewals: Renewals::new(Arc::clone(&servers), max_lines),
                servers,
                prefix,
                timeout,
                amend: LoadedScript::amend(),
                read: LoadedScript::read(),
                costs: LoadedScript::costs(),
            }),
        }
    }

    pub(super) fn servers(&self) -> &Servers {
        &self.inner.servers
    }

    pub(super) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    pub(super) fn record_key(&self, account: &Account) -> String {
        schema::record_key(&self.inner.prefix, account)
    }

    /// Reads an account, to see how long that takes.
    pub(super) async fn read_account(
        &self,
        account: &Account,
        period: Period,
    ) -> Result<(), LedgerError> {
        self.read(account, period, false).await.map(drop)
    }

    /// Returns the version of the schema that the keys have.
    pub(super) async fn stored_schema(&self) -> Result<Option<String>, LedgerError> {
        let key = &format!("{}:schema", self.inner.prefix);
        let get =
            |mut link: Link| async move { redis::cmd("GET").arg(key).query_async(&mut link).await };
        Ok(self.inner.servers.run(key, self.inner.timeout, get).await?)
    }

    /// Opens the connections.
    pub(super) async fn open(&self, within: Duration) -> Result<(), LedgerError> {
        Ok(self.inner.servers.open(within).await?)
    }

    async fn renew(
        &self,
        account: &Account,
        period: Period,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answer, LedgerError> {
        let deadline = Instant::now() + within;
        let answer = self.send(account, period, renewal, within).await?;
        if !matches!(answer.outcome, Outcome::Late | Outcome::NotBegun) {
            return Ok(answer);
        }
        // The server's clock is another than it was, for example after a failover. Now it is known.
        let left = deadline.saturating_duration_since(Instant::now());
        self.send(account, period, renewal, left).await
    }

    async fn send(
        &self,
        account: &Account,
        period: Period,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answer, LedgerError> {
        let Inner { prefix, renewals, .. } = &*self.inner;
        renewals.send(Keys::new(prefix, account, period), renewal, within).await
    }

    /// Reads an account's record, one of its months (with `all`, also every lease of it), and the
    /// server's time.
    async fn read(
        &self,
        account: &Account,
        period: Period,
        all: bool,
    ) -> Result<(Book, Record, UnixTime), LedgerError> {
        let inner = &*self.inner;
        let keys = &Keys::new(&inner.prefix, account, period);
        let call = |how: (&str, &str)| call::statement(how, keys, all);
        let read = |link| inner.read.call(link, call);
        let (time, [record, book, holds, parts, month_parts, leases]): (_, [Hash; 6]) =
            inner.servers.run(&keys.record, inner.timeout, read).await?;
        let (spent, claims) = (Hash::new(), Hash::new());
        let hashes =
            Hashes { keys, record, spent, book, leases, holds, claims, parts, month_parts };
        Ok((hashes.book()?, hashes.record()?, server_time(time)))
    }

    async fn change(&self, account: &Account, amendment: Amendment) -> Result<bool, LedgerError> {
        amendment.check()?;
        let inner = &*self.inner;
        let (prefix, amendment) = (&*inner.prefix, &amendment);
        let invoke = |link: Link| async move {
            let now = link.clock().now();
            let call = |how: (&str, &str)| call::amendment(how, prefix, account, amendment, now);
            inner.amend.call(link, call).await
        };
        let key = schema::record_key(prefix, account);
        let written: bool = inner.servers.run(&key, inner.timeout, invoke).await?;
        Ok(call::read_amended(amendment, written))
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
        let invoke = |link| inner.amend.call(link, call);
        Ok(inner.servers.run(&keys.record, inner.timeout, invoke).await?)
    }

    async fn keep_costs(
        &self,
        account: &Account,
        costs: &[RequestCost],
        keep_for: Duration,
    ) -> Result<(), LedgerError> {
        let inner = &*self.inner;
        let key = &schema::record_key(&inner.prefix, account);
        for costs in costs.chunks(MAX_COSTS_OF_CALL) {
            let invoke = |link: Link| async move {
                let now = link.clock().now();
                let call = |how: (&str, &str)| call::costs(how, key, costs, keep_for, now);
                inner.costs.call(link, call).await
            };
            let _: bool = inner.servers.run(key, inner.timeout, invoke).await?;
        }
        Ok(())
    }

    async fn costs(
        &self,
        account: &Account,
        ids: &[RequestId],
    ) -> Result<Vec<RequestCost>, LedgerError> {
        let inner = &*self.inner;
        let key = &schema::record_key(&inner.prefix, account);
        let mut found = Vec::new();
        for ids in ids.chunks(MAX_COSTS_OF_CALL) {
            let read = |mut link: Link| async move {
                let now = link.clock().now();
                let mut buckets: BTreeMap<Bucket, Vec<&RequestId>> = BTreeMap::new();
                for id in ids {
                    for bucket in Bucket::all_of(id, now) {
                        buckets.entry(bucket).or_default().push(id);
                    }
                }
                let mut pipe = redis::pipe();
                for (bucket, ids) in &buckets {
                    pipe.cmd("HMGET").arg(Keys::costs_of(key, *bucket));
                    for id in ids {
                        pipe.arg(id.to_string());
                    }
                }
                let costs: Vec<Vec<Option<i64>>> = pipe.query_async(&mut link).await?;
                Ok(buckets.into_values().flatten().zip(costs.into_iter().flatten()).collect())
            };
            let costs: Vec<(&RequestId, Option<i64>)> =
                inner.servers.run(key, inner.timeout, read).await?;
            let known: BTreeMap<_, _> = costs
                .into_iter()
                .filter_map(|(id, cost)| Some((id, Credits::from_nano_usd(cost?).ok()?)))
                .collect();
            let cost = |(id, cost): (&RequestId, Credits)| RequestCost { id: id.clone(), cost };
            found.extend(known.into_iter().map(cost));
        }
        Ok(found)
    }

    async fn list(
        &self,
        period: Period,
        from: Option<&Cursor>,
        page_size: NonZeroUsize,
    ) -> Result<AccountsPage, LedgerError> {
        let Inner { servers, prefix, timeout, .. } = &*self.inner;
        Listing { servers, prefix, period, timeout: *timeout }.page(from, page_size).await
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("servers", &self.servers)
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
        Box::pin(async move {
            let (book, record, now) = self.read(account, period, false).await?;
            Ok(Statement::from_book(account, &book, &record, terms, now))
        })
    }

    fn audit<'a>(&'a self, account: &'a Account, period: Period) -> LedgerFuture<'a, Audit> {
        Box::pin(async move {
            let (book, record, now) = self.read(account, period, true).await?;
            Ok(Audit::of(account, &book, &record, now))
        })
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

    fn keep_costs<'a>(
        &'a self,
        account: &'a Account,
        costs: &'a [RequestCost],
        keep_for: Duration,
    ) -> LedgerFuture<'a, ()> {
        Box::pin(self.keep_costs(account, costs, keep_for))
    }

    fn costs<'a>(
        &'a self,
        account: &'a Account,
        ids: &'a [RequestId],
    ) -> LedgerFuture<'a, Vec<RequestCost>> {
        Box::pin(self.costs(account, ids))
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        Box::pin(self.list(period, from, page_size))
    }

    fn describe(&self) -> String {
        format!("{}, keys `{}:*`", self.inner.servers, self.inner.prefix)
    }

    fn check(&self, within: Duration) -> LedgerFuture<'_, ()> {
        Box::pin(async move { Ok(self.inner.servers.check(within).await?) })
    }

    fn shard(&self, account: &Account) -> u64 {
        self.inner.servers.shard(|| schema::record_key(&self.inner.prefix, account))
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
