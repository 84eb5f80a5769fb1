//! The context of billing: everything that is the same for all requests of an identity for a
//! workload in a month. It is made once, and shared by these requests. Most of it is the plan's,
//! and shared by all accounts of a tier: with many of them, what each has of its own is what memory
//! and caches are full of.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    read_ahead::ReadAheadBudget,
    report_history::{ReportHistories, ReportHistory},
    shared_clock::{SharedClock, SharedClocks},
};
use crate::{
    Account, Credits, Identity, Limits, Part, Period, Plan,
    clock::Clock,
    identify::Subject,
    lease::SliceRequest,
    ledger::AccountRate,
    plan::{
        Currency, LimitScope, RateWindow, RequestCap, RequestQuota, Tier, TierName, Unbilled,
        Workload,
    },
    tariff::Tariff,
    terms::{LeaseScope, PartTerms, StatedTerms},
};

/// The least compute time for which a request is admitted.
pub(crate) const MIN_ADMITTED_TIME: Duration = Duration::from_millis(50);

/// The instruments that all requests of a meter are measured with.
#[derive(Debug)]
pub(crate) struct Instruments {
    /// The clock of compute time, if it is not the leases' clock.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) histories: ReportHistories,
    pub(crate) shared_clocks: SharedClocks,
    pub(crate) read_ahead: Arc<ReadAheadBudget>,
    /// The shortest slice: long enough to be refilled in time.
    pub(crate) min_hold: Duration,
    pub(crate) plan_contexts: PlanContexts,
}

/// The tier of an identity is not in the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnknownTier;

/// Everything that is the same for all requests of an identity for a workload in a month.
#[derive(Clone, Debug)]
pub(crate) struct BillingContext {
    /// A number that no other context of this process has.
    pub(crate) number: u64,
    pub(crate) account: Account,
    /// The part of the account that asks.
    pub(crate) part: Option<Part>,
    pub(crate) subject: Subject,
    /// The tier's name, in the memory in which the identity has it.
    pub(crate) tier: TierName,
    pub(crate) stated: Arc<StatedTerms>,
    pub(crate) plan: Arc<PlanContext>,
    pub(crate) period: Period,
}

/// Everything that is the same for all requests of a tier for a workload.
#[derive(Debug)]
pub(crate) struct PlanContext {
    pub(crate) tier: Arc<Tier>,
    pub(crate) workload: Arc<Workload>,
    /// The prices of its workload in its tier.
    pub(crate) tariff: Tariff,
    /// The terms of identities without a part.
    stated: Arc<StatedTerms>,
    /// The models of its workload, if the tier limits what is used of them.
    models: Option<(Part, Limits)>,
    /// `true` if the tier does not allow the workload's model.
    pub(crate) is_model_denied: bool,
    /// The hold that a running request is refilled to.
    pub(super) refill: Credits,
    pub(crate) want: SliceRequest,
    /// The most that a request may use, in compute time or in cost.
    pub(super) cap: Option<RequestCap>,
    /// `true` if the plan's cap does not pay for the begin of a request.
    pub(crate) is_cap_too_low: bool,
    /// The outcomes that are not billed.
    pub(crate) unbilled: Option<Arc<Unbilled>>,
    /// The label of amounts in what its caller reads.
    pub(crate) currency: Currency,
    /// The clock of compute time, if it is not the leases' clock.
    pub(super) clock: Option<Arc<dyn Clock>>,
    /// The clock of the hardware, if requests share it.
    pub(super) shared_clock: Option<Arc<SharedClock>>,
    pub(super) history: Arc<ReportHistory>,
    pub(crate) read_ahead: Arc<ReadAheadBudget>,
}

impl BillingContext {
    pub(crate) fn new(
        instruments: &Instruments,
        plan: &Plan,
        identity: &Identity,
        workload: Arc<Workload>,
        period: Period,
    ) -> Result<Self, UnknownTier> {
        let plan = instruments.plan_contexts.of(instruments, plan, &identity.tier, workload)?;
        let stated = if identity.part.is_none() {
            Arc::clone(&plan.stated)
        } else {
            Arc::new(stated_terms(&plan.tier, identity.part.as_ref(), plan.models.as_ref()))
        };
        Ok(Self {
            number: next_number(),
            account: identity.account.clone(),
            part: identity.part.clone(),
            subject: identity.subject.clone(),
            tier: identity.tier.clone(),
            stated,
            plan,
            period,
        })
    }

    /// Returns what its leases draw on.
    pub(crate) fn scope(&self) -> LeaseScope {
        LeaseScope {
            account: self.account.clone(),
            part: self.part.clone(),
            models: self.plan.models.as_ref().map(|(part, _)| part.clone()),
            period: self.period,
        }
    }

    /// Returns the same context in another month.
    pub(crate) fn in_period(&self, period: Period) -> Self {
        Self { number: next_number(), period, ..self.clone() }
    }
}

impl PlanContext {
    fn new(
        instruments: &Instruments,
        plan: &Plan,
        tier: &TierName,
        workload: Arc<Workload>,
    ) -> Result<Self, UnknownTier> {
        let tier = plan.tier(tier).cloned().ok_or(UnknownTier)?;
        let tariff = workload.tariff(tier.price_factor);
        let rule = tier.rule_for(workload.model.as_str());
        let is_model_denied = rule.is_some_and(|rule| rule.deny);
        let models = rule.filter(|rule| !rule.limits.is_none());
        let models = models.map(|rule| (Part::of_models(&rule.pattern), rule.limits));
        let stated = Arc::new(stated_terms(&tier, None, models.as_ref()));
        let cap = tier.most_per_request;
        let longest = cap.map(|cap| match cap {
            RequestCap::Compute(time) => time,
            RequestCap::Cost(cost) => tariff.runway(cost),
        });
        let hold = longest.unwrap_or(Duration::MAX).min(tier.hold.max(instruments.min_hold));
        // If anything costs something, so does a request, however short it has to be.
        let min_cost = if tariff.is_free() { Credits::ZERO } else { Credits::SMALLEST };
        let cost = |time: Duration| tariff.cost(time).max(min_cost);
        let refill = tariff.cost_of_time(hold);
        let least_hold = workload.hold;
        let least = cost(MIN_ADMITTED_TIME.min(hold)).max(least_hold);
        let hold = cost(hold).max(least_hold);
        let want = SliceRequest {
            hold,
            min_slice: least,
            first_refill_after: tariff.first_refill_after(hold),
            max_concurrent: tier.most_running,
            rate: tier.requests.and_then(over_all_nodes),
            most_running: tier
                .most_running
                .filter(|_| tier.most_running_scope == LimitScope::Account),
        };
        Ok(Self {
            stated,
            models,
            is_model_denied,
            is_cap_too_low: cap.is_some_and(|cap| match cap {
                RequestCap::Cost(most) => most < tariff.cost(Duration::ZERO),
                RequestCap::Compute(_) => false,
            }),
            unbilled: plan.unbilled().cloned(),
            currency: plan.currency(),
            tier,
            shared_clock: workload.shared.then(|| instruments.shared_clocks.of(&workload.hardware)),
            history: instruments.histories.of(&workload),
            tariff,
            refill,
            workload,
            want,
            cap,
            clock: instruments.clock.clone(),
            read_ahead: Arc::clone(&instruments.read_ahead),
        })
    }
}

/// The contexts of a meter's plan, made once for each tier and workload.
#[derive(Debug, Default)]
pub(crate) struct PlanContexts(Mutex<HashMap<PlanKey, Arc<PlanContext>>>);

/// The number of a plan, a tier's name, and where a workload of the plan is in memory: it stays
/// there as long as the context has it.
type PlanKey = (u64, TierName, usize);

impl PlanContexts {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn of(
        &self,
        instruments: &Instruments,
        plan: &Plan,
        tier: &TierName,
        workload: Arc<Workload>,
    ) -> Result<Arc<PlanContext>, UnknownTier> {
        if Arc::strong_count(&workload) == 1 {
            // Made for this request alone: no other request has this workload.
            return PlanContext::new(instruments, plan, tier, workload).map(Arc::new);
        }
        let key = (plan.number(), tier.clone(), Arc::as_ptr(&workload).addr());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = lock().get(&key) {
            return Ok(Arc::clone(context));
        }
        let context = Arc::new(PlanContext::new(instruments, plan, tier, workload)?);
        let mut contexts = lock();
        // A plan that was replaced by this one is of no use any more. Of one that comes back, a
        // few contexts may stay until the next.
        contexts.retain(|(number, ..), _| *number >= plan.number());
        Ok(Arc::clone(contexts.entry(key).or_insert(context)))
    }
}

/// Returns what requests of a tier state, from this part of an account, and for models that have
/// limits of their own.
fn stated_terms(tier: &Tier, part: Option<&Part>, models: Option<&(Part, Limits)>) -> StatedTerms {
    let limits = |depth: usize| tier.part_limits.get(depth).copied().unwrap_or_default();
    let parts = part.into_iter().flat_map(Part::path).enumerate();
    let parts = parts
        .map(|(depth, part)| PartTerms { part, limits: limits(depth) })
        .chain(models.cloned().map(|(part, limits)| PartTerms { part, limits }));
    StatedTerms { terms: tier.terms(), most_per_day: tier.most_per_day, parts: parts.collect() }
}

/// Returns a request rate as the ledger counts it; `None` if each node counts for itself.
fn over_all_nodes(quota: RequestQuota) -> Option<AccountRate> {
    let RequestQuota { count, per, burst, scope, window } = quota;
    let burst = match window {
        RateWindow::Sliding => Some(burst),
        RateWindow::Fixed => None,
    };
    (scope == LimitScope::Account).then_some(AccountRate { count, per, burst })
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
