//! The rules of a plan. Every plan, from TOML or built in code, is made by a draft, which checks
//! each entry as it is added.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    LimitScope, RateWindow, RequestCap, RequestQuota, Tier, TierModels, TierName,
    catalog::{Catalog, Fees, Hardware, Model},
    pattern::{self, PatternError},
    policy::Plan,
    route::{Route, RouteKind},
    routes::{Routes, Target},
    template::Template,
    unbilled::{Outcome, Unbilled},
    upstream_time::UpstreamTime,
};
use crate::{Name, currency::Currency, names, part::MAX_DEPTH};

/// The feature of a metered route that does not name one.
const DEFAULT_FEATURE: &str = "api";

/// The shortest and the longest time of a tier's settings.
const MIN_TIME: Duration = Duration::from_millis(1);
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest time between two requests of a quota.
const MIN_REQUEST_INTERVAL: Duration = Duration::from_micros(1);

/// The longest time in which a used-up burst of requests is full again.
const MAX_REFILL: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Language that a plan is written in, which remedies are written in, too.
#[derive(Clone, Copy, Debug)]
pub(super) enum Language {
    Toml,
    Rust,
}

/// Reason why an entry cannot be part of the plan.
#[derive(Debug)]
pub(super) struct Problem {
    /// The part of the entry that is wrong.
    pub(super) field: Field,
    pub(super) reason: String,
}

/// Part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The entry's name, or a route's pattern.
    Key,
    ModelHardware,
    ModelTime,
    RouteTarget,
    Hold,
    MostPerRequest,
    RequestCount,
    RequestPer,
    RequestBurst,
    RequestWindow,
    /// The tier's models of this number.
    TierModels(usize),
}

/// A plan that is being made. Hardware is added first, then models, then routes.
pub(super) struct Draft {
    language: Language,
    catalog: Catalog,
    routes: Routes,
    tiers: HashMap<TierName, Arc<Tier>>,
    unbilled: Vec<Outcome>,
    currency: Currency,
}

impl Draft {
    pub(super) fn new(language: Language) -> Self {
        Self {
            language,
            catalog: Catalog::default(),
            routes: Routes::new(),
            tiers: HashMap::new(),
            unbilled: Vec::new(),
            currency: Currency::USD,
        }
    }

    pub(super) const fn set_currency(&mut self, currency: Currency) {
        self.currency = currency;
    }

    pub(super) fn add_hardware(&mut self, name: Name, hardware: Hardware) -> Result<(), Problem> {
        let entry = format!("hardware `{name}`");
        if self.catalog.add_hardware(name, hardware) { Ok(()) } else { Err(duplicate(&entry)) }
    }

    pub(super) fn add_model(
        &mut self,
        name: Name,
        hardware: Name,
        upstream_time: Option<UpstreamTime>,
        fees: Fees,
    ) -> Result<(), Problem> {
        let entry = format!("model `{name}`");
        self.check_hardware(&hardware, &entry, Field::ModelHardware)?;
        if upstream_time.is_some() && self.catalog.is_shared(&hardware) {
            let reason = format!(
                "{entry} takes its compute time from its service's answers, and its hardware \
                 `{hardware}` is shared: each of several requests would report the time of all of \
                 them: remove one of the two"
            );
            return Err(Problem { field: Field::ModelTime, reason });
        }
        let is_empty = |time: &UpstreamTime| {
            time.paths().is_some_and(|paths| {
                paths.is_empty() || paths.iter().any(|path| path.split('.').any(str::is_empty))
            })
        };
        if upstream_time.as_ref().is_some_and(is_empty) {
            let reason = format!(
                "{entry}, compute_time: a field has no name: write a path like \
                 \"usage.total_time_sec\""
            );
            return Err(Problem { field: Field::ModelTime, reason });
        }
        let upstream_time = upstream_time.map(Arc::new);
        if self.catalog.add_model(name, Model { hardware, upstream_time, fees }) {
            Ok(())
        } else {
            Err(duplicate(&entry))
        }
    }

    pub(super) fn add_route(&mut self, pattern: &str, route: Route) -> Result<(), Problem> {
        pattern::check(pattern).map_err(|error| self.bad_pattern(pattern, &error))?;
        let denials = route.denials;
        let target = self.target(pattern, route)?;
        self.routes.add(pattern, target, denials).map_err(|error| self.bad_pattern(pattern, &error))
    }

    pub(super) fn set_otherwise(&mut self, route: Route) -> Result<(), Problem> {
        let denials = route.denials;
        let target = self.target("otherwise", route)?;
        self.routes.set_otherwise(target, denials);
        Ok(())
    }

    pub(super) const fn set_free_preflights(&mut self, on: bool) {
        self.routes.set_free_preflights(on);
    }

    pub(super) fn add_tier(&mut self, tier: Tier) -> Result<(), Problem> {
        let entry = format!("tier `{}`", tier.name);
        check_time(tier.hold, &format!("{entry}, hold"), Field::Hold)?;
        if let Some(cap) = tier.most_per_request {
            check_cap(cap, &format!("{entry}, most_per_request"))?;
        }
        if tier.part_limits.len() > MAX_DEPTH {
            let reason = format!("{entry}, parts: more than three: a part has at most three names");
            return Err(Problem { field: Field::Key, reason });
        }
        check_models(&tier.models, &entry)?;
        if let Some(quota) = tier.requests {
            check_quota(quota, &format!("{entry}, requests"))?;
        }
        match self.tiers.insert(tier.name.clone(), Arc::new(tier)) {
            None => Ok(()),
            Some(_) => Err(duplicate(&entry)),
        }
    }

    pub(super) fn add_unbilled(&mut self, outcome: Outcome) {
        self.unbilled.push(outcome);
    }

    pub(super) fn finish(self) -> Result<Plan, Problem> {
        if self.tiers.is_empty() {
            let remedy = self.remedy(
                "add [tiers.<name>] with included and when_used_up",
                "add one with PlanBuilder::tier",
            );
            let reason = format!("no tiers: {remedy}, for each tier that identities have");
            return Err(Problem { field: Field::Key, reason });
        }
        if self.routes.are_metered_but_otherwise_free() {
            tracing::warn!(
                target: "tower_credits",
                "the plan says otherwise = \"free\": every path that is not listed runs unpaid; \
                 a path that is similar to a metered route's is refused"
            );
        }
        let unbilled = Unbilled::new(self.unbilled);
        if unbilled.as_ref().is_some_and(Unbilled::depends_on_clients) {
            tracing::warn!(
                target: "tower_credits",
                "the plan does not bill requests that their clients drop or stall: a client that \
                 does so before the last byte pays nothing for the others"
            );
        }
        Ok(Plan::new(self.catalog, self.tiers, self.routes, unbilled, self.currency))
    }

    fn target(&self, pattern: &str, route: Route) -> Result<Target, Problem> {
        let entry = format!("route `{pattern}`");
        let problem = |reason| Problem { field: Field::RouteTarget, reason };
        let feature = match (&route.kind, route.feature) {
            (RouteKind::Free | RouteKind::Authenticated | RouteKind::Refuse, Some(feature)) => {
                return Err(problem(format!(
                    "{entry}: feature `{feature}` is set, and the route is not metered: leave the \
                     feature out"
                )));
            }
            (_, Some(feature)) if feature.as_str().contains(['{', '}']) => {
                return Err(problem(format!(
                    "{entry}, feature `{feature}`: a feature is not taken from the request: write \
                     a name without braces, or insert a `Feature` extension into the request"
                )));
            }
            (_, feature) => feature.unwrap_or_else(|| Name::known(DEFAULT_FEATURE)),
        };
        match route.kind {
            RouteKind::Free => Ok(Target::Free),
            RouteKind::Authenticated => Ok(Target::Authenticated),
            RouteKind::Refuse => Ok(Target::Refuse),
            RouteKind::Hardware(hardware) => {
                self.check_hardware(&hardware, &entry, Field::RouteTarget)?;
                Ok(Target::Hardware { hardware, feature })
            }
            RouteKind::Model(text) => {
                let model = Template::parse(&text)
                    .map_err(|error| problem(format!("{entry}, model `{text}`: {error}")))?;
                self.check_model(&model, pattern).map_err(problem)?;
                Ok(Target::Model { model, feature })
            }
        }
    }

    /// Refuses a model that is not in the plan, and one that the path does not have the parts of.
    fn check_model(&self, model: &Template, pattern: &str) -> Result<(), String> {
        let mut parameters = model.parameters();
        if let Some(name) = parameters.find(|name| !pattern::has_parameter(pattern, name)) {
            return Err(format!(
                "route `{pattern}`: its path has no `{{{name}}}`: name a part of the \
                 path, or a model"
            ));
        }
        match model.fixed() {
            Some(name) if !self.catalog.has_model(name) => {
                let remedy = self.remedy(
                    format!("add [models.{name}]"),
                    format!("add model `{name}` with PlanBuilder::model"),
                );
                Err(format!(
                    "route `{pattern}` leads to model `{name}`, which the plan does not have: \
                     {remedy}, or name another"
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_hardware(&self, hardware: &Name, entry: &str, field: Field) -> Result<(), Problem> {
        if self.catalog.has_hardware(hardware.as_str()) {
            return Ok(());
        }
        let remedy = self.remedy(
            format!("add [hardware.{hardware}] with price_per_second"),
            format!("add hardware `{hardware}` with PlanBuilder::hardware"),
        );
        let reason = format!(
            "{entry} runs on hardware `{hardware}`, which has no price: {remedy}, or name another"
        );
        Err(Problem { field, reason })
    }

    fn bad_pattern(&self, pattern: &str, error: &PatternError) -> Problem {
        let remedy = match error {
            PatternError::NoSlash => {
                self.remedy(", or `otherwise`, or `preflight`", ", or call PlanBuilder::otherwise")
            }
            _ => "",
        };
        Problem { field: Field::Key, reason: format!("route `{pattern}`: {error}{remedy}") }
    }

    /// Returns the remedy in the plan's language.
    fn remedy<T>(&self, toml: T, rust: T) -> T {
        match self.language {
            Language::Toml => toml,
            Language::Rust => rust,
        }
    }
}

fn duplicate(entry: &str) -> Problem {
    let reason = format!("{entry} is in the plan twice: remove one of the two");
    Problem { field: Field::Key, reason }
}

fn check_time(time: Duration, entry: &str, field: Field) -> Result<(), Problem> {
    let reason = match time {
        time if time < MIN_TIME => format!("{entry}: shorter than 1 ms: write a longer time"),
        time if time > MAX_TIME => format!("{entry}: longer than 24 hours: write a shorter time"),
        _ => return Ok(()),
    };
    Err(Problem { field, reason })
}

fn check_cap(cap: RequestCap, entry: &str) -> Result<(), Problem> {
    match cap {
        RequestCap::Compute(time) => check_time(time, entry, Field::MostPerRequest),
        RequestCap::Cost(cost) if cost.is_zero() => Err(Problem {
            field: Field::MostPerRequest,
            reason: format!(
                "{entry}: no request runs for nothing: write more than 0, or leave the cap out"
            ),
        }),
        RequestCap::Cost(_) => Ok(()),
    }
}

fn check_models(all: &[TierModels], entry: &str) -> Result<(), Problem> {
    for (at, TierModels { pattern, .. }) in all.iter().enumerate() {
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        let problem = if all[..at].iter().any(|other| other.pattern == *pattern) {
            "is there twice: remove one of the two".to_owned()
        } else if name.contains('*') {
            "has a `*` before its end: write the beginning of names and one `*`".to_owned()
        } else if let Err(error) = names::check(pattern) {
            error.to_string()
        } else {
            continue;
        };
        let reason = format!("{entry}, models `{pattern}`: {problem}");
        return Err(Problem { field: Field::TierModels(at), reason });
    }
    Ok(())
}

fn check_quota(quota: RequestQuota, entry: &str) -> Result<(), Problem> {
    let RequestQuota { count, per, burst, scope, window } = quota;
    if window == RateWindow::Fixed && (scope == LimitScope::Node || burst != count) {
        let reason = format!(
            "{entry}.window: fixed windows are counted over all nodes, and have no burst: leave \
             scope and burst out"
        );
        return Err(Problem { field: Field::RequestWindow, reason });
    }
    check_time(per, &format!("{entry}.per"), Field::RequestPer)?;
    let interval = per / count.get();
    if interval < MIN_REQUEST_INTERVAL {
        let reason = format!(
            "{entry}.count: more than one in a microsecond: write fewer, or leave the quota out"
        );
        return Err(Problem { field: Field::RequestCount, reason });
    }
    if interval.checked_mul(burst.get()).is_none_or(|refill| refill > MAX_REFILL) {
        let reason = format!(
            "{entry}.burst: a used-up burst takes more than 31 days to be full again: write a \
             smaller one"
        );
        return Err(Problem { field: Field::RequestBurst, reason });
    }
    Ok(())
}
