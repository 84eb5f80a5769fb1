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
//! assert_eq!(error.to_string(), "line 2: tier `free`, included: amounts are not negative: write 0 or more");
//! # Ok::<(), tower_credits::PlanError>(())
//! ```

mod exact;
mod file;
mod routes;
mod spelling;
mod tier;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderMap;

use self::exact::ExactPaths;
pub(crate) use self::routes::Routes;
pub use self::{
    file::PlanFile,
    routes::Classification,
    tier::{DuringOutage, Midway, RequestCap, RequestQuota, Tier, WhenUsedUp},
};
use crate::{Name, Price};

/// All policy as data. See the [module's](self) example, and the README for the file explained.
#[derive(Clone, Debug)]
pub struct Plan {
    /// No other plan of this process that was read has it.
    number: u64,
    hardware: HashMap<Name, Price>,
    models: HashMap<Name, Name>,
    /// What the routes lead to, by model: one for each feature.
    workloads: HashMap<Name, Vec<Arc<Workload>>>,
    tiers: HashMap<Name, Arc<Tier>>,
    routes: Routes,
    exact: ExactPaths,
}

/// What is run, and what a second of it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// The model.
    pub model: Name,
    /// The hardware it runs on.
    pub hardware: Name,
    /// The price of a second on that hardware.
    pub price: Price,
    /// The feature that it is used through: `api`, unless the route says otherwise.
    pub feature: Name,
}

/// The feature that a request is used through, in its extensions: the host sets it, before the
/// layer sees the request, and it stands in place of the route's. Usage stands apart by feature on
/// the bill; all features draw on the same credits.
///
/// ```
/// use tower_credits::Feature;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Feature("playground".parse()?));
/// # Ok::<(), tower_credits::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature(pub Name);

impl Plan {
    /// The tier of this name.
    pub fn tier(&self, name: &str) -> Option<&Arc<Tier>> {
        self.tiers.get(name)
    }

    /// Running a model, through a feature.
    pub fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        let known = self
            .workloads
            .get(model)
            .and_then(|known| known.iter().find(|workload| workload.feature == *feature));
        known.cloned().or_else(|| {
            let (model, hardware) = self.models.get_key_value(model)?;
            self.on_hardware(model, hardware, feature)
        })
    }

    /// What a request to a path, with these header fields, runs by the plan's routes.
    pub fn classify(&self, path: &str, headers: &HeaderMap) -> Classification {
        self.exact.find(path).unwrap_or_else(|| self.routes.classify(self, path, headers))
    }

    /// What to do about a path that leads nowhere, for the operator.
    pub(crate) fn advice(&self, path: &str, headers: &HeaderMap) -> String {
        self.routes.advice(self, path, headers)
    }

    /// Says if a browser's preflight to what the plan knows passes without credentials.
    pub(crate) const fn lets_preflights_pass(&self) -> bool {
        self.routes.free_preflights
    }

    /// The lowest price of a second that is not nothing.
    #[cfg(feature = "axum")]
    pub(crate) fn lowest_price(&self) -> Option<Price> {
        self.hardware
            .values()
            .copied()
            .filter(|price| !price.a_second().is_zero())
            .min_by_key(|price| price.a_second())
    }

    /// The same, through another feature.
    pub(crate) fn through(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        let is_it = |known: &&Arc<Workload>| {
            Workload { feature: workload.feature.clone(), ..Workload::clone(known) } == **workload
                && known.feature == *feature
        };
        let known = self.workloads.get(&workload.model).and_then(|known| known.iter().find(is_it));
        known.cloned().unwrap_or_else(|| {
            Arc::new(Workload { feature: feature.clone(), ..Workload::clone(workload) })
        })
    }

    fn on_hardware(&self, model: &Name, hardware: &Name, feature: &Name) -> Option<Arc<Workload>> {
        let price = *self.hardware.get(hardware)?;
        Some(Arc::new(Workload {
            model: model.clone(),
            hardware: hardware.clone(),
            price,
            feature: feature.clone(),
        }))
    }

    /// No other plan of this process that was read has it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Makes workloads for each model and the features that routes have, and finds out once where
    /// the paths lead that can be told in advance.
    fn prepare(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.number = NEXT.fetch_add(1, Ordering::Relaxed);
        for feature in self.routes.features() {
            for (model, hardware) in &self.models {
                if let Some(workload) = self.on_hardware(model, hardware, &feature) {
                    self.workloads.entry(model.clone()).or_default().push(workload);
                }
            }
        }
        self.exact = ExactPaths::of(self, &self.routes.patterns);
    }
}

/// The plan in force. Clones share it; requests keep the plan under which they were admitted.
#[derive(Clone, Debug)]
pub struct PlanHandle(Arc<ArcSwap<Plan>>);

impl PlanHandle {
    /// The plan in force now.
    pub fn current(&self) -> Arc<Plan> {
        self.0.load_full()
    }

    /// The same, for as long as it is looked at.
    pub(crate) fn look(&self) -> arc_swap::Guard<Arc<Plan>> {
        self.0.load()
    }

    pub(crate) fn downgrade(&self) -> WeakPlan {
        WeakPlan(Arc::downgrade(&self.0))
    }

    /// Puts another plan in force, for requests that come from now on.
    pub fn replace(&self, plan: Plan) {
        self.0.store(Arc::new(plan));
    }
}

/// A handle that keeps nothing alive.
pub(crate) struct WeakPlan(Weak<ArcSwap<Plan>>);

impl WeakPlan {
    pub(crate) fn upgrade(&self) -> Option<PlanHandle> {
        self.0.upgrade().map(PlanHandle)
    }
}

impl From<Plan> for PlanHandle {
    fn from(plan: Plan) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(plan)))
    }
}

/// Why a plan was refused: where, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", place(.file.as_ref(), *.line))]
pub struct PlanError {
    file: Option<PathBuf>,
    line: Option<usize>,
    reason: String,
    #[source]
    source: Option<std::io::Error>,
}

impl PlanError {
    /// The line of the file, counted from 1, where it is one line that is wrong.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

fn place(file: Option<&PathBuf>, line: Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests;
