//! The tokens themselves: checked, issued, listed, moved and revoked.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    cache::{Asking, Cache, Looked},
    error::RedisTokensError,
    secret,
    secret::hex,
    store::{Store, TokenSummary},
};
use crate::{
    Account, Name,
    identify::{Identify, IdentifyError, Identifying, Identity, RequestHead, credentials},
};

/// The most tokens of one account.
const MOST_TOKENS: usize = 1_000;

/// Bearer tokens (RFC 6750) kept in Redis, for hosts without authentication of their own. Redis and
/// this process know their SHA-256 only.
///
/// Answers are cached: a token that was revoked on another node stops working here within
/// [`cache_for`](super::RedisTokensBuilder::cache_for), 30 seconds by default (and
/// [`stale_if_error`](super::RedisTokensBuilder::stale_if_error), while the server does not answer).
/// Requests that run go on. Clones share the connection and the cache.
///
/// The organisations that a token's owner may bill, and their tiers, are the token's: to change
/// them, revoke it and issue another.
///
/// A failover of Redis that forgets acknowledged writes forgets tokens that were just issued, and
/// brings back those just revoked: revoke them again.
///
/// ```no_run
/// use tower_credits::{Account, CreditMeter, Identity, Plan, RedisLedger, RedisTokens};
///
/// # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = RedisTokens::connect("redis://127.0.0.1/").await?;
/// let meter = CreditMeter::new(plan, RedisLedger::connect("redis://127.0.0.1/").await?, tokens.clone());
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
    pub(super) cache: Cache,
    pub(super) cookie: Option<Name>,
}

impl RedisTokens {
    /// Issues a token that works for this identity, for good or for `lifetime` (whole
    /// milliseconds). The label is for the list: at most 128 bytes without control characters.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Label`], [`RedisTokensError::Full`] where the account has 1 000 tokens,
    /// or [`RedisTokensError::Server`]: where no answer came, a token that nobody was given may
    /// stand on the list; revoke it.
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
        if store.most_listed(&identity.account).await? >= MOST_TOKENS
            && store.list(&identity.account).await?.len() >= MOST_TOKENS
        {
            return Err(RedisTokensError::Full(identity.account.clone()));
        }
        let secret = secret::new()?;
        let digest = credentials::digest(secret.as_bytes());
        let id = hex(&digest[..8]);
        store.put(&digest, &id, identity, label, lifetime).await?;
        Ok(IssuedToken { id, secret })
    }

    /// Lists the tokens of an account that still work, the oldest first. Secrets are not known
    /// here.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn list(&self, account: &Account) -> Result<Vec<TokenSummary>, RedisTokensError> {
        let listed = self.inner.store.list(account).await?;
        let mut tokens: Vec<_> = listed.into_iter().map(TokenSummary::from).collect();
        tokens.sort_by(|one, other| (one.issued_at, &one.id).cmp(&(other.issued_at, &other.id)));
        Ok(tokens)
    }

    /// Revokes a token by the id that the list shows. Here it stops working at once, on other nodes
    /// within [`cache_for`](super::RedisTokensBuilder::cache_for). Answers whether the account had such a
    /// token.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn revoke(&self, account: &Account, id: &str) -> Result<bool, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let Some(digest) = store.digest_of(account, id).await? else { return Ok(false) };
        let _changing = cache.changing(vec![digest]);
        Ok(store.remove(account, id, &digest).await?)
    }

    /// Revokes the token with this secret, which leaked, whoever's it is; answers whether it worked
    /// until now. As [`revoke`](Self::revoke).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn revoke_secret(&self, secret: &str) -> Result<bool, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let digest = credentials::digest(secret.as_bytes());
        let _changing = cache.changing(vec![digest]);
        match store.look_up(&digest).await? {
            None => Ok(false),
            Some((identity, id, _)) => Ok(store.remove(&identity.account, &id, &digest).await?),
        }
    }

    /// Changes the tier of all of an account's tokens; answers how many. Nodes learn of it within
    /// [`cache_for`](super::RedisTokensBuilder::cache_for), this one at once. A token that is issued at
    /// the same time has the tier that it is issued with.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer; some may then have been changed: ask
    /// again.
    pub async fn set_tier(
        &self,
        account: &Account,
        tier: &Name,
    ) -> Result<usize, RedisTokensError> {
        let Inner { store, cache, .. } = &*self.inner;
        let tokens = store.list(account).await?;
        if tokens.is_empty() {
            return Ok(0);
        }
        let _changing = cache.changing(tokens.iter().map(|token| token.digest).collect());
        Ok(store.set_tier(tokens, tier).await?)
    }
}

impl Inner {
    async fn ask(&self, asking: Asking) -> Result<Arc<Identity>, IdentifyError> {
        match self.store.look_up(asking.digest()).await {
            Ok(Some((identity, _, lasts))) => {
                let identity = Arc::new(identity);
                self.cache.found(&asking, &identity, lasts);
                Ok(identity)
            }
            Ok(None) => {
                self.cache.not_found(&asking);
                Err(IdentifyError::Invalid)
            }
            Err(fault) => {
                let before = self.cache.unanswered(asking);
                before.ok_or_else(|| {
                    IdentifyError::Unavailable(Arc::new(RedisTokensError::from(fault)))
                })
            }
        }
    }
}

impl Identify for RedisTokens {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let digest = match credentials::token_of(head, self.inner.cookie.as_ref()) {
            Ok(token) if secret::was_issued(token) => credentials::digest(token),
            Ok(_) => return Identifying::Ready(Err(IdentifyError::Invalid)),
            Err(error) => return Identifying::Ready(Err(error)),
        };
        match self.inner.cache.look(digest) {
            Looked::Up(answer) => Identifying::Ready(answer),
            Looked::Ask(asking) => {
                let inner = Arc::clone(&self.inner);
                Identifying::Later(Box::pin(async move { inner.ask(asking).await }))
            }
        }
    }

    fn cookie(&self) -> Option<&Name> {
        self.inner.cookie.as_ref()
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

/// A token as it was issued. Its secret is known here and to nobody else: show it once.
#[derive(Clone)]
#[non_exhaustive]
pub struct IssuedToken {
    /// What the list shows and [`RedisTokens::revoke`] takes: 16 hexadecimal digits.
    pub id: String,
    secret: String,
}

impl IssuedToken {
    /// What the caller sends as `Authorization: Bearer <secret>`: `tc_` and 56 hexadecimal digits,
    /// 192 bits of them random.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("id", &self.id).finish_non_exhaustive()
    }
}
