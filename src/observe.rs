//! What an operator sees: one event for each metered request, one for each denial.
//!
//! Events have the target `tower_credits`. Durations are in seconds, amounts in dollars.

use std::time::Duration;

use crate::{
    lease::Ended,
    meter::{Ending, Metering},
    rejection::Rejection,
};

/// A metered request ended. `runway` is the compute time that its slice paid for.
pub(crate) fn ended(metering: &Metering, ending: &Ending, ended: &Ended, runway: Duration) {
    let Some(usage) = ended.billed else { return };
    let left = ended.standing.left(ended.unreported);
    let compute = Duration::from_micros(usage.compute_micros);
    tracing::info!(
        target: "tower_credits",
        account = %metering.identity.account,
        subject = %metering.identity.subject,
        tier = %metering.tier.name,
        model = %metering.workload.model,
        hardware = %metering.workload.hardware,
        feature = %metering.workload.feature,
        compute_seconds = compute.as_secs_f64(),
        overshoot_seconds = compute.saturating_sub(runway).as_secs_f64(),
        cost = %usage.cost,
        left = %left,
        status = ending.status.map(|status| status.as_u16()),
        end = ?ending.end,
        "metered"
    );
}

/// A request was denied before its service was called.
pub(crate) fn denied(rejection: &Rejection, path: &str) {
    tracing::info!(target: "tower_credits", reason = rejection.reason(), path = shortened(path), "denied");
}

/// A request passed that would have been denied but for shadow mode.
pub(crate) fn would_deny(rejection: &Rejection) {
    tracing::warn!(target: "tower_credits", reason = rejection.reason(), "would be denied");
}

/// A file that is followed has changed, and counts.
pub(crate) fn reloaded(what: &'static str, file: &std::path::Path) {
    tracing::info!(target: "tower_credits", file = %file.display(), "{what} reloaded");
}

/// A file that is followed has changed and is refused; what was read before stays in force.
pub(crate) fn not_reloaded(what: &'static str, error: &dyn std::error::Error) {
    tracing::error!(target: "tower_credits", %error, "{what} not reloaded: what was read before stays in force");
}

/// The ledger stopped answering, or answers again.
pub(crate) fn ledger_away(away: bool) {
    if away {
        tracing::error!(target: "tower_credits", "the ledger does not answer: requests that need it are treated by their tiers' outage policy at once");
    } else {
        tracing::info!(target: "tower_credits", "the ledger answers again");
    }
}

/// As much of a client's text as belongs into a log.
pub(crate) fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}
