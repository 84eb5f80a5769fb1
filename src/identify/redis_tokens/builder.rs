//! Settings of tokens in Redis, and the first connection.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    answer_cache::AnswerCache,
    error::RedisTokensError,
    store::Store,
    tokens::{Inner, RedisTokens},
};
use crate::{
    Name,
    identify::credentials::TokenPlaces,
    redis_server::{CONNECT_TIMEOUT, DEFAULT_PREFIX, RedisServer, Servers},
};

impl RedisTokens {
    /// Connects to a server, with the defaults of the [builder](Self::builder).
    ///
    /// # Errors
    ///
    /// As [`RedisTokensBuilder::connect`].
    pub async fn connect(server: impl Into<RedisServer>) -> Result<Self, RedisTokensError> {
        Self::builder(server).connect().await
    }

    /// Returns a builder, to change settings before connecting.
    pub fn builder(server: impl Into<RedisServer>) -> RedisTokensBuilder {
        RedisTokensBuilder::new(server.into())
    }
}

/// Builder of [`RedisTokens`].
///
/// ```no_run
/// use std::time::Duration;
/// use tower_credits::RedisTokens;
///
/// # async fn example() -> Result<(), tower_credits::identify::RedisTokensError> {
/// let tokens = RedisTokens::builder("redis://127.0.0.1/")
///     .cache_for(Duration::from_secs(10))
///     .stale_if_error(Duration::from_secs(300))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RedisTokensBuilder {
    server: RedisServer,
    prefix: String,
    timeout: Duration,
    cache_for: Duration,
    stale_if_error: Duration,
    max_cached_tokens: u64,
    places: TokenPlaces,
}

impl RedisTokensBuilder {
    fn new(server: RedisServer) -> Self {
        Self {
            server,
            prefix: DEFAULT_PREFIX.into(),
            timeout: Duration::from_millis(250),
            cache_for: Duration::from_secs(30),
            stale_if_error: Duration::ZERO,
            max_cached_tokens: 100_000,
            places: TokenPlaces::default(),
        }
    }

    /// Sets what every key begins with, without braces. Default: `tc`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long one call of the server may take. Default: 250 ms.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long the server's answer about a token counts without asking again. Default: 30 s;
    /// at most 366 days.
    ///
    /// A token that is revoked on another node may go on working here for this long. Unknown tokens
    /// are cached for 5 s, whatever is set here.
    #[must_use]
    pub const fn cache_for(mut self, time: Duration) -> Self {
        self.cache_for = time;
        self
    }

    /// Sets how much longer than [`cache_for`](Self::cache_for) an answer counts while the server
    /// does not answer, as `stale-if-error` of RFC 5861 does. Default: zero; at most 366 days.
    ///
    /// Without it, no request is identified during an outage once its token left the cache, even if
    /// its tier [allows](crate::plan::DuringOutage::Allow) requests during outages.
    #[must_use]
    pub const fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// Sets the most known tokens in the cache. Each takes about 512 bytes. Default: 100 000.
    ///
    /// The cache has room for as many unknown tokens, but at most 10 000.
    #[must_use]
    pub const fn max_cached_tokens(mut self, tokens: u64) -> Self {
        self.max_cached_tokens = tokens;
        self
    }

    /// Also takes the token from the cookie of this name; see
    /// [`BearerTokens::or_cookie`](crate::BearerTokens::or_cookie). Default: no cookie is accepted.
    #[must_use]
    pub fn or_cookie(mut self, name: Name) -> Self {
        self.places.cookie = Some(name);
        self
    }

    /// Sets the header field that a token is also taken from; see
    /// [`BearerTokens::api_key_in`](crate::BearerTokens::api_key_in). Default: `x-api-key`.
    #[must_use]
    pub fn api_key_in(mut self, name: HeaderName) -> Self {
        self.places.api_key_header = name;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// * [`RedisTokensError::Server`] if the server cannot be reached within five seconds.
    /// * [`RedisTokensError::Unfit`] if the server evicts keys or has keys of another schema
    ///   version, if its URL or another of its settings cannot be used, or if the prefix has a
    ///   brace.
    pub async fn connect(self) -> Result<RedisTokens, RedisTokensError> {
        let tokens = self.connect_lazily()?;
        tokens.inner.store.open(CONNECT_TIMEOUT).await?;
        Ok(tokens)
    }

    /// Returns the tokens without connecting: the first call of the server does. So a node starts
    /// while Redis is away. Until Redis is there, requests with tokens are denied, as in any outage
    /// with an empty cache.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Unfit`] if the prefix has a brace, or if the server's URL or another of
    /// its settings cannot be used.
    pub fn connect_lazily(self) -> Result<RedisTokens, RedisTokensError> {
        let servers = Servers::new(self.server, &self.prefix)?;
        let store = Store::new(servers, self.prefix, self.timeout);
        let cache = AnswerCache::new(self.max_cached_tokens, self.cache_for, self.stale_if_error);
        Ok(RedisTokens { inner: Arc::new(Inner { store, cache, places: self.places }) })
    }
}
