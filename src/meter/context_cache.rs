//! The billing contexts that a meter made for an identity, stored with the identity, so that its
//! next request finds them at once.

use std::{borrow::Cow, sync::Arc};

use super::credit_meter::CreditMeter;
use crate::{
    Identity, Period, Plan,
    keeper::{AccountHandle, WeakAccountHandle},
    metering::BillingContext,
    plan::Workload,
    rejection::Rejection,
};

/// The most contexts that are stored with an identity; most identities use fewer workloads.
const MAX_CACHED_CONTEXTS: usize = 8;

/// The contexts of one identity. Most identities have one, which is at hand here.
struct Contexts {
    newest: CachedContext,
    /// The newer ones first.
    others: Vec<CachedContext>,
}

impl Contexts {
    fn iter(&self) -> impl Iterator<Item = &CachedContext> {
        std::iter::once(&self.newest).chain(&self.others)
    }
}

/// A context, and beside it what says for which requests it is and the context does not. With many
/// accounts, each step to another place in memory costs more than what is done there: that to the
/// context is taken in any case.
#[derive(Clone)]
struct CachedContext {
    /// Number of the meter that made it.
    meter: u64,
    /// Number of the plan by which it was made.
    plan: u64,
    context: Arc<BillingContext>,
    handle: WeakAccountHandle,
}

impl CachedContext {
    /// `true` if it is that of an identity for a workload. The fields of an identity may be changed
    /// in a clone, which shares its cache; if they were not, their texts are the same memory.
    fn is(&self, identity: &Identity, workload: &Arc<Workload>) -> bool {
        let BillingContext { account, part, subject, tier, plan, .. } = &*self.context;
        let is_same_part = match (part, &identity.part) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is(other),
            _ => false,
        };
        Arc::ptr_eq(&plan.workload, workload)
            && account.is(&identity.account)
            && subject.is(&identity.subject)
            && tier.is(&identity.tier)
            && is_same_part
    }
}

/// Returns the context of a request, and its account's handle. They come from the identity's cache,
/// or are made and stored there.
pub(super) fn find_context(
    meter: &CreditMeter,
    plan: &Plan,
    identity: &Identity,
    workload: Cow<'_, Arc<Workload>>,
    period: Period,
) -> Result<(Arc<BillingContext>, AccountHandle), Rejection> {
    let number = meter.inner.number;
    let stored = identity.cache.load();
    let stored = stored.as_ref().and_then(|stored| stored.downcast_ref::<Contexts>());
    let is_it = |cached: &&CachedContext| {
        cached.meter == number
            && cached.plan == plan.number()
            && cached.context.period == period
            && cached.is(identity, &workload)
    };
    if let Some(cached) = stored.and_then(|stored| stored.iter().find(is_it))
        && let Some(handle) = cached.handle.upgrade(meter.inner.keeper.table())
    {
        return Ok((Arc::clone(&cached.context), handle));
    }
    let instruments = &meter.inner.instruments;
    let workload = workload.into_owned();
    let context = BillingContext::new(instruments, plan, identity, workload, period);
    let context = Arc::new(context.map_err(|_| unknown_tier(identity))?);
    let handle = AccountHandle::open(meter.inner.keeper.table(), &context.scope())?;
    if Arc::strong_count(&context.plan.workload) == 1 {
        // Made for this request alone: no other request has this workload.
        return Ok((context, handle));
    }
    let is_current = |other: &&CachedContext| {
        let is_replaced = other.meter == number && other.is(identity, &context.plan.workload);
        !is_replaced && other.plan == plan.number()
    };
    let others = stored.into_iter().flat_map(Contexts::iter).filter(is_current);
    let others = others.take(MAX_CACHED_CONTEXTS - 1).cloned().collect();
    let newest = CachedContext {
        meter: number,
        plan: plan.number(),
        context: Arc::clone(&context),
        handle: handle.downgrade(),
    };
    identity.cache.store(Box::new(Contexts { newest, others }));
    Ok((context, handle))
}

fn unknown_tier(identity: &Identity) -> Rejection {
    let Identity { account, tier, .. } = identity;
    tracing::error!(
        target: "tower_credits", %account, %tier,
        "an identity's tier is not in the plan: add [tiers.{tier}]"
    );
    Rejection::UnknownTier
}
