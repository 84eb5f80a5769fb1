//! Plans built in code.

use super::{
    Plan, PlanError, Route, Tier, UpstreamTime,
    draft::{Draft, Language, Problem},
};
use crate::{Name, Price};

impl Plan {
    /// Returns a builder of a plan: the same plan that a file describes, as values.
    ///
    /// ```
    /// use tower_credits::{
    ///     Plan, Price,
    ///     plan::{Route, Tier, WhenUsedUp},
    /// };
    ///
    /// let plan = Plan::builder()
    ///     .hardware("gpu-small".parse()?, Price::per_second("0.00012".parse()?))
    ///     .model("rnnoise".parse()?, "gpu-small".parse()?)
    ///     .route("/models/{model}", Route::model("{model}"))
    ///     .route("/health", Route::free())
    ///     .tier(Tier::new("free".parse()?, "0.10".parse()?, WhenUsedUp::Block))
    ///     .build()?;
    ///
    /// assert_eq!(plan.tier(&"free".parse()?).unwrap().included, "0.10".parse()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> PlanBuilder {
        PlanBuilder::default()
    }
}

/// Builder of a [`Plan`]; see [`Plan::builder`].
///
/// Entries can be added in any order. [`build`](Self::build) checks them by the rules that a plan's
/// file is checked by.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PlanBuilder {
    hardware: Vec<(Name, Price, bool)>,
    models: Vec<(Name, Name, Option<UpstreamTime>)>,
    routes: Vec<(String, Route)>,
    otherwise: Option<Route>,
    free_preflights: bool,
    tiers: Vec<Tier>,
}

impl PlanBuilder {
    /// Adds hardware and its price.
    pub fn hardware(mut self, name: Name, price: Price) -> Self {
        self.hardware.push((name, price, false));
        self
    }

    /// Adds hardware that runs several requests at a time, in batches, and its price. Requests that
    /// run on it at the same time, on this node, share its second: together they are billed the
    /// time in which the hardware was busy.
    pub fn shared_hardware(mut self, name: Name, price: Price) -> Self {
        self.hardware.push((name, price, true));
        self
    }

    /// Adds a model, and the hardware that it runs on.
    pub fn model(mut self, name: Name, hardware: Name) -> Self {
        self.models.push((name, hardware, None));
        self
    }

    /// Adds a model whose service says in its answers how long it computed, and the hardware that
    /// it runs on.
    pub fn reporting_model(mut self, name: Name, hardware: Name, time: UpstreamTime) -> Self {
        self.models.push((name, hardware, Some(time)));
        self
    }

    /// Adds a route for the paths of a pattern in axum's syntax, such as `/models/{model}`. gRPC
    /// methods are paths, too.
    pub fn route(mut self, pattern: impl Into<String>, route: Route) -> Self {
        self.routes.push((pattern.into(), route));
        self
    }

    /// Sets the route of all other paths. Default: [`Route::refuse`]. If it is [`Route::free`], a
    /// path that a service could read as a metered route's is still refused.
    pub fn otherwise(mut self, route: Route) -> Self {
        self.otherwise = Some(route);
        self
    }

    /// Lets browsers' CORS preflights to metered paths pass without credentials. Default: `false`.
    /// Set it if your CORS layer is inside of the meter.
    pub const fn free_preflights(mut self, on: bool) -> Self {
        self.free_preflights = on;
        self
    }

    /// Adds a tier.
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tiers.push(tier);
        self
    }

    /// Checks the entries and builds the plan.
    ///
    /// # Errors
    ///
    /// [`PlanError`] names the first wrong entry, and what to write instead:
    ///
    /// * There are no tiers, or two entries have the same name or match the same paths.
    /// * A model or a route names hardware or a model that the plan does not have.
    /// * A model that reports its time runs on shared hardware, or names a field without a name.
    /// * A route that is not metered has a feature.
    /// * A route's pattern matches no path that a request can have, or its model's template takes
    ///   a part that the pattern does not have.
    /// * A tier's setting is out of the range that its field states.
    pub fn build(self) -> Result<Plan, PlanError> {
        self.draft().and_then(Draft::finish).map_err(|Problem { reason, .. }| PlanError {
            file: None,
            line: None,
            reason,
            source: None,
        })
    }

    fn draft(mut self) -> Result<Draft, Problem> {
        let mut draft = Draft::new(Language::Rust);
        for (name, price, shared) in self.hardware {
            draft.add_hardware(name, price, shared)?;
        }
        for (name, hardware, time) in self.models {
            draft.add_model(name, hardware, time)?;
        }
        // In a file, too, their order does not matter.
        self.routes.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (pattern, route) in self.routes {
            draft.add_route(&pattern, route)?;
        }
        if let Some(route) = self.otherwise {
            draft.set_otherwise(route)?;
        }
        draft.set_free_preflights(self.free_preflights);
        for tier in self.tiers {
            draft.add_tier(tier)?;
        }
        Ok(draft)
    }
}
