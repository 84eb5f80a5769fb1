//! The settings of a [`CreditMeter`], and what is made of them.

use std::{
    fmt,
    future::Future,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, StatusCode, response::Parts};

use super::{
    charge::{Billable, FinishedRequest, Kept},
    layer::{Classify, CreditMeter, Inner, Settings},
    read_ahead::{ReadAhead, ReadAheadLimits},
    reporting::ReportingByModel,
};
use crate::{
    HoldAhead, Plan, Threshold, ThresholdReached,
    clock::{Clock, Time},
    identify::{Identify, RequestHead},
    lease::{Keeper, LeaseRules, Watch, Worker},
    ledger::Ledger,
    observe,
    plan::{Classification, PlanHandle},
    rejection::{DenialFormat, DenialStyle},
    threshold::MAX_THRESHOLDS,
};

/// Accounts that a node keeps leases of at once, by default.
const MOST_ACCOUNTS: usize = 1 << 18;

/// The field in which a request says which organisation pays, as Hugging Face's clients send it.
const BILL_TO: HeaderName = HeaderName::from_static("x-hf-bill-to");

/// The next meter's id.
static NEXT: AtomicU64 = AtomicU64::new(0);

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
    watch: Option<Watch>,
}

impl CreditMeterBuilder {
    pub(super) fn new(
        plan: PlanHandle,
        ledger: Arc<dyn Ledger>,
        identify: Box<dyn Identify>,
    ) -> Self {
        Self {
            plan,
            ledger,
            identify,
            classify: None,
            time: Time::system(),
            settings: Settings {
                rules: LeaseRules::default(),
                most_accounts: MOST_ACCOUNTS,
                until_head: false,
                inference_id: true,
                extensions: true,
                shadow: false,
                denials: DenialStyle {
                    unavailable: StatusCode::SERVICE_UNAVAILABLE,
                    format: DenialFormat::Problem,
                    grpc: false,
                },
                tells: false,
                identify_within: Duration::from_secs(5),
                read_ahead: ReadAheadLimits::default(),
            },
            billable: None,
            bill_to: Some(BILL_TO),
            watch: None,
        }
    }

    /// Calls `hook` when an account has reached a threshold, once for each account, month and
    /// threshold, on one of the nodes that watch it: on the background task, so what takes longer
    /// than a moment is spawned there. At most 32 thresholds. All nodes have the same ones. A
    /// second call of this replaces the first; a hook that holds the meter keeps it alive.
    ///
    /// Once is once: also where an account's credits grow later in the month, by a change of tier,
    /// say. A node that ends just before its call takes it along, and where a failover of the
    /// ledger forgets that a node claimed it, another may call again.
    ///
    /// ```
    /// use tower_credits::{CreditMeter, MemoryLedger, Plan, Threshold, ThresholdReached, identify::IdentityFromExtensions};
    ///
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .thresholds([Threshold::Included(80), Threshold::Included(100), Threshold::Limit(90)], |reached: ThresholdReached| {
    ///         tracing::info!(account = %reached.account, threshold = %reached.threshold, used = %reached.used, of = %reached.of, "reached");
    ///     })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn thresholds(
        mut self,
        thresholds: impl IntoIterator<Item = Threshold>,
        hook: impl Fn(ThresholdReached) + Send + Sync + 'static,
    ) -> Self {
        self.watch =
            Some(Watch { thresholds: thresholds.into_iter().collect(), hook: Arc::new(hook) });
        self
    }

    /// The header field in which a request names the organisation that pays for it, by its id;
    /// `None` where none may. Default `X-HF-Bill-To`. The [`Identity`](crate::Identity) says which
    /// organisations its subject [may bill](crate::Identity::member_of); another one is denied with
    /// 403, whether it exists or not.
    #[must_use]
    pub fn bill_to_header(mut self, field: Option<HeaderName>) -> Self {
        self.bill_to = field;
        self
    }

    /// Leases hold a surplus, so that most requests are admitted without a call to the ledger.
    /// Default: they hold nothing that no request owns. What one node holds ahead, others cannot
    /// use: until ten seconds after its last use there.
    #[must_use]
    pub fn hold_ahead(mut self, ahead: HoldAhead) -> Self {
        self.settings.rules.ahead = Some(ahead);
        self
    }

    /// How long a call to the ledger may take, and how long a request waits for it: 1 ms to 5 s.
    /// Default 250 ms. A request puts at least four deadlines of compute time on hold, so that it
    /// can be refilled in time.
    #[must_use]
    pub fn ledger_timeout(mut self, timeout: Duration) -> Self {
        self.settings.rules.deadline = timeout;
        self
    }

    /// How long spending may stay unreported to the ledger, which is also how much of it is lost
    /// with a node that is killed: 1 ms to 60 s. Default 100 ms. The longer, the fewer calls of the
    /// ledger, and the longer what a request did not use of its hold stays on hold. Where it is
    /// more than five seconds, credits that are held ahead are given back twice as long after their
    /// last use. `docs/scaling.md` has the arithmetic.
    #[must_use]
    pub fn report_within(mut self, within: Duration) -> Self {
        self.settings.rules.flush_after(within);
        self
    }

    /// How long an [`Identify`] that asks elsewhere may take; after it the request is denied as
    /// unavailable. Default 5 s.
    #[must_use]
    pub fn identify_timeout(mut self, timeout: Duration) -> Self {
        self.settings.identify_within = timeout;
        self
    }

    /// Decides what a request runs, in place of the plan's routes. [`Plan::workload`] finds the
    /// model's price.
    #[must_use]
    pub fn classify(
        mut self,
        classify: impl Fn(RequestHead<'_>, &Plan) -> Classification + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Box::new(classify));
        self
    }

    /// Compute time ends with the response's head; streaming its body is not billed.
    #[must_use]
    pub fn compute_until_head(mut self, on: bool) -> Self {
        self.settings.until_head = on;
        self
    }

    /// Sets if responses carry an `Inference-Id` (a UUID of version 7). Default: they do.
    #[must_use]
    pub fn inference_id(mut self, on: bool) -> Self {
        self.settings.inference_id = on;
        self
    }

    /// Sets if handlers find a [`ComputeClock`](crate::ComputeClock) and the caller's
    /// `Arc<Identity>` in their requests' extensions. Default: they do. Without, a request is
    /// metered for a few heap allocations less; a response may still carry
    /// [`ComputeTime`](crate::ComputeTime), and protocols cannot be switched.
    #[must_use]
    pub fn request_extensions(mut self, on: bool) -> Self {
        self.settings.extensions = on;
        self
    }

    /// Denies nothing and stops nothing: what would have been denied is logged, and metered where
    /// its account is known. For those who put the meter in front of live traffic first. What would
    /// have been denied is owed, and shows on the bill.
    #[must_use]
    pub fn shadow(mut self, on: bool) -> Self {
        self.settings.shadow = on;
        self
    }

    /// Decides by how a request ended whether it is billed. Default: every request whose inner
    /// service was called.
    ///
    /// Until it has decided, nothing of a request is settled: a node that is killed loses all that
    /// its running requests used. Where the head of a response tells enough, use
    /// [`bill_if_head`](Self::bill_if_head). The later call of the two counts.
    #[must_use]
    pub fn bill_if(
        mut self,
        billable: impl Fn(&FinishedRequest) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.billable = Some(Billable::AtEnd(Arc::new(billable)));
        self
    }

    /// Decides by the head of its response whether a request is billed; by `None` if it ended
    /// without one. From then on, what it uses is settled while it runs. The status of a gRPC call
    /// that failed before its first message is in the head (`grpc-status`). Default: every request
    /// whose inner service was called.
    ///
    /// ```
    /// use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    ///
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .bill_if_head(|head| head.is_none_or(|head| !head.status.is_server_error()))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bill_if_head(
        mut self,
        billable: impl Fn(Option<&Parts>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.billable = Some(Billable::AtHead(Arc::new(billable)));
        self
    }

    /// Sets how many bytes of a response are read ahead of its client: by default 256 KiB, at least
    /// four frames; and up to four times as much until it is known how fast the service produces.
    /// Responses are read as fast as the service produces them, so that compute time does not
    /// depend on who reads; while so much waits for the client, the service is held back.
    #[must_use]
    pub fn read_ahead_per_response(mut self, bytes: usize) -> Self {
        self.settings.read_ahead.each = bytes;
        self
    }

    /// Sets how many bytes of all responses together are read ahead: by default 256 MiB. Beyond
    /// that, one frame of each is, and at its begin up to 64 KiB.
    #[must_use]
    pub fn read_ahead_total(mut self, bytes: usize) -> Self {
        self.settings.read_ahead.total = bytes;
        self
    }

    /// Sets after how long a response is abandoned ([`End::Stalled`](crate::meter::End::Stalled)) of which
    /// nothing is taken while the service is held back: at least 1 ms. Default 60 s, and a second
    /// more for each 16 KiB of the frame that was taken last. Its body is dropped, and what it had
    /// on hold is free.
    #[must_use]
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.settings.read_ahead.stalled_after = time;
        self
    }

    /// The status sent where this server cannot tell or cannot take more: 400 to 599. Default 503.
    /// Some clients retry that at once and without end.
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

    /// Sets if metered responses tell what is known at their head: `x-credits-remaining` (dollars;
    /// of included credits where there is no limit) and, where the compute time has ended or was
    /// reported by then, `x-compute-time` (seconds) and `Server-Timing` (milliseconds). Default:
    /// they do not.
    ///
    /// With it, a client that asks for trailers (`TE: trailers`, RFC 9110, section 6.5.1) learns
    /// the compute time of a stream, and its cost (`x-cost-nano-usd`), in its trailers, on HTTP/2
    /// and chunked HTTP/1.1; a response of known length keeps that. gRPC calls have
    /// `x-compute-time` and `x-cost-nano-usd` in their trailers always.
    #[must_use]
    pub fn usage_headers(mut self, on: bool) -> Self {
        self.settings.tells = on;
        self
    }

    /// The most accounts that this node keeps leases of at once; what would be more is denied as
    /// unavailable. Default 262 144. One costs some kilobytes while it is used, and until ten
    /// minutes after.
    #[must_use]
    pub fn max_accounts(mut self, most: NonZeroUsize) -> Self {
        self.settings.most_accounts = most.get();
        self
    }

    /// The clock that compute time and months are read from. Default: the system's. Tests on paused
    /// time take [`TokioClock`](crate::clock::TokioClock).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.time = Time::of(Arc::new(clock));
        self
    }

    /// The meter. Its background task is spawned by the first request, on that request's tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be.
    pub fn build(self) -> Result<CreditMeter, ConfigError> {
        self.check()?;
        Ok(self.assemble(true))
    }

    /// The meter and its background task, for those who run their tasks themselves: nothing is
    /// spawned.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be.
    pub fn build_with_worker(self) -> Result<(CreditMeter, CreditWorker), ConfigError> {
        self.check()?;
        let meter = self.assemble(false);
        match meter.inner.keeper.worker() {
            Some(worker) => Ok((meter, CreditWorker(worker))),
            // A meter that nobody has seen yet has no worker.
            None => Err(ConfigError { setting: "worker", remedy: "build another meter" }),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let LeaseRules { deadline, flush, ttl, .. } = self.settings.rules;
        let shortest = Duration::from_millis(1);
        if !(shortest..=Duration::from_secs(5)).contains(&deadline) {
            return Err(ConfigError { setting: "ledger_timeout", remedy: "set 1 ms to 5 s" });
        }
        if !(shortest..=ttl / 10).contains(&flush) {
            return Err(ConfigError { setting: "report_within", remedy: "set 1 ms to 60 s" });
        }
        if self.watch.as_ref().is_some_and(|watch| watch.thresholds.len() > MAX_THRESHOLDS) {
            return Err(ConfigError { setting: "thresholds", remedy: "set at most 32" });
        }
        if self.settings.read_ahead.stalled_after < shortest {
            return Err(ConfigError { setting: "stall_timeout", remedy: "set 1 ms or more" });
        }
        let unavailable = self.settings.denials.unavailable;
        if !(unavailable.is_client_error() || unavailable.is_server_error()) {
            return Err(ConfigError {
                setting: "unavailable_status",
                remedy: "set a status of 400 to 599",
            });
        }
        Ok(())
    }

    pub(super) fn assemble(self, spawns: bool) -> CreditMeter {
        observe::describe();
        let Self { plan, ledger, identify, classify, time, settings, billable, bill_to, watch } =
            self;
        let (keeper, desk) = Keeper::pair(
            Arc::clone(&ledger),
            time.clone(),
            settings.rules,
            settings.most_accounts,
            watch,
        );
        let inner = Inner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            plan,
            identify,
            classify,
            desk,
            keeper,
            spawns,
            ledger,
            time,
            settings,
            billable,
            bill_to,
            unknown_paths: Mutex::default(),
            reporting: ReportingByModel::default(),
            read_ahead: Arc::new(ReadAhead::new(settings.read_ahead)),
        };
        CreditMeter { inner: Arc::new(inner) }
    }
}

impl fmt::Debug for CreditMeterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreditMeterBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The background task of a [`CreditMeter`]: it tells the ledger what was spent, and asks it for
/// more. Without it, no request that needs the ledger is admitted, and nothing is settled.
#[derive(Debug)]
pub struct CreditWorker(Worker<Kept>);

impl CreditWorker {
    /// Works until the meter is shut down, or its last clone and service are dropped and all is
    /// settled.
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
