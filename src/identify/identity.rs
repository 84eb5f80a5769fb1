//! Identities: who asks, who pays, and which tier applies.

use std::{
    any::Any,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::Subject;
use crate::{Account, NameError, Part, plan::TierName};

/// The caller of a request, the account that pays, and its tier.
///
/// ```
/// use tower_credits::{Account, Identity};
///
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?)
///     .member_of("acme", "enterprise".parse()?)?;
/// assert_eq!(alice.organisations().collect::<Vec<_>>(), [&Account::org("acme")?]);
/// # Ok::<(), tower_credits::NameError>(())
/// ```
///
/// Cache an identity and return clones of it if you can: a meter attaches to it what it found out
/// once, and clones share that.
#[derive(Clone)]
#[non_exhaustive]
pub struct Identity {
    /// The caller, as the usage lines of the bill show it.
    pub subject: Subject,
    /// The account that pays.
    pub account: Account,
    /// The name of the account's tier in the plan.
    pub tier: TierName,
    /// The part of the account that asks, for example a group and a member of it; `None` for the
    /// account as a whole. Its spending has limits of its own.
    pub part: Option<Part>,
    /// The same subject, with each organisation that it may bill as the account.
    memberships: Arc<Vec<Arc<Self>>>,
    pub(crate) cache: IdentityCache,
}

impl Identity {
    /// Returns the identity of a subject whose requests this account of this tier pays for.
    pub fn new(subject: Subject, account: Account, tier: TierName) -> Self {
        Self {
            subject,
            account,
            tier,
            part: None,
            memberships: Arc::default(),
            cache: IdentityCache::default(),
        }
    }

    /// Sets the part of the account that asks.
    ///
    /// ```
    /// use tower_credits::{Account, Identity};
    ///
    /// let acme = Account::org("acme")?;
    /// let key = Identity::new("ci".parse()?, acme, "enterprise".parse()?)
    ///     .in_part("research/alice/ci".parse()?);
    /// # Ok::<(), tower_credits::NameError>(())
    /// ```
    #[must_use]
    pub fn in_part(self, part: Part) -> Self {
        Self { part: Some(part), ..self }
    }

    /// Lets the subject also bill this organisation, given by its id without `org:`. `tier` is the
    /// organisation's.
    ///
    /// The organisation pays for the requests that name it in the field
    /// [`X-HF-Bill-To`](crate::CreditMeterBuilder::bill_to_header).
    ///
    /// # Errors
    ///
    /// [`NameError`] if the id cannot be part of an [`Account`].
    pub fn member_of(self, organisation: &str, tier: TierName) -> Result<Self, NameError> {
        self.member_in(organisation, None, tier)
    }

    /// Lets the subject also bill this organisation, as a part of it.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the id cannot be part of an [`Account`].
    pub fn member_in(
        mut self,
        organisation: &str,
        part: Option<Part>,
        tier: TierName,
    ) -> Result<Self, NameError> {
        let mut member = Self::new(self.subject.clone(), Account::org(organisation)?, tier);
        member.part = part;
        let memberships = Arc::make_mut(&mut self.memberships);
        memberships.retain(|other| other.account != member.account);
        memberships.push(Arc::new(member));
        Ok(self)
    }

    /// Returns the organisations that the subject may bill.
    pub fn organisations(&self) -> impl Iterator<Item = &Account> {
        self.memberships.iter().map(|member| &member.account)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn memberships(&self) -> &[Arc<Self>] {
        &self.memberships
    }

    /// Returns the same subject, billed to an organisation. `None` if the subject may not bill it,
    /// whether or not there is one of that id.
    pub(crate) fn billed_to(self: &Arc<Self>, organisation: &str) -> Option<Arc<Self>> {
        let pays = |identity: &Self| identity.account.organisation() == Some(organisation);
        if pays(self) {
            return Some(Arc::clone(self));
        }
        self.memberships.iter().find(|member| pays(member)).cloned()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.account == other.account
            && self.tier == other.tier
            && self.part == other.part
            && self.memberships == other.memberships
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, account, tier, part, memberships, cache: _ } = self;
        let organisations = memberships.iter().map(|member| &member.account).collect::<Vec<_>>();
        let mut debug = f.debug_struct("Identity");
        debug
            .field("subject", subject)
            .field("account", account)
            .field("tier", tier)
            .field("part", part)
            .field("organisations", &organisations)
            .finish()
    }
}

/// Results that a meter stores with an identity, shared by the identity's clones.
///
/// The fields of an identity may be changed after it was cached, so a reader checks that what it
/// reads is about the identity that it has.
///
/// A lock, whose value is beside it in memory: with many accounts, each step to another place costs
/// more than the lock.
#[derive(Clone, Default)]
pub(crate) struct IdentityCache(Arc<RwLock<Option<Cached>>>);

/// A value of the type that the meter chooses.
pub(crate) type Cached = Box<dyn Any + Send + Sync>;

impl IdentityCache {
    /// Returns the value, locked: a reader keeps it shortly and calls no code of the host.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Option<Cached>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self, value: Cached) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}
