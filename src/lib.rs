//! Tower middleware that charges compute time x hardware price against a monthly credit balance, by
//! account tier.
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README's code is tested if the features that it uses are there. Its links lead to docs.rs;
// here, `links.md` stands before it, and the first definition of a link counts.
#![cfg_attr(
    all(doc, not(doctest), feature = "axum", feature = "redis"),
    doc = "",
    doc = include_str!("guide/links.md")
)]
#![cfg_attr(
    all(any(doc, doctest), feature = "axum", feature = "redis"),
    doc = "",
    doc = include_str!("../README.md")
)]

mod account;
#[cfg(feature = "axum")]
pub mod billing;
mod body_fields;
pub mod clock;
#[cfg(any(feature = "cloud-events", feature = "export"))]
mod cloud_event;
mod compact_time;
mod condition;
mod contained;
#[cfg(any(feature = "axum", feature = "export"))]
mod csv_field;
mod currency;
#[cfg(any(feature = "embedded", feature = "journal", feature = "export"))]
mod database_file;
mod denial_format;
#[cfg(feature = "export")]
pub mod export;
#[cfg(any(doc, doctest))]
pub mod guide;
mod header_text;
#[cfg(any(feature = "cloud-events", feature = "export"))]
mod http_client;
pub mod identify;
mod keeper;
mod lease;
pub mod ledger;
mod limit;
pub mod meter;
mod metering;
mod money;
mod names;
mod observe;
mod part;
mod period;
#[cfg(test)]
mod pieces;
pub mod plan;
pub mod records;
#[cfg(feature = "redis")]
mod redis_server;
mod rejection;
mod reload;
mod request_id;
mod tariff;
mod terms;
mod threshold;
mod unix_time;

#[cfg(feature = "journal")]
pub use self::keeper::Journal;
#[cfg(feature = "embedded")]
pub use self::ledger::EmbeddedLedger;
pub use self::{
    account::Account,
    denial_format::DenialFormat,
    identify::{BearerTokens, Identity},
    lease::HoldAhead,
    ledger::{Accounts, MemoryLedger},
    meter::{ComputeClock, ComputeTime, CreditMeter, CreditMeterBuilder},
    money::{Credits, MoneyError, Price},
    names::{Name, NameError},
    part::{Limits, Part},
    period::{Period, PeriodError},
    plan::{Feature, Plan, PlanFile},
    rejection::Rejection,
    request_id::{RequestId, RequestIdError},
    threshold::{Threshold, ThresholdReached},
};
#[cfg(feature = "redis")]
pub use self::{identify::RedisTokens, ledger::RedisLedger, redis_server::RedisServer};

/// Any error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
