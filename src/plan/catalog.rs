//! The models, the hardware that they run on, and its prices.

use std::{collections::HashMap, sync::Arc};

use super::upstream_time::UpstreamTime;
use crate::{Name, Price};

/// Model that a request runs, and the price of a second of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// The model.
    pub model: Name,
    /// The hardware that the model runs on.
    pub hardware: Name,
    /// The price of a second on that hardware.
    pub price: Price,
    /// `true` if requests that run on that hardware at the same time share its second.
    pub shared: bool,
    /// The place where the service's answer says its compute time.
    pub upstream_time: Option<Arc<UpstreamTime>>,
    /// The feature that the model is used through: `api` unless the route or the request's
    /// [`Feature`] names another.
    pub feature: Name,
}

/// Request extension that names the feature through which a request uses a model. It replaces the
/// route's feature.
///
/// Insert it before the request reaches the layer. Each feature has usage lines of its own on the
/// bill; all features draw on the same credits.
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

/// Models, the hardware that each runs on, and the prices of that hardware.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    hardware: HashMap<Name, Hardware>,
    models: HashMap<Name, Model>,
    /// By model, one workload for each feature of the plan's routes.
    workloads: HashMap<Name, Vec<Arc<Workload>>>,
}

/// Hardware, and the rules by which its time is billed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hardware {
    pub(super) price: Price,
    pub(super) shared: bool,
}

/// A model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) hardware: Name,
    pub(super) upstream_time: Option<Arc<UpstreamTime>>,
}

impl Catalog {
    /// Adds hardware. `false` if there is hardware of that name already.
    pub(super) fn add_hardware(&mut self, name: Name, hardware: Hardware) -> bool {
        self.hardware.insert(name, hardware).is_none()
    }

    /// Adds a model. `false` if there is a model of that name already.
    pub(super) fn add_model(&mut self, name: Name, model: Model) -> bool {
        self.models.insert(name, model).is_none()
    }

    /// `true` if requests share the hardware's second.
    pub(super) fn is_shared(&self, hardware: &Name) -> bool {
        self.hardware.get(hardware).is_some_and(|hardware| hardware.shared)
    }

    pub(super) fn has_hardware(&self, name: &str) -> bool {
        self.hardware.contains_key(name)
    }

    pub(super) fn has_model(&self, name: &str) -> bool {
        self.models.contains_key(name)
    }

    pub(super) fn models(&self) -> impl Iterator<Item = &Name> {
        self.models.keys()
    }

    /// Makes the workloads of all models for these features, so that requests share them.
    pub(super) fn index_workloads(&mut self, features: impl IntoIterator<Item = Name>) {
        for feature in features {
            for (name, model) in &self.models {
                if let Some(workload) = self.workload_of(name, model, &feature) {
                    self.workloads.entry(name.clone()).or_default().push(workload);
                }
            }
        }
    }

    /// Returns the workload of a model that is used through a feature. `None` if the model is
    /// unknown.
    pub(super) fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        let indexed = self
            .workloads
            .get(model)
            .and_then(|indexed| indexed.iter().find(|workload| workload.feature == *feature));
        indexed.cloned().or_else(|| {
            let (name, model) = self.models.get_key_value(model)?;
            self.workload_of(name, model, feature)
        })
    }

    /// Returns the same workload, used through another feature.
    pub(super) fn with_feature(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        let is_same = |indexed: &&Arc<Workload>| {
            Workload { feature: workload.feature.clone(), ..Workload::clone(indexed) } == **workload
                && indexed.feature == *feature
        };
        let indexed =
            self.workloads.get(&workload.model).and_then(|indexed| indexed.iter().find(is_same));
        indexed.cloned().unwrap_or_else(|| {
            Arc::new(Workload { feature: feature.clone(), ..Workload::clone(workload) })
        })
    }

    fn workload_of(&self, name: &Name, model: &Model, feature: &Name) -> Option<Arc<Workload>> {
        let mut workload = self.on_hardware(name, &model.hardware, feature)?;
        Arc::make_mut(&mut workload).upstream_time.clone_from(&model.upstream_time);
        Some(workload)
    }

    /// Makes the workload of a model on some hardware. `None` if the hardware is unknown.
    pub(super) fn on_hardware(
        &self,
        model: &Name,
        hardware: &Name,
        feature: &Name,
    ) -> Option<Arc<Workload>> {
        let Hardware { price, shared } = *self.hardware.get(hardware)?;
        Some(Arc::new(Workload {
            model: model.clone(),
            hardware: hardware.clone(),
            price,
            shared,
            upstream_time: None,
            feature: feature.clone(),
        }))
    }

    /// Returns the lowest price of a second that is above zero.
    #[cfg(feature = "axum")]
    pub(super) fn lowest_price(&self) -> Option<Price> {
        self.hardware
            .values()
            .map(|hardware| hardware.price)
            .filter(|price| !price.a_second().is_zero())
            .min_by_key(|price| price.a_second())
    }
}
