//! Why tokens cannot be had.

use std::sync::Arc;

use crate::{Account, redis_server::Fault};

/// Why a token was not issued, listed or revoked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTokensError {
    /// The server gave no answer, or none that makes sense.
    #[error("the tokens' Redis server gave no answer: {0}")]
    Server(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server, or what was said of it, is not fit to keep tokens.
    #[error("the tokens' Redis server cannot be used: {0}")]
    Unfit(String),
    /// The account has as many tokens as it may.
    #[error("{0} has 1 000 tokens: revoke one first")]
    Full(Account),
    /// The label would not fit on a list.
    #[error("a token's label has at most 128 bytes and no control characters: write a shorter one")]
    Label,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl From<Fault> for RedisTokensError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unfit(reason) => Self::Unfit(reason),
            fault => Self::Server(Arc::new(fault)),
        }
    }
}
