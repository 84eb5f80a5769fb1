//! [`CreditMeter`]: the handle of a meter.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::join_all};
use http::HeaderName;
use tokio::{runtime::Handle, time::timeout};

use super::{
    bill_policy::HostPolicy,
    denied::{Denied, Whose},
    settings::{Classify, FormatChoice, Settings},
    shadow::{ShadowCounts, ShadowDenials},
    upload_budget::{UploadBudget, UploadMemory},
};
#[cfg(feature = "metrics")]
use crate::observe;
use crate::{
    Accounts, Identity, Period,
    clock::Time,
    contained::{Panicked, contained},
    identify::{Identify, IdentifyError, Identifying, RequestHead},
    keeper::{AccountHandle, Keeper, Settlement, Unsettled},
    ledger::{Ledger, LedgerError, Statement},
    metering::{Instruments, Origin},
    plan::{PlanHandle, Tier},
    records::RecordStats,
    terms::LeaseScope,
};

/// The most paths that are logged because they are not in the plan, once each.
const MAX_LOGGED_PATHS: usize = 64;

/// Meters a service: its callers' credits pay for what it computes. The crate's [front page](crate)
/// has the example.
///
/// Clones are one meter: put them on all servers of the process. [`shutdown`](Self::shutdown)
/// settles what is open.
#[derive(Clone, Debug)]
pub struct CreditMeter {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// A number that no other meter of this process has.
    pub(super) number: u64,
    pub(super) plan: PlanHandle,
    pub(super) identify: Box<dyn Identify>,
    pub(super) classify: Option<Box<Classify>>,
    pub(super) keeper: Keeper,
    /// `true` if the meter spawns its worker itself, and again if the worker's runtime has ended.
    pub(super) spawns_worker: bool,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) time: Time,
    pub(super) settings: Settings,
    /// The host's own policy on what is billed.
    pub(super) host_policy: Option<HostPolicy>,
    pub(super) bill_to_header: Option<HeaderName>,
    pub(super) logged_paths: Mutex<HashSet<String>>,
    /// `true` if costs of requests are kept.
    #[cfg(feature = "axum")]
    pub(super) keeps_costs: bool,
    /// Turns of those who ask for costs.
    #[cfg(feature = "axum")]
    pub(super) cost_lookups: tokio::sync::Semaphore,
    /// Requests that shadow mode let pass.
    pub(super) shadow_denials: ShadowCounts,
    pub(super) instruments: Instruments,
    pub(super) format_choice: FormatChoice,
    /// Bytes of request bodies in memory.
    pub(super) upload_memory: UploadMemory,
    /// Long uploads of denied requests that are read on.
    pub(super) long_drains: Arc<UploadBudget>,
}

impl CreditMeter {
    /// Returns the plan in force; [`PlanHandle::replace`] changes it while requests run.
    pub fn plan(&self) -> &PlanHandle {
        &self.inner.plan
    }

    /// Identifies the caller of a request, as the layer does.
    ///
    /// # Errors
    ///
    /// [`IdentifyError`] if the caller cannot be identified.
    pub async fn identify(&self, head: RequestHead<'_>) -> Result<Arc<Identity>, IdentifyError> {
        let bill_to = self.bill_to(head).map(|bill_to| bill_to.map(str::to_owned));
        let identity = self.caller(head).await?;
        self.payer(identity, bill_to, None)
    }

    /// Identifies the caller, whatever account is to pay.
    pub(crate) async fn caller(
        &self,
        head: RequestHead<'_>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        match self.identifying(head) {
            Identifying::Ready(answer) => answer,
            Identifying::Later(answer) => self.in_time(answer).await,
        }
    }

    /// Calls the host's code. If it panics, the caller cannot be identified now.
    pub(super) fn identifying(&self, head: RequestHead<'_>) -> Identifying {
        let identifying = contained("Identify", || self.inner.identify.identify(head));
        identifying.unwrap_or_else(|panicked| {
            Identifying::Ready(Err(IdentifyError::Unavailable(Arc::new(panicked))))
        })
    }

    /// Waits for an answer of the host's code, up to the timeout for that.
    pub(super) async fn in_time(
        &self,
        answer: impl Future<Output = Result<Arc<Identity>, IdentifyError>>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        let answer = AssertUnwindSafe(answer).catch_unwind();
        match timeout(self.inner.settings.identify_timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(IdentifyError::Unavailable(Arc::new(Panicked::of("Identify")))),
            Err(elapsed) => Err(IdentifyError::Unavailable(Arc::new(elapsed))),
        }
    }

    /// Returns the organisation that a request names as its payer.
    pub(crate) fn bill_to<'a>(
        &self,
        head: RequestHead<'a>,
    ) -> Result<Option<&'a str>, IdentifyError> {
        let Some(name) = &self.inner.bill_to_header else { return Ok(None) };
        let mut values = head.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        // Two values are refused: it is not clear which one counts.
        let only = std::str::from_utf8(value.as_bytes()).ok().filter(|_| values.next().is_none());
        only.map(Some).ok_or(IdentifyError::NotAMember)
    }

    /// `true` in shadow mode: nothing is denied.
    #[cfg(feature = "axum")]
    pub(crate) fn is_shadow(&self) -> bool {
        self.inner.settings.shadow
    }

    /// Returns the turns of those who ask for costs.
    #[cfg(feature = "axum")]
    pub(crate) fn cost_lookups(&self) -> &tokio::sync::Semaphore {
        &self.inner.cost_lookups
    }

    /// Returns the time by the ledger's clock, as far as its last answer said it.
    #[cfg(feature = "axum")]
    pub(crate) fn ledger_time(&self) -> crate::clock::UnixTime {
        self.inner.keeper.ledger_time()
    }

    /// `true` if the costs of requests are kept in the ledger.
    #[cfg(feature = "axum")]
    pub(crate) fn keeps_costs(&self) -> bool {
        self.inner.keeps_costs
    }

    /// Returns the name of the cookie in which browsers keep their token.
    #[cfg(feature = "axum")]
    pub(crate) fn cookie(&self) -> Option<&crate::Name> {
        self.inner.identify.cookie()
    }

    /// Returns the identity with the account that pays. In shadow mode the caller's own account
    /// pays if the organisation may not be billed.
    pub(super) fn payer(
        &self,
        identity: Arc<Identity>,
        bill_to: Result<Option<impl AsRef<str>>, IdentifyError>,
        origin: Option<&Origin>,
    ) -> Result<Arc<Identity>, IdentifyError> {
        // An unknown caller learns nothing about organisations.
        let paid = match bill_to {
            Ok(None) => return Ok(identity),
            Ok(Some(organisation)) => {
                identity.billed_to(organisation.as_ref()).ok_or(IdentifyError::NotAMember)
            }
            Err(error) => Err(error),
        };
        match paid {
            Err(error) if self.inner.settings.shadow => {
                if let Some(origin) = origin {
                    let whose = Whose::Caller(Arc::clone(&identity));
                    self.would_deny(&Denied { rejection: error.into(), whose }, origin);
                }
                Ok(identity)
            }
            paid => paid,
        }
    }

    /// Returns the current month.
    #[cfg(feature = "axum")]
    pub(crate) fn this_month(&self) -> Period {
        Period::containing(self.inner.time.unix_time())
    }

    /// Reads the statement of an identity's account for a month, by default for the current one.
    /// The terms are those of its tier; a month that has ended keeps the terms that it had.
    ///
    /// This has the ledger told before what the account, or the identity's part of it, has used on
    /// this node, and waits for that up to the ledger's timeout. Use in other parts and on other
    /// nodes is in the statement within
    /// [`report_within`](crate::CreditMeterBuilder::report_within), 1 s by default.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the ledger gave no answer; [`LedgerError::Refused`] if the tier is not in
    /// the plan.
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
        if Handle::try_current().is_ok() {
            self.ensure_worker();
            let used = self.entries_of(identity, &tier, period);
            join_all(used.iter().map(AccountHandle::report)).await;
        }
        self.inner.ledger.statement(&identity.account, period, Some(tier.terms())).await
    }

    /// Returns the entries that requests of an identity use on this node: without models, and for
    /// each rule of its tier that has limits for some.
    fn entries_of(&self, identity: &Identity, tier: &Tier, period: Period) -> Vec<AccountHandle> {
        let Identity { account, part, .. } = identity;
        let table = self.inner.keeper.table();
        tier.parts_of_models()
            .map(Some)
            .chain([None])
            .filter_map(|models| {
                let (account, part) = (account.clone(), part.clone());
                AccountHandle::find(table, &LeaseScope { account, part, models, period })
            })
            .collect()
    }

    /// Returns the operator's handle on the accounts of this meter's ledger.
    pub fn accounts(&self) -> Accounts {
        Accounts::of(Arc::clone(&self.inner.ledger))
    }

    /// Returns what became of the [usage records](crate::records) for each sink of this node, in
    /// the order in which the sinks were given.
    pub fn record_stats(&self) -> Vec<RecordStats> {
        self.inner.keeper.record_stats()
    }

    /// Sets the gauges of this node: leases, requests that run and wait, what is on hold and not
    /// reported, and records that wait. Call it when your server is asked for its metrics, before
    /// the recorder writes them.
    #[cfg(feature = "metrics")]
    pub fn update_gauges(&self) {
        let records = self.record_stats().into_iter().map(|stats| (stats.sink, stats.waiting));
        observe::load(&self.inner.keeper.load(), records);
    }

    /// Returns how many requests [shadow mode](crate::CreditMeterBuilder::shadow) has let pass on
    /// this node, by account and reason, the most first. Empty if it is off.
    pub fn shadow_denials(&self) -> Vec<ShadowDenials> {
        self.inner.shadow_denials.sums()
    }

    /// Shuts the meter down: denies new requests, ends the charge of requests that still run at
    /// what they have used, and waits until the ledger has acknowledged everything, five seconds at
    /// most, and until usage records are delivered, for up to five seconds more. Returns what was
    /// settled, and what could not be.
    ///
    /// Call it when the server has shut down. Requests that still run are not charged for the time
    /// after it.
    pub async fn shutdown(&self) -> Settlement {
        self.ensure_worker();
        let settlement = self.inner.keeper.shutdown().await;
        if settlement.lost_records > 0 {
            let number = settlement.lost_records;
            tracing::error!(
                target: "tower_credits", number, "usage records were not delivered in all"
            );
        }
        for unsettled in &settlement.unsettled {
            let Unsettled { account, period, amount } = unsettled;
            tracing::error!(
                target: "tower_credits", %account, %period, %amount,
                "not acknowledged by the ledger at shutdown"
            );
        }
        settlement
    }

    /// Settles what is in a journal, and writes it from now on.
    #[cfg(feature = "journal")]
    pub(super) fn keep_journal(&self, journal: crate::Journal) {
        let has_leases = !journal.is_empty();
        if let Err(error) = self.inner.keeper.keep_journal(journal) {
            tracing::error!(
                target: "tower_credits", %error,
                "the journal is not written: no thread could be started"
            );
        }
        // Without a runtime, the first request brings one.
        if has_leases && Handle::try_current().is_ok() {
            self.ensure_worker();
        }
    }

    /// Returns the status of denials for which this server is the reason.
    #[cfg(feature = "axum")]
    pub(crate) fn unavailable_status(&self) -> http::StatusCode {
        self.inner.settings.denials.unavailable
    }

    /// Spawns the worker if none runs: at the first request, or if its runtime has ended.
    pub(super) fn ensure_worker(&self) {
        if !self.inner.spawns_worker || self.inner.keeper.has_worker() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                if let Some(worker) = self.inner.keeper.worker() {
                    runtime.spawn(worker.run());
                }
            }
            Err(error) => {
                tracing::error!(
                    target: "tower_credits", %error,
                    "a CreditMeter needs a tokio runtime to settle on"
                );
            }
        }
    }
}

impl Inner {
    /// `true` if a path that is not in the plan has not been logged yet.
    pub(super) fn may_log(&self, path: &str) -> bool {
        let logged = self.logged_paths.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MAX_LOGGED_PATHS && !logged.contains(path)
    }

    /// Logs once what to do about a path that is not in the plan.
    pub(super) fn log_unknown(&self, path: &str, advice: &str) {
        let mut logged = self.logged_paths.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED_PATHS && logged.insert(path.to_owned()) {
            tracing::warn!(target: "tower_credits", path, "denied: {advice}");
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("identify", &self.identify)
            .field("keeper", &self.keeper)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
