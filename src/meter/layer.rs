//! [`CreditMeter`] and its settings.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, StatusCode};
use tokio::{runtime::Handle, time::timeout};
use tower_layer::Layer;

use super::{
    charge::{Billable, Ending, Kept},
    service::CreditService,
};
use crate::{
    Account, Ahead, Amendment, Classification, Clock, Identify, Identity, Ledger, LedgerError, Period, Plan, PlanHandle, RequestHead,
    Settlement, Statement,
    clock::Time,
    identify::{IdentifyError, Identifying},
    lease::{Desk, Keeper, LeaseRules, Worker},
    observe,
    rejection::{DenialFormat, DenialStyle},
};

/// Accounts that a node keeps leases of at once, by default.
const MOST_ACCOUNTS: usize = 1 << 18;

/// Paths that are not in the plan are logged once each, up to this many.
const MOST_LOGGED_PATHS: usize = 64;

/// The next meter's id.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Meters a service: what it runs is paid for from its callers' credits. The crate's [front page](crate) has the example.
///
/// Clones are one meter: put them on as many servers as one process has. [`shutdown`](Self::shutdown) settles what is open.
#[derive(Clone, Debug)]
pub struct CreditMeter {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// No other meter of this process has it.
    pub(super) id: u64,
    pub(super) plan: PlanHandle,
    pub(super) identify: Box<dyn Identify>,
    pub(super) classify: Option<Box<Classify>>,
    pub(super) desk: Desk<Kept>,
    keeper: Keeper<Kept>,
    /// Until the first request starts it.
    worker: Mutex<Option<Worker<Kept>>>,
    works: AtomicBool,
    ledger: Arc<dyn Ledger>,
    pub(super) time: Time,
    pub(super) settings: Settings,
    /// `None` where everything is billed.
    pub(super) billable: Option<Billable>,
    bill_to: Option<HeaderName>,
    unknown_paths: Mutex<HashSet<String>>,
}

pub(super) type Classify = dyn Fn(RequestHead<'_>, &Plan) -> Classification + Send + Sync;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) rules: LeaseRules,
    pub(super) most_accounts: usize,
    pub(super) until_head: bool,
    pub(super) inference_id: bool,
    pub(super) extensions: bool,
    pub(super) shadow: bool,
    pub(super) denials: DenialStyle,
    pub(super) tells: bool,
    pub(super) identify_within: Duration,
}

/// The field in which a request says which organisation pays, as Hugging Face's clients send it.
const BILL_TO: HeaderName = HeaderName::from_static("x-hf-bill-to");

/// Who pays for what an identity asks.
fn payer(identity: Arc<Identity>, bill_to: Option<&str>) -> Result<Arc<Identity>, IdentifyError> {
    match bill_to {
        None => Ok(identity),
        Some(organisation) => identity.billed_to(organisation).ok_or(IdentifyError::NotAMember),
    }
}

impl CreditMeter {
    /// A meter with default settings. Its background task is spawned by the first request, on that request's tokio runtime.
    pub fn new(plan: impl Into<PlanHandle>, ledger: impl Ledger, identify: impl Identify) -> Self {
        let (meter, worker) = Self::builder(plan, ledger, identify).assemble();
        meter.spawn_later(worker);
        meter
    }

    /// Settings before building.
    pub fn builder(plan: impl Into<PlanHandle>, ledger: impl Ledger, identify: impl Identify) -> CreditMeterBuilder {
        CreditMeterBuilder {
            plan: plan.into(),
            ledger: Arc::new(ledger),
            identify: Box::new(identify),
            classify: None,
            time: Time::system(),
            settings: Settings {
                rules: LeaseRules::default(),
                most_accounts: MOST_ACCOUNTS,
                until_head: false,
                inference_id: true,
                extensions: true,
                shadow: false,
                denials: DenialStyle { unavailable: StatusCode::SERVICE_UNAVAILABLE, format: DenialFormat::Problem, grpc: false },
                tells: false,
                identify_within: Duration::from_secs(5),
            },
            billable: None,
            bill_to: Some(BILL_TO),
        }
    }

    /// The plan in force; [`PlanHandle::replace`] changes it while requests run.
    pub fn plan(&self) -> &PlanHandle {
        &self.inner.plan
    }

    /// Who asks, as the layer would have it.
    ///
    /// # Errors
    ///
    /// [`IdentifyError`] where nobody was identified.
    pub async fn identify(&self, head: RequestHead<'_>) -> Result<Arc<Identity>, IdentifyError> {
        let bill_to = self.bill_to(head).map(|bill_to| bill_to.map(str::to_owned));
        let identity = self.caller(head).await?;
        // Who is not known is not told more.
        payer(identity, bill_to?.as_deref())
    }

    /// Who asks, whoever is to pay.
    pub(crate) async fn caller(&self, head: RequestHead<'_>) -> Result<Arc<Identity>, IdentifyError> {
        match self.inner.identify.identify(head) {
            Identifying::Ready(answer) => answer,
            Identifying::Later(answer) => timeout(self.inner.settings.identify_within, answer)
                .await
                .unwrap_or_else(|elapsed| Err(IdentifyError::Unavailable(Arc::new(elapsed)))),
        }
    }

    /// The organisation that a request says it is to be billed to.
    pub(crate) fn bill_to<'a>(&self, head: RequestHead<'a>) -> Result<Option<&'a str>, IdentifyError> {
        let Some(name) = &self.inner.bill_to else { return Ok(None) };
        let mut values = head.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        // Which of two would count is anybody's guess.
        let only = std::str::from_utf8(value.as_bytes()).ok().filter(|_| values.next().is_none());
        only.map(Some).ok_or(IdentifyError::NotAMember)
    }

    /// The cookie that browsers keep their token in.
    #[cfg(feature = "axum")]
    pub(crate) fn cookie(&self) -> Option<&crate::Name> {
        self.inner.identify.cookie()
    }

    /// Who pays for what an identity asks. In shadow mode the caller does where nobody else may.
    pub(super) fn payer(
        &self,
        identity: Arc<Identity>,
        bill_to: Result<Option<&str>, IdentifyError>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        let paid = bill_to.and_then(|bill_to| payer(Arc::clone(&identity), bill_to));
        match paid {
            Err(error) if self.inner.settings.shadow => {
                observe::would_deny(&error.into());
                Ok(identity)
            }
            paid => paid,
        }
    }

    /// The current month.
    #[cfg(feature = "axum")]
    pub(crate) fn this_month(&self) -> Period {
        Period::containing(self.inner.time.unix_time())
    }

    /// Changes an account's own record: purchased credits, seats, its owner's spending limit. Answers `false` for a grant whose id is known already: it
    /// changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where the ledger gave no answer.
    pub async fn amend(&self, account: &Account, amendment: Amendment) -> Result<bool, LedgerError> {
        self.inner.ledger.amend(account, amendment).await
    }

    /// What an identity's account used in a month, by the terms of its tier today; in the current month where `period` is `None`.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where the ledger gave no answer; [`LedgerError::Refused`] where the tier is not in the plan.
    pub async fn statement(&self, identity: &Identity, period: Option<Period>) -> Result<Statement, LedgerError> {
        let period = period.unwrap_or_else(|| Period::containing(self.inner.time.unix_time()));
        let tier = self.inner.plan.current().tier(identity.tier.as_str()).cloned();
        let tier = tier.ok_or_else(|| LedgerError::Refused(format!("tier `{}` is not in the plan", identity.tier)))?;
        self.inner.ledger.statement(&identity.account, period, tier.terms()).await
    }

    /// Denies what comes from now on, ends what still runs at what it has used, and waits until the ledger has acknowledged everything, five
    /// seconds at most. Answers what was settled, and what could not be.
    ///
    /// Call it when the server has shut down: what runs on is not charged for the time after.
    pub async fn shutdown(&self) -> Settlement {
        self.ensure_worker();
        let settlement = self.inner.keeper.shutdown().await;
        for unsettled in &settlement.unsettled {
            tracing::error!(target: "tower_credits", account = %unsettled.account, period = %unsettled.period, amount = %unsettled.amount,
                "not acknowledged by the ledger at shutdown");
        }
        settlement
    }

    #[cfg(feature = "axum")]
    pub(crate) fn denial_style(&self) -> DenialStyle {
        self.inner.settings.denials
    }

    fn spawn_later(&self, worker: Worker<Kept>) {
        *self.inner.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        self.inner.works.store(false, Ordering::Release);
    }

    /// Spawns the background task if nobody did yet.
    pub(super) fn ensure_worker(&self) {
        if self.inner.works.load(Ordering::Acquire) {
            return;
        }
        let mut slot = self.inner.worker.lock().unwrap_or_else(PoisonError::into_inner);
        match Handle::try_current() {
            Ok(runtime) => {
                if let Some(worker) = slot.take() {
                    runtime.spawn(worker.run());
                }
                self.inner.works.store(true, Ordering::Release);
            }
            Err(error) => tracing::error!(target: "tower_credits", %error, "a CreditMeter needs a tokio runtime to settle on"),
        }
    }
}

impl<S> Layer<S> for CreditMeter {
    type Service = CreditService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CreditService::new(inner, self.clone())
    }
}

impl Inner {
    /// Says once how a path can be put into the plan.
    pub(super) fn log_unknown(&self, path: &str) {
        let mut logged = self.unknown_paths.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_LOGGED_PATHS && logged.insert(path.to_owned()) {
            tracing::warn!(target: "tower_credits", path, "denied: the plan has no route or model for this path; to let it pass unmetered, add under \
                [routes]: {path:?} = \"free\"; to meter it: {path:?} = {{ model = \"<name>\" }}");
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("identify", &self.identify)
            .field("desk", &self.desk)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`CreditMeter`].
pub struct CreditMeterBuilder {
    plan: PlanHandle,
    ledger: Arc<dyn Ledger>,
    identify: Box<dyn Identify>,
    classify: Option<Box<Classify>>,
    time: Time,
    settings: Settings,
    billable: Option<Billable>,
    bill_to: Option<HeaderName>,
}

impl CreditMeterBuilder {
    /// The header field in which a request names the organisation that pays for it, by its id; `None` where none may. Default `X-HF-Bill-To`. The
    /// [`Identity`] says which organisations its subject [may bill](Identity::member_of); another one is denied with 403, whether it exists or not.
    #[must_use]
    pub fn bill_to(mut self, field: Option<HeaderName>) -> Self {
        self.bill_to = field;
        self
    }

    /// Leases hold a surplus, so that most requests are admitted without a call to the ledger. Default: they hold nothing that no request owns.
    /// What one node holds ahead, others cannot use: until ten seconds after its last use there.
    #[must_use]
    pub fn ahead(mut self, ahead: Ahead) -> Self {
        self.settings.rules.ahead = Some(ahead);
        self
    }

    /// How long a call to the ledger may take, and how long a request waits for it: 1 ms to 5 s. Default 250 ms. A request puts at least four deadlines of
    /// compute time on hold, so that it can be refilled in time.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.rules.deadline = deadline;
        self
    }

    /// How long spending may stay unreported to the ledger, which is also how much of it is lost with a node that is killed: 1 ms to 60 s. Default
    /// 100 ms. The longer, the fewer calls of the ledger, and the longer what a request did not use of its hold stays on hold. Where it is more than five
    /// seconds, credits that are held ahead are given back twice as long after their last use. `docs/scaling.md` has the arithmetic.
    #[must_use]
    pub fn flush(mut self, flush: Duration) -> Self {
        self.settings.rules.flush_after(flush);
        self
    }

    /// How long an [`Identify`] that asks elsewhere may take; after it the request is denied as unavailable. Default 5 s.
    #[must_use]
    pub fn identify_within(mut self, within: Duration) -> Self {
        self.settings.identify_within = within;
        self
    }

    /// Decides what a request runs, in place of the plan's routes. [`Plan::workload`] finds the model's price.
    #[must_use]
    pub fn classify(mut self, classify: impl Fn(RequestHead<'_>, &Plan) -> Classification + Send + Sync + 'static) -> Self {
        self.classify = Some(Box::new(classify));
        self
    }

    /// Compute time ends with the response's head; streaming its body is not billed.
    #[must_use]
    pub fn until_head(mut self) -> Self {
        self.settings.until_head = true;
        self
    }

    /// Whether responses carry an `Inference-Id` (a UUID of version 7). Default: they do.
    #[must_use]
    pub fn inference_id(mut self, on: bool) -> Self {
        self.settings.inference_id = on;
        self
    }

    /// Whether handlers find a [`ComputeClock`](crate::ComputeClock) and the caller's `Arc<Identity>` in their requests' extensions. Default: they do.
    /// Without, a request is metered for a few heap allocations less; a response may still carry [`ComputeTime`](crate::ComputeTime), and protocols
    /// cannot be switched.
    #[must_use]
    pub fn extensions(mut self, on: bool) -> Self {
        self.settings.extensions = on;
        self
    }

    /// Denies nothing and stops nothing: what would have been denied is logged, and metered where its account is known. For those who put the
    /// meter in front of live traffic first. What would have been denied is owed, and shows on the bill.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.settings.shadow = true;
        self
    }

    /// Decides by how a request ended whether it is billed. Default: every request whose inner service was called.
    #[must_use]
    pub fn billable(mut self, billable: impl Fn(&Ending) -> bool + Send + Sync + 'static) -> Self {
        self.billable = Some(Arc::new(billable));
        self
    }

    /// The status sent where this server cannot tell or cannot take more: 400 to 599. Default 503. Some clients retry that at once and without end.
    #[must_use]
    pub fn unavailable_status(mut self, status: StatusCode) -> Self {
        self.settings.denials.unavailable = status;
        self
    }

    /// What the body of a denial looks like. Default: [`DenialFormat::Problem`].
    #[must_use]
    pub fn denial_format(mut self, format: DenialFormat) -> Self {
        self.settings.denials.format = format;
        self
    }

    /// Whether metered responses tell what is known at their head: `x-credits-remaining` (dollars; of included credits where there is no limit)
    /// and, where the compute time has ended or was reported by then, `x-compute-time` (seconds) and `Server-Timing` (milliseconds). Default: they
    /// do not.
    ///
    /// With it, a client that asks for trailers (`TE: trailers`, RFC 9110, section 6.5.1) learns the compute time of a stream, and its cost
    /// (`x-cost-nano-usd`), in its trailers, on HTTP/2 and chunked HTTP/1.1; a response of known length keeps that. gRPC calls have
    /// `x-compute-time` and `x-cost-nano-usd` in their trailers always.
    #[must_use]
    pub fn tell_remaining(mut self, on: bool) -> Self {
        self.settings.tells = on;
        self
    }

    /// The most accounts that this node keeps leases of at once; what would be more is denied as unavailable. Default
    /// 262 144. One costs some kilobytes while it is used, and until ten minutes after.
    #[must_use]
    pub fn most_accounts(mut self, most: NonZeroUsize) -> Self {
        self.settings.most_accounts = most.get();
        self
    }

    /// The clock that compute time and months are read from. Default: the system's. Tests on paused time take [`TokioClock`](crate::TokioClock).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.time = Time::of(Arc::new(clock));
        self
    }

    /// The meter. Its background task is spawned by the first request, on that request's tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be.
    pub fn build(self) -> Result<CreditMeter, ConfigError> {
        self.check()?;
        let (meter, worker) = self.assemble();
        meter.spawn_later(worker);
        Ok(meter)
    }

    /// The meter and its background task, for those who run their tasks themselves: nothing is spawned.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be.
    pub fn build_with_worker(self) -> Result<(CreditMeter, CreditWorker), ConfigError> {
        self.check()?;
        let (meter, worker) = self.assemble();
        Ok((meter, CreditWorker(worker)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let LeaseRules { deadline, flush, ttl, .. } = self.settings.rules;
        let shortest = Duration::from_millis(1);
        if !(shortest..=Duration::from_secs(5)).contains(&deadline) {
            return Err(ConfigError { setting: "deadline", remedy: "set 1 ms to 5 s" });
        }
        if !(shortest..=ttl / 10).contains(&flush) {
            return Err(ConfigError { setting: "flush", remedy: "set 1 ms to 60 s" });
        }
        let unavailable = self.settings.denials.unavailable;
        if !(unavailable.is_client_error() || unavailable.is_server_error()) {
            return Err(ConfigError { setting: "unavailable_status", remedy: "set a status of 400 to 599" });
        }
        Ok(())
    }

    fn assemble(self) -> (CreditMeter, Worker<Kept>) {
        observe::describe();
        let Self { plan, ledger, identify, classify, time, settings, billable, bill_to } = self;
        let (keeper, desk, worker) = Keeper::pair(Arc::clone(&ledger), time.clone(), settings.rules, settings.most_accounts);
        let inner = Inner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            plan,
            identify,
            classify,
            desk,
            keeper,
            worker: Mutex::new(None),
            works: AtomicBool::new(true),
            ledger,
            time,
            settings,
            billable,
            bill_to,
            unknown_paths: Mutex::default(),
        };
        (CreditMeter { inner: Arc::new(inner) }, worker)
    }
}

impl fmt::Debug for CreditMeterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreditMeterBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The background task of a [`CreditMeter`]: it tells the ledger what was spent, and asks it for more. Without it, no request that needs the
/// ledger is admitted, and nothing is settled.
#[derive(Debug)]
pub struct CreditWorker(Worker<Kept>);

impl CreditWorker {
    /// Works until the meter is shut down, or its last clone and service are dropped and all is settled.
    pub fn run(self) -> impl Future<Output = ()> + Send {
        self.0.run()
    }
}

/// A setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be used: {remedy}")]
pub struct ConfigError {
    setting: &'static str,
    remedy: &'static str,
}
