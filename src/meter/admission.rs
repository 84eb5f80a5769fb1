//! From a request's head to a charge, or to a denial.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    charge::{Charge, Kept, Metering, Place},
    layer::{CreditMeter, Inner},
    usual::Usual,
};
use crate::{
    Credits, Feature, Identity, Period, Plan,
    clock::{Now, until},
    contained::contained,
    identify::{IdentifyError, Identifying, RequestHead},
    lease::{Admission, Seat, Ticket, Verdict},
    limit::RateState,
    observe,
    plan::{Classification, DuringOutage, RequestQuota, Workload},
    rejection::Rejection,
};

/// A request that goes on and is paid for.
pub(super) struct Admitted {
    pub(super) charge: Charge,
    /// Where it is to be in the request's extensions.
    pub(super) identity: Option<Arc<Identity>>,
    /// `true` if its compute time counts already.
    pub(super) has_begun: bool,
    /// How the account's request rate stands, where it has one.
    pub(super) rate: Rate,
}

/// What goes on; `None` for what is free.
pub(super) type Decided = Result<Option<Admitted>, Rejection>;

/// What comes of a request's head.
pub(super) enum Decision {
    /// Known without waiting for anybody.
    Now(Decided),
    /// The ledger is asked, or whoever knows the caller.
    Later(Pin<Box<dyn Future<Output = Decided> + Send>>),
}

/// The HTTP fields of a request rate, where the tier has one.
pub(super) type Rate = Option<Box<RateState>>;

impl CreditMeter {
    pub(super) fn decide(&self, head: RequestHead<'_>, body_is_empty: bool) -> Decision {
        let plan = self.inner.plan.load();
        let classification = match &self.inner.classify {
            Some(classify) => match contained("the classifier", || classify(head, &plan)) {
                Ok(classification) => classification,
                Err(_) => return Decision::Now(self.deny(Rejection::Unclassified)),
            },
            None => plan.classify(head.uri.path(), head.headers),
        };
        let workload = match classification {
            Classification::Free => return Decision::Now(Ok(None)),
            // A browser asks without credentials what it may send, and a CORS layer inside of this
            // one answers. What could carry a model's input is no such question.
            Classification::Workload(_)
                if plan.has_free_preflights() && body_is_empty && head.is_preflight() =>
            {
                return Decision::Now(Ok(None));
            }
            Classification::Workload(workload) => Ok(match head.extensions.get() {
                Some(Feature(feature)) if *feature != workload.feature => {
                    plan.with_feature(&workload, feature)
                }
                _ => workload,
            }),
            Classification::Unknown => Err(self.unknown_path(head, &plan)),
        };
        self.ensure_worker();
        let bill_to = self.bill_to(head);
        // Who is not known is not told what there is.
        match self.identifying(head) {
            Identifying::Ready(identity) => {
                match (identity.and_then(|identity| self.payer(identity, bill_to)), workload) {
                    (Err(error), _) => Decision::Now(self.deny(error.into())),
                    (Ok(identity), Ok(workload)) => self.begin(&plan, &identity, workload),
                    (Ok(_), Err(path)) => Decision::Now(self.deny(self.inner.not_in_plan(&path))),
                }
            }
            Identifying::Later(identity) => {
                let (meter, plan) = (self.clone(), Arc::clone(&plan));
                let bill_to = bill_to.map(|bill_to| bill_to.map(str::to_owned));
                Decision::Later(Box::pin(async move {
                    let identity = match meter
                        .in_time(identity)
                        .await
                        .and_then(|identity| meter.payer(identity, bill_to))
                    {
                        Ok(identity) => identity,
                        Err(error) => return meter.deny(error.into()),
                    };
                    let workload = match workload {
                        Ok(workload) => workload,
                        Err(path) => return meter.deny(meter.inner.not_in_plan(&path)),
                    };
                    match meter.begin(&plan, &identity, workload) {
                        Decision::Now(decided) => decided,
                        Decision::Later(deciding) => deciding.await,
                    }
                }))
            }
        }
    }

    fn begin(&self, plan: &Plan, identity: &Arc<Identity>, workload: Arc<Workload>) -> Decision {
        let now = self.inner.time.now();
        let today = self.inner.time.date(now);
        let (usual, seat) = match Usual::of(self, plan, identity, workload, today.0) {
            Ok(found) => found,
            Err(rejection) => return Decision::Now(self.deny(rejection)),
        };
        let identity = self.inner.settings.extensions.then(|| Arc::clone(identity));
        let asked = Asked { usual, identity, today };
        let counted = asked
            .usual
            .tier
            .requests
            .map(|quota| count(&seat, &asked.usual, quota, now.lease))
            .transpose();
        let rate = match counted {
            Ok(rate) => rate.map(Box::new),
            Err(rejection) => return Decision::Now(self.deny_metered(rejection, asked, None)),
        };
        // A deadline is counted from here; who is admitted at once needs none.
        match self.ask(&asked, seat, now) {
            Err(rejection) => Decision::Now(self.deny_metered(rejection, asked, rate)),
            Ok(Admission::Admitted(place)) => Decision::Now(Ok(Some(Admitted {
                has_begun: true,
                ..self.admitted(place, asked.identity, rate)
            }))),
            Ok(Admission::LedgerAway) => Decision::Now(self.without_ledger(asked, rate)),
            Ok(Admission::Waiting(ticket)) => {
                // Again: whoever had the work may have ended before this one came to wait.
                self.ensure_worker();
                let deadline = Instant::now() + self.inner.settings.rules.deadline;
                Decision::Later(Box::pin(self.clone().wait(asked, ticket, rate, deadline)))
            }
        }
    }

    fn metering(&self, asked: &Asked) -> Metering {
        Metering::new(
            Arc::clone(&asked.usual),
            asked.today,
            self.inner.settings.shadow,
            self.inner.billable.is_some(),
        )
    }

    /// Asks for a slice. A request that gets it at once begins at once.
    fn ask(&self, asked: &Asked, seat: Seat<Kept>, now: Now) -> Result<Admission<Kept>, Rejection> {
        let Usual { terms, want, .. } = &*asked.usual;
        Ok(self.inner.desk.admit(seat, *terms, *want, self.metering(asked), now.lease)?)
    }

    fn admitted(&self, place: Place, identity: Option<Arc<Identity>>, rate: Rate) -> Admitted {
        Admitted {
            charge: Charge::new(place, self.inner.billable.as_ref()),
            identity,
            has_begun: false,
            rate,
        }
    }

    /// Waits for the ledger until the deadline; after it the tier's outage policy decides.
    async fn wait(
        self,
        mut asked: Asked,
        mut ticket: Ticket<Kept>,
        rate: Rate,
        deadline: Instant,
    ) -> Decided {
        let mut moved = false;
        loop {
            let verdict = match until(deadline, &mut ticket).await {
                None => {
                    drop(ticket);
                    return self.without_ledger(asked, rate);
                }
                Some(Err(_)) => return self.deny(Rejection::ShuttingDown),
                Some(Ok(verdict)) => verdict,
            };
            match verdict {
                Verdict::Admitted(place) => {
                    return Ok(Some(self.admitted(place, asked.identity, rate)));
                }
                Verdict::Refused(standing) => {
                    let Usual { want, period, tier, .. } = &*asked.usual;
                    let rejection =
                        Rejection::of(&standing, want.least, *period, tier.hint.as_deref());
                    return self.deny_metered(rejection, asked, rate);
                }
                Verdict::Unanswered => return self.without_ledger(asked, rate),
                Verdict::Erased => return self.deny_metered(Rejection::AccountErased, asked, rate),
                Verdict::Elsewhere(_) if moved => return self.deny(Rejection::LedgerUnreachable),
                Verdict::Elsewhere(_) | Verdict::Orphaned => {
                    let period = match verdict {
                        Verdict::Elsewhere(period) => {
                            moved = true;
                            period
                        }
                        _ => asked.usual.period,
                    };
                    self.inner.time.notice();
                    let seat = match asked.usual.in_period(&self, period) {
                        Ok((usual, seat)) => {
                            asked.usual = usual;
                            seat
                        }
                        Err(rejection) => return self.deny_metered(rejection, asked, rate),
                    };
                    match self.ask(&asked, seat, self.inner.time.now()) {
                        Err(rejection) => return self.deny_metered(rejection, asked, rate),
                        Ok(Admission::Admitted(place)) => {
                            return Ok(Some(self.admitted(place, asked.identity, rate)));
                        }
                        Ok(Admission::LedgerAway) => return self.without_ledger(asked, rate),
                        Ok(Admission::Waiting(next)) => {
                            self.ensure_worker();
                            ticket = next;
                        }
                    }
                }
            }
        }
    }

    fn without_ledger(&self, asked: Asked, rate: Rate) -> Decided {
        let place = match asked.usual.tier.during_outage {
            DuringOutage::Deny => None,
            DuringOutage::Allow(allowance) => self.trust(&asked, allowance),
        };
        match place {
            Some(place) => Ok(Some(self.admitted(place, asked.identity, rate))),
            None => self.deny_metered(Rejection::LedgerUnreachable, asked, rate),
        }
    }

    /// A slice that the ledger did not agree to.
    fn trust(&self, asked: &Asked, allowance: Credits) -> Option<Place> {
        let Usual { account, period, want, .. } = &*asked.usual;
        self.inner.desk.trust(account, *period, *want, self.metering(asked), allowance)
    }

    /// A denial; in shadow mode, a word to the operator.
    fn deny(&self, rejection: Rejection) -> Decided {
        if !self.inner.settings.shadow {
            return Err(rejection);
        }
        observe::would_deny(rejection.reason());
        Ok(None)
    }

    /// The same of a request whose account is known: in shadow mode it is metered all the same, and
    /// what it uses is owed.
    fn deny_metered(&self, rejection: Rejection, asked: Asked, rate: Rate) -> Decided {
        self.deny(rejection)?;
        Ok(self.trust(&asked, Credits::MAX).map(|place| self.admitted(place, asked.identity, rate)))
    }
}

/// Counts the request against its account's rate.
fn count(
    seat: &Seat<Kept>,
    usual: &Usual,
    quota: RequestQuota,
    now: Duration,
) -> Result<RateState, Rejection> {
    let hint = || usual.tier.hint.as_deref().map(Into::into);
    seat.beside().0.count(quota, now).map_err(|state| Rejection::RequestRate {
        retry_after: state.reset,
        quota: state.quota,
        hint: hint(),
    })
}

/// A request that asks for credits.
struct Asked {
    usual: Arc<Usual>,
    /// Where it is to be in the request's extensions.
    identity: Option<Arc<Identity>>,
    /// The month by this node's clock, and the day of it.
    today: (Period, u8),
}

/// The beginning of a path that the plan does not know, and what to do about it, unless that was
/// said before.
struct UnknownPath(String, Option<String>);

impl CreditMeter {
    fn unknown_path(&self, head: RequestHead<'_>, plan: &Plan) -> UnknownPath {
        let path = observe::shortened(head.uri.path());
        let advice = self.inner.may_log(path).then(|| plan.explain_unknown(path, head.headers));
        UnknownPath(path.to_owned(), advice)
    }
}

impl Inner {
    /// Says once how the path can be put into the plan: to the operator, and only of paths that
    /// known callers asked for.
    fn not_in_plan(&self, path: &UnknownPath) -> Rejection {
        if let Some(advice) = &path.1 {
            self.log_unknown(&path.0, advice);
        }
        Rejection::NotInPlan
    }
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
