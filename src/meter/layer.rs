//! [`CreditMeter`]: the layer, and what is asked of a meter beside requests.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use http::HeaderName;
use tokio::{runtime::Handle, time::timeout};
use tower_layer::Layer;

use super::{
    builder::CreditMeterBuilder,
    charge::{Billable, Kept},
    read_ahead::{ReadAhead, ReadAheadLimits},
    reporting::ReportingByModel,
    service::CreditService,
};
use crate::{
    Account, Accounts, Identity, Period, Plan,
    clock::Time,
    contained::{Panicked, contained},
    identify::{Identify, IdentifyError, Identifying, RequestHead},
    lease::{Desk, Keeper, LeaseRules},
    ledger::{Amendment, Ledger, LedgerError, Statement},
    meter::Settlement,
    observe,
    plan::{Classification, PlanHandle},
    rejection::DenialStyle,
};

/// Paths that are not in the plan are logged once each, up to this many.
const MOST_LOGGED_PATHS: usize = 64;

/// Meters a service: what it runs is paid for from its callers' credits. The crate's [front
/// page](crate) has the example.
///
/// Clones are one meter: put them on as many servers as one process has.
/// [`shutdown`](Self::shutdown) settles what is open.
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
    pub(super) keeper: Keeper<Kept>,
    /// The meter spawns the worker itself, and again where the runtime that had it has ended.
    pub(super) spawns: bool,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) time: Time,
    pub(super) settings: Settings,
    /// `None` where everything is billed.
    pub(super) billable: Option<Billable>,
    pub(super) bill_to: Option<HeaderName>,
    pub(super) unknown_paths: Mutex<HashSet<String>>,
    pub(super) reporting: ReportingByModel,
    pub(super) read_ahead: Arc<ReadAhead>,
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
    pub(super) read_ahead: ReadAheadLimits,
}

impl CreditMeter {
    /// A meter with default settings. Its background task is spawned by the first request, on that
    /// request's tokio runtime.
    pub fn new(plan: impl Into<PlanHandle>, ledger: impl Ledger, identify: impl Identify) -> Self {
        Self::builder(plan, ledger, identify).assemble(true)
    }

    /// Settings before building.
    pub fn builder(
        plan: impl Into<PlanHandle>,
        ledger: impl Ledger,
        identify: impl Identify,
    ) -> CreditMeterBuilder {
        CreditMeterBuilder::new(plan.into(), Arc::new(ledger), Box::new(identify))
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
        self.payer(identity, bill_to)
    }

    /// Who asks, whoever is to pay.
    pub(crate) async fn caller(
        &self,
        head: RequestHead<'_>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        match self.identifying(head) {
            Identifying::Ready(answer) => answer,
            Identifying::Later(answer) => self.in_time(answer).await,
        }
    }

    /// Who asks, by the host's code, whose panic is an answer that it could not give.
    pub(super) fn identifying(&self, head: RequestHead<'_>) -> Identifying {
        let identifying = contained("Identify", || self.inner.identify.identify(head));
        identifying.unwrap_or_else(|panicked| {
            Identifying::Ready(Err(IdentifyError::Unavailable(Arc::new(panicked))))
        })
    }

    /// What somebody else says who asks, if they say so in time.
    pub(super) async fn in_time(
        &self,
        answer: impl Future<Output = Result<Arc<Identity>, IdentifyError>>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        let answer = AssertUnwindSafe(answer).catch_unwind();
        match timeout(self.inner.settings.identify_within, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(IdentifyError::Unavailable(Arc::new(Panicked::of("Identify")))),
            Err(elapsed) => Err(IdentifyError::Unavailable(Arc::new(elapsed))),
        }
    }

    /// The organisation that a request says it is to be billed to.
    pub(crate) fn bill_to<'a>(
        &self,
        head: RequestHead<'a>,
    ) -> Result<Option<&'a str>, IdentifyError> {
        let Some(name) = &self.inner.bill_to else { return Ok(None) };
        let mut values = head.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        // Which of two would count is anybody's guess.
        let only = std::str::from_utf8(value.as_bytes()).ok().filter(|_| values.next().is_none());
        only.map(Some).ok_or(IdentifyError::NotAMember)
    }

    /// `true` if nothing is denied.
    #[cfg(feature = "axum")]
    pub(crate) fn is_shadow(&self) -> bool {
        self.inner.settings.shadow
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
        bill_to: Result<Option<impl AsRef<str>>, IdentifyError>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        // Who is not known is not told more.
        let paid = bill_to.and_then(|bill_to| match bill_to {
            None => Ok(Arc::clone(&identity)),
            Some(organisation) => {
                identity.billed_to(organisation.as_ref()).ok_or(IdentifyError::NotAMember)
            }
        });
        match paid {
            Err(error) if self.inner.settings.shadow => {
                observe::would_deny(crate::Rejection::from(error).reason());
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

    /// Changes an account, as [`accounts`](Self::accounts) does: answers `false` for what was done
    /// already, by its id.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where the ledger gave no answer.
    pub async fn amend(
        &self,
        account: &Account,
        amendment: Amendment,
    ) -> Result<bool, LedgerError> {
        self.inner.ledger.amend(account, amendment).await
    }

    /// What an identity's account used in a month, by the terms of its tier, or those that a month
    /// had which has ended; in the current month where `period` is `None`.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where the ledger gave no answer; [`LedgerError::Refused`] where the tier is
    /// not in the plan.
    pub async fn statement(
        &self,
        identity: &Identity,
        period: Option<Period>,
    ) -> Result<Statement, LedgerError> {
        let period = period.unwrap_or_else(|| Period::containing(self.inner.time.unix_time()));
        let tier = self.inner.plan.current().tier(&identity.tier).cloned();
        let tier = tier.ok_or_else(|| {
            LedgerError::Refused(format!("tier `{}` is not in the plan", identity.tier))
        })?;
        self.inner.ledger.statement(&identity.account, period, Some(tier.terms())).await
    }

    /// The operator's handle on the accounts of this meter's ledger.
    pub fn accounts(&self) -> Accounts {
        Accounts::of(Arc::clone(&self.inner.ledger))
    }

    /// Denies what comes from now on, ends what still runs at what it has used, and waits until the
    /// ledger has acknowledged everything, five seconds at most. Answers what was settled, and what
    /// could not be.
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

    /// Spawns the background task if nobody has it: nobody did yet, or it ended with its runtime.
    pub(super) fn ensure_worker(&self) {
        if !self.inner.spawns || self.inner.keeper.has_worker() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                if let Some(worker) = self.inner.keeper.worker() {
                    runtime.spawn(worker.run());
                }
            }
            Err(error) => {
                tracing::error!(target: "tower_credits", %error, "a CreditMeter needs a tokio runtime to settle on");
            }
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
    /// Says if it has not been said yet what to do about a path.
    pub(super) fn may_log(&self, path: &str) -> bool {
        let logged = self.unknown_paths.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MOST_LOGGED_PATHS && !logged.contains(path)
    }

    /// Says once what to do about a path.
    pub(super) fn log_unknown(&self, path: &str, advice: &str) {
        let mut logged = self.unknown_paths.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_LOGGED_PATHS && logged.insert(path.to_owned()) {
            tracing::warn!(target: "tower_credits", path, "denied: {advice}");
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
