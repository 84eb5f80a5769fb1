//! Identification by an async function.

use std::{fmt, future::Future, sync::Arc};

use super::{Identify, IdentifyError, Identifying, Identity, RequestHead};

/// Identifies callers with an async function: the host's session store, its database, another
/// service.
///
/// The function takes what it needs from the head and returns a future that borrows nothing:
///
/// ```
/// use tower_credits::{
///     Account, CreditMeter, Identity, MemoryLedger, Plan,
///     identify::{IdentifyError, IdentifyWith},
/// };
///
/// # let plan = Plan::from_toml("[tiers.free]\nincluded = \"0.10\"\nwhen_used_up = \"block\"")?;
/// let identify = IdentifyWith::new(|head| {
///     let session = head.headers.get("x-session").and_then(|value| value.to_str().ok());
///     let session = session.map(str::to_owned);
///     async move {
///         let user = session.ok_or(IdentifyError::Missing)?; // look it up here
///         let identity = || {
///             Ok(Identity::new(user.parse()?, Account::user(&user)?, "free".parse()?))
///         };
///         identity().map_err(|_: tower_credits::NameError| IdentifyError::Invalid)
///     }
/// });
/// let meter = CreditMeter::new(plan, MemoryLedger::new(), identify);
/// # Ok::<(), tower_credits::plan::PlanError>(())
/// ```
#[derive(Clone, Copy)]
pub struct IdentifyWith<F>(F);

impl<F> IdentifyWith<F> {
    /// Returns an [`Identify`] that calls this function for each request.
    pub const fn new<Answer>(identify: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<Identity, IdentifyError>> + Send + 'static,
    {
        Self(identify)
    }
}

impl<F, Answer> Identify for IdentifyWith<F>
where
    F: Fn(RequestHead<'_>) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Identity, IdentifyError>> + Send + 'static,
{
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let answer = (self.0)(head);
        Identifying::Later(Box::pin(async move { answer.await.map(Arc::new) }))
    }
}

impl<F> fmt::Debug for IdentifyWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentifyWith")
    }
}
