//! The models, the hardware that they run on, and its prices.

#[cfg(feature = "axum")]
use std::time::Duration;
use std::{collections::HashMap, sync::Arc};

use super::{rates::Rates, unit::Unit, upstream_time::UpstreamTime};
use crate::{
    Credits, Name, Price,
    clock::UnixTime,
    tariff::{PriceFactor, Tariff},
};

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
    /// Fee of each request.
    pub fee: Credits,
    /// The least that fee and compute time are charged as.
    pub least: Credits,
    /// The least that a request puts on hold.
    pub hold: Credits,
    /// `true` if requests that run on that hardware at the same time share its second.
    pub shared: bool,
    /// The place where the service's answer says its compute time.
    pub upstream_time: Option<Arc<UpstreamTime>>,
    /// The feature that the model is used through: `api` unless the route or the request's
    /// [`Feature`] names another.
    pub feature: Name,
    /// The same workload at the rates of moments to come, the earliest first.
    later: Vec<(UnixTime, Arc<Self>)>,
}

impl Workload {
    /// `true` if its rates change.
    pub(crate) const fn has_dated_rates(&self) -> bool {
        !self.later.is_empty()
    }

    /// Returns the same workload at the rates that are in force at a moment; `None` if those are
    /// its own.
    pub fn in_force_at(&self, now: UnixTime) -> Option<&Arc<Self>> {
        self.later.iter().rev().find(|(from, _)| *from <= now).map(|(_, workload)| workload)
    }

    /// Returns the tariff of it, for tiers with a factor.
    pub(crate) const fn tariff(&self, factor: PriceFactor) -> Tariff {
        Tariff { price: self.price, fee: self.fee, least: self.least, factor }
    }

    /// Returns the same workload, used through another feature.
    fn through(&self, feature: &Name) -> Self {
        let later = self.later.iter();
        let later = later.map(|(from, of)| (*from, Arc::new(of.through(feature)))).collect();
        Self { feature: feature.clone(), later, ..self.clone() }
    }
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
#[derive(Clone, Debug)]
pub(super) struct Hardware {
    pub(super) rates: Rates,
    pub(super) shared: bool,
    /// Unit that its time is counted in, if that is not seconds.
    pub(super) unit: Option<Unit>,
}

/// A model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) hardware: Name,
    pub(super) upstream_time: Option<Arc<UpstreamTime>>,
    pub(super) fees: Fees,
}

/// Fee and least charge of a model, if they are not those of its hardware.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fees {
    pub(super) fee: Option<Credits>,
    pub(super) least: Option<Credits>,
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

    /// Returns the unit that time on some hardware is counted in, if that is not seconds.
    pub(super) fn unit(&self, hardware: &Name) -> Option<&Unit> {
        self.hardware.get(hardware)?.unit.as_ref()
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

    pub(super) fn hardware(&self) -> impl Iterator<Item = &Name> {
        self.hardware.keys()
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
            indexed.feature == *feature && indexed.through(&workload.feature) == **workload
        };
        let indexed =
            self.workloads.get(&workload.model).and_then(|indexed| indexed.iter().find(is_same));
        indexed.cloned().unwrap_or_else(|| Arc::new(workload.through(feature)))
    }

    fn workload_of(&self, name: &Name, model: &Model, feature: &Name) -> Option<Arc<Workload>> {
        let Model { hardware: on, upstream_time, fees } = model;
        let hardware = self.hardware.get(on)?;
        Some(hardware.workload(name, on, feature, upstream_time.as_ref(), *fees))
    }

    /// Makes the workload of a model on some hardware. `None` if the hardware is unknown.
    pub(super) fn on_hardware(
        &self,
        model: &Name,
        hardware: &Name,
        feature: &Name,
    ) -> Option<Arc<Workload>> {
        let of = self.hardware.get(hardware)?;
        Some(of.workload(model, hardware, feature, None, Fees::default()))
    }

    /// Returns the least that a request of some compute time costs, if it costs anything, in a tier
    /// with a factor.
    #[cfg(feature = "axum")]
    pub(super) fn lowest_cost(
        &self,
        compute: Duration,
        factor: PriceFactor,
        now: UnixTime,
    ) -> Option<Credits> {
        let models =
            self.models.iter().filter_map(|(name, model)| self.workload_of(name, model, name));
        let hardware = self.hardware.keys().filter_map(|on| self.on_hardware(on, on, on));
        let costs = models.chain(hardware).map(|workload| {
            let workload = workload.in_force_at(now).unwrap_or(&workload);
            workload.tariff(factor).cost(compute)
        });
        costs.filter(|cost| !cost.is_zero()).min()
    }
}

impl Hardware {
    fn workload(
        &self,
        model: &Name,
        name: &Name,
        feature: &Name,
        upstream_time: Option<&Arc<UpstreamTime>>,
        fees: Fees,
    ) -> Arc<Workload> {
        let at = |rates: &Rates, later| {
            Arc::new(Workload {
                model: model.clone(),
                hardware: name.clone(),
                price: rates.price,
                fee: fees.fee.unwrap_or(rates.fee),
                least: fees.least.unwrap_or(rates.least),
                hold: rates.hold,
                shared: self.shared,
                upstream_time: upstream_time.cloned(),
                feature: feature.clone(),
                later,
            })
        };
        let later = self.rates.later.iter();
        let later = later.map(|(from, rates)| (*from, at(rates, Vec::new()))).collect();
        at(&self.rates, later)
    }
}
