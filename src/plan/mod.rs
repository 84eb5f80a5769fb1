//! The plan: hardware prices, models, routes and tiers, as data.
//!
//! * [`Plan`] is all of it, and is valid once it exists: every route leads to a known model, every
//!   model runs on hardware with a price, every tier has its rules. It is read from TOML or built
//!   in code ([`Plan::builder`]). A wrong plan is refused with a [`PlanError`].
//! * [`PlanFile`] follows a plan's file, and [`PlanHandle`] replaces the plan while the server
//!   runs.
//! * [`Tier`] is what an account may use, and what happens when it has used it: [`WhenUsedUp`],
//!   [`Midway`], [`RequestQuota`], [`RequestCap`], [`DuringOutage`].
//! * [`Route`] is what the requests to a path run. [`Plan::classify`] answers with a
//!   [`Classification`]: a [`Workload`] and its price, free, or unknown.
//! * [`Plan::routes`] and [`Plan::remarks`] show a plan to people.
//! * [`Feature`] names the feature through which a single request uses a model.
//!
//! The keys of the file are explained in `docs/plan.md`.
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
//! let wrong = "[tiers.free]\nincluded = \"-1\"\nwhen_used_up = \"block\"";
//! let error = Plan::from_toml(wrong).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "line 2: tier `free`, included: the amount is negative: write 0 or more",
//! );
//! # Ok::<(), tower_credits::plan::PlanError>(())
//! ```

mod body_template;
mod builder;
mod catalog;
mod document;
mod draft;
mod error;
mod file;
#[cfg(test)]
mod fuzz;
mod handle;
mod normalization;
mod pattern;
mod policy;
mod precomputed;
mod query;
mod rates;
mod route;
mod routes;
mod summary;
mod template;
#[cfg(test)]
mod tests;
mod tier;
mod unbilled;
mod unit;
mod upstream_time;

pub(crate) use self::unbilled::{Ending, Unbilled};
pub use self::{
    builder::PlanBuilder,
    catalog::{Feature, Workload},
    error::PlanError,
    file::PlanFile,
    handle::PlanHandle,
    policy::Plan,
    rates::Rates,
    route::Route,
    routes::{Classification, ModelInBody},
    summary::{RouteSummary, Runs},
    tier::{
        DuringOutage, LimitScope, Midway, RateWindow, RequestCap, RequestQuota, Tier, TierModels,
        WhenUsedUp,
    },
    unbilled::{Outcome, OutcomeError},
    unit::Unit,
    upstream_time::{TimeUnit, UpstreamTime},
};
pub use crate::{
    body_fields::BodyProblem,
    currency::{Amount, Currency, CurrencyError},
    names::TierName,
    tariff::{PriceFactor, PriceFactorError},
};
