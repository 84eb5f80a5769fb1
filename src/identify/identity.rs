//! Who asks and who pays, and the trait that says so.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use arc_swap::ArcSwapOption;
use http::{
    Extensions, HeaderMap, HeaderName, Method, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN, UPGRADE},
};

use crate::{Account, Name, NameError};

/// Who asks, who pays, and which tier applies.
///
/// Keep it and hand out the same one, or clones of it, where that is easy: what a meter found out
/// about it once is found again at once.
#[derive(Clone)]
#[non_exhaustive]
pub struct Identity {
    /// Who asks; stands on the usage lines.
    pub subject: Name,
    /// Who pays.
    pub account: Account,
    /// The name of the payer's tier in the plan.
    pub tier: Name,
    /// The same subject, where an organisation pays.
    memberships: Arc<Vec<Arc<Identity>>>,
    pub(crate) home: Home,
}

/// What a meter found out about an identity. Clones of an identity share it; whoever reads it makes
/// sure that it is about the same.
#[derive(Clone, Default)]
pub(crate) struct Home(Arc<ArcSwapOption<Found>>);

/// Of whatever type the meter likes.
pub(crate) type Found = Box<dyn std::any::Any + Send + Sync>;

impl Home {
    pub(crate) fn look(&self) -> arc_swap::Guard<Option<Arc<Found>>> {
        self.0.load()
    }

    pub(crate) fn put(&self, found: Found) {
        self.0.store(Some(Arc::new(found)));
    }
}

impl Identity {
    /// A subject that asks, an account that pays, and the name of that account's tier.
    pub fn new(subject: Name, account: Account, tier: Name) -> Self {
        Self { subject, account, tier, memberships: Arc::default(), home: Home::default() }
    }

    /// The subject may also bill this organisation, by its id, whose tier has this name. It does
    /// where the request says so, in the field
    /// [`X-HF-Bill-To`](crate::CreditMeterBuilder::bill_to_header).
    ///
    /// # Errors
    ///
    /// [`NameError`] where the id is none.
    pub fn member_of(mut self, organisation: &str, tier: Name) -> Result<Self, NameError> {
        let member = Self::new(self.subject.clone(), Account::org(organisation)?, tier);
        let memberships = Arc::make_mut(&mut self.memberships);
        memberships.retain(|known| known.account != member.account);
        memberships.push(Arc::new(member));
        Ok(self)
    }

    /// The organisations that the subject may bill.
    pub fn organisations(&self) -> impl Iterator<Item = &Account> {
        self.memberships.iter().map(|member| &member.account)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn memberships(&self) -> &[Arc<Self>] {
        &self.memberships
    }

    /// The same subject, billed to an organisation: `None` where it may not, whether there is one
    /// of that id or not.
    pub(crate) fn billed_to(self: &Arc<Self>, organisation: &str) -> Option<Arc<Self>> {
        let is_it = |identity: &Self| identity.account.organisation() == Some(organisation);
        if is_it(self) {
            return Some(Arc::clone(self));
        }
        self.memberships.iter().find(|member| is_it(member)).cloned()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.account == other.account
            && self.tier == other.tier
            && self.memberships == other.memberships
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, account, tier, memberships, home: _ } = self;
        let organisations = memberships.iter().map(|member| &member.account).collect::<Vec<_>>();
        let mut debug = f.debug_struct("Identity");
        debug
            .field("subject", subject)
            .field("account", account)
            .field("tier", tier)
            .field("organisations", &organisations)
            .finish()
    }
}

/// What is known of a request before its body is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its extensions.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a http::Request<B>> for RequestHead<'a> {
    fn from(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a http::request::Parts> for RequestHead<'a> {
    fn from(parts: &'a http::request::Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

impl RequestHead<'_> {
    /// `true` if a browser asks what it may send (Fetch standard, "CORS-preflight request"). It
    /// asks without credentials.
    pub(crate) fn is_preflight(&self) -> bool {
        let has = |name: HeaderName| self.headers.contains_key(name);
        let asks =
            self.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD);
        // No browser sends these with it; whoever does wants something else.
        asks && !has(AUTHORIZATION) && !has(COOKIE) && !has(UPGRADE)
    }
}

/// Says who asks.
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// Says who asks: at once where that is known here, or later. What is needed later is taken
    /// from the head now.
    fn identify(&self, head: RequestHead<'_>) -> Identifying;

    /// The cookie that browsers keep their token in, where it takes one: what the billing page's
    /// sign-in sets.
    fn cookie(&self) -> Option<&Name> {
        None
    }
}

/// An answer of [`Identify`]. Closed.
pub enum Identifying {
    /// Known here and now.
    Ready(Result<Arc<Identity>, IdentifyError>),
    /// Somebody else must be asked first.
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

/// Why nobody was identified.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// No credentials came with the request.
    #[error("no credentials")]
    Missing,
    /// Credentials came, and are not known.
    #[error("unknown credentials")]
    Invalid,
    /// The subject is not a member of the organisation to bill, or there is none of that name.
    #[error("not a member of the organisation to bill")]
    NotAMember,
    /// A cookie came with a request that another site's page may have made.
    #[error("a cookie from another origin")]
    CrossOrigin,
    /// It cannot be told now.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
}

/// Asks an async function who asks: the host's session store, its database, another service.
///
/// The function takes what it needs from the head and answers a future that borrows nothing:
///
/// ```
/// use tower_credits::{Account, CreditMeter, Identity, MemoryLedger, Plan, identify::{IdentifyError, IdentifyWith}};
///
/// # let plan = Plan::from_toml("[tiers.free]\nincluded = \"0.10\"\nwhen_used_up = \"block\"")?;
/// let identify = IdentifyWith::new(|head| {
///     let session = head.headers.get("x-session").and_then(|value| value.to_str().ok()).map(str::to_owned);
///     async move {
///         let user = session.ok_or(IdentifyError::Missing)?; // and look it up
///         let name = |text: &str| text.parse().map_err(|_| IdentifyError::Invalid);
///         let account = Account::user(&user).map_err(|_| IdentifyError::Invalid)?;
///         Ok(Identity::new(name(&user)?, account, name("free")?))
///     }
/// });
/// let meter = CreditMeter::new(plan, MemoryLedger::new(), identify);
/// # Ok::<(), tower_credits::plan::PlanError>(())
/// ```
#[derive(Clone, Copy)]
pub struct IdentifyWith<F>(F);

impl<F> IdentifyWith<F> {
    /// Asks this function, for each request.
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

/// Takes the [`Identity`] that the host's own authentication put into the request's extensions (as
/// it is, or in an `Arc`).
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityFromExtensions;

impl Identify for IdentityFromExtensions {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let shared = head.extensions.get::<Arc<Identity>>().cloned();
        let found = shared.or_else(|| head.extensions.get::<Identity>().cloned().map(Arc::new));
        Identifying::Ready(found.ok_or(IdentifyError::Missing))
    }
}
