//! Identification: who asks, who pays, and which tier applies.
//!
//! Before each metered call the meter asks an [`Identify`] for the request's [`Identity`]. There
//! are four ways to have one:
//!
//! | | take it if |
//! |---|---|
//! | [`BearerTokens`] | the server has no authentication of its own, and the tokens fit in a file |
//! | `RedisTokens` | the server has none, and tokens are issued and revoked while many nodes run |
//! | [`IdentityFromExtensions`] | the server's own authentication runs before the meter |
//! | [`IdentifyWith`] | an async function of yours knows the caller: a session store, a database |
//!
//! For all else, implement [`Identify`] yourself.
//!
//! ```
//! use tower_credits::{
//!     BearerTokens, CreditMeter, Identity, MemoryLedger, Plan,
//!     identify::{IdentifyError, IdentifyWith, IdentityFromExtensions},
//! };
//!
//! # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
//! # let ledger = MemoryLedger::new();
//! // A file of tokens, whose changes are followed.
//! let meter = CreditMeter::new(plan.clone(), ledger.clone(), BearerTokens::watch("tokens.toml")?);
//!
//! // Tokens in Redis.
//! # #[cfg(feature = "redis")]
//! use tower_credits::RedisTokens;
//! # #[cfg(feature = "redis")]
//! let tokens = RedisTokens::connect("redis://127.0.0.1/").await?;
//! # #[cfg(feature = "redis")]
//! let meter = CreditMeter::new(plan.clone(), ledger.clone(), tokens);
//!
//! // An extension of the request.
//! let meter = CreditMeter::new(plan.clone(), ledger.clone(), IdentityFromExtensions);
//!
//! // An async function.
//! # async fn session_of(_: Option<http::HeaderValue>) -> Option<Identity> { None }
//! let identify = IdentifyWith::new(|head| {
//!     let cookie = head.headers.get("cookie").cloned();
//!     async move { session_of(cookie).await.ok_or(IdentifyError::Missing) }
//! });
//! let meter = CreditMeter::new(plan, ledger, identify);
//! # Ok(())
//! # }
//! ```
//!
//! An [`Identity`] has the [`Subject`] that asks, the [`Account`](crate::Account) that pays and the
//! [`TierName`](crate::plan::TierName) that applies. It also knows which organisations its subject
//! may bill ([`Identity::member_of`]).

mod bearer_tokens;
mod credentials;
mod extension;
mod function;
#[cfg(test)]
mod fuzz;
mod identity;
mod interface;
mod origin;
#[cfg(feature = "redis")]
mod redis_tokens;
mod request_head;

#[cfg(feature = "redis")]
pub use self::redis_tokens::{
    IssuedToken, RedisTokens, RedisTokensBuilder, RedisTokensError, TokenSummary,
};
pub use self::{
    bearer_tokens::{BearerTokens, TokensError},
    extension::IdentityFromExtensions,
    function::IdentifyWith,
    identity::Identity,
    interface::{Identify, IdentifyError, Identifying},
    request_head::RequestHead,
};
pub use crate::names::Subject;

#[cfg(feature = "axum")]
pub(crate) use self::credentials::is_csrf_safe;
pub(crate) use self::identity::Cached;
