//! Who asks, who pays, and which tier applies.
//!
//! The layer asks an [`Identify`] before each metered call. Shipped are, for hosts without
//! authentication of their own, [`BearerTokens`] (a file's) and `RedisTokens` (issued and revoked
//! while the servers run); and for those that have it, [`IdentityFromExtensions`] (put an
//! [`Identity`] into the request's extensions before this layer sees it) and [`IdentifyWith`] (an
//! async function).

mod bearer;
mod credentials;
mod identity;
mod origin;
mod recent;
#[cfg(feature = "redis")]
mod redis_tokens;

pub use self::bearer::{BearerTokens, TokensError};
#[cfg(feature = "axum")]
pub(crate) use self::credentials::is_meant;
pub use self::identity::{
    Identify, IdentifyError, IdentifyWith, Identifying, Identity, IdentityFromExtensions,
    RequestHead,
};
#[cfg(feature = "redis")]
pub use self::redis_tokens::{
    IssuedToken, RedisTokens, RedisTokensBuilder, RedisTokensError, TokenSummary,
};
