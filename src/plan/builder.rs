//! Plans built in code.

use super::{
    Currency, Outcome, Plan, PlanError, Route, Tier, Unit, UpstreamTime,
    catalog::{Fees, Hardware},
    draft::{Draft, Field, Language, Problem},
    rates::Rates,
};
use crate::{Credits, Name};

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
    hardware: Vec<(Name, Rates, bool)>,
    fees: Vec<(Name, Fees)>,
    models: Vec<(Name, Name, Option<UpstreamTime>)>,
    routes: Vec<(String, Route)>,
    otherwise: Option<Route>,
    free_preflights: bool,
    tiers: Vec<Tier>,
    unbilled: Vec<Outcome>,
    currency: Currency,
    units: Vec<(Name, Unit)>,
}

impl PlanBuilder {
    /// Adds hardware and its rates: a [`Price`](crate::Price), or [`Rates`] with a fee, a least
    /// charge, and those of dates to come.
    pub fn hardware(mut self, name: Name, rates: impl Into<Rates>) -> Self {
        self.hardware.push((name, rates.into(), false));
        self
    }

    /// Adds hardware that runs several requests at a time, in batches, and its rates. Requests that
    /// run on it at the same time, on this node, share its second: together they are billed the
    /// time in which the hardware was busy.
    pub fn shared_hardware(mut self, name: Name, rates: impl Into<Rates>) -> Self {
        self.hardware.push((name, rates.into(), true));
        self
    }

    /// Sets what time on some hardware is counted in on the bill. Default: seconds.
    pub fn unit(mut self, hardware: Name, unit: Unit) -> Self {
        self.units.push((hardware, unit));
        self
    }

    /// Sets the label of amounts on the billing page and in denials. Default: [`Currency::USD`].
    pub const fn currency(mut self, currency: Currency) -> Self {
        self.currency = currency;
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

    /// Sets the fee of each request of a model, and the least that fee and compute time are charged
    /// as; `None` if they are those of its hardware.
    pub fn model_fees(
        mut self,
        model: Name,
        fee_per_request: Option<Credits>,
        least_per_request: Option<Credits>,
    ) -> Self {
        let fees = Fees { fee: fee_per_request, least: least_per_request };
        self.fees.push((model, fees));
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

    /// Adds an outcome that is not billed. Default: every request whose service was called is.
    pub fn unbilled(mut self, outcome: Outcome) -> Self {
        self.unbilled.push(outcome);
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
        draft.set_currency(self.currency);
        for (name, rates, shared) in self.hardware {
            let at = self.units.iter().position(|(hardware, _)| *hardware == name);
            let unit = at.map(|at| self.units.swap_remove(at).1);
            draft.add_hardware(name, Hardware { rates, shared, unit })?;
        }
        if let Some((hardware, _)) = self.units.first() {
            let reason = format!(
                "unit of hardware `{hardware}`: the plan does not have it, or has its unit twice: \
                 add it with PlanBuilder::hardware, and its unit once"
            );
            return Err(Problem { field: Field::Key, reason });
        }
        for (name, hardware, time) in self.models {
            let at = self.fees.iter().position(|(model, _)| *model == name);
            let fees = at.map(|at| self.fees.swap_remove(at).1).unwrap_or_default();
            draft.add_model(name, hardware, time, fees)?;
        }
        if let Some((model, _)) = self.fees.first() {
            let reason = format!(
                "fees of model `{model}`: the plan does not have it, or has its fees twice: add it \
                 with PlanBuilder::model, and its fees once"
            );
            return Err(Problem { field: Field::Key, reason });
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
        self.unbilled.into_iter().for_each(|outcome| draft.add_unbilled(outcome));
        Ok(draft)
    }
}
