//! Tokens in Redis: checked, issued, listed, moved to another tier and revoked.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    answer_cache::{AnswerCache, Lookup, Query},
    error::RedisTokensError,
    secret,
    secret::hex,
    store::{Store, TokenSummary},
};
use crate::{
    Account, Name,
    condition::Condition,
    identify::{
        Identify, IdentifyError, Identifying, Identity, RequestHead,
        credentials::{self, TokenPlaces},
    },
    plan::TierName,
};

/// The most tokens of one account.
const MAX_TOKENS_PER_ACCOUNT: usize = 1_000;

/// Bearer tokens (RFC 6750) in Redis, for servers without authentication of their own. Redis and
/// this process keep their SHA-256 digests only. Clones share the connection and the cache.
///
/// * Answers are cached: a token that was revoked on another node stops working here within
///   [`cache_for`](super::RedisTokensBuilder::cache_for), 30 seconds by default (plus
///   [`stale_if_error`](super::RedisTokensBuilder::stale_if_error) while the server does not
///   answer). Its running requests go on.
/// * The organisations that a token's subject may bill, and their tiers, are stored with the token.
///   To change them, revoke the token and issue another.
/// * A failover of Redis that loses acknowledged writes loses tokens that were just issued, and
///   brings back those that were just revoked: revoke them again.
///
/// ```no_run
/// use tower_credits::{Account, CreditMeter, Identity, Plan, RedisLedger, RedisTokens};
///
/// # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = RedisTokens::connect("redis://127.0.0.1/").await?;
/// let ledger = RedisLedger::connect("redis://127.0.0.1/").await?;
/// let meter = CreditMeter::new(plan, ledger, tokens.clone());
///
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?);
/// let issued = tokens.issue(&alice, "laptop", None).await?;
/// println!("shown once: {}", issued.secret());
///
/// for token in tokens.list(&alice.account).await? {
///     println!("{} {} ({})", token.id, token.label, token.tier);
/// }
/// tokens.set_tier(&alice.account, &"pro".parse()?).await?;
/// tokens.revoke(&alice.account, &issued.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisTokens {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) cache: AnswerCache,
    pub(super) places: TokenPlaces,
}

impl RedisTokens {
    /// Issues a token for this identity. It expires after `lifetime` (in whole milliseconds), or
    /// never with `None`. The label is for the list: at most 128 bytes, no control characters.
    ///
    /// # Errors
    ///
    /// * [`RedisTokensError::Label`] if the label is too long or has a control character.
    /// * [`RedisTokensError::Full`] if the account has 1 000 tokens.
    /// * [`RedisTokensError::Random`] if the system has no random bytes.
    /// * [`RedisTokensError::Server`] if the server did not answer. A token whose secret nobody has
    ///   may then be on the list: revoke it.
    pub async fn issue(
        &self,
        identity: &Identity,
        label: &str,
        lifetime: Option<Duration>,
    ) -> Result<IssuedToken, RedisTokensError> {
        if label.len() > 128 || label.chars().any(char::is_control) {
            return Err(RedisTokensError::Label);
        }
        let Inner { store, .. } = &*self.inner;
        if store.list_length(&identity.account).await? >= MAX_TOKENS_PER_ACCOUNT
            && store.list(&identity.account).await?.len() >= MAX_TOKENS_PER_ACCOUNT
        {
            return Err(RedisTokensError::Full(identity.account.clone()));
        }
        let secret = secret::new()?;
        let digest = credentials::digest(secret.as_bytes());
        let id = hex(&digest[..8]);
        store.insert(&digest, &id, identity, label, lifetime).await?;
        Ok(IssuedToken { id, secret })
    }

    /// Lists the tokens of an account that work, the oldest first. Their secrets are not stored.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] if the server did not answer.
    pub async fn list(&self, account: &Account) -> Result<Vec<TokenSummary>, RedisTokensError> {
        let listed = self.inner.store.list(account).await?;
        let mut tokens: Vec<_> = listed.into_iter().map(TokenSummary::from).collect();
        tokens.sort_by(|one, other| (one.issued_at, &one.id).cmp(&(other.issued_at, &other.id)));
        Ok(tokens)
    }

    /// Revokes the account's token with this id; `true` if the account had it.
    ///
    /// It stops working here at once, and on other nodes within
    /// [`cache_for`](super::RedisTokensBuilder::cache_for).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] if the server did not answer.
    pub async fn revoke(&self, account: &Account, id: &str) -> Result<bool, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let Some(digest) = store.digest_of(account, id).await? else { return Ok(false) };
        let _change = cache.change(vec![digest]);
        Ok(store.remove(account, id, &digest).await?)
    }

    /// Revokes the token with this secret, of any account; `true` if it worked until now. For
    /// secrets that leaked. It stops working as with [`revoke`](Self::revoke).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] if the server did not answer.
    pub async fn revoke_secret(&self, secret: &str) -> Result<bool, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let digest = credentials::digest(secret.as_bytes());
        let _change = cache.change(vec![digest]);
        match store.look_up(&digest).await? {
            None => Ok(false),
            Some((identity, id, _)) => Ok(store.remove(&identity.account, &id, &digest).await?),
        }
    }

    /// Changes the tier of all of an account's tokens. Returns how many were changed.
    ///
    /// The tier counts here at once, and on other nodes within
    /// [`cache_for`](super::RedisTokensBuilder::cache_for). A token that is issued at the same time
    /// keeps the tier that it is issued with.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] if the server did not answer. Some tokens may then have been
    /// changed: call this again.
    pub async fn set_tier(
        &self,
        account: &Account,
        tier: &TierName,
    ) -> Result<usize, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let tokens = store.list(account).await?;
        if tokens.is_empty() {
            return Ok(0);
        }
        let _change = cache.change(tokens.iter().map(|token| token.digest).collect());
        Ok(store.set_tier(tokens, tier).await?)
    }
}

impl Inner {
    async fn ask(&self, query: Query) -> Result<Arc<Identity>, IdentifyError> {
        match self.store.look_up(query.digest()).await {
            Ok(Some((identity, _, lifetime))) => {
                let identity = Arc::new(identity);
                self.cache.insert_known(&query, &identity, lifetime);
                Ok(identity)
            }
            Ok(None) => {
                self.cache.insert_unknown(&query);
                Err(IdentifyError::Invalid)
            }
            Err(fault) => {
                let stale = self.cache.stale_if_error(&query);
                stale.ok_or_else(|| {
                    IdentifyError::Unavailable(Arc::new(RedisTokensError::from(fault)))
                })
            }
        }
    }
}

impl Identify for RedisTokens {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let digest = match credentials::token_of(head, &self.inner.places) {
            Ok(token) if secret::is_well_formed(token) => credentials::digest(token),
            Ok(_) => return Identifying::Ready(Err(IdentifyError::Invalid)),
            Err(error) => return Identifying::Ready(Err(error)),
        };
        match self.inner.cache.get(digest) {
            Lookup::Fresh(answer) => Identifying::Ready(answer),
            Lookup::Miss(query) => {
                let inner = Arc::clone(&self.inner);
                Identifying::Later(Box::pin(async move { inner.ask(query).await }))
            }
        }
    }

    fn cookie(&self) -> Option<&Name> {
        self.inner.places.cookie.as_ref()
    }

    fn api_key_header(&self) -> Option<&HeaderName> {
        Some(&self.inner.places.api_key_header)
    }

    fn describe(&self) -> String {
        format!("tokens in {}", self.inner.store)
    }

    fn check(&self) -> Pin<Box<dyn Future<Output = Condition> + Send + '_>> {
        Box::pin(async move {
            match self.inner.store.check().await {
                Ok(()) => Condition::Well,
                Err(fault) => Condition::Away(fault.to_string()),
            }
        })
    }
}

impl fmt::Debug for RedisTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { store, cache, .. } = &*self.inner;
        f.debug_struct("RedisTokens")
            .field("store", store)
            .field("cached", &cache.len())
            .finish_non_exhaustive()
    }
}

/// Token that was just issued. Only this value has its secret: show it once.
#[derive(Clone)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The token's id: 16 hexadecimal digits. The list shows it, and [`RedisTokens::revoke`] takes
    /// it.
    pub id: String,
    secret: String,
}

impl IssuedToken {
    /// Returns the secret, which the caller sends as `Authorization: Bearer <secret>`. It is `tc_`
    /// and 56 hexadecimal digits, 192 bits of them random.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("id", &self.id).finish_non_exhaustive()
    }
}
