//! Bearer tokens (RFC 6750) in memory or in a file.

mod document;
mod error;
mod file;
#[cfg(test)]
mod fuzz;
mod live_table;
mod table;
#[cfg(test)]
mod tests;
mod token_cache;
mod tokens;

pub use self::{error::TokensError, tokens::BearerTokens};
