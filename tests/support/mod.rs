//! What the test binaries share: a plan, identities, and waiting for conditions.

#![allow(dead_code, reason = "each binary uses its part")]

pub mod bodies;
pub mod broken;
pub mod fair;
pub mod folder;
pub mod logs;
#[cfg(feature = "redis")]
pub mod proxy;
#[cfg(feature = "redis")]
pub mod redis_cluster;
#[cfg(feature = "redis")]
pub mod redis_sentinel;
#[cfg(feature = "redis")]
pub mod redis_server;
pub mod switched;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use tower_credits::{
    Account, CreditMeter, CreditMeterBuilder, Credits, Identity, Plan,
    clock::{ManualClock, TokioClock},
    identify::IdentityFromExtensions,
    ledger::{Ledger, Statement},
    meter::MeterBody,
};

/// A second costs 120 000 nano-dollars, so a hold of a second is a slice of that.
pub const SLICE: i64 = 120_000;

pub const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"

[models.echo]
hardware = "gpu-small"

[routes]
"/models/{model}" = { model = "{model}" }
"/health" = "free"

[tiers.free]
included = "0.10"
when_used_up = "block"

[tiers.none]
included = "0"
when_used_up = "block"
hint = "Upgrade to PRO."

[tiers.ten]                    # ten slices
included = "0.0012"
when_used_up = "block"

[tiers.ten-finish]
included = "0.0012"
when_used_up = "block"
midway = "finish"

[tiers.quick]                  # 300 ms of compute, of which a request holds 100 ms
included = "0.000036"
when_used_up = "block"
hold = "100ms"

[tiers.quick-finish]
included = "0.000036"
when_used_up = "block"
midway = "finish"
hold = "100ms"

[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"
during_outage = { allow = "0.00024" }

# What a load that goes on for as long as it must cannot use up.
[tiers.plenty]
included = "1000"
when_used_up = "block"

[tiers.slow]
included = "2.00"
when_used_up = "block"
requests = { count = 6, per = "1m", burst = 2 }
"#;

pub fn plan() -> Plan {
    Plan::from_toml(PLAN).unwrap()
}

pub fn november() -> ManualClock {
    ManualClock::at("2026-11".parse().unwrap())
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn nanos(nanos: i64) -> Credits {
    Credits::from_nano_usd(nanos).unwrap()
}

pub fn identity(user: &str, tier: &str) -> Identity {
    Identity::new(user.parse().unwrap(), Account::user(user).unwrap(), tier.parse().unwrap())
}

/// A meter that reports within 100 ms, so that no test waits for a second.
pub fn meter(ledger: impl Ledger) -> CreditMeterBuilder {
    // As it is on the system's clock, where time may be paused.
    let meter = CreditMeter::builder(plan(), ledger, IdentityFromExtensions).clock(TokioClock);
    meter.report_within(Duration::from_millis(100))
}

/// A request of a user of a tier to the metered path.
pub fn request<B>(user: &str, tier: &str, body: B) -> Request<B> {
    Request::post("/models/echo").extension(identity(user, tier)).body(body).unwrap()
}

pub async fn statement(meter: &CreditMeter, user: &str, tier: &str) -> Statement {
    meter.statement(&identity(user, tier), None).await.unwrap()
}

/// The statement once nothing is on hold any more and this many requests were billed.
pub async fn settled(meter: &CreditMeter, user: &str, tier: &str, requests: u64) -> Statement {
    let user = identity(user, tier);
    eventually(async || {
        let statement = meter.statement(&user, None).await.ok()?;
        (statement.held.is_zero() && statement.requests() == requests).then_some(statement)
    })
    .await
}

/// Waits until a condition holds.
pub async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = tokio::time::Instant::now() + seconds(60);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < limit, "the condition did not come to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a body to its end.
pub async fn read<B>(response: Response<MeterBody<B>>) -> Result<Vec<u8>, tower_credits::BoxError>
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<tower_credits::BoxError>,
{
    use http_body_util::BodyExt;
    Ok(Box::pin(response.into_body()).collect().await?.to_bytes().to_vec())
}

/// A shared counter.
pub fn counter() -> Arc<std::sync::atomic::AtomicUsize> {
    Arc::default()
}

/// A value that one call of a service takes.
pub struct Once<T>(Arc<std::sync::Mutex<Option<T>>>);

impl<T> Once<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(std::sync::Mutex::new(Some(value))))
    }

    pub fn take(&self) -> T {
        self.0.lock().unwrap().take().expect("one call")
    }
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
