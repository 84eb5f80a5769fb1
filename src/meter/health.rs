//! [`Health`]: if a node can serve, for monitoring.

use std::{fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use futures_util::future::FutureExt;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use tokio::time::timeout;

use super::credit_meter::CreditMeter;
use crate::{
    Credits,
    clock::UnixTime,
    condition::Condition,
    contained::{Panicked, contained},
};

/// The health of a node's meter: it comes from [`CreditMeter::health`].
///
/// `Display` shows it as lines of text. It serializes as an object; a field `ready` is what
/// [`is_ready`](Self::is_ready) says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// If the ledger answers and writes, asked just now. [`Condition::Away`] while one of several
    /// servers behind it does not, which concerns the accounts of that one only.
    pub ledger: Condition,
    /// If callers can be identified. [`Condition::Outdated`] if the tokens' file as it is now is
    /// not in force.
    pub identify: Condition,
    /// If the plan's file is in force.
    pub plan: Condition,
    /// Moment at which the ledger last answered a renewal, by this node's clock; `None` if it has
    /// not answered one yet.
    pub last_answer: Option<UnixTime>,
    /// Amount that the ledger has not acknowledged yet: usage of requests that ended, and of those
    /// that run up to their last report.
    pub unsettled: Credits,
}

impl Health {
    /// `true` if the ledger answers and callers can be identified.
    ///
    /// A node that is not ready may serve all the same: what leases still hold, tokens that are in
    /// the cache, and what a tier [allows](crate::plan::DuringOutage::Allow) during outages.
    pub const fn is_ready(&self) -> bool {
        self.ledger.works() && self.identify.works()
    }
}

impl CreditMeter {
    /// Returns the node's health: for monitoring. Asks the ledger, within the
    /// [`ledger_timeout`](crate::CreditMeterBuilder::ledger_timeout), and what identifies callers.
    ///
    /// Do not let a load balancer act on it. All nodes that share a ledger are not ready at once
    /// when that is away, or one of its servers. If all are taken out, nobody is answered, where
    /// they would have denied with the reason or served during the outage.
    ///
    /// ```
    /// use axum::{Router, http::StatusCode, routing::get};
    /// use tower_credits::CreditMeter;
    ///
    /// # fn example(meter: CreditMeter) -> Router {
    /// Router::new().route("/health", get(async move || {
    ///     let health = meter.health().await;
    ///     let away = StatusCode::SERVICE_UNAVAILABLE;
    ///     (if health.is_ready() { StatusCode::OK } else { away }, health.to_string())
    /// }))
    /// # }
    /// ```
    pub async fn health(&self) -> Health {
        let inner = &*self.inner;
        let within = inner.settings.rules.deadline;
        let ledger = async {
            let asked = in_time(within, "Ledger", || inner.ledger.check(within)).await;
            match asked {
                Ok(Ok(())) => Condition::Well,
                Ok(Err(error)) => Condition::Away(error.to_string()),
                Err(condition) => condition,
            }
        };
        let identify = async {
            let asked = in_time(within, "Identify", || inner.identify.check()).await;
            asked.unwrap_or_else(|condition| condition)
        };
        let (ledger, identify) = tokio::join!(ledger, identify);
        Health {
            ledger,
            identify,
            plan: Condition::of_file(inner.plan.refused()),
            last_answer: inner.keeper.last_answer(),
            unsettled: inner.keeper.unsettled(),
        }
    }
}

/// Waits for an answer of the host's code. A panic of it is an answer, too.
async fn in_time<'a, T>(
    within: Duration,
    whose: &'static str,
    ask: impl FnOnce() -> Pin<Box<dyn Future<Output = T> + Send + 'a>>,
) -> Result<T, Condition> {
    let asked = contained(whose, ask).map_err(|panicked| Condition::Away(panicked.to_string()))?;
    match timeout(within, AssertUnwindSafe(asked).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Condition::Away(Panicked::of(whose).to_string())),
        Err(_) => Err(Condition::Away(format!("no answer within {within:?}"))),
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ledger, identify, plan, last_answer, unsettled } = self;
        writeln!(f, "{}", if self.is_ready() { "ready" } else { "not ready" })?;
        writeln!(f, "ledger: {ledger}")?;
        writeln!(f, "identify: {identify}")?;
        writeln!(f, "plan: {plan}")?;
        match last_answer {
            Some(at) => writeln!(f, "last answer of the ledger: {at}")?,
            None => writeln!(f, "last answer of the ledger: none yet")?,
        }
        writeln!(f, "unsettled: {unsettled}")
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { ledger, identify, plan, last_answer, unsettled } = self;
        let mut object = serializer.serialize_struct("Health", 6)?;
        object.serialize_field("ready", &self.is_ready())?;
        object.serialize_field("ledger", ledger)?;
        object.serialize_field("identify", identify)?;
        object.serialize_field("plan", plan)?;
        object.serialize_field("last_answer", &last_answer.map(|at| at.to_string()))?;
        object.serialize_field("unsettled_nano_usd", &unsettled.as_nano_usd())?;
        object.end()
    }
}
