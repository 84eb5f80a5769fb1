//! Settings of the ledger in Redis.

use std::{num::NonZeroUsize, time::Duration};

use super::{
    super::{LedgerError, MAX_LINES},
    ledger::RedisLedger,
};
use crate::redis_server::{CONNECT_TIMEOUT, DEFAULT_PREFIX, RedisServer, Servers};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of a [`RedisLedger`]: it comes from [`RedisLedger::builder`].
#[derive(Clone, Debug)]
pub struct RedisLedgerBuilder {
    server: RedisServer,
    prefix: String,
    timeout: Duration,
    max_lines: usize,
}

impl RedisLedger {
    /// Connects to a server: `redis://[user:password@]host[:port][/database]`, or anything else
    /// that becomes a [`RedisServer`].
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the server cannot be reached within five seconds, evicts keys, or has
    /// keys of another schema version.
    pub async fn connect(server: impl Into<RedisServer>) -> Result<Self, LedgerError> {
        Self::builder(server).connect().await
    }

    /// Returns a builder, for settings before connecting.
    pub fn builder(server: impl Into<RedisServer>) -> RedisLedgerBuilder {
        RedisLedgerBuilder {
            server: server.into(),
            prefix: DEFAULT_PREFIX.into(),
            timeout: DEFAULT_TIMEOUT,
            max_lines: MAX_LINES,
        }
    }
}

impl RedisLedgerBuilder {
    /// Sets the beginning of every key; default `tc`. Ledgers with different prefixes on one server
    /// do not see each other.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long reading a statement, changing an account or one step of a list may take;
    /// default two seconds. Renewals, on which requests wait, have the deadline of the
    /// [meter](crate::CreditMeterBuilder::ledger_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Stores up to `max_lines` usage lines of a month one by one; further usage is added to one
    /// line, `other`. Default [`MAX_LINES`](crate::ledger::MAX_LINES). Statements read all lines;
    /// renewals read only those that they add to.
    #[must_use]
    pub const fn max_lines(mut self, max_lines: NonZeroUsize) -> Self {
        self.max_lines = max_lines.get();
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`RedisLedger::connect`]; also if the prefix has a brace, which would move keys to other
    /// slots, or if the URL or the server's settings cannot be used.
    pub async fn connect(self) -> Result<RedisLedger, LedgerError> {
        let ledger = self.connect_lazily()?;
        ledger.open(CONNECT_TIMEOUT).await?;
        Ok(ledger)
    }

    /// Returns the ledger without connecting: the first call of it does. So a node starts while
    /// Redis is away, and serves requests by each tier's
    /// [`during_outage`](crate::plan::Tier::during_outage) until Redis is there.
    ///
    /// The first calls refuse what [`connect`](Self::connect) would have refused:
    /// [`CreditMeter::health`](crate::CreditMeter::health) says why.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unfit`] if the prefix has a brace, or if the URL or another of the server's
    /// settings cannot be used.
    pub fn connect_lazily(self) -> Result<RedisLedger, LedgerError> {
        let servers = Servers::new(self.server, &self.prefix)?;
        Ok(RedisLedger::new(servers, self.prefix, self.timeout, self.max_lines))
    }
}
