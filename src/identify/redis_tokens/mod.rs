//! Bearer tokens in Redis: issued, listed and revoked while any number of servers run.

mod answer_cache;
mod builder;
mod error;
mod secret;
mod store;
mod tokens;

pub use self::{
    builder::RedisTokensBuilder,
    error::RedisTokensError,
    store::TokenSummary,
    tokens::{IssuedToken, RedisTokens},
};
