//! What is the same for all requests of an identity for a workload in a month: found out once, and
//! found again with the identity.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{charge::Kept, layer::CreditMeter, read_ahead::ReadAhead, reporting::Reporting};
use crate::{
    Account, Credits, Identity, Period, Plan,
    clock::Clock,
    identify::Subject,
    lease::{Seat, SeatTaken, Want},
    ledger::Terms,
    plan::{RequestCap, Tier, Workload},
    rejection::Rejection,
};

/// The least compute time that a request is admitted for.
pub(crate) const LEAST: Duration = Duration::from_millis(50);

/// As many are kept with an identity; most identities use fewer workloads.
const MOST: usize = 8;

/// What is the same for all requests of an identity for a workload in a month.
#[derive(Clone, Debug)]
pub(crate) struct Usual {
    /// No other has it.
    pub(super) number: u64,
    /// Which meter found it out, by which plan.
    meter: u64,
    plan: u64,
    pub(crate) account: Account,
    pub(crate) subject: Subject,
    pub(crate) tier: Arc<Tier>,
    pub(super) terms: Terms,
    pub(crate) workload: Arc<Workload>,
    pub(super) period: Period,
    pub(super) want: Want,
    /// The most compute time that a request may use.
    pub(super) cap: Option<Duration>,
    pub(super) seat: SeatTaken<Kept>,
    /// Where it is not the time of leases that compute time is counted in.
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) reporting: Arc<Reporting>,
    pub(super) read_ahead: Arc<ReadAhead>,
}

/// Those that are kept with an identity, the newest last.
type Kin = Vec<Arc<Usual>>;

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Usual {
    /// What is known of such requests, or else is found out now.
    pub(super) fn of(
        meter: &CreditMeter,
        plan: &Plan,
        identity: &Identity,
        workload: Arc<Workload>,
        period: Period,
    ) -> Result<(Arc<Self>, Seat<Kept>), Rejection> {
        let is_it = |usual: &&Arc<Self>| {
            Arc::ptr_eq(&usual.workload, &workload)
                && usual.period == period
                && usual.plan == plan.number()
                && usual.meter == meter.inner.id
                && usual.is_of(identity)
        };
        let found = identity.cache.load();
        let kin = found.as_ref().and_then(|found| found.downcast_ref::<Kin>());
        if let Some(usual) = kin.and_then(|kin| kin.iter().find(is_it))
            && let Some(seat) = meter.inner.desk.seat_again(&usual.seat)
        {
            return Ok((Arc::clone(usual), seat));
        }
        let (usual, seat) = Self::new(meter, plan, identity, workload, period)?;
        if Arc::strong_count(&usual.workload) == 1 {
            // Made for this request alone: it will not come again.
            return Ok((usual, seat));
        }
        let is_kept = |other: &&Arc<Self>| {
            !(Arc::ptr_eq(&other.workload, &usual.workload)
                && other.meter == usual.meter
                && other.is_of(identity))
                && other.plan == usual.plan
        };
        let mut kin: Kin =
            kin.into_iter().flatten().filter(is_kept).rev().take(MOST - 1).cloned().collect();
        kin.reverse();
        kin.push(Arc::clone(&usual));
        identity.cache.store(Box::new(kin));
        Ok((usual, seat))
    }

    /// The same requests in another month.
    pub(super) fn in_period(
        &self,
        meter: &CreditMeter,
        period: Period,
    ) -> Result<(Arc<Self>, Seat<Kept>), Rejection> {
        let seat = meter.inner.desk.seat(&self.account, period)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok((Arc::new(Self { number, period, seat: seat.taken(), ..self.clone() }), seat))
    }

    fn new(
        meter: &CreditMeter,
        plan: &Plan,
        identity: &Identity,
        workload: Arc<Workload>,
        period: Period,
    ) -> Result<(Arc<Self>, Seat<Kept>), Rejection> {
        let Some(tier) = plan.tier(&identity.tier).cloned() else {
            tracing::error!(target: "tower_credits", account = %identity.account, tier = %identity.tier,
                "an identity's tier is not in the plan: add [tiers.{}]", identity.tier);
            return Err(Rejection::UnknownTier);
        };
        let price = workload.price;
        let cap = tier.most_per_request.map(|cap| match cap {
            RequestCap::Compute(time) => time,
            RequestCap::Cost(cost) => price.runway(cost),
        });
        let longest = tier.hold.max(meter.inner.settings.rules.deadline * 4);
        let hold = cap.unwrap_or(Duration::MAX).min(longest);
        // Where a second costs anything, so does a request, however short it has to be.
        let floor = if price.a_second().is_zero() { Credits::ZERO } else { Credits::SMALLEST };
        let cost = |time: Duration| price.cost_or_max(time).max(floor);
        let (hold, least) = (cost(hold), cost(LEAST.min(hold)));
        let want = Want {
            hold,
            least,
            lasts: price.runway(hold.saturating_sub(hold.half())),
            most_running: tier.most_running,
        };
        let seat = meter.inner.desk.seat(&identity.account, period)?;
        let reporting = meter.inner.reporting.of(&workload);
        let usual = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            meter: meter.inner.id,
            plan: plan.number(),
            account: identity.account.clone(),
            subject: identity.subject.clone(),
            terms: tier.terms(),
            tier,
            workload,
            period,
            want,
            cap,
            seat: seat.taken(),
            clock: meter.inner.time.other().cloned(),
            reporting,
            read_ahead: Arc::clone(&meter.inner.read_ahead),
        };
        Ok((Arc::new(usual), seat))
    }

    fn is_of(&self, identity: &Identity) -> bool {
        self.account == identity.account
            && self.subject == identity.subject
            && self.tier.name == identity.tier
    }
}
