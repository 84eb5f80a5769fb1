//! Settings, and the first connection.

use std::{sync::Arc, time::Duration};

use super::{
    cache::Cache,
    error::RedisTokensError,
    store::Store,
    tokens::{Inner, RedisTokens},
};
use crate::{
    Name,
    redis_server::{CONNECT_TIMEOUT, Connection, DEFAULT_PREFIX, RedisServer},
};

impl RedisTokens {
    /// Connects to a server, with the defaults of the [builder](Self::builder).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where the server cannot be reached within five seconds, evicts
    /// keys, or holds keys of another schema version.
    pub async fn connect(server: impl Into<RedisServer>) -> Result<Self, RedisTokensError> {
        Self::builder(server).connect().await
    }

    /// Settings before connecting.
    pub fn builder(server: impl Into<RedisServer>) -> RedisTokensBuilder {
        RedisTokensBuilder::new(server.into())
    }
}

/// Settings of [`RedisTokens`].
#[derive(Clone, Debug)]
pub struct RedisTokensBuilder {
    server: RedisServer,
    prefix: String,
    timeout: Duration,
    cache_for: Duration,
    stale_if_error: Duration,
    max_cached: u64,
    cookie: Option<Name>,
}

impl RedisTokensBuilder {
    pub(super) fn new(server: RedisServer) -> Self {
        Self {
            server,
            prefix: DEFAULT_PREFIX.into(),
            timeout: Duration::from_millis(250),
            cache_for: Duration::from_secs(30),
            stale_if_error: Duration::ZERO,
            max_cached: 100_000,
            cookie: None,
        }
    }

    /// What every key begins with; default `tc`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long one call of the server may take; default 250 ms.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long the server's answer about a token counts without asking again, which is also how
    /// long a token that was revoked elsewhere may go on working here; default 30 s. Unknown tokens
    /// are remembered for 5 s.
    #[must_use]
    pub const fn cache_for(mut self, time: Duration) -> Self {
        self.cache_for = time;
        self
    }

    /// For how much longer an answer counts while the server does not answer (as RFC 5861's
    /// `stale-if-error`); default not at all. Without it, a tier's outage allowance ends when
    /// tokens leave the cache.
    #[must_use]
    pub const fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// The most tokens whose answers are kept, each about half a KiB; default 100 000. As many
    /// unknown ones are remembered, at most 10 000.
    #[must_use]
    pub const fn max_cached(mut self, tokens: u64) -> Self {
        self.max_cached = tokens;
        self
    }

    /// Takes a token also from this cookie; see
    /// [`BearerTokens::or_cookie`](crate::BearerTokens::or_cookie).
    #[must_use]
    pub fn or_cookie(mut self, name: Name) -> Self {
        self.cookie = Some(name);
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`RedisTokens::connect`]; also where the prefix holds a brace, and where the URL or what
    /// was said beside it cannot be used.
    pub async fn connect(self) -> Result<RedisTokens, RedisTokensError> {
        let connection = Connection::new(self.server, &self.prefix)?;
        let ping = |mut link| async move { redis::cmd("PING").query_async(&mut link).await };
        let _: String = connection.run(CONNECT_TIMEOUT, ping).await?;
        let store = Store { connection, prefix: self.prefix, deadline: self.timeout };
        let cache = Cache::new(self.max_cached, self.cache_for, self.stale_if_error);
        Ok(RedisTokens { inner: Arc::new(Inner { store, cache, cookie: self.cookie }) })
    }
}
