//! [`Fault`]: the reason why a call has no answer, and whether it concerns one account or all.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Reason why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The server cannot be reached, or answered with an error.
    #[error("{reason}")]
    Failed {
        reason: String,
        #[source]
        source: Option<Arc<RedisError>>,
    },
    /// The server, or its settings here, are not fit for storing balances.
    #[error("{0}")]
    Unfit(String),
}

impl Fault {
    pub(crate) const fn failed(reason: String) -> Self {
        Self::Failed { reason, source: None }
    }

    /// Returns the fault with the name of its server, unless it has that already.
    pub(super) fn of(self, server: &impl ToString) -> Self {
        let server = server.to_string();
        let named = |reason: String| {
            if reason.contains(&server) { reason } else { format!("{server}: {reason}") }
        };
        match self {
            Self::Failed { reason, source } => Self::Failed { reason: named(reason), source },
            Self::Unfit(reason) => Self::Unfit(named(reason)),
            Self::Deadline(_) => Self::failed(named(self.to_string())),
        }
    }

    /// `true` if calls for other keys of the server would fail, too.
    pub(super) fn is_about_the_server(&self) -> bool {
        let Self::Failed { source: Some(error), .. } = self else { return true };
        !concerns_one_account(error)
    }

    /// `true` if the connection ended during the call: another one may answer at once.
    pub(crate) fn is_disconnect(&self) -> bool {
        let Self::Failed { source: Some(error), .. } = self else { return false };
        error.is_connection_dropped() || error.is_io_error()
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let refused = ["WRONGPASS", "NOAUTH"].into_iter().any(|word| says(&error, word));
        let login = if refused || error.kind() == ErrorKind::AuthenticationFailed {
            "the login failed, check username and password: "
        } else {
            ""
        };
        Self::Failed { reason: format!("{login}{error}"), source: Some(Arc::new(error)) }
    }
}

/// `true` if the error means that the connection can no longer be used.
pub(super) fn is_lost(error: &RedisError) -> bool {
    let by_server = [
        ErrorKind::Server(ServerErrorKind::ReadOnly),
        ErrorKind::Server(ServerErrorKind::MasterDown),
        ErrorKind::AuthenticationFailed,
    ];
    let words = ["READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS"];
    if matches!(error.code(), Some("MALFORMED" | "REFUSED")) {
        // A script's error about an account names keys and fields, which may contain any text.
        return false;
    }
    error.is_io_error()
        || error.is_connection_dropped()
        || by_server.contains(&error.kind())
        || words.into_iter().any(|word| says(error, word))
}

/// `true` if the server's error has this code. It may be in the text: Redis 6 wraps the error of a
/// script's command, and pipelines have codes in the text.
pub(crate) fn says(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.detail().is_some_and(|detail| detail.contains(code))
}

/// Codes of errors that all calls get while a server cannot serve.
const CODES_FOR_ALL: &[&str] = &[
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

/// `true` if the server has answered, with an error that calls for other accounts need not get.
pub(crate) fn concerns_one_account(error: &RedisError) -> bool {
    error.code().is_some() && !CODES_FOR_ALL.iter().any(|code| says(error, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_redis_6_wraps_in_a_scripts_error_are_found() {
        let error = |text: &str| {
            RedisError::from((
                ErrorKind::Server(ServerErrorKind::ResponseError),
                "An error was signalled by the server",
                text.to_owned(),
            ))
        };
        let wrapped = "Error running script (call to f_1): @user_script:9: @user_script: 9: \
            -READONLY You can't write against a read only replica.";
        assert!(is_lost(&error(wrapped)));
        assert!(is_lost(&error("NOAUTH Authentication required.")));
        assert!(!is_lost(&error(
            "Error running script (call to f_1): WRONGTYPE Operation against a key holding the \
             wrong kind of value"
        )));
        assert!(!is_lost(&error("OOM command not allowed when used memory > 'maxmemory'.")));
    }
}
