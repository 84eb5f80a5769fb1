//! The plan itself, and the handle that replaces it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderMap;

use super::{
    catalog::{Catalog, Workload},
    exact::ExactPaths,
    routes::{Classification, Routes},
    tier::Tier,
};
use crate::Name;

/// All policy as data. See the [module's](crate::plan) example, and `docs/plan.md` for the file explained.
#[derive(Clone, Debug)]
pub struct Plan {
    /// No other plan of this process that was read has it.
    number: u64,
    pub(super) catalog: Catalog,
    pub(super) tiers: HashMap<Name, Arc<Tier>>,
    pub(super) routes: Routes,
    exact: ExactPaths,
}

impl Plan {
    /// A plan of nothing.
    pub(super) fn empty() -> Self {
        Self {
            number: 0,
            catalog: Catalog::default(),
            tiers: HashMap::new(),
            routes: Routes::new(),
            exact: ExactPaths::default(),
        }
    }

    /// Running a model, through a feature.
    pub fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        self.catalog.workload(model, feature)
    }

    /// The same, through another feature.
    pub(crate) fn through(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        self.catalog.through(workload, feature)
    }

    /// The lowest price of a second that is not nothing.
    #[cfg(feature = "axum")]
    pub(crate) fn lowest_price(&self) -> Option<crate::Price> {
        self.catalog.lowest_price()
    }

    /// The tier of this name.
    pub fn tier(&self, name: &str) -> Option<&Arc<Tier>> {
        self.tiers.get(name)
    }

    /// What a request to a path, with these header fields, runs by the plan's routes.
    pub fn classify(&self, path: &str, headers: &HeaderMap) -> Classification {
        self.exact.find(path).unwrap_or_else(|| self.routes.classify(&self.catalog, path, headers))
    }

    /// What to do about a path that leads nowhere, for the operator.
    pub(crate) fn advice(&self, path: &str, headers: &HeaderMap) -> String {
        self.routes.advice(&self.catalog, path, headers)
    }

    /// Says if a browser's preflight to what the plan knows passes without credentials.
    pub(crate) const fn lets_preflights_pass(&self) -> bool {
        self.routes.free_preflights
    }

    /// No other plan of this process that was read has it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Makes workloads for each model and the features that routes have, and finds out once where
    /// the paths lead that can be told in advance.
    pub(super) fn prepare(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.catalog.prepare(self.routes.features());
        self.exact = ExactPaths::of(&self.catalog, &self.routes);
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
