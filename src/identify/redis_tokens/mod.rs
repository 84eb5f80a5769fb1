//! Bearer tokens kept in Redis: issued, listed and revoked while any number of servers run.

mod builder;
mod cache;
mod error;
mod secret;
mod store;
mod tokens;

pub use self::{builder::RedisTokensBuilder, store::TokenSummary};
pub use self::{
    error::RedisTokensError,
    tokens::{IssuedToken, RedisTokens},
};
