//! The context of billing: everything that is the same for all requests of an identity for a
//! workload in a month. It is made once, and shared by these requests.

use std::{
    sync::{
        Arc,
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
    plan::{Currency, LimitScope, RateWindow, RequestCap, RequestQuota, Tier, Unbilled, Workload},
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
    pub(crate) tier: Arc<Tier>,
    pub(crate) stated: StatedTerms,
    /// The models of its workload, if the tier limits what is used of them.
    models: Option<Part>,
    /// `true` if the tier does not allow the workload's model.
    pub(crate) is_model_denied: bool,
    pub(crate) workload: Arc<Workload>,
    /// The prices of its workload in its tier.
    pub(crate) tariff: Tariff,
    /// The hold that a running request is refilled to.
    pub(super) refill: Credits,
    pub(crate) period: Period,
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
        let tier = plan.tier(&identity.tier).cloned().ok_or(UnknownTier)?;
        let tariff = workload.tariff(tier.price_factor);
        let rule = tier.rule_for(workload.model.as_str());
        let is_model_denied = rule.is_some_and(|rule| rule.deny);
        let models = rule.filter(|rule| !rule.limits.is_none());
        let models = models.map(|rule| (Part::of_models(&rule.pattern), rule.limits));
        let stated = stated_terms(&tier, identity.part.as_ref(), models.as_ref());
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
            number: next_number(),
            account: identity.account.clone(),
            subject: identity.subject.clone(),
            stated,
            models: models.map(|(part, _)| part),
            is_model_denied,
            is_cap_too_low: cap.is_some_and(|cap| match cap {
                RequestCap::Cost(most) => most < tariff.cost(Duration::ZERO),
                RequestCap::Compute(_) => false,
            }),
            unbilled: plan.unbilled().cloned(),
            currency: plan.currency(),
            part: identity.part.clone(),
            tier,
            shared_clock: workload.shared.then(|| instruments.shared_clocks.of(&workload.hardware)),
            history: instruments.histories.of(&workload),
            tariff,
            refill,
            workload,
            period,
            want,
            cap,
            clock: instruments.clock.clone(),
            read_ahead: Arc::clone(&instruments.read_ahead),
        })
    }

    /// Returns what its leases draw on.
    pub(crate) fn scope(&self) -> LeaseScope {
        let (account, part) = (self.account.clone(), self.part.clone());
        LeaseScope { account, part, models: self.models.clone(), period: self.period }
    }

    /// Returns the same context in another month.
    pub(crate) fn in_period(&self, period: Period) -> Self {
        Self { number: next_number(), period, ..self.clone() }
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
