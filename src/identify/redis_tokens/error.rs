//! Reasons why an operation on tokens failed.

use std::sync::Arc;

use crate::{Account, redis_server::Fault};

/// Reason why tokens were not issued, listed, changed or revoked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTokensError {
    /// The server did not answer, or its answer cannot be read.
    #[error("the tokens' Redis server gave no answer: {0}")]
    Server(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server, or a setting of its connection, is not fit to keep tokens. The text says what to
    /// change.
    #[error("the tokens' Redis server cannot be used: {0}")]
    Unfit(String),
    /// The account has 1 000 tokens, the most that it may have.
    #[error("{0} has 1 000 tokens: revoke one first")]
    Full(Account),
    /// The label has more than 128 bytes or a control character.
    #[error("a token's label has at most 128 bytes and no control characters: write a shorter one")]
    Label,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
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
