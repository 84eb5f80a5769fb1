//! What can be run, and what it costs.

use std::{collections::HashMap, sync::Arc};

use crate::{Name, Price};

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

/// Models, the hardware that each runs on, and what that costs.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) hardware: HashMap<Name, Price>,
    pub(super) models: HashMap<Name, Name>,
    /// What the routes lead to, by model: one for each feature.
    workloads: HashMap<Name, Vec<Arc<Workload>>>,
}

impl Catalog {
    /// Running a model, through a feature.
    pub(super) fn workload(&self, model: &str, feature: &Name) -> Option<Arc<Workload>> {
        let known = self
            .workloads
            .get(model)
            .and_then(|known| known.iter().find(|workload| workload.feature == *feature));
        known.cloned().or_else(|| {
            let (model, hardware) = self.models.get_key_value(model)?;
            self.on_hardware(model, hardware, feature)
        })
    }

    /// The same, through another feature.
    pub(super) fn through(&self, workload: &Arc<Workload>, feature: &Name) -> Arc<Workload> {
        let is_it = |known: &&Arc<Workload>| {
            Workload { feature: workload.feature.clone(), ..Workload::clone(known) } == **workload
                && known.feature == *feature
        };
        let known = self.workloads.get(&workload.model).and_then(|known| known.iter().find(is_it));
        known.cloned().unwrap_or_else(|| {
            Arc::new(Workload { feature: feature.clone(), ..Workload::clone(workload) })
        })
    }

    /// Running a model on some hardware.
    pub(super) fn on_hardware(
        &self,
        model: &Name,
        hardware: &Name,
        feature: &Name,
    ) -> Option<Arc<Workload>> {
        let price = *self.hardware.get(hardware)?;
        Some(Arc::new(Workload {
            model: model.clone(),
            hardware: hardware.clone(),
            price,
            feature: feature.clone(),
        }))
    }

    /// The lowest price of a second that is not nothing.
    #[cfg(feature = "axum")]
    pub(super) fn lowest_price(&self) -> Option<Price> {
        self.hardware
            .values()
            .copied()
            .filter(|price| !price.a_second().is_zero())
            .min_by_key(|price| price.a_second())
    }

    /// Makes workloads for each model and these features.
    pub(super) fn prepare(&mut self, features: impl IntoIterator<Item = Name>) {
        for feature in features {
            for (model, hardware) in &self.models {
                if let Some(workload) = self.on_hardware(model, hardware, &feature) {
                    self.workloads.entry(model.clone()).or_default().push(workload);
                }
            }
        }
    }
}
