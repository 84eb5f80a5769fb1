//! Tokens that callers send as `Authorization: Bearer <token>`, or as an API key.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
};

use http::HeaderName;

use super::{live_table::LiveTable, table::TokenTable};
use crate::{
    Name,
    condition::Condition,
    identify::{
        Identify, IdentifyError, Identifying, Identity, RequestHead,
        credentials::{self, TokenPlaces},
    },
};

/// Bearer tokens (RFC 6750) in memory or in a file. This process keeps their SHA-256 digests only.
///
/// ```
/// use tower_credits::{Account, BearerTokens, Identity};
///
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?);
/// let tokens = BearerTokens::new().with("a-long-random-token", alice);
/// # Ok::<(), tower_credits::NameError>(())
/// ```
///
/// A file has digests only (`printf %s TOKEN | sha256sum`):
///
/// ```toml
/// [[tokens]]
/// sha256 = "d1d9b3f2b4ea37a8a0bd0e0ba4af4dffdb15ef2dfbc5dbd9d41a4fb2e1d5ed2f"
/// account = "user:alice"
/// tier = "free"
/// subject = "alice"       # the caller's name on the usage lines; default: the account
/// organisations = { acme = "enterprise" }   # that the caller may bill, with their tiers
/// ```
///
/// A token that is longer than 4 KiB is unknown, without being hashed.
#[derive(Clone, Default)]
pub struct BearerTokens {
    live: Arc<LiveTable>,
    places: TokenPlaces,
}

impl BearerTokens {
    /// Returns an empty list: every request is denied with 401.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token, of which only the digest is kept.
    ///
    /// The list that is returned is independent of this one and its clones: it does not follow a
    /// file, and [`revoke`](Self::revoke) on the others does not affect it.
    #[must_use]
    pub fn with(self, token: &str, identity: Identity) -> Self {
        let mut table = match Arc::try_unwrap(self.live) {
            Ok(live) => live.into_table(),
            Err(live) => TokenTable::clone(&live.load()),
        };
        table.add(credentials::digest(token.as_bytes()), identity);
        Self { places: self.places, ..Self::from_table(table) }
    }

    /// Also takes the token from the cookie of this name, for browsers, if a request has no
    /// `Authorization` field. Default: no cookie is accepted.
    ///
    /// A cookie pays only for requests of pages of the same origin (`Sec-Fetch-Site`, `Origin`);
    /// others are denied with 403. The billing page's sign-in sets the cookie. If you set it
    /// yourself, set it `HttpOnly`, `Secure` and `SameSite=Strict` all the same. Begin its name
    /// with `__Host-`: other hosts of your domain cannot set such a cookie.
    #[must_use]
    pub fn or_cookie(self, name: Name) -> Self {
        Self { places: TokenPlaces { cookie: Some(name), ..self.places }, ..self }
    }

    /// Sets the header field that a token is also taken from, if a request has no bearer token.
    /// Default: `x-api-key`, which the SDKs of Anthropic send.
    ///
    /// ```
    /// use tower_credits::BearerTokens;
    ///
    /// let tokens = BearerTokens::new().api_key_in("api-key".parse()?);
    /// # Ok::<(), http::header::InvalidHeaderName>(())
    /// ```
    #[must_use]
    pub fn api_key_in(self, name: HeaderName) -> Self {
        Self { places: TokenPlaces { api_key_header: name, ..self.places }, ..self }
    }

    /// Revokes a token in this list and its clones, at once. Returns `true` if they had it.
    ///
    /// While this process runs the token stays revoked, even if a [watched](Self::watch) file still
    /// has it. Remove it from the file, too.
    pub fn revoke(&self, token: &str) -> bool {
        self.live.revoke(credentials::digest(token.as_bytes()))
    }

    pub(super) fn from_table(table: TokenTable) -> Self {
        Self { live: Arc::new(LiveTable::new(table)), places: TokenPlaces::default() }
    }

    pub(super) const fn live(&self) -> &Arc<LiveTable> {
        &self.live
    }
}

impl Identify for BearerTokens {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let find = |token| self.live.load().find(token).ok_or(IdentifyError::Invalid);
        Identifying::Ready(credentials::token_of(head, &self.places).and_then(find))
    }

    fn cookie(&self) -> Option<&Name> {
        self.places.cookie.as_ref()
    }

    fn api_key_header(&self) -> Option<&HeaderName> {
        Some(&self.places.api_key_header)
    }

    fn describe(&self) -> String {
        format!("{} bearer tokens", self.live.load().len())
    }

    fn check(&self) -> Pin<Box<dyn Future<Output = Condition> + Send + '_>> {
        Box::pin(ready(Condition::of_file(self.live.refused())))
    }
}

impl fmt::Debug for BearerTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerTokens").field("tokens", &self.live.load().len()).finish()
    }
}
