//! A plan as people read it: what each route runs, and what is odd about it.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderMap;

use super::{
    catalog::{Catalog, Workload},
    policy::Plan,
    routes::{Routes, Target},
    tier::Tier,
};
use crate::Name;

/// A route of a plan: it comes from [`Plan::routes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteSummary {
    /// Path pattern of the route; `otherwise` for all paths that no other route has.
    pub pattern: String,
    /// Workload of its requests.
    pub runs: Runs,
}

/// Workload of the requests of a route, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Runs {
    /// Nothing that is metered.
    Free,
    /// Nothing that is metered, and only for callers with valid credentials.
    Authenticated,
    /// Nothing: they are denied.
    Refused,
    /// This, whatever the request says.
    Workload(Arc<Workload>),
    /// A model that the request names.
    Model {
        /// The template of the model's name.
        template: String,
        /// The feature that it is used through.
        feature: Name,
    },
}

impl Plan {
    /// Returns the routes in the order in which they were added, those of a file in alphabetical
    /// order, and `otherwise` as the last.
    pub fn routes(&self) -> Vec<RouteSummary> {
        let (catalog, routes) = self.parts();
        let listed = routes.targets().map(|(pattern, target)| RouteSummary {
            pattern: pattern.to_owned(),
            runs: runs(catalog, target),
        });
        listed.collect()
    }

    /// Returns the tiers, in the order of their names.
    pub fn tiers(&self) -> Vec<&Arc<Tier>> {
        let mut tiers: Vec<_> = self.all_tiers().collect();
        tiers.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        tiers
    }

    /// Returns what is valid, and probably not meant: models that no route leads to, hardware that
    /// nothing uses, and paths that run unpaid.
    pub fn remarks(&self) -> Vec<String> {
        let (catalog, routes) = self.parts();
        let mut remarks = Vec::new();
        if routes.are_metered_but_otherwise_free() {
            remarks.push(
                "`otherwise = \"free\"`: every path that is not listed runs unpaid; write \
                 `otherwise = \"refuse\"`, and list the free ones"
                    .to_owned(),
            );
        }
        let all = self.routes();
        if !all.iter().any(|route| matches!(route.runs, Runs::Model { .. })) {
            let run: BTreeSet<&Name> = all
                .iter()
                .filter_map(|route| match &route.runs {
                    Runs::Workload(workload) => Some(&workload.model),
                    _ => None,
                })
                .collect();
            for model in self.models().iter().filter(|model| !run.contains(model)) {
                remarks.push(format!("no route leads to model `{model}`: add one, or remove it"));
            }
        }
        let used: BTreeSet<Name> = self
            .models()
            .iter()
            .filter_map(|model| Some(catalog.workload(model.as_str(), model)?.hardware.clone()))
            .chain(all.iter().filter_map(|route| match &route.runs {
                Runs::Workload(workload) => Some(workload.hardware.clone()),
                _ => None,
            }))
            .collect();
        let mut unused: Vec<_> = catalog.hardware().filter(|name| !used.contains(*name)).collect();
        unused.sort();
        for hardware in unused {
            remarks.push(format!("nothing runs on hardware `{hardware}`: remove it, or use it"));
        }
        remarks
    }

    /// Explains why a request's target and header fields lead to nothing, and what to add to the
    /// plan. Near misses are named: a path that a service may take for a metered route's.
    pub fn explain(&self, target: &str, headers: &HeaderMap) -> String {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        self.explain_unknown(path, query, headers)
    }
}

fn runs(catalog: &Catalog, target: &Target) -> Runs {
    match target {
        Target::Free => Runs::Free,
        Target::Authenticated => Runs::Authenticated,
        Target::Refuse => Runs::Refused,
        Target::Hardware { hardware, feature } => {
            Routes::on_hardware(catalog, hardware, feature).map_or(Runs::Refused, Runs::Workload)
        }
        Target::Model { model, feature } => {
            let fixed = model.fixed().and_then(|name| catalog.workload(name, feature));
            fixed.map_or_else(
                || Runs::Model { template: model.to_string(), feature: feature.clone() },
                Runs::Workload,
            )
        }
    }
}
