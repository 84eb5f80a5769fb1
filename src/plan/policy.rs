//! The plan itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderMap;

use super::{
    TierName,
    catalog::{Catalog, Workload},
    precomputed::PrecomputedPaths,
    routes::{Classification, Routes},
    tier::Tier,
};
use crate::Name;

/// Hardware prices, models, routes and tiers. A plan is valid once it exists.
///
/// Read one from a file ([`Plan::from_file`]; [`PlanFile`](crate::PlanFile) also follows its
/// changes), or build one in code ([`Plan::builder`]). The [module](crate::plan) has an example,
/// and `docs/plan.md` explains the file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Differs from the number of every other plan that this process built.
    number: u64,
    catalog: Catalog,
    tiers: HashMap<TierName, Arc<Tier>>,
    routes: Routes,
    precomputed: PrecomputedPaths,
}

impl Plan {
    /// Makes a plan of parts that were checked, with the workloads that requests share. It
    /// classifies the paths that can be classified in advance.
    pub(super) fn new(
        mut catalog: Catalog,
        tiers: HashMap<TierName, Arc<Tier>>,
        routes: Routes,
    ) -> Self {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        catalog.index_workloads(routes.features());
        Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            precomputed: PrecomputedPaths::new(&catalog, &routes),
            catalog,
            tiers,
            routes,
        }
    }

    /// Returns the tier of this name.
    pub fn tier(&self, name: &TierName) -> Option<&Arc<Tier>> {
        self.tiers.get(name)
    }

    /// Returns the workload of a model that is used through a feature. `None` if the plan does not
    /// have the model.
    pub fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        self.catalog.workload(model, feature)
    }

    /// Classifies a request by its path and header fields.
    pub fn classify(&self, path: &str, headers: &HeaderMap) -> Classification {
        self.precomputed
            .get(path)
            .unwrap_or_else(|| self.routes.classify(&self.catalog, path, headers))
    }

    /// Explains to the operator why a path is [unknown](Classification::Unknown), and what to add
    /// to the plan.
    pub(crate) fn explain_unknown(&self, path: &str, headers: &HeaderMap) -> String {
        self.routes.explain_unknown(&self.catalog, path, headers)
    }

    /// Returns the same workload, used through another feature.
    pub(crate) fn with_feature(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        self.catalog.with_feature(workload, feature)
    }

    /// Returns the lowest price of a second that is above zero.
    #[cfg(feature = "axum")]
    pub(crate) fn lowest_price(&self) -> Option<crate::Price> {
        self.catalog.lowest_price()
    }

    /// `true` if browsers' preflights to paths that the plan has pass without credentials.
    pub(crate) const fn has_free_preflights(&self) -> bool {
        self.routes.free_preflights()
    }

    /// Returns a number that no other plan of this process has, except for clones.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }
}
