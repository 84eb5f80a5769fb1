//! The way from a request's head to a charge, or to a denial.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    bill_policy::BillPolicy,
    charge::Charge,
    context_cache::find_context,
    credit_meter::CreditMeter,
    denied::{Denied, Whose},
    unknown::Unlisted,
    upload::Unread,
};
use crate::{
    Credits, Feature, Identity, Period, Plan, RequestId,
    clock::{Now, Reading, UnixTime, until},
    contained::contained,
    identify::{IdentifyError, Identifying, RequestHead},
    keeper::{
        AccountHandle, Admission, HeldSlice, Ticket, TicketAnswer, admit, admit_without_ledger,
    },
    limit::{RateFields, RateState},
    metering::{BillingContext, Origin, PlanContext, RunningRequest},
    observe,
    plan::{
        BodyProblem, Classification, DuringOutage, Midway, ModelInBody, RequestQuota, UpstreamTime,
        Workload,
    },
    rejection::Rejection,
    terms::LeaseScope,
};

/// A request that goes on and is paid for.
pub(super) struct Admitted {
    pub(super) charge: Charge,
    /// `Some` if it is inserted into the request's extensions.
    pub(super) identity: Option<Arc<Identity>>,
    /// `true` if its compute time has begun.
    pub(super) has_begun: bool,
    /// `true` if it may be stopped before its service has ended.
    pub(super) may_be_cut: bool,
    pub(super) rate: Rate,
    /// The place where the service's answer says its compute time.
    pub(super) upstream_time: Option<Arc<UpstreamTime>>,
}

/// A request that goes on, or its denial; `None` if it is free.
pub(super) type Decided = Result<Option<Admitted>, Box<Denied>>;

/// The decision on a request.
pub(super) enum Decision {
    /// It is known without waiting.
    Now(Known),
    /// It waits for the ledger, or for the host's code that identifies the caller.
    Later(Pin<Box<dyn Future<Output = Known> + Send>>),
}

/// The knowledge of a request, as far as it goes without its body.
pub(super) enum Known {
    Decided(Decided),
    /// Its body says what it runs.
    NeedsBody(Box<NeedsBody>),
}

/// A request whose caller is known, and whose body says what it runs.
pub(super) struct NeedsBody {
    pub(super) payer: Arc<Identity>,
    origin: Origin,
    plan: Arc<Plan>,
    model: Arc<ModelInBody>,
}

/// A request that is not free, before its caller is known.
enum Target<'a> {
    /// Mostly the plan's own, which is not counted anew for each request.
    Workload(Cow<'a, Arc<Workload>>),
    InBody(Arc<ModelInBody>),
    Authenticated,
    Unlisted(Unlisted),
}

/// The state of the account's request rate, if its tier has one.
pub(super) type Rate = Option<RateFields>;

/// A request that asks for credits.
struct CreditRequest {
    context: Arc<BillingContext>,
    origin: Origin,
    /// `Some` if it is inserted into the request's extensions.
    identity: Option<Arc<Identity>>,
    /// The month by this node's clock, and the day of it.
    today: (Period, u8),
}

/// Everything that a request's service is called with, once the slice has the request's context.
struct CallTerms {
    /// `Some` if it is inserted into the request's extensions.
    identity: Option<Arc<Identity>>,
    policy: Option<Box<BillPolicy>>,
    has_client_caps: bool,
    may_be_cut: bool,
    /// The request rate over all nodes, if the response says what is left of it.
    quota: Option<RequestQuota>,
    upstream_time: Option<Arc<UpstreamTime>>,
}

/// The answer to a request that asked for a slice.
enum Taken {
    /// It has one.
    Admitted(HeldSlice, CallTerms),
    /// It waits for the ledger.
    Waiting(Ticket, CreditRequest),
    /// The ledger would have to be asked, and has not answered for a while.
    LedgerAway(CreditRequest),
    /// It gets none.
    Refused(Rejection, CreditRequest),
}

impl CreditMeter {
    /// Decides on a request by its head. `id` is set unless the request is free.
    pub(super) fn decide(
        &self,
        head: RequestHead<'_>,
        id: &mut Option<RequestId>,
        body_is_empty: bool,
    ) -> Decision {
        let plan = self.inner.plan.load();
        let classification = match &self.inner.classify {
            Some(classify) => match contained("the classifier", || classify(head, &plan)) {
                Ok(classification) => Cow::Owned(classification),
                Err(_) => {
                    let origin = self.origin(&plan, head, id, self.inner.time.unix_time());
                    let denied = self.deny(Rejection::Unclassified, Whose::Unknown, &origin);
                    return Decision::now(denied);
                }
            },
            None => plan.classify_parts(head.uri.path(), head.uri.query(), head.headers),
        };
        let is_preflight = plan.has_free_preflights() && body_is_empty && head.is_preflight();
        let target = match classification {
            Cow::Borrowed(Classification::Workload(workload)) if !is_preflight => {
                Target::Workload(with_feature(head, &plan, Cow::Borrowed(workload)))
            }
            // By value: who finds a workload's only reference knows that no other request has it.
            classification => match classification.into_owned() {
                Classification::Free => return Decision::now(Ok(None)),
                // A browser's preflight has no credentials, and a CORS layer inside of this one
                // answers it. A request that could carry a model's input is no preflight.
                Classification::Workload(_)
                | Classification::InBody(_)
                | Classification::Authenticated
                    if is_preflight =>
                {
                    return Decision::now(Ok(None));
                }
                Classification::Workload(workload) => {
                    Target::Workload(with_feature(head, &plan, Cow::Owned(workload)))
                }
                Classification::InBody(model) => Target::InBody(model),
                Classification::Authenticated => Target::Authenticated,
                Classification::UnknownModel(model) => {
                    Target::Unlisted(self.unlisted(head, &plan, Some(model)))
                }
                Classification::Unknown => Target::Unlisted(self.unlisted(head, &plan, None)),
            },
        };
        self.ensure_worker();
        let bill_to = self.bill_to(head);
        let identifying = self.identifying(head);
        // One reading for all that begins now: the time that identification took is not billed.
        let reading = self.inner.time.read();
        let origin = self.origin(&plan, head, id, reading.unix_time);
        match identifying {
            Identifying::Ready(identity) => {
                let payer =
                    identity.and_then(|identity| self.payer(identity, bill_to, Some(&origin)));
                self.decide_for(&plan, payer, target, origin, reading)
            }
            Identifying::Later(identity) => {
                let target = target.into_owned();
                let (meter, plan) = (self.clone(), Arc::clone(&plan));
                let bill_to = bill_to.map(|bill_to| bill_to.map(str::to_owned));
                Decision::Later(Box::pin(async move {
                    let began = Instant::now();
                    let identity = meter.in_time(identity).await;
                    observe::identified(began.elapsed());
                    let payer =
                        identity.and_then(|identity| meter.payer(identity, bill_to, Some(&origin)));
                    let reading = meter.inner.time.read();
                    match meter.decide_for(&plan, payer, target, origin, reading) {
                        Decision::Now(known) => known,
                        Decision::Later(deciding) => deciding.await,
                    }
                }))
            }
        }
    }

    /// Decides on a request once its caller is known, or is not. An unknown caller does not learn
    /// which paths there are.
    fn decide_for(
        &self,
        plan: &Arc<Plan>,
        payer: Result<Arc<Identity>, IdentifyError>,
        target: Target<'_>,
        origin: Origin,
        reading: Reading,
    ) -> Decision {
        let payer = match payer {
            Ok(payer) => payer,
            Err(error) => {
                let rejection = self.not_identified(error);
                return Decision::now(self.deny(rejection, Whose::Unknown, &origin));
            }
        };
        match target {
            Target::Workload(workload) => self.ask(plan, &payer, workload, origin, reading),
            Target::InBody(model) => Decision::Now(Known::NeedsBody(Box::new(NeedsBody {
                payer,
                origin,
                plan: Arc::clone(plan),
                model,
            }))),
            Target::Authenticated => Decision::now(Ok(None)),
            Target::Unlisted(unlisted) => {
                let rejection = self.inner.not_in_plan(plan, unlisted);
                Decision::now(self.deny(rejection, Whose::Caller(payer), &origin))
            }
        }
    }

    /// Decides on a request by its body.
    pub(super) fn decide_by_body(
        &self,
        needs: &NeedsBody,
        head: RequestHead<'_>,
        body: Result<&[u8], &Unread>,
    ) -> Decision {
        let classification = match body {
            Ok(body) => needs.plan.classify_body(&needs.model, head.headers, body),
            Err(Unread::Problem(problem)) => Err(problem.clone()),
            Err(Unread::NoMemory) => {
                return Decision::now(self.deny_unread(needs, Rejection::Busy));
            }
        };
        let NeedsBody { payer, plan, origin, .. } = needs;
        match classification {
            Ok(Classification::Workload(workload)) => {
                let workload = with_feature(head, plan, Cow::Owned(workload));
                self.ask(plan, payer, workload, origin.clone(), self.inner.time.read())
            }
            Ok(Classification::UnknownModel(model)) => {
                let unlisted = self.unlisted_in_body(head, model);
                let rejection = self.inner.not_in_plan(plan, unlisted);
                Decision::now(self.deny_unread(needs, rejection))
            }
            // A body names a model, or is refused.
            Ok(_) => Decision::now(self.deny_unread(needs, Rejection::Unclassified)),
            Err(problem) => Decision::now(self.deny_unread(needs, needs.problem(problem))),
        }
    }

    /// Decides on a request whose body would have to be read, by a layer that reads none.
    pub(super) fn no_body(&self, needs: &NeedsBody, path: &str) -> Decided {
        let path = observe::shortened(path);
        if self.inner.may_log(path) {
            let advice = "its route takes the model from the body, which this layer does not read: \
                          put `meter.buffer_bodies()` around the service in place of the meter";
            self.inner.log_unknown(path, advice);
        }
        self.deny_unread(needs, Rejection::Unclassified)
    }

    /// Denies a request by its body.
    fn deny_unread(&self, needs: &NeedsBody, rejection: Rejection) -> Decided {
        self.deny(rejection, Whose::Caller(Arc::clone(&needs.payer)), &needs.origin)
    }

    /// Returns the origin of a request that is not free.
    fn origin(
        &self,
        plan: &Plan,
        head: RequestHead<'_>,
        id: &mut Option<RequestId>,
        arrived_at: UnixTime,
    ) -> Origin {
        let has_path = self.inner.settings.shadow
            || self.inner.host_policy.is_some()
            || plan.unbilled().is_some();
        let id = id.insert(RequestId::of_request(head.extensions, arrived_at)).clone();
        Origin::new(id, head.uri, head.headers, has_path)
    }

    /// Counts a request against its account's rate, and asks for a slice.
    fn ask(
        &self,
        plan: &Plan,
        identity: &Arc<Identity>,
        mut workload: Cow<'_, Arc<Workload>>,
        origin: Origin,
        reading: Reading,
    ) -> Decision {
        let now = reading.now;
        let today = self.inner.time.date(reading);
        if workload.has_dated_rates()
            && let Some(dated) = workload.in_force_at(self.inner.keeper.ledger_time())
        {
            workload = Cow::Owned(Arc::clone(dated));
        }
        let (context, handle) = match find_context(self, plan, identity, workload, today.0) {
            Ok(found) => found,
            Err(rejection) => {
                let whose = Whose::Caller(Arc::clone(identity));
                return Decision::now(self.deny(rejection, whose, &origin));
            }
        };
        let identity = self.inner.settings.request_extensions.then(|| Arc::clone(identity));
        let denied = context.plan.is_model_denied.then(|| Rejection::ModelDenied {
            model: context.plan.workload.model.clone(),
            hint: context.plan.tier.hint.as_deref().map(Into::into),
        });
        let denied = denied.or_else(|| beyond_cap(&context, &origin));
        origin.runs(&context.plan.workload.model);
        let request = CreditRequest { context, origin, identity, today };
        if let Some(rejection) = denied {
            return Decision::now(self.deny_metered(rejection, request, None));
        }
        // A rate over all nodes is counted by the ledger.
        let on_this_node =
            request.context.plan.tier.requests.filter(|_| request.context.plan.want.rate.is_none());
        let counted = on_this_node
            .map(|quota| count(&handle, &request.context, quota, now.lease))
            .transpose();
        let rate = match counted {
            Ok(rate) => {
                rate.filter(|_| self.inner.settings.response.rate_limit).map(RateFields::from)
            }
            Err(rejection) => return Decision::now(self.deny_metered(rejection, request, None)),
        };
        match self.take_slice(request, handle, now) {
            // A request that is admitted at once begins at once.
            Taken::Admitted(slice, terms) => {
                observe::admitted("local", None);
                let admitted = self.admitted(slice, terms, rate);
                Decision::now(Ok(Some(Admitted { has_begun: true, ..admitted })))
            }
            Taken::Refused(rejection, request) => {
                Decision::now(self.deny_metered(rejection, request, rate))
            }
            Taken::LedgerAway(request) => Decision::now(self.without_ledger(request, rate)),
            Taken::Waiting(ticket, request) => {
                // Again: the worker may have ended before this request began to wait.
                self.ensure_worker();
                let deadline = Instant::now() + self.inner.settings.rules.deadline;
                let waiting = self.clone().wait(request, ticket, rate, deadline);
                Decision::Later(Box::pin(async { Known::Decided(waiting.await) }))
            }
        }
    }

    /// Waits for the ledger until the deadline. After it the tier's outage policy decides.
    async fn wait(
        self,
        mut request: CreditRequest,
        mut ticket: Ticket,
        rate: Rate,
        deadline: Instant,
    ) -> Decided {
        let mut has_moved = false;
        let began = Instant::now();
        loop {
            let Some(answer) = until(deadline, &mut ticket).await else {
                drop(ticket);
                return self.without_ledger(request, rate);
            };
            let period = match answer {
                TicketAnswer::Admitted(slice) => {
                    observe::admitted("ledger", Some(began.elapsed()));
                    return Ok(Some(self.admitted(slice, self.call_terms(request), rate)));
                }
                TicketAnswer::NotEnough(standing) => {
                    let rejection = Rejection::of(&standing, &request.context);
                    return self.deny_metered(rejection, request, rate);
                }
                TicketAnswer::BeyondRate(wait) => {
                    let rejection = Rejection::beyond_rate(wait, &request.context);
                    return self.deny_metered(rejection, request, rate);
                }
                TicketAnswer::TooManyRunning => {
                    let rejection = Rejection::too_many_running(&request.context);
                    return self.deny_metered(rejection, request, rate);
                }
                TicketAnswer::Unanswered => return self.without_ledger(request, rate),
                TicketAnswer::Erased => {
                    return self.deny_metered(Rejection::AccountErased, request, rate);
                }
                TicketAnswer::ShuttingDown => {
                    return self.deny_asked(Rejection::ShuttingDown, &request);
                }
                TicketAnswer::OtherPeriod(_) if has_moved => {
                    return self.deny_asked(Rejection::LedgerUnreachable, &request);
                }
                TicketAnswer::OtherPeriod(period) => {
                    has_moved = true;
                    period
                }
                TicketAnswer::WorkerGone => request.context.period,
            };
            self.inner.time.notice();
            let table = self.inner.keeper.table();
            let handle =
                match AccountHandle::open(table, &LeaseScope { period, ..request.context.scope() })
                {
                    Ok(handle) => handle,
                    // In shadow mode it is metered in the month that has an entry.
                    Err(error) => return self.deny_metered(error.into(), request, rate),
                };
            request.context = Arc::new(request.context.in_period(period));
            match self.take_slice(request, handle, self.inner.time.now()) {
                Taken::Admitted(slice, terms) => {
                    observe::admitted("ledger", Some(began.elapsed()));
                    return Ok(Some(self.admitted(slice, terms, rate)));
                }
                Taken::Refused(rejection, request) => {
                    return self.deny_metered(rejection, request, rate);
                }
                Taken::LedgerAway(request) => return self.without_ledger(request, rate),
                Taken::Waiting(next, waiting) => {
                    self.ensure_worker();
                    (ticket, request) = (next, waiting);
                }
            }
        }
    }

    /// Admits a request within its tier's allowance for outages, or denies it.
    fn without_ledger(&self, request: CreditRequest, mut rate: Rate) -> Decided {
        let PlanContext { tier, want, .. } = &*request.context.plan;
        if tier.during_outage == DuringOutage::Deny && !want.hold.is_zero() {
            return self.deny_metered(Rejection::LedgerUnreachable, request, rate);
        }
        if let Some(quota) = tier.requests.filter(|_| want.rate.is_some()) {
            match self.count_without_ledger(&request.context, quota) {
                Ok(state) => rate = Some(state.into()),
                Err(rejection) => return self.deny_metered(rejection, request, rate),
            }
        }
        let slice = match request.context.plan.tier.during_outage {
            // What costs nothing needs no ledger.
            DuringOutage::Deny => self.take_unheld_slice(&request, Credits::ZERO),
            DuringOutage::Allow(allowance) => self.take_unheld_slice(&request, allowance),
        };
        match slice {
            Some(slice) => {
                observe::admitted("allowance", None);
                Ok(Some(self.admitted(slice, self.call_terms(request), rate)))
            }
            None => self.deny_metered(Rejection::LedgerUnreachable, request, rate),
        }
    }

    /// Counts a request against a rate over all nodes while the ledger does not answer: this node
    /// counts for itself.
    fn count_without_ledger(
        &self,
        context: &BillingContext,
        quota: RequestQuota,
    ) -> Result<RateState, Rejection> {
        let table = self.inner.keeper.table();
        let handle = AccountHandle::open(table, &context.scope())?;
        count(&handle, context, quota, self.inner.time.now().lease)
    }

    /// Denies a request. In shadow mode it only emits the event, and the request goes on unmetered.
    fn deny(&self, rejection: Rejection, whose: Whose, origin: &Origin) -> Decided {
        let denied = Box::new(Denied { rejection, whose });
        if !self.inner.settings.shadow {
            return Err(denied);
        }
        self.would_deny(&denied, origin);
        Ok(None)
    }

    /// Denies a request whose account is known, and which is not metered in shadow mode either.
    fn deny_asked(&self, rejection: Rejection, request: &CreditRequest) -> Decided {
        self.deny(rejection, Whose::Request(Arc::clone(&request.context)), &request.origin)
    }

    /// Denies a request whose account is known. In shadow mode it is metered all the same, and what
    /// it uses is owed.
    fn deny_metered(&self, rejection: Rejection, request: CreditRequest, rate: Rate) -> Decided {
        self.deny_asked(rejection, &request)?;
        let slice = self.take_unheld_slice(&request, Credits::MAX);
        Ok(slice.map(|slice| self.admitted(slice, self.call_terms(request), rate)))
    }

    /// Asks for a slice of the account's lease.
    #[inline]
    fn take_slice(&self, request: CreditRequest, handle: AccountHandle, now: Now) -> Taken {
        let CreditRequest { context, origin, identity, today } = request;
        let has_client_caps = origin.has_client_caps();
        let terms = self.terms_of(&context.plan, identity, has_client_caps);
        // The running request takes the context: one count less.
        let running = self.running(context, origin, today);
        let identity = terms.identity;
        match admit(handle, running, now.lease) {
            Admission::Admitted(slice) => Taken::Admitted(slice, CallTerms { identity, ..terms }),
            Admission::Waiting(ticket, context, origin) => {
                Taken::Waiting(ticket, CreditRequest { context, origin, identity, today })
            }
            Admission::LedgerAway(running) => {
                let RunningRequest { context, origin, .. } = *running;
                Taken::LedgerAway(CreditRequest { context, origin, identity, today })
            }
            Admission::Refused(error, running) => {
                let RunningRequest { context, origin, .. } = *running;
                let rejection = Rejection::of_admission(error, &context);
                Taken::Refused(rejection, CreditRequest { context, origin, identity, today })
            }
        }
    }

    /// Takes a slice that the ledger has not put on hold.
    fn take_unheld_slice(&self, request: &CreditRequest, allowance: Credits) -> Option<HeldSlice> {
        let CreditRequest { context, origin, today, .. } = request;
        let running = self.running(Arc::clone(context), origin.clone(), *today);
        let table = self.inner.keeper.table();
        admit_without_ledger(table, &context.scope(), context.plan.want, running, allowance)
    }

    #[inline]
    fn running(
        &self,
        context: Arc<BillingContext>,
        origin: Origin,
        today: (Period, u8),
    ) -> RunningRequest {
        let is_undecided = self.inner.host_policy.is_some() || context.plan.unbilled.is_some();
        RunningRequest::new(context, origin, today, self.inner.settings.shadow, is_undecided)
    }

    fn call_terms(&self, request: CreditRequest) -> CallTerms {
        let has_client_caps = request.origin.has_client_caps();
        self.terms_of(&request.context.plan, request.identity, has_client_caps)
    }

    #[inline]
    fn terms_of(
        &self,
        plan: &PlanContext,
        identity: Option<Arc<Identity>>,
        has_client_caps: bool,
    ) -> CallTerms {
        let PlanContext { tier, workload, want, unbilled, .. } = plan;
        let has_quota = want.rate.is_some() && self.inner.settings.response.rate_limit;
        CallTerms {
            identity,
            policy: BillPolicy::new(self.inner.host_policy.as_ref(), unbilled.as_ref()),
            has_client_caps,
            may_be_cut: tier.midway == Midway::Stop
                || tier.most_per_request.is_some()
                || has_client_caps,
            quota: if has_quota { tier.requests } else { None },
            upstream_time: workload.upstream_time.clone(),
        }
    }

    fn admitted(&self, slice: HeldSlice, terms: CallTerms, mut rate: Rate) -> Admitted {
        let CallTerms { identity, policy, has_client_caps, may_be_cut, quota, upstream_time } =
            terms;
        if !self.inner.settings.response.rate_limit {
            rate = None;
        } else if let (None, Some(quota)) = (&rate, quota) {
            rate = slice.permit_state(quota).map(RateFields::from);
        }
        let shadow = self.inner.settings.shadow.then(|| self.clone());
        let charge = Charge::new(slice, policy, shadow, has_client_caps);
        Admitted { charge, identity, has_begun: false, may_be_cut, rate, upstream_time }
    }
}

impl Target<'_> {
    fn into_owned(self) -> Target<'static> {
        match self {
            Self::Workload(workload) => Target::Workload(Cow::Owned(workload.into_owned())),
            Self::InBody(model) => Target::InBody(model),
            Self::Authenticated => Target::Authenticated,
            Self::Unlisted(unlisted) => Target::Unlisted(unlisted),
        }
    }
}

impl Decision {
    const fn now(decided: Decided) -> Self {
        Self::Now(Known::Decided(decided))
    }
}

impl NeedsBody {
    /// Returns the denial of a request whose body cannot be read.
    pub(super) fn reject(&self, problem: BodyProblem) -> Box<Denied> {
        let whose = Whose::Caller(Arc::clone(&self.payer));
        Box::new(Denied { rejection: self.problem(problem), whose })
    }

    fn problem(&self, problem: BodyProblem) -> Rejection {
        Rejection::InvalidBody { problem, offered: Arc::clone(self.plan.models()) }
    }
}

/// Returns the workload under the feature that the host has named for the request.
fn with_feature<'a>(
    head: RequestHead<'_>,
    plan: &Plan,
    workload: Cow<'a, Arc<Workload>>,
) -> Cow<'a, Arc<Workload>> {
    match head.extensions.get() {
        Some(Feature(feature)) if *feature != workload.feature => {
            Cow::Owned(plan.with_feature(&workload, feature))
        }
        _ => workload,
    }
}

/// Returns the reason why a request is denied by a cap: its client's, or one of the plan's that
/// does not pay for its begin.
fn beyond_cap(context: &BillingContext, origin: &Origin) -> Option<Rejection> {
    if context.plan.is_cap_too_low {
        return Some(Rejection::RequestCap);
    }
    match &origin.caps {
        Ok(None) => None,
        Ok(Some(caps)) => {
            (!caps.pay_for_begin(&context.plan.tariff)).then_some(Rejection::ClientCap)
        }
        Err(field) => Some(Rejection::InvalidCap { field }),
    }
}

/// Counts a request against its account's rate.
fn count(
    handle: &AccountHandle,
    context: &BillingContext,
    quota: RequestQuota,
    now: Duration,
) -> Result<RateState, Rejection> {
    let hint = || context.plan.tier.hint.as_deref().map(Into::into);
    handle.count(quota, now).map_err(|state| Rejection::RequestRate {
        retry_after: state.reset,
        quota: state.quota,
        hint: hint(),
    })
}
