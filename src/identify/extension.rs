//! Identification by the host's own authentication.

use std::sync::Arc;

use super::{Identify, IdentifyError, Identifying, Identity, RequestHead};

/// Takes the [`Identity`] that the host's own authentication inserted into the request's
/// extensions, as it is or in an `Arc`. A request without one is denied with 401.
///
/// ```
/// use tower_credits::{
///     Account, CreditMeter, Identity, MemoryLedger, Plan,
///     identify::IdentityFromExtensions,
/// };
///
/// # let plan = Plan::from_toml("[tiers.free]\nincluded = \"0.10\"\nwhen_used_up = \"block\"")?;
/// let meter = CreditMeter::new(plan, MemoryLedger::new(), IdentityFromExtensions);
///
/// // In the host's authentication, which handles a request before the meter does:
/// # let mut request = http::Request::new(());
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?);
/// request.extensions_mut().insert(alice);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityFromExtensions;

impl Identify for IdentityFromExtensions {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let shared = head.extensions.get::<Arc<Identity>>().cloned();
        let found = shared.or_else(|| head.extensions.get::<Identity>().cloned().map(Arc::new));
        Identifying::Ready(found.ok_or(IdentifyError::Missing))
    }
}
