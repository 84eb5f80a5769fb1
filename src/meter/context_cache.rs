//! The billing contexts that a meter made for an identity, stored with the identity, so that its
//! next request finds them at once.

use std::{borrow::Cow, sync::Arc};

use super::credit_meter::CreditMeter;
use crate::{
    Identity, Period, Plan,
    identify::Cached,
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
    others: Box<[CachedContext]>,
}

impl Contexts {
    /// Returns what an identity has of them.
    fn of(stored: Option<&Cached>) -> Option<&Self> {
        stored?.downcast_ref()
    }

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
    let is_it = |cached: &&CachedContext| {
        cached.meter == number
            && cached.plan == plan.number()
            && cached.context.period == period
            && cached.is(identity, &workload)
    };
    let stored = identity.cache.read();
    if let Some(cached) = Contexts::of(stored.as_ref()).and_then(|stored| stored.iter().find(is_it))
        && let Some(handle) = cached.handle.upgrade(meter.inner.keeper.table())
    {
        return Ok((Arc::clone(&cached.context), handle));
    }
    drop(stored);
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
    let stored = identity.cache.read();
    let others = Contexts::of(stored.as_ref()).into_iter().flat_map(Contexts::iter);
    let others = others.filter(is_current);
    let others = others.take(MAX_CACHED_CONTEXTS - 1).cloned().collect();
    drop(stored);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{
        MemoryLedger,
        identify::{Identify, IdentifyError, Identifying, RequestHead},
        plan::Classification,
    };

    /// One caller, who is known at once or after a while.
    #[derive(Debug)]
    struct One(Arc<Identity>, bool);

    impl Identify for One {
        fn identify(&self, _: RequestHead<'_>) -> Identifying {
            let answer: Result<_, IdentifyError> = Ok(Arc::clone(&self.0));
            if self.1 {
                Identifying::Later(Box::pin(async { answer }))
            } else {
                Identifying::Ready(answer)
            }
        }
    }

    const PLAN: &str = r#"
        [hardware.gpu]
        price_per_second = "0.00012"
        [models.echo]
        hardware = "gpu"
        [routes]
        "/echo" = { model = "echo" }
        otherwise = { hardware = "gpu" }
        [tiers.pro]
        included = "2.00"
        when_used_up = "pay-as-you-go"
    "#;

    const LATER_PRICES: &str = r#"
        [[hardware.gpu.prices]]
        from = "2020-01-01T00:00:00Z"
        price_per_second = "0.00024"
    "#;

    /// Requests that run what no other runs, by the plan's `otherwise` and by the host's
    /// classifier, leave nothing behind; those of a workload of the plan leave one context.
    #[tokio::test]
    async fn a_context_of_a_single_request_is_not_kept() {
        for (is_later, prices) in
            [(false, ""), (true, ""), (false, LATER_PRICES), (true, LATER_PRICES)]
        {
            let name = |text: &str| text.parse().unwrap();
            let account = crate::Account::user("alice").unwrap();
            let alice =
                Arc::new(Identity::new("alice".parse().unwrap(), account, "pro".parse().unwrap()));
            let identify = || One(Arc::clone(&alice), is_later);
            let builder = |plan| CreditMeter::builder(plan, MemoryLedger::new(), identify());
            let number = std::sync::atomic::AtomicUsize::new(0);
            let made = move |_: RequestHead<'_>, plan: &Plan| {
                let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                plan.workload("echo", &name(&format!("feature-{number}")))
                    .map_or(Classification::Unknown, Classification::Workload)
            };
            let plan = Plan::from_toml(&format!("{PLAN}{prices}")).unwrap();
            let by_plan = builder(plan.clone()).build().unwrap();
            let by_host = builder(plan).classify(made).build().unwrap();
            for (meter, path, kept) in
                [(&by_plan, "/x", 0), (&by_host, "/x", 0), (&by_plan, "/echo", 1)]
            {
                for number in 0..20 {
                    let service = meter.layer(service_fn(async |_: Request<Empty<Bytes>>| {
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }));
                    let path = if kept == 0 { format!("{path}/{number}") } else { path.to_owned() };
                    let request = Request::post(path).body(Empty::new()).unwrap();
                    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
                }
                let has_cache = alice.cache.read().is_some();
                let contexts = meter.inner.instruments.plan_contexts.len();
                assert_eq!((contexts, has_cache), (kept, kept == 1), "{path}, later: {is_later}");
            }
        }
    }
}
