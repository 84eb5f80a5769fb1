//! The plan itself.

use std::{
    borrow::Cow,
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
    routes::{Classification, ModelInBody, Routes, explain_unknown_model},
    tier::Tier,
    unbilled::Unbilled,
    unit::Unit,
};
use crate::{
    DenialFormat, Name,
    body_fields::{self, BodyProblem},
    currency::Currency,
};

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
    models: Arc<[Name]>,
    tiers: HashMap<TierName, Arc<Tier>>,
    routes: Routes,
    precomputed: PrecomputedPaths,
    unbilled: Option<Arc<Unbilled>>,
    currency: Currency,
}

impl Plan {
    /// Makes a plan of parts that were checked, with the workloads that requests share. It
    /// classifies the paths that can be classified in advance.
    pub(super) fn new(
        mut catalog: Catalog,
        tiers: HashMap<TierName, Arc<Tier>>,
        routes: Routes,
        unbilled: Option<Unbilled>,
        currency: Currency,
    ) -> Self {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        catalog.index_workloads(routes.features());
        let mut models: Vec<_> = catalog.models().cloned().collect();
        models.sort();
        Self {
            models: models.into(),
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            precomputed: PrecomputedPaths::new(&catalog, &routes),
            catalog,
            tiers,
            routes,
            unbilled: unbilled.map(Arc::new),
            currency,
        }
    }

    /// Returns the tier of this name.
    pub fn tier(&self, name: &TierName) -> Option<&Arc<Tier>> {
        self.tiers.get(name)
    }

    pub(super) fn all_tiers(&self) -> impl Iterator<Item = &Arc<Tier>> {
        self.tiers.values()
    }

    pub(super) const fn parts(&self) -> (&Catalog, &Routes) {
        (&self.catalog, &self.routes)
    }

    /// Returns the workload of a model that is used through a feature. `None` if the plan does not
    /// have the model.
    pub fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        self.catalog.workload(model, feature)
    }

    /// Classifies a request by its target, which is a path and its query, if it has one, and by its
    /// header fields.
    ///
    /// ```
    /// use tower_credits::{Plan, plan::Classification};
    ///
    /// # fn example(plan: Plan) {
    /// let runs = plan.classify("/models/rnnoise", &http::HeaderMap::new());
    /// if let Classification::Workload(workload) = runs {
    ///     println!("{} on {}", workload.model, workload.hardware);
    /// }
    /// # }
    /// ```
    pub fn classify(&self, target: &str, headers: &HeaderMap) -> Classification {
        match target.split_once('?') {
            Some((path, query)) => self.classify_parts(path, Some(query), headers),
            None => self.classify_parts(target, None, headers),
        }
        .into_owned()
    }

    /// Classifies a request by the path and the query of its target, and by its header fields.
    pub(crate) fn classify_parts(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Cow<'_, Classification> {
        self.precomputed.get(path).map_or_else(
            || Cow::Owned(self.routes.classify(&self.catalog, path, query, headers)),
            Cow::Borrowed,
        )
    }

    /// Classifies a request whose body says what it runs, by that body.
    ///
    /// # Errors
    ///
    /// [`BodyProblem`] if the body does not say it in one way only.
    pub(crate) fn classify_body(
        &self,
        model: &ModelInBody,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Classification, BodyProblem> {
        let values = body_fields::read(headers, body, &model.fields())?;
        let name = model.fill(&values);
        let workload = self.catalog.workload(&name, model.feature());
        Ok(workload.map_or_else(
            || Classification::UnknownModel(Some(name.into())),
            Classification::Workload,
        ))
    }

    /// Explains to the operator why a path or its model is unknown, and what to add to the plan.
    pub(crate) fn explain_unknown(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> String {
        self.routes.explain_unknown(&self.catalog, path, query, headers)
    }

    /// Explains to the operator what to add for a model that a body named.
    pub(crate) fn explain_unknown_model(route: &str, model: &str) -> String {
        explain_unknown_model(route, model)
    }

    /// Returns the format of denials that the route of a path has.
    pub(crate) fn denial_format(&self, path: &str) -> Option<DenialFormat> {
        self.routes.denial_format(path)
    }

    /// Returns the label of amounts.
    pub const fn currency(&self) -> Currency {
        self.currency
    }

    /// Returns what time on some hardware is counted in on the bill, if that is not seconds.
    pub fn unit(&self, hardware: &Name) -> Option<&Unit> {
        self.catalog.unit(hardware)
    }

    /// Returns the models of the plan, in the order of their names.
    pub fn models(&self) -> &Arc<[Name]> {
        &self.models
    }

    /// Returns the outcomes that are not billed, if there are any.
    pub(crate) const fn unbilled(&self) -> Option<&Arc<Unbilled>> {
        self.unbilled.as_ref()
    }

    /// Returns the same workload, used through another feature.
    pub(crate) fn with_feature(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        self.catalog.with_feature(workload, feature)
    }

    /// Returns the least that a request of some compute time costs, if it costs anything, in a tier
    /// with a factor.
    #[cfg(feature = "axum")]
    pub(crate) fn lowest_cost(
        &self,
        compute: std::time::Duration,
        factor: super::PriceFactor,
        now: crate::clock::UnixTime,
    ) -> Option<crate::Credits> {
        self.catalog.lowest_cost(compute, factor, now)
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
