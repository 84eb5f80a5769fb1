//! The [`Identify`] trait and its answers.

use std::{error::Error, fmt, future::Future, pin::Pin, sync::Arc};

use http::HeaderName;

use super::{Identity, RequestHead};
use crate::{Name, condition::Condition};

/// Identifies the caller of a request.
///
/// ```
/// use std::sync::Arc;
/// use tower_credits::{
///     Identity,
///     identify::{Identify, IdentifyError, Identifying, RequestHead},
/// };
///
/// /// All requests are one customer's.
/// #[derive(Debug)]
/// struct SingleCustomer(Arc<Identity>);
///
/// impl Identify for SingleCustomer {
///     fn identify(&self, head: RequestHead<'_>) -> Identifying {
///         Identifying::Ready(if head.headers.contains_key("x-key") {
///             Ok(Arc::clone(&self.0))
///         } else {
///             Err(IdentifyError::Missing)
///         })
///     }
/// }
/// ```
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// Identifies the caller of a request: at once if the answer is known in this process, or else
    /// in a future. The future borrows nothing, so take what it needs from the head first.
    fn identify(&self, head: RequestHead<'_>) -> Identifying;

    /// Returns the name of the cookie that callers' browsers keep their token in. The billing
    /// page's sign-in sets it. Default: `None`, no cookie is accepted.
    fn cookie(&self) -> Option<&Name> {
        None
    }

    /// Returns the name of a header field in which callers may send their token instead of
    /// `Authorization: Bearer`. Denials with 401 name it. Default: `None`.
    fn api_key_header(&self) -> Option<&HeaderName> {
        None
    }

    /// Says in a few words how callers are identified, for the log line of a node that starts.
    /// Default: `code of the host`.
    fn describe(&self) -> String {
        "code of the host".to_owned()
    }

    /// Checks that callers can be identified: that a server behind this answers, for example.
    /// [`CreditMeter::health`](crate::CreditMeter::health) calls it. Default: they can.
    fn check(&self) -> Pin<Box<dyn Future<Output = Condition> + Send + '_>> {
        Box::pin(std::future::ready(Condition::Well))
    }
}

/// Callers whose credentials are chosen while the program runs.
impl<I: Identify + ?Sized> Identify for Arc<I> {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        (**self).identify(head)
    }

    fn cookie(&self) -> Option<&Name> {
        (**self).cookie()
    }

    fn api_key_header(&self) -> Option<&HeaderName> {
        (**self).api_key_header()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn check(&self) -> Pin<Box<dyn Future<Output = Condition> + Send + '_>> {
        (**self).check()
    }
}

/// Answer of [`Identify`]. No variant will be added.
pub enum Identifying {
    /// The answer.
    Ready(Result<Arc<Identity>, IdentifyError>),
    /// A future of the answer, which waits for something outside of this process.
    Later(Pin<Box<dyn Future<Output = Result<Arc<Identity>, IdentifyError>> + Send>>),
}

impl fmt::Debug for Identifying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(answer) => f.debug_tuple("Ready").field(answer).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// Reason why a caller was not identified.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// The request has no credentials. 401.
    #[error("no credentials")]
    Missing,
    /// The request's credentials are unknown. 401.
    #[error("unknown credentials")]
    Invalid,
    /// The subject is not a member of the organisation to bill, or there is no such organisation.
    /// 403.
    #[error("not a member of the organisation to bill")]
    NotAMember,
    /// The credentials are in a cookie, and another site's page may have sent the request. 403.
    #[error("a cookie from another origin")]
    CrossOrigin,
    /// The credentials cannot be checked now. 503.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(Arc<dyn Error + Send + Sync>),
}
