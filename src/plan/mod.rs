//! All policy as data: hardware prices, models, routes and tiers.
//!
//! A [`Plan`] is read from TOML ([`Plan::from_file`]) and is valid once it exists: every route
//! leads to a known model, every model runs on priced hardware, every tier has its rules. What
//! would not be is refused with the file's line and what to write instead.
//!
//! ```
//! use tower_credits::Plan;
//!
//! let plan = Plan::from_toml(r#"
//!     [hardware.gpu-small]
//!     price_per_second = "0.00012"
//!
//!     [models.rnnoise]
//!     hardware = "gpu-small"
//!
//!     [routes]
//!     "/models/{model}" = { model = "{model}" }
//!     "/health" = "free"
//!
//!     [tiers.free]
//!     included = "0.10"
//!     when_used_up = "block"
//! "#)?;
//!
//! let error = Plan::from_toml("[tiers.free]\nincluded = \"-1\"\nwhen_used_up = \"block\"").unwrap_err();
//! assert_eq!(error.to_string(), "line 2: tier `free`, included: the amount is negative: write 0 or more");
//! # Ok::<(), tower_credits::plan::PlanError>(())
//! ```

mod catalog;
mod error;
mod exact;
mod file;
mod policy;
mod routes;
mod spelling;
#[cfg(test)]
mod tests;
mod tier;

pub use self::{
    catalog::{Feature, Workload},
    error::PlanError,
    policy::{Plan, PlanHandle},
};
pub use self::{
    file::PlanFile,
    routes::Classification,
    tier::{DuringOutage, Midway, RequestCap, RequestQuota, Tier, WhenUsedUp},
};
