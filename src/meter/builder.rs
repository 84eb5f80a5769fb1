//! The settings of a [`CreditMeter`], and its construction.

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
    bill_policy::HostPolicy,
    credit_meter::{CreditMeter, Inner},
    drain::MAX_LONG_DRAINS,
    settings::{Classify, FormatChoice, Settings},
    shadow::{ShadowCounts, ShadowLedger},
    upload_budget::{UploadBudget, UploadMemory},
};
use crate::{
    DenialFormat, HoldAhead, Plan, Threshold, ThresholdReached,
    clock::{Clock, Time},
    identify::{Identify, RequestHead},
    keeper::{Keeper, Worker},
    lease::LeaseRules,
    ledger::{Ledger, MAX_KEPT_FOR},
    metering::{
        FinishedRequest, Instruments, PlanContexts, ReadAheadBudget, ReportHistories, SharedClocks,
    },
    observe,
    plan::{Classification, PlanHandle},
    records::{KeptCosts, RecordDelivery, Records},
    threshold::{MAX_THRESHOLDS, ThresholdHook},
};

/// The field in which a request names the organisation that pays, as Hugging Face's clients send
/// it.
const BILL_TO: HeaderName = HeaderName::from_static("x-hf-bill-to");

/// The most lookups of costs at once.
#[cfg(feature = "axum")]
const MAX_COST_LOOKUPS: usize = 4;

/// The shortest time for which costs of requests are kept.
const MIN_KEPT_FOR: Duration = Duration::from_secs(60);

/// A slice pays for at least so many of the ledger's timeouts, so that it can be refilled in time.
const TIMEOUTS_PER_SLICE: u32 = 4;

impl CreditMeter {
    /// Returns a meter with default settings. Its background task is spawned by the first request,
    /// on that request's tokio runtime.
    pub fn new(plan: impl Into<PlanHandle>, ledger: impl Ledger, identify: impl Identify) -> Self {
        Self::builder(plan, ledger, identify).assemble(true)
    }

    /// Returns a builder, to change settings first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    ///
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .ledger_timeout(Duration::from_millis(100))
    ///     .usage_headers(true)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(
        plan: impl Into<PlanHandle>,
        ledger: impl Ledger,
        identify: impl Identify,
    ) -> CreditMeterBuilder {
        CreditMeterBuilder::new(plan.into(), Arc::new(ledger), Box::new(identify))
    }
}

/// Settings of a [`CreditMeter`], from [`CreditMeter::builder`].
pub struct CreditMeterBuilder {
    plan: PlanHandle,
    ledger: Arc<dyn Ledger>,
    identify: Box<dyn Identify>,
    classify: Option<Box<Classify>>,
    time: Time,
    settings: Settings,
    host_policy: Option<HostPolicy>,
    bill_to_header: Option<HeaderName>,
    hook: Option<ThresholdHook>,
    records: Vec<RecordDelivery>,
    keep_costs_for: Option<Duration>,
    format_choice: FormatChoice,
    #[cfg(feature = "journal")]
    journal: Option<crate::Journal>,
}

impl CreditMeterBuilder {
    fn new(plan: PlanHandle, ledger: Arc<dyn Ledger>, identify: Box<dyn Identify>) -> Self {
        Self {
            plan,
            ledger,
            identify,
            classify: None,
            time: Time::system(),
            settings: Settings::default(),
            host_policy: None,
            bill_to_header: Some(BILL_TO),
            hook: None,
            records: Vec::new(),
            keep_costs_for: None,
            format_choice: FormatChoice::default(),
            #[cfg(feature = "journal")]
            journal: None,
        }
    }

    /// Keeps what the ledger has not acknowledged in a [`Journal`](crate::Journal), and settles
    /// what is in it already. Default: none.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, Journal, MemoryLedger, Plan};
    /// # use tower_credits::identify::IdentityFromExtensions;
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .journal(Journal::open("journal.redb")?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "journal")]
    #[must_use]
    pub fn journal(mut self, journal: crate::Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Calls `hook` when an account has reached a threshold: once for each account, month and
    /// threshold, on one of the nodes. At most 32 thresholds, which must be the same on all nodes.
    /// A second call of this method replaces the first.
    ///
    /// The hook runs on the background task: spawn what takes longer than a moment. A hook that
    /// owns the meter keeps it alive.
    ///
    /// A percentage is not reached a second time if the account's credits grow later in the month,
    /// for example by a change of tier; [`Threshold::Left`] can be. If a node dies between the
    /// claim of a threshold in the ledger and the call, the hook is never called. If a failover of
    /// the ledger forgets the claim, another node may call it again.
    ///
    /// ```
    /// use tower_credits::{
    ///     CreditMeter, MemoryLedger, Plan, Threshold, ThresholdReached,
    ///     identify::IdentityFromExtensions,
    /// };
    ///
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let thresholds = [Threshold::Included(80), Threshold::Included(100), Threshold::Limit(90)];
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .thresholds(thresholds, |reached: ThresholdReached| {
    ///         let ThresholdReached { account, threshold, used, of, .. } = &reached;
    ///         tracing::info!(%account, %threshold, %used, %of, "reached");
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
        let thresholds = thresholds.into_iter().collect();
        self.hook = Some(ThresholdHook { thresholds, call: Arc::new(hook) });
        self
    }

    /// Delivers a [record](crate::records) of each request that ended to a sink. Each call adds
    /// one; default: none.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// use tower_credits::records::JsonLines;
    ///
    /// let meter = builder.records(JsonLines::stdout()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn records(mut self, delivery: impl Into<RecordDelivery>) -> Self {
        self.records.push(delivery.into());
        self
    }

    /// Keeps the cost of each request in the ledger by its [id](crate::RequestId), for this time:
    /// one minute to seven days. [`Accounts::costs`](crate::Accounts::costs) and `POST
    /// /billing/requests` read them. Default: they are not kept.
    ///
    /// Costs are written in batches, as a rule a second after the request was billed: one call of
    /// the ledger for each account of a batch. In Redis a cost takes about 100 bytes.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.keep_costs(std::time::Duration::from_secs(24 * 60 * 60)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn keep_costs(mut self, keep_for: Duration) -> Self {
        self.keep_costs_for = Some(keep_for);
        self
    }

    /// Sets the header field in which a request names the organisation that pays for it, by its id;
    /// `None` if no request may. Default `X-HF-Bill-To`. The [`Identity`](crate::Identity) says
    /// which organisations its subject [may bill](crate::Identity::member_of). Any other one is
    /// denied with 403, if it exists or not.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.bill_to_header(Some(http::HeaderName::from_static("x-team"))).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bill_to_header(mut self, field: Option<HeaderName>) -> Self {
        self.bill_to_header = field;
        self
    }

    /// Makes leases hold a surplus, so that most requests are admitted without a call to the
    /// ledger. Default: a lease holds only what running requests own. Other nodes cannot use the
    /// surplus until ten seconds after its last use here.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.hold_ahead(tower_credits::HoldAhead::default()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn hold_ahead(mut self, ahead: HoldAhead) -> Self {
        self.settings.rules.ahead = Some(ahead);
        self
    }

    /// Sets the time for a call to the ledger, which is also the time that a request waits for its
    /// admission: 1 ms to 5 s. Default 250 ms. After it the tier's outage policy decides. A request
    /// puts at least four such timeouts of compute time on hold, so that it can be refilled in
    /// time.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.ledger_timeout(std::time::Duration::from_millis(100)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ledger_timeout(mut self, timeout: Duration) -> Self {
        self.settings.rules.deadline = timeout;
        self
    }

    /// Sets the time within which spending is reported to the ledger: 1 ms to 60 s. Default 1 s.
    /// So much spending is lost with a node that is killed, unless it keeps a journal. A longer
    /// time makes fewer calls to the ledger, and keeps the unused part of holds on hold for longer.
    /// If it is more than five seconds, credits that are held ahead are given back twice that time
    /// after their last use. `docs/scaling.md` has the arithmetic.
    ///
    /// A report that others depend on is sent within 100 ms, if that is sooner: if what is not
    /// reported (spent, free again, or held ahead) is an eighth of what the account, or a limit of
    /// a day or a part, has left; if it is half of what is left to the next
    /// [threshold](Self::thresholds); and always if a rate of requests counts over all nodes, which
    /// is the default. [`CreditMeter::statement`] has the account's usage on this node reported at
    /// once.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.report_within(std::time::Duration::from_secs(10)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn report_within(mut self, within: Duration) -> Self {
        self.settings.rules.set_report_within(within);
        self
    }

    /// Sets the time that an [`Identify`] may take if it asks elsewhere. Default 5 s. After it the
    /// request is denied as unavailable.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.identify_timeout(std::time::Duration::from_secs(1)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn identify_timeout(mut self, timeout: Duration) -> Self {
        self.settings.identify_timeout = timeout;
        self
    }

    /// Sets a function that says what a request runs, in place of the plan's routes.
    /// [`Plan::workload`] finds a model's price.
    ///
    /// ```
    /// use tower_credits::{
    ///     CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions, plan::Classification,
    /// };
    ///
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// let api = "api".parse()?;
    /// let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
    ///     .classify(move |head, plan| {
    ///         let model = head.headers.get("x-model").and_then(|value| value.to_str().ok());
    ///         let workload = model.and_then(|model| plan.workload(model, &api));
    ///         workload.map_or(Classification::Unknown, Classification::Workload)
    ///     })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn classify(
        mut self,
        classify: impl Fn(RequestHead<'_>, &Plan) -> Classification + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Box::new(classify));
        self
    }

    /// Sets if compute time ends with the response's head, so that streaming the body is not
    /// billed. Default: it ends with the body.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.compute_until_head(true).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn compute_until_head(mut self, on: bool) -> Self {
        self.settings.compute_until_head = on;
        self
    }

    /// Sets if responses carry an `Inference-Id` (a UUID of version 7). Default: they do.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.inference_id(false).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn inference_id(mut self, on: bool) -> Self {
        self.settings.response.inference_id = on;
        self
    }

    /// Sets if responses of accounts with a [request rate](crate::plan::Tier::requests) say what is
    /// left of it, in the fields `RateLimit` and `RateLimit-Policy`. Default: they do. Denials for
    /// the rate always do. Without them, a request takes a few heap allocations less.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.rate_limit_headers(false).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rate_limit_headers(mut self, on: bool) -> Self {
        self.settings.response.rate_limit = on;
        self
    }

    /// Sets if handlers find a [`ComputeClock`](crate::ComputeClock) and the caller's
    /// `Arc<Identity>` in their requests' extensions. Default: they do. Without them, a request
    /// takes a few heap allocations less. A response may still carry
    /// [`ComputeTime`](crate::ComputeTime), but protocols cannot be switched.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.request_extensions(false).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn request_extensions(mut self, on: bool) -> Self {
        self.settings.request_extensions = on;
        self
    }

    /// Sets shadow mode: nothing is denied and nothing is stopped. Default: off. Each denial
    /// becomes an event, [`CreditMeter::shadow_denials`] has their sums, and the request is metered
    /// if its account is known. Use it to put the meter in front of live traffic.
    ///
    /// The books are kept apart: what an account uses is debited to its shadow
    /// (`shadow-user:<id>`), and does not count once denials are enforced.
    /// [`CreditMeter::statement`], the billing page and [`CreditMeter::accounts`] of this meter
    /// show the shadows. Grants, seats and limits that are made through them are the account's and
    /// its shadow's; refunds and closed months are the shadow's only. A shadow does not know what
    /// the account had before.
    ///
    /// No [threshold](Self::thresholds) is notified, and there is no journal.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.shadow(true).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shadow(mut self, on: bool) -> Self {
        self.settings.shadow = on;
        self
    }

    /// Sets a function that decides by the end of a request if it is billed. Default: every request
    /// whose inner service was called is billed.
    ///
    /// Until it has decided, nothing of a request is settled: if a node is killed, all usage of its
    /// running requests is lost. If the head of a response says enough, use
    /// [`bill_if_head`](Self::bill_if_head). The later call of the two counts.
    ///
    /// ```
    /// use tower_credits::meter::End;
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    ///
    /// let meter = builder.bill_if(|request| request.end == End::Complete).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bill_if(
        mut self,
        bill_if: impl Fn(&FinishedRequest) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.host_policy = Some(HostPolicy::AtEnd(Arc::new(bill_if)));
        self
    }

    /// Sets a function that decides by the head of its response if a request is billed; by `None`
    /// if it ended without a response. From then on its usage is settled while it runs. The head
    /// holds the status of a gRPC call that failed before its first message (`grpc-status`).
    /// Default: every request whose inner service was called is billed.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder
    ///     .bill_if_head(|head| head.is_none_or(|head| !head.status.is_server_error()))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bill_if_head(
        mut self,
        bill_if: impl Fn(Option<&Parts>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.host_policy = Some(HostPolicy::AtHead(Arc::new(bill_if)));
        self
    }

    /// Sets how many bytes of a response are read ahead of its client. Default 256 KiB; at least
    /// four frames are read, and up to four times as many bytes until the pace of the service is
    /// known. Responses are read as fast as the service produces them, so that compute time does
    /// not depend on the client. While the client is so many bytes behind, the service is held
    /// back.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.read_ahead_per_response(64 << 10).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn read_ahead_per_response(mut self, bytes: usize) -> Self {
        self.settings.read_ahead.per_response = bytes;
        self
    }

    /// Sets how many bytes of all responses together are read ahead. Default 256 MiB. Beyond it,
    /// one frame of each response is read, and at its beginning up to four, and none after the one
    /// that reaches 64 KiB.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.read_ahead_total(1 << 30).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn read_ahead_total(mut self, bytes: usize) -> Self {
        self.settings.read_ahead.total = bytes;
        self
    }

    /// Sets the time after which a response is abandoned ([`End::Stalled`](super::End::Stalled)) if
    /// the service is held back and the client takes nothing: at least 1 ms. Default 60 s, and a
    /// second more for each 16 KiB of the frame that was taken last. Its body is dropped, and the
    /// rest of its hold is free.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.stall_timeout(std::time::Duration::from_secs(10)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_ahead.stall_timeout = timeout;
        self
    }

    /// Sets the status of denials for which this server is the reason, such as an unreachable
    /// ledger: 400 to 599. Default 503. Some clients retry 503 at once and without end.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.unavailable_status(http::StatusCode::TOO_MANY_REQUESTS).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unavailable_status(mut self, status: StatusCode) -> Self {
        self.settings.denials.unavailable = status;
        self
    }

    /// Sets the format of a denial's body, whoever asks. Default: the one that the plan's route
    /// names or, if it names none, the one that the client reads ([`DenialFormat::of_client`]).
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.denial_format(tower_credits::DenialFormat::OpenAi).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn denial_format(mut self, format: DenialFormat) -> Self {
        self.format_choice = FormatChoice::Always(format);
        self.settings.denials.format = format;
        self
    }

    /// Sets the function that chooses the format of a denial's body by the request.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// use tower_credits::DenialFormat;
    ///
    /// let meter = builder
    ///     .denial_format_by(|head| match head.uri.path().starts_with("/openai/") {
    ///         true => DenialFormat::OpenAi,
    ///         false => DenialFormat::of_client(head.headers),
    ///     })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn denial_format_by(
        mut self,
        choose: impl Fn(RequestHead<'_>) -> DenialFormat + Send + Sync + 'static,
    ) -> Self {
        self.format_choice = FormatChoice::By(Arc::new(choose));
        self
    }

    /// Sets the most bytes of a request's body that [`buffer_bodies`](CreditMeter::buffer_bodies)
    /// reads to find out what the request runs. A larger one is denied with 413. Default: 8 MiB.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.max_request_body(32 << 20).build()?; // recordings
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_request_body(mut self, bytes: usize) -> Self {
        self.settings.uploads.max_bytes = bytes;
        self
    }

    /// Sets the most bytes that the request bodies of this node, as far as they were read and not
    /// handed on, take together. Beyond it, requests whose body has to be read are denied with 503.
    /// Default: 256 MiB.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.max_request_bodies_total(1 << 30).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_request_bodies_total(mut self, bytes: usize) -> Self {
        self.settings.upload_memory = bytes;
        self
    }

    /// Sets if the heads of metered responses say what is known of their cost. Default: they do
    /// not. The fields are `x-credits-remaining` (dollars; of the included credits if there is no
    /// limit); `x-compute-time` (seconds) and `Server-Timing` (milliseconds), if the compute time
    /// has ended or was reported by then; and `x-cost-nano-usd`, if the response has ended.
    ///
    /// With it, a client that asks for trailers (`TE: trailers`, RFC 9110, section 6.5.1) gets the
    /// compute time of a stream and its cost (`x-cost-nano-usd`) in trailers, on HTTP/2 and chunked
    /// HTTP/1.1. A response of known length keeps its length, and gets none. gRPC calls always have
    /// `x-compute-time` and `x-cost-nano-usd` in their trailers.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.usage_headers(true).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn usage_headers(mut self, on: bool) -> Self {
        self.settings.response.usage_headers = on;
        self
    }

    /// Sets the most accounts of which this node keeps leases at once. Default 262 144. Requests of
    /// more accounts are denied as unavailable. An account takes some kilobytes while it is used,
    /// and until ten minutes after. Each [part](crate::Part) of it that asks counts as another one,
    /// and so do models that have limits of their own.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.max_accounts(std::num::NonZeroUsize::new(1_000_000).unwrap()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_accounts(mut self, accounts: NonZeroUsize) -> Self {
        self.settings.max_accounts = accounts.get();
        self
    }

    /// Sets the clock of compute time and of months. Default: the system's. Tests on paused time
    /// use [`TokioClock`](crate::clock::TokioClock).
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let meter = builder.clock(tower_credits::clock::SystemClock).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.time = Time::of(Arc::new(clock));
        self
    }

    /// Builds the meter. Its background task is spawned by the first request, on that request's
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be used.
    pub fn build(self) -> Result<CreditMeter, ConfigError> {
        self.check()?;
        Ok(self.assemble(true))
    }

    /// Builds the meter and its background task, for hosts that spawn their own tasks: nothing is
    /// spawned here.
    ///
    /// ```
    /// # use tower_credits::{CreditMeter, MemoryLedger, Plan, identify::IdentityFromExtensions};
    /// # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions);
    /// let (meter, worker) = builder.build_with_worker()?;
    /// tokio::spawn(worker.run());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that cannot be used.
    pub fn build_with_worker(self) -> Result<(CreditMeter, CreditWorker), ConfigError> {
        self.check()?;
        let meter = self.assemble(false);
        match meter.inner.keeper.worker() {
            Some(worker) => Ok((meter, CreditWorker(worker))),
            // Nobody else has a new meter's worker.
            None => Err(ConfigError::new("worker", "build another meter")),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let LeaseRules { deadline, report_within, ttl, .. } = self.settings.rules;
        let shortest = Duration::from_millis(1);
        if !(shortest..=Duration::from_secs(5)).contains(&deadline) {
            return Err(ConfigError::new("ledger_timeout", "set 1 ms to 5 s"));
        }
        if self.keep_costs_for.is_some_and(|time| !(MIN_KEPT_FOR..=MAX_KEPT_FOR).contains(&time)) {
            return Err(ConfigError::new("keep_costs", "set one minute to seven days"));
        }
        #[cfg(feature = "journal")]
        if self.settings.shadow && self.journal.is_some() {
            let remedy = "leave it out in shadow mode: nothing of that is owed, and what a journal \
                          keeps is settled in the account's own books";
            return Err(ConfigError::new("journal", remedy));
        }
        if !(shortest..=ttl / 10).contains(&report_within) {
            return Err(ConfigError::new("report_within", "set 1 ms to 60 s"));
        }
        if self.hook.as_ref().is_some_and(|hook| hook.thresholds.len() > MAX_THRESHOLDS) {
            return Err(ConfigError::new("thresholds", "set at most 32"));
        }
        if self.settings.uploads.max_bytes > self.settings.upload_memory {
            let remedy = "set at most max_request_bodies_total, or set that to more";
            return Err(ConfigError::new("max_request_body", remedy));
        }
        if self.settings.read_ahead.stall_timeout < shortest {
            return Err(ConfigError::new("stall_timeout", "set 1 ms or more"));
        }
        let unavailable = self.settings.denials.unavailable;
        if !(unavailable.is_client_error() || unavailable.is_server_error()) {
            return Err(ConfigError::new("unavailable_status", "set a status of 400 to 599"));
        }
        Ok(())
    }

    fn assemble(self, spawns_worker: bool) -> CreditMeter {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
        observe::describe();
        observe::starting(
            &self.ledger.describe(),
            &self.identify.describe(),
            self.plan.current().models().len(),
        );
        let Self {
            plan,
            ledger,
            identify,
            classify,
            time,
            settings,
            host_policy,
            bill_to_header,
            hook,
            mut records,
            keep_costs_for,
            format_choice,
            #[cfg(feature = "journal")]
            journal,
        } = self;
        let ledger: Arc<dyn Ledger> =
            if settings.shadow { Arc::new(ShadowLedger(ledger)) } else { ledger };
        if let Some(keep_for) = keep_costs_for {
            let kept = KeptCosts::new(Arc::clone(&ledger), keep_for);
            records.push(RecordDelivery::to(kept));
        }
        let keeper = Keeper::new(
            Arc::clone(&ledger),
            time.clone(),
            settings.rules,
            settings.max_accounts,
            // Nobody is to hear of what does not count.
            hook.filter(|_| !settings.shadow),
            Records::new(records),
        );
        let instruments = Instruments {
            clock: time.other().cloned(),
            histories: ReportHistories::default(),
            shared_clocks: SharedClocks::default(),
            read_ahead: Arc::new(ReadAheadBudget::new(settings.read_ahead)),
            min_hold: settings.rules.deadline * TIMEOUTS_PER_SLICE,
            plan_contexts: PlanContexts::default(),
        };
        let inner = Inner {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            plan,
            identify,
            classify,
            keeper,
            spawns_worker,
            ledger,
            time,
            settings,
            host_policy,
            bill_to_header,
            logged_paths: Mutex::default(),
            shadow_denials: ShadowCounts::default(),
            #[cfg(feature = "axum")]
            keeps_costs: keep_costs_for.is_some(),
            #[cfg(feature = "axum")]
            cost_lookups: tokio::sync::Semaphore::new(MAX_COST_LOOKUPS),
            instruments,
            format_choice,
            upload_memory: UploadMemory::new(settings.upload_memory, settings.uploads.max_bytes),
            long_drains: UploadBudget::new(MAX_LONG_DRAINS),
        };
        let meter = CreditMeter { inner: Arc::new(inner) };
        #[cfg(feature = "journal")]
        if let Some(journal) = journal {
            meter.keep_journal(journal);
        }
        meter
    }
}

impl fmt::Debug for CreditMeterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreditMeterBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Background task of a [`CreditMeter`]: it reports spending to the ledger, and asks it for
/// credits. Without it, no request that needs the ledger is admitted, and nothing is settled.
#[derive(Debug)]
pub struct CreditWorker(Worker);

impl CreditWorker {
    /// Works until the meter is shut down, or until its last clone and service are dropped and
    /// everything is settled.
    pub fn run(self) -> impl Future<Output = ()> + Send {
        self.0.run()
    }
}

/// A setting that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be used: {remedy}")]
pub struct ConfigError {
    setting: &'static str,
    remedy: &'static str,
}

impl ConfigError {
    const fn new(setting: &'static str, remedy: &'static str) -> Self {
        Self { setting, remedy }
    }
}
