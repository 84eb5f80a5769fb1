//! From a request's head to a charge, or to a denial.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    charge::{Charge, Metering},
    layer::{CreditMeter, Inner},
};
use crate::{
    Classification, Credits, DuringOutage, Identity, Period, Plan, RequestHead, RequestQuota, Workload,
    identify::{IdentifyError, Identifying},
    lease::{Admission, Runner, Ticket, Verdict},
    limit::{RateState, RequestRate},
    observe,
    rejection::Rejection,
};

/// A charge; `None` for what is free.
pub(super) type Decided = Result<Option<Charge>, Rejection>;

/// What comes of a request's head.
pub(super) enum Decision {
    /// Known without waiting for anybody.
    Now(Decided),
    /// The ledger is asked, or whoever knows the caller.
    Later(Pin<Box<dyn Future<Output = Decided> + Send>>),
}

impl CreditMeter {
    pub(super) fn decide(&self, head: RequestHead<'_>, body_is_empty: bool) -> Decision {
        // A browser asks without credentials what it may send. What could carry a model's input is no such question.
        if body_is_empty && head.is_preflight() {
            return Decision::Now(Ok(None));
        }
        let plan = self.inner.plan.current();
        let classification = match &self.inner.classify {
            Some(classify) => classify(head, &plan),
            None => plan.classify(head.uri.path(), head.headers),
        };
        let workload = match classification {
            Classification::Free => return Decision::Now(Ok(None)),
            Classification::Workload(workload) => Ok(workload),
            Classification::Unknown => Err(UnknownPath::of(head.uri.path())),
        };
        self.ensure_worker();
        // Who is not known is not told what there is.
        match self.inner.identify.identify(head) {
            Identifying::Ready(Err(error)) => Decision::Now(self.deny(error.into())),
            Identifying::Ready(Ok(identity)) => match workload {
                Ok(workload) => self.begin(&plan, identity, workload),
                Err(path) => Decision::Now(self.deny(self.inner.not_in_plan(&path))),
            },
            Identifying::Later(identity) => {
                let meter = self.clone();
                Decision::Later(Box::pin(async move {
                    let identity = match timeout(meter.inner.settings.identify_within, identity).await {
                        Ok(Ok(identity)) => identity,
                        Ok(Err(error)) => return meter.deny(error.into()),
                        Err(_) => {
                            tracing::warn!(target: "tower_credits", "nobody said in time who asks");
                            return meter.deny(Rejection::CredentialsUnchecked);
                        }
                    };
                    let workload = match workload {
                        Ok(workload) => workload,
                        Err(path) => return meter.deny(meter.inner.not_in_plan(&path)),
                    };
                    match meter.begin(&plan, identity, workload) {
                        Decision::Now(decided) => decided,
                        Decision::Later(deciding) => deciding.await,
                    }
                }))
            }
        }
    }

    fn begin(&self, plan: &Plan, identity: Arc<Identity>, workload: Workload) -> Decision {
        let Some(tier) = plan.tier(identity.tier.as_str()).cloned() else {
            tracing::error!(target: "tower_credits", account = %identity.account, tier = %identity.tier,
                "an identity's tier is not in the plan: add [tiers.{}]", identity.tier);
            return Decision::Now(self.deny(Rejection::UnknownTier));
        };
        let deadline = Instant::now() + self.inner.settings.rules.deadline;
        let period = Period::containing(self.inner.clock.unix_time());
        let hold = self.inner.settings.rules.deadline * 4;
        let quota = tier.requests;
        let metering = Arc::new(Metering::new(&self.inner.clock, hold, workload, identity, tier, period));
        if self.inner.settings.shadow {
            metering.shadow();
        }

        let rate = match quota.map(|quota| self.count(&metering, quota)).transpose() {
            Ok(rate) => rate,
            Err(rejection) => return Decision::Now(self.deny_metered(rejection, &metering, None)),
        };
        match self.ask(Arc::clone(&metering), rate) {
            Err(rejection) => Decision::Now(self.deny_metered(rejection, &metering, rate)),
            Ok(Asked::Admitted(charge)) => Decision::Now(Ok(Some(charge))),
            Ok(Asked::LedgerAway(metering)) => Decision::Now(self.without_ledger(&metering, rate)),
            Ok(Asked::Waiting(metering, ticket)) => Decision::Later(Box::pin(self.clone().wait(metering, ticket, rate, deadline))),
        }
    }

    /// Counts the request against its account's rate.
    fn count(&self, metering: &Metering, quota: RequestQuota) -> Result<RateState, Rejection> {
        let seat = self.inner.desk.seat(&metering.identity.account, metering.period)?;
        let hint = || metering.tier.hint.as_deref().map(Into::into);
        seat.beside().count(quota).map_err(|state| Rejection::RequestRate { retry_after: state.reset, quota: state.quota, hint: hint() })
    }

    fn ask(&self, metering: Arc<Metering>, rate: Option<RateState>) -> Result<Asked, Rejection> {
        let runner: Runner = metering.clone();
        let seat = self.inner.desk.seat(&metering.identity.account, metering.period)?;
        let admission = self.inner.desk.admit(seat, metering.tier.terms(), metering.want, &runner)?;
        Ok(match admission {
            Admission::Admitted(place) => Asked::Admitted(Charge::new(place, metering, Arc::clone(&self.inner.billable), rate)),
            Admission::Waiting(ticket) => Asked::Waiting(metering, ticket),
            Admission::LedgerAway => Asked::LedgerAway(metering),
        })
    }

    /// Waits for the ledger until the deadline; after it the tier's outage policy decides.
    async fn wait(
        self,
        mut metering: Arc<Metering>,
        mut ticket: Ticket<RequestRate>,
        rate: Option<RateState>,
        deadline: Instant,
    ) -> Decided {
        let rules = self.inner.settings.rules;
        let mut moved = false;
        loop {
            let verdict = match timeout_at(deadline, &mut ticket).await {
                Err(_) => {
                    drop(ticket);
                    // Not the same metering: an answer may be admitting that one at this moment, for nobody.
                    return self.without_ledger(&Arc::new(metering.in_period(rules.deadline * 4, metering.period)), rate);
                }
                Ok(Err(_)) => return self.deny(Rejection::ShuttingDown),
                Ok(Ok(verdict)) => verdict,
            };
            match verdict {
                Verdict::Admitted(place) => return Ok(Some(Charge::new(place, metering, Arc::clone(&self.inner.billable), rate))),
                Verdict::Refused(standing) => {
                    let hint = metering.tier.hint.as_deref();
                    let rejection = Rejection::of(&standing, metering.want.least, metering.period, hint);
                    return self.deny_metered(rejection, &metering, rate);
                }
                Verdict::Elsewhere(_) if moved => return self.deny(Rejection::LedgerUnreachable),
                Verdict::Elsewhere(period) => {
                    moved = true;
                    metering = Arc::new(metering.in_period(rules.deadline * 4, period));
                    match self.ask(Arc::clone(&metering), rate) {
                        Err(rejection) => return self.deny_metered(rejection, &metering, rate),
                        Ok(Asked::Admitted(charge)) => return Ok(Some(charge)),
                        Ok(Asked::LedgerAway(again)) => return self.without_ledger(&again, rate),
                        Ok(Asked::Waiting(_, next)) => ticket = next,
                    }
                }
            }
        }
    }

    fn without_ledger(&self, metering: &Arc<Metering>, rate: Option<RateState>) -> Decided {
        let charge = match metering.tier.during_outage {
            DuringOutage::Deny => None,
            DuringOutage::Allow(allowance) => self.trust(metering, rate, allowance),
        };
        match charge {
            Some(charge) => Ok(Some(charge)),
            None => self.deny_metered(Rejection::LedgerUnreachable, metering, rate),
        }
    }

    /// A charge that the ledger did not agree to.
    fn trust(&self, metering: &Arc<Metering>, rate: Option<RateState>, allowance: Credits) -> Option<Charge> {
        let runner: Runner = metering.clone();
        let place = self.inner.desk.trust(&metering.identity.account, metering.period, metering.want, &runner, allowance)?;
        Some(Charge::new(place, Arc::clone(metering), Arc::clone(&self.inner.billable), rate))
    }

    /// A denial; in shadow mode, a word to the operator.
    fn deny(&self, rejection: Rejection) -> Decided {
        if !self.inner.settings.shadow {
            return Err(rejection);
        }
        observe::would_deny(&rejection);
        Ok(None)
    }

    /// The same of a request whose account is known: in shadow mode it is metered all the same, and what it uses is owed.
    fn deny_metered(&self, rejection: Rejection, metering: &Arc<Metering>, rate: Option<RateState>) -> Decided {
        self.deny(rejection)?;
        Ok(self.trust(metering, rate, Credits::MAX))
    }
}

/// The beginning of a path that the plan does not know.
struct UnknownPath(String);

impl UnknownPath {
    fn of(path: &str) -> Self {
        Self(observe::shortened(path).to_owned())
    }
}

impl Inner {
    /// Says once how the path can be put into the plan: to the operator, and only of paths that known callers asked for.
    fn not_in_plan(&self, path: &UnknownPath) -> Rejection {
        self.log_unknown(&path.0);
        Rejection::NotInPlan
    }
}

enum Asked {
    Admitted(Charge),
    Waiting(Arc<Metering>, Ticket<RequestRate>),
    LedgerAway(Arc<Metering>),
}

impl From<IdentifyError> for Rejection {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Missing => Self::Unauthenticated { invalid: false },
            IdentifyError::Invalid => Self::Unauthenticated { invalid: true },
            IdentifyError::NotAMember => Self::NotAMember,
            IdentifyError::CrossOrigin => Self::CrossOrigin,
            IdentifyError::Unavailable(error) => {
                tracing::warn!(target: "tower_credits", %error, "credentials cannot be checked");
                Self::CredentialsUnchecked
            }
        }
    }
}
