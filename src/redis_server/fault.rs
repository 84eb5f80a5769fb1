//! Why a call has no answer, and whose trouble that is.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// None came in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The server cannot be reached, or answered with an error.
    #[error("{reason}")]
    Failed {
        reason: String,
        #[source]
        source: Option<Arc<RedisError>>,
    },
    /// The server, or what was said of it, is not fit to keep money.
    #[error("{0}")]
    Unfit(String),
}

impl Fault {
    pub(crate) const fn failed(reason: String) -> Self {
        Self::Failed { reason, source: None }
    }

    /// A URL that says nothing is not shown: it may hold a password.
    pub(super) fn from_url(error: &RedisError) -> Self {
        let remedy = "write redis://[user:password@]host[:port][/database], or rediss:// with the feature `tls`";
        Self::Unfit(format!("the server's URL cannot be used ({error}): {remedy}"))
    }

    /// `true` if the connection ended under the call: another one may answer at once.
    pub(crate) fn is_disconnect(&self) -> bool {
        let Self::Failed { source: Some(error), .. } = self else { return false };
        error.is_connection_dropped() || error.is_io_error()
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let refused = ["WRONGPASS", "NOAUTH"].into_iter().any(|word| says(&error, word));
        let login = if refused || error.kind() == ErrorKind::AuthenticationFailed {
            "check username and password: "
        } else {
            ""
        };
        Self::Failed { reason: format!("{login}{error}"), source: Some(Arc::new(error)) }
    }
}

/// `true` if an error says that this connection is of no more use.
pub(super) fn is_lost(error: &RedisError) -> bool {
    let by_server = [
        ErrorKind::Server(ServerErrorKind::ReadOnly),
        ErrorKind::Server(ServerErrorKind::MasterDown),
        ErrorKind::AuthenticationFailed,
    ];
    let words = ["READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS"];
    if matches!(error.code(), Some("MALFORMED" | "REFUSED")) {
        // What a script says of an account names keys and fields, which may have any text.
        return false;
    }
    error.is_io_error()
        || error.is_connection_dropped()
        || by_server.contains(&error.kind())
        || words.into_iter().any(|word| says(error, word))
}

/// `true` if the server's error is this one. Redis 6 wraps what a script met in words of its own,
/// and in pipelines codes stand in the text.
pub(crate) fn says(error: &RedisError, word: &str) -> bool {
    error.code() == Some(word) || error.detail().is_some_and(|detail| detail.contains(word))
}

/// Errors that a server gives everyone while it cannot serve.
const OF_ALL: &[&str] = &[
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "CLUSTERDOWN",
];

/// `true` if a server has answered with an error that others need not get: it is there.
pub(crate) fn is_of_some(error: &RedisError) -> bool {
    error.code().is_some() && !OF_ALL.iter().any(|word| says(error, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_6_wraps_in_a_scripts_error_is_found_all_the_same() {
        let error = |text: &str| {
            RedisError::from((
                ErrorKind::Server(ServerErrorKind::ResponseError),
                "An error was signalled by the server",
                text.to_owned(),
            ))
        };
        let wrapped = "Error running script (call to f_1): @user_script:9: @user_script: 9: -READONLY You can't write against a read only replica.";
        assert!(is_lost(&error(wrapped)));
        assert!(is_lost(&error("NOAUTH Authentication required.")));
        assert!(!is_lost(&error(
            "Error running script (call to f_1): WRONGTYPE Operation against a key holding the wrong kind of value"
        )));
        assert!(!is_lost(&error("OOM command not allowed when used memory > 'maxmemory'.")));
    }
}
