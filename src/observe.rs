//! Events and metrics for the operator: one event for each metered request and for each denial;
//! with the feature `metrics`, numbers, too.
//!
//! Events have the target `tower_credits`. Durations are in seconds, amounts in dollars. Metrics go
//! to the recorder of the `metrics` facade that the host installed. Their labels have few values:
//! accounts, models and paths are in the events only.

use std::{fmt, time::Duration};

use tracing::Span;

use crate::{
    Account, Credits, Name, Part, RequestId,
    names::{Subject, TierName},
};

/// Metrics for the host's recorder. Their names have the prefix `tower_credits_`, and the unit if
/// there is one.
#[cfg(feature = "metrics")]
mod meters {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    pub(super) use metrics::{counter, gauge, histogram};

    pub(super) const REQUESTS: &str = "tower_credits_requests_total";
    pub(super) const COMPUTE: &str = "tower_credits_compute_seconds";
    pub(super) const COST: &str = "tower_credits_cost_nano_usd_total";
    pub(super) const OVERSHOOT: &str = "tower_credits_overshoot_seconds";
    pub(super) const DENIED: &str = "tower_credits_denied_total";
    pub(super) const WOULD_DENY: &str = "tower_credits_would_deny_total";
    pub(super) const RECORDS: &str = "tower_credits_records_total";
    pub(super) const FORGIVEN: &str = "tower_credits_forgiven_total";
    pub(super) const RECORDS_WAITING: &str = "tower_credits_records_waiting";
    pub(super) const ADMISSIONS: &str = "tower_credits_admissions_total";
    pub(super) const ADMISSION_WAIT: &str = "tower_credits_admission_wait_seconds";
    pub(super) const IDENTIFY: &str = "tower_credits_identify_seconds";
    pub(super) const LEASES: &str = "tower_credits_leases";
    pub(super) const RUNNING: &str = "tower_credits_running_requests";
    pub(super) const WAITING: &str = "tower_credits_waiting_requests";
    pub(super) const HELD: &str = "tower_credits_held_nano_usd";
    pub(super) const UNREPORTED: &str = "tower_credits_unreported_nano_usd";
    pub(super) const RELOADS: &str = "tower_credits_reloads_total";
    pub(super) const LEDGER_AWAY: &str = "tower_credits_ledger_away";
    pub(super) const BREAKER_OPEN: &str = "tower_credits_breaker_open";
    pub(super) const JOURNAL_WRITE: &str = "tower_credits_journal_write_seconds";
    pub(super) const JOURNAL_LEASES: &str = "tower_credits_journal_leases";
    pub(super) const RENEWAL: &str = "tower_credits_renewal_seconds";

    pub(super) fn describe() {
        describe_counter!(REQUESTS, Unit::Count, "Billed requests. Labels: tier, hardware, end.");
        describe_histogram!(
            COMPUTE,
            Unit::Seconds,
            "Compute time of a billed request. Labels: tier, hardware."
        );
        describe_counter!(
            COST,
            Unit::Count,
            "Billed cost in nano-US-dollars. Labels: tier, hardware."
        );
        describe_histogram!(
            OVERSHOOT,
            Unit::Seconds,
            "Compute time of a request that its hold did not cover, if any. Labels: tier, hardware."
        );
        describe_counter!(
            DENIED,
            Unit::Count,
            "Requests denied before the service was called. Label: reason."
        );
        describe_counter!(
            WOULD_DENY,
            Unit::Count,
            "Requests that were admitted only because of shadow mode. Label: reason."
        );
        describe_counter!(
            RECORDS,
            Unit::Count,
            "Usage records. Labels: sink, outcome (delivered, dropped)."
        );
        describe_counter!(
            FORGIVEN,
            Unit::Count,
            "Requests that ended and were not billed. Labels: tier, hardware, end."
        );
        describe_gauge!(RECORDS_WAITING, Unit::Count, "Usage records that wait. Label: sink.");
        describe_counter!(
            ADMISSIONS,
            Unit::Count,
            "Metered requests that were admitted. Label: way (local: on what the lease has, \
             ledger: after a call, allowance: without the ledger, which is away)."
        );
        describe_histogram!(
            ADMISSION_WAIT,
            Unit::Seconds,
            "Time for which admitted requests waited for the ledger."
        );
        describe_histogram!(
            IDENTIFY,
            Unit::Seconds,
            "Duration of identifying a caller, if that is not known at once."
        );
        describe_gauge!(LEASES, Unit::Count, "Leases of this node.");
        describe_gauge!(RUNNING, Unit::Count, "Metered requests that run on this node.");
        describe_gauge!(WAITING, Unit::Count, "Requests that wait for the ledger on this node.");
        describe_gauge!(
            HELD,
            Unit::Count,
            "On hold for this node's requests, in nano-US-dollars, what is spent not included."
        );
        describe_gauge!(
            UNREPORTED,
            Unit::Count,
            "Used on this node and not acknowledged by the ledger yet, in nano-US-dollars."
        );
        describe_counter!(
            RELOADS,
            Unit::Count,
            "Changes of watched files. Labels: what (plan, tokens), outcome (applied, refused)."
        );
        describe_gauge!(
            LEDGER_AWAY,
            Unit::Count,
            "Meters of the process whose ledger does not answer."
        );
        describe_histogram!(RENEWAL, Unit::Seconds, "Duration of a lease renewal. Label: outcome.");
        describe_gauge!(
            BREAKER_OPEN,
            Unit::Count,
            "Meters whose requests do not wait for a server of the ledger. Label: server."
        );
        describe_histogram!(
            JOURNAL_WRITE,
            Unit::Seconds,
            "Duration of a write of the journal. Label: outcome (written, failed)."
        );
        describe_gauge!(JOURNAL_LEASES, Unit::Count, "Leases in the journal's file.");
        // An increase from nothing to one is no increase to Prometheus.
        for way in ["local", "ledger", "allowance"] {
            counter!(ADMISSIONS, "way" => way).increment(0);
        }
        for (what, outcome) in ["plan", "tokens"]
            .into_iter()
            .flat_map(|what| ["applied", "refused"].map(|o| (what, o)))
        {
            counter!(RELOADS, "what" => what, "outcome" => outcome).increment(0);
        }
    }
}

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    meters::describe();
}

/// A metered request that ended.
pub(crate) struct MeteredRequest<'a> {
    pub(crate) id: &'a RequestId,
    pub(crate) account: &'a Account,
    pub(crate) part: Option<&'a Part>,
    pub(crate) subject: &'a Subject,
    pub(crate) tier: &'a TierName,
    pub(crate) model: &'a Name,
    pub(crate) hardware: &'a Name,
    pub(crate) feature: &'a Name,
    pub(crate) compute: Duration,
    /// Returns the compute time that the hold did not cover; called only if somebody listens.
    pub(crate) overshoot: &'a dyn Fn() -> Duration,
    pub(crate) cost: Credits,
    pub(crate) left: Credits,
    pub(crate) status: Option<u16>,
    /// End of the request: for the event, and as a label.
    pub(crate) end: (&'a dyn fmt::Debug, &'static str),
    /// `Some` if it was not billed: its path.
    pub(crate) forgiven: Option<&'a str>,
}

/// Emits the event of a request that ended, with a message.
macro_rules! ended_event {
    ($request:expr, $($path:ident = $value:expr,)? $message:literal) => {{
        let MeteredRequest { id, account, part, subject, tier, model, hardware, feature, .. } =
            $request;
        tracing::info!(
            target: "tower_credits",
            request_id = %id,
            %account,
            part = part.map(tracing::field::display),
            %subject,
            %tier,
            %model,
            %hardware,
            %feature,
            $($path = $value,)?
            compute_seconds = $request.compute.as_secs_f64(),
            overshoot_seconds = ($request.overshoot)().as_secs_f64(),
            cost = %$request.cost,
            left = %$request.left,
            status = $request.status,
            end = ?$request.end.0,
            $message
        );
    }};
}

/// Reports a metered request that ended, with the host's span that it belongs to, if there is one.
/// The caller has entered it.
pub(crate) fn ended(request: &MeteredRequest<'_>, span: Option<&Span>) {
    if let Some(path) = request.forgiven {
        ended_event!(request, path = shortened(path), "forgiven");
    } else {
        ended_event!(request, "metered");
    }
    // If the host has declared the fields. Otherwise this does nothing.
    if let Some(span) = span {
        span.record("credits.cost_nano_usd", request.cost.as_nano_usd());
        span.record("credits.compute_seconds", request.compute.as_secs_f64());
        span.record("credits.end", request.end.1);
    }
    #[cfg(feature = "metrics")]
    {
        let (tier, hardware) = (request.tier.shared(), request.hardware.shared());
        let end = request.end.1;
        let tags = [("tier", tier.clone()), ("hardware", hardware.clone())];
        let ended = if request.forgiven.is_some() { meters::FORGIVEN } else { meters::REQUESTS };
        meters::counter!(ended, "tier" => tier, "hardware" => hardware, "end" => end).increment(1);
        if request.forgiven.is_some() {
            return;
        }
        meters::histogram!(meters::COMPUTE, &tags).record(request.compute.as_secs_f64());
        meters::counter!(meters::COST, &tags).increment(request.cost.as_nano_usd().unsigned_abs());
        let overshoot = (request.overshoot)();
        if !overshoot.is_zero() {
            meters::histogram!(meters::OVERSHOOT, &tags).record(overshoot.as_secs_f64());
        }
    }
}

/// A request that was denied before its service was called.
pub(crate) struct DeniedRequest<'a> {
    pub(crate) id: &'a RequestId,
    pub(crate) reason: &'static str,
    pub(crate) path: &'a str,
    pub(crate) account: Option<&'a Account>,
    pub(crate) part: Option<&'a Part>,
    pub(crate) subject: Option<&'a Subject>,
    pub(crate) tier: Option<&'a TierName>,
    pub(crate) model: Option<&'a str>,
    /// If a limit of a part or of a day is the reason: the time that it is for, and the limit.
    pub(crate) limit: Option<(&'static str, Credits)>,
    pub(crate) left: Option<Credits>,
    pub(crate) resets_at: Option<String>,
}

/// Emits the event of a denial: at a level, and with a message.
macro_rules! denial_event {
    ($emit:ident, $denied:expr, $message:literal) => {{
        let DeniedRequest { id, reason, path, account, part, subject, tier, .. } = $denied;
        let DeniedRequest { model, limit, left, resets_at, .. } = $denied;
        tracing::$emit!(
            target: "tower_credits",
            request_id = %id,
            reason,
            path = shortened(path),
            account = account.map(tracing::field::display),
            part = part.map(tracing::field::display),
            subject = subject.map(tracing::field::display),
            tier = tier.map(tracing::field::display),
            model = model.map(shortened),
            limit = limit.map(|(_, limit)| tracing::field::display(limit)),
            limit_per = limit.map(|(per, _)| per),
            left = left.map(tracing::field::display),
            resets_at = resets_at.as_deref(),
            $message
        );
    }};
}

/// Reports a request that was denied before its service was called.
pub(crate) fn denied(request: &DeniedRequest<'_>) {
    denial_event!(info, request, "denied");
    #[cfg(feature = "metrics")]
    meters::counter!(meters::DENIED, "reason" => request.reason).increment(1);
}

/// Reports a request that was admitted only because of shadow mode.
pub(crate) fn would_deny(request: &DeniedRequest<'_>) {
    denial_event!(warn, request, "would be denied");
    #[cfg(feature = "metrics")]
    meters::counter!(meters::WOULD_DENY, "reason" => request.reason).increment(1);
}

/// Counts usage records for a sink by what became of them.
pub(crate) fn records(sink: &str, outcome: &'static str, number: u64) {
    #[cfg(feature = "metrics")]
    meters::counter!(meters::RECORDS, "sink" => sink.to_owned(), "outcome" => outcome)
        .increment(number);
    let _ = (sink, outcome, number);
}

/// The sums over all accounts of a node.
#[cfg(feature = "metrics")]
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) leases: usize,
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) held: Credits,
    pub(crate) unreported: Credits,
}

/// Sets the gauges of a node.
#[cfg(feature = "metrics")]
pub(crate) fn load(load: &Load, waiting_records: impl Iterator<Item = (String, u64)>) {
    #[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
    let number = |number: usize| number as f64;
    // At most 2^53 - 1.
    #[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
    let nanos = |credits: Credits| credits.as_nano_usd() as f64;
    meters::gauge!(meters::LEASES).set(number(load.leases));
    meters::gauge!(meters::RUNNING).set(number(load.running));
    meters::gauge!(meters::WAITING).set(number(load.waiting));
    meters::gauge!(meters::HELD).set(nanos(load.held));
    meters::gauge!(meters::UNREPORTED).set(nanos(load.unreported));
    for (sink, waiting) in waiting_records {
        #[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
        meters::gauge!(meters::RECORDS_WAITING, "sink" => sink).set(waiting as f64);
    }
}

/// Counts a request that was admitted. `waited` is how long it waited for the ledger.
pub(crate) fn admitted(way: &'static str, waited: Option<Duration>) {
    #[cfg(feature = "metrics")]
    {
        meters::counter!(meters::ADMISSIONS, "way" => way).increment(1);
        if let Some(waited) = waited {
            meters::histogram!(meters::ADMISSION_WAIT).record(waited.as_secs_f64());
        }
    }
    let _ = (way, waited);
}

/// Reports how long it took to identify a caller.
pub(crate) fn identified(took: Duration) {
    #[cfg(feature = "metrics")]
    meters::histogram!(meters::IDENTIFY).record(took.as_secs_f64());
    let _ = took;
}

/// A meter was built: what it runs on.
pub(crate) fn starting(ledger: &str, callers: &str, models: usize) {
    tracing::info!(
        target: "tower_credits", ledger, callers, models,
        "tower-credits {} starts", env!("CARGO_PKG_VERSION")
    );
}

/// Reports that a changed file is in force. `entries` is its number of entries before and now.
pub(crate) fn reloaded(
    what: &'static str,
    file: &std::path::Path,
    entries: Option<(usize, usize)>,
) {
    let (before, now) = entries.unzip();
    tracing::info!(target: "tower_credits", file = %file.display(), before, now, "{what} reloaded");
    #[cfg(feature = "metrics")]
    meters::counter!(meters::RELOADS, "what" => what, "outcome" => "applied").increment(1);
}

/// Reports that a changed file was refused. The previous content stays in force.
pub(crate) fn not_reloaded(what: &'static str, error: &dyn std::error::Error) {
    tracing::error!(
        target: "tower_credits",
        %error,
        "{what} not reloaded: the previous version stays in force"
    );
    #[cfg(feature = "metrics")]
    meters::counter!(meters::RELOADS, "what" => what, "outcome" => "refused").increment(1);
}

/// The state of a meter's ledger: away, or not. The gauge counts the meters of the process whose
/// ledger is away: they may have one each.
#[derive(Debug, Default)]
pub(crate) struct LedgerAway(bool);

impl LedgerAway {
    /// Reports that the ledger has stopped answering, or answers again, if that is news.
    pub(crate) fn set(&mut self, is_away: bool) {
        if std::mem::replace(&mut self.0, is_away) == is_away {
            return;
        }
        if is_away {
            tracing::error!(
                target: "tower_credits",
                "the ledger does not answer: until it does, requests that need it follow the \
                 outage policy of their tier at once"
            );
        } else {
            tracing::info!(target: "tower_credits", "the ledger answers again");
        }
        outages::count_ledger(if is_away { 1 } else { -1 });
    }

    /// Takes it for one that answers, when the meter's worker begins or ends.
    pub(crate) fn reset(&mut self) {
        // The gauge is there from the begin on.
        outages::count_ledger(if std::mem::take(&mut self.0) { -1 } else { 0 });
    }
}

impl Drop for LedgerAway {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Reports that a meter's requests stop waiting for a server of its ledger, or wait for it again.
pub(crate) fn breaker(server: u64, is_open: bool) {
    outages::count_breaker(server, if is_open { 1 } else { -1 });
}

/// The numbers that the gauges of outages show. They are kept here, and set: a recorder may be
/// installed late, or forget a gauge that does not change.
mod outages {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    /// Number of meters whose ledger is away.
    static LEDGERS: Mutex<i32> = Mutex::new(0);

    /// Number of meters that do not wait for a server, by its number.
    static BREAKERS: Mutex<BTreeMap<u64, i32>> = Mutex::new(BTreeMap::new());

    pub(super) fn count_ledger(change: i32) {
        // Set under the lock, so that the last number is the one that stays.
        let mut number = LEDGERS.lock().unwrap_or_else(PoisonError::into_inner);
        *number += change;
        #[cfg(feature = "metrics")]
        super::meters::gauge!(super::meters::LEDGER_AWAY).set(f64::from(*number));
    }

    pub(super) fn count_breaker(server: u64, change: i32) {
        let mut breakers = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = breakers.entry(server).or_default();
        *number += change;
        #[cfg(feature = "metrics")]
        super::meters::gauge!(super::meters::BREAKER_OPEN, "server" => server.to_string())
            .set(f64::from(*number));
        if *number == 0 {
            breakers.remove(&server);
        }
    }
}

/// Reports a write of the journal, and how many leases are in it.
#[cfg(feature = "journal")]
pub(crate) fn journal_written(is_written: bool, took: Duration, leases: usize) {
    #[cfg(feature = "metrics")]
    {
        let outcome = if is_written { "written" } else { "failed" };
        meters::histogram!(meters::JOURNAL_WRITE, "outcome" => outcome).record(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
        meters::gauge!(meters::JOURNAL_LEASES).set(leases as f64);
    }
    let _ = (is_written, took, leases);
}

/// Reports a renewal that was answered or given up.
pub(crate) fn renewed(outcome: &'static str, took: Duration) {
    tracing::trace!(target: "tower_credits", outcome, seconds = took.as_secs_f64(), "renewal");
    #[cfg(feature = "metrics")]
    meters::histogram!(meters::RENEWAL, "outcome" => outcome).record(took.as_secs_f64());
}

/// Returns the first 256 bytes, at most, of a client's text, for the log.
pub(crate) fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}
