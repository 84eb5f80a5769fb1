//! Tower middleware that charges compute time x hardware price against a monthly credit balance, by
//! account tier.
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README's code is tested where the features that it uses are there.
#![cfg_attr(all(feature = "axum", feature = "redis"), doc = "", doc = include_str!("../README.md"))]

mod account;
#[cfg(feature = "axum")]
pub mod billing;
pub mod clock;
mod contained;
pub mod identify;
mod lease;
pub mod ledger;
mod limit;
pub mod meter;
mod money;
mod names;
mod observe;
mod period;
pub mod plan;
#[cfg(feature = "redis")]
mod redis_server;
mod rejection;
mod reload;
mod terms;
mod threshold;

pub use self::{
    account::Account,
    identify::{BearerTokens, Identity},
    lease::HoldAhead,
    ledger::{Accounts, MemoryLedger},
    meter::{ComputeClock, ComputeTime, CreditMeter, CreditMeterBuilder},
    money::{Credits, MoneyError, Price},
    names::{Name, NameError},
    period::{Period, PeriodError},
    plan::{Feature, Plan, PlanFile},
    rejection::{DenialFormat, Rejection},
    threshold::{Threshold, ThresholdReached},
};
#[cfg(feature = "redis")]
pub use self::{identify::RedisTokens, ledger::RedisLedger, redis_server::RedisServer};

/// The code in the docs is tested, too.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../docs/stacks.md")]
mod stacks {}

/// The same.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../docs/scaling.md")]
mod scaling {}

/// The same.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../docs/operating.md")]
mod operating {}

/// Any error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
