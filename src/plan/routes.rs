//! Classification: which workload a request runs, by its path and header fields.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderMap;
use matchit::Router;

use super::{
    body_template::BodyTemplate,
    catalog::{Catalog, Workload},
    normalization::{Normalization, fold_case_and_end_slash},
    pattern::{self, PatternError},
    template::{Filled, Source, Template},
};
use crate::{DenialFormat, Name, observe};

/// The model on the bill of what runs on a route to hardware.
const UNLISTED_MODEL: &str = "unlisted";

/// Meaning of a request by the plan's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Classification {
    /// The request runs this, and pays for it.
    Workload(Arc<Workload>),
    /// The request is not metered.
    Free,
    /// The request is not metered either, and only callers with valid credentials may make it.
    Authenticated,
    /// The request's body says what it runs.
    InBody(Arc<ModelInBody>),
    /// The plan does not have the model, or the request does not name one that can be read.
    UnknownModel(Option<Arc<str>>),
    /// The plan refuses the path, or does not have it.
    Unknown,
}

/// A model that is named in the body of its request. [`Plan::classify_body`](super::Plan) goes on
/// when the body is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInBody {
    template: BodyTemplate,
    feature: Name,
}

/// The plan's routes, in axum's path patterns.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    routes: Vec<ListedRoute>,
    /// Index into `routes` by path.
    by_path: Router<usize>,
    /// Index into `routes` by path, without regard to case and to a slash at the end.
    by_folded_path: Router<usize>,
    otherwise: Target,
    otherwise_denials: Option<DenialFormat>,
    free_preflights: bool,
}

#[derive(Clone, Debug)]
struct ListedRoute {
    pattern: String,
    target: Target,
    denials: Option<DenialFormat>,
}

/// Target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Free,
    Authenticated,
    Refuse,
    Model { model: Template, feature: Name },
    Hardware { hardware: Name, feature: Name },
}

/// Reason why a path has no classification.
#[derive(Debug)]
enum Unlisted<'a> {
    /// No route has the path, or the route refuses it.
    Route,
    /// The route's model is not in the plan, or the request does not name one.
    Model { pattern: &'a str, model: Option<String> },
    /// The path can be read in several ways. `Some` if one of them is this metered route's.
    Ambiguous(Option<&'a str>),
}

impl Routes {
    /// Returns routes that refuse every path.
    pub(super) fn new() -> Self {
        Self {
            routes: Vec::new(),
            by_path: Router::new(),
            by_folded_path: Router::new(),
            otherwise: Target::Refuse,
            otherwise_denials: None,
            free_preflights: false,
        }
    }

    /// Adds a route.
    pub(super) fn add(
        &mut self,
        pattern: &str,
        target: Target,
        denials: Option<DenialFormat>,
    ) -> Result<(), PatternError> {
        let index = self.routes.len();
        self.by_path.insert(pattern, index)?;
        // Of two routes that differ in case alone, the one that is not free counts.
        if self.by_folded_path.insert(pattern::folded(pattern), index).is_err()
            && target != Target::Free
            && let Ok(other) = self.by_folded_path.at_mut(&fold_case_and_end_slash(pattern))
        {
            *other.value = index;
        }
        self.routes.push(ListedRoute { pattern: pattern.to_owned(), target, denials });
        Ok(())
    }

    /// Sets what the paths lead to that no route has.
    pub(super) fn set_otherwise(&mut self, target: Target, denials: Option<DenialFormat>) {
        (self.otherwise, self.otherwise_denials) = (target, denials);
    }

    /// Lets browsers' preflights pass without credentials, or not.
    pub(super) const fn set_free_preflights(&mut self, on: bool) {
        self.free_preflights = on;
    }

    pub(super) const fn free_preflights(&self) -> bool {
        self.free_preflights
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.pattern.as_str())
    }

    /// Returns the patterns with what they lead to, and `otherwise` as the last.
    pub(super) fn targets(&self) -> impl Iterator<Item = (&str, &Target)> {
        let listed = self.routes.iter().map(|route| (route.pattern.as_str(), &route.target));
        listed.chain([("otherwise", &self.otherwise)])
    }

    /// Returns the workload of a route to hardware.
    pub(super) fn on_hardware(
        catalog: &Catalog,
        hardware: &Name,
        feature: &Name,
    ) -> Option<Arc<Workload>> {
        catalog.on_hardware(&Name::known(UNLISTED_MODEL), hardware, feature)
    }

    /// `true` if there are metered routes, and every path that is not listed is free.
    pub(super) fn are_metered_but_otherwise_free(&self) -> bool {
        self.otherwise == Target::Free && self.routes.iter().any(|route| route.target.is_metered())
    }

    /// Returns the features of the routes to models.
    pub(super) fn features(&self) -> BTreeSet<Name> {
        let feature = |target: &Target| match target {
            Target::Model { feature, .. } => Some(feature.clone()),
            Target::Free | Target::Authenticated | Target::Refuse | Target::Hardware { .. } => None,
        };
        let listed = self.routes.iter().map(|route| &route.target);
        listed.chain([&self.otherwise]).filter_map(feature).collect()
    }

    pub(super) fn classify(
        &self,
        catalog: &Catalog,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Classification {
        match self.try_classify(catalog, path, query, headers) {
            Ok(found) => found,
            Err(Unlisted::Model { model, .. }) => {
                Classification::UnknownModel(model.map(Into::into))
            }
            Err(Unlisted::Route | Unlisted::Ambiguous(_)) => Classification::Unknown,
        }
    }

    /// Returns the format of denials that the route of a path has.
    pub(super) fn denial_format(&self, path: &str) -> Option<DenialFormat> {
        self.route(path).map_or(self.otherwise_denials, |route| route.denials)
    }

    /// Classifies a path if it leads to the same however a service reads it.
    fn try_classify(
        &self,
        catalog: &Catalog,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Classification, Unlisted<'_>> {
        let readings = match Normalization::of(path) {
            Normalization::Refused => {
                return Err(Unlisted::Ambiguous(self.similar_metered(path, path)));
            }
            Normalization::Canonical => Vec::new(),
            Normalization::Ambiguous(readings) => readings,
        };
        let found = self.classify_as_written(catalog, path, query, headers)?;
        for reading in &readings {
            let other = self.classify_as_written(catalog, reading, query, headers);
            let is_other = match (&found, other) {
                // Only a route that refuses counts, not `otherwise`.
                (_, Err(Unlisted::Route)) => self.route(reading).is_some(),
                (Classification::Workload(one), Ok(Classification::Workload(other))) => {
                    *one != other
                }
                (Classification::InBody(one), Ok(Classification::InBody(other))) => *one != other,
                (_, Ok(Classification::Workload(_) | Classification::InBody(_)))
                | (
                    Classification::Free | Classification::Authenticated,
                    Err(Unlisted::Model { .. }),
                )
                | (Classification::Free, Ok(Classification::Authenticated)) => true,
                _ => false,
            };
            if is_other {
                return Err(Unlisted::Ambiguous(self.similar_metered(path, reading)));
            }
        }
        let mut all = readings.iter().map(String::as_str).chain([path]);
        match all.find_map(|reading| self.similar_metered(path, reading)) {
            Some(pattern) => Err(Unlisted::Ambiguous(Some(pattern))),
            None => Ok(found),
        }
    }

    /// Classifies a path as it is written.
    fn classify_as_written(
        &self,
        catalog: &Catalog,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Classification, Unlisted<'_>> {
        let matched = self
            .by_path
            .at(path)
            .ok()
            .and_then(|matched| Some((self.routes.get(*matched.value)?, matched.params)));
        let (pattern, target, parameters) = match &matched {
            Some((route, parameters)) => (route.pattern.as_str(), &route.target, Some(parameters)),
            None => ("otherwise", &self.otherwise, None),
        };
        match target {
            Target::Free => Ok(Classification::Free),
            Target::Authenticated => Ok(Classification::Authenticated),
            Target::Refuse => Err(Unlisted::Route),
            Target::Hardware { hardware, feature } => {
                let workload = Self::on_hardware(catalog, hardware, feature);
                workload.map(Classification::Workload).ok_or(Unlisted::Route)
            }
            Target::Model { model, feature } => {
                let source = Source { parameters, query, headers };
                let name = match model.fill(source) {
                    Filled::Model(name) => name,
                    Filled::InBody(template) => {
                        let model = ModelInBody { template, feature: feature.clone() };
                        return Ok(Classification::InBody(Arc::new(model)));
                    }
                    Filled::Missing => return Err(Unlisted::Model { pattern, model: None }),
                };
                let workload = catalog.workload(&name, feature);
                workload
                    .map(Classification::Workload)
                    .ok_or(Unlisted::Model { pattern, model: Some(name) })
            }
        }
    }

    /// Returns the pattern of the route that one reading of a path has but for case and a slash at
    /// its end. `None` if that route is free, or leads to the same as the path's own, or if a route
    /// has the path written out.
    fn similar_metered(&self, path: &str, reading: &str) -> Option<&str> {
        let own = self.route(path);
        if own.is_some_and(|own| !own.pattern.contains('{')) {
            return None;
        }
        let similar = self
            .routes
            .get(*self.by_folded_path.at(&fold_case_and_end_slash(reading)).ok()?.value)?;
        let own = own.map_or(&self.otherwise, |own| &own.target);
        let is_other = similar.target != Target::Free && similar.target != *own;
        is_other.then_some(similar.pattern.as_str())
    }

    fn route(&self, path: &str) -> Option<&ListedRoute> {
        self.by_path.at(path).ok().and_then(|matched| self.routes.get(*matched.value))
    }

    /// Explains to the operator why a path is refused, and what to add to the plan.
    pub(super) fn explain_unknown(
        &self,
        catalog: &Catalog,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> String {
        match self.try_classify(catalog, path, query, headers) {
            Err(Unlisted::Route) if self.route(path).is_some() => {
                "the plan refuses this path: its route is \"refuse\"".to_owned()
            }
            Ok(_) | Err(Unlisted::Route) => {
                let folded = fold_case_and_end_slash(path);
                let folded = self.by_folded_path.at(&folded).ok();
                let near = folded.and_then(|matched| self.routes.get(*matched.value));
                let near = near.map_or_else(String::new, |near| {
                    format!("; it nearly has route {:?}, which is written otherwise", near.pattern)
                });
                format!(
                    "the plan has no route for this path{near}; under [routes], \
                     {path:?} = {{ model = \"<name>\" }} meters it, and {path:?} = \"free\" lets \
                     it pass unmetered"
                )
            }
            Err(Unlisted::Model { pattern, model: Some(model) }) => {
                explain_unknown_model(pattern, &model)
            }
            Err(Unlisted::Model { pattern, model: None }) => format!(
                "route {pattern:?} takes its model from the path, the query or a header field, and \
                 this request does not name a model there that can be read in one way only"
            ),
            Err(Unlisted::Ambiguous(Some(pattern))) => format!(
                "a service that decodes, resolves or case-folds the path may take it for the \
                 metered route {pattern:?}: send the path as the plan writes it"
            ),
            Err(Unlisted::Ambiguous(None)) => "the path can be read in several ways, some of \
                 which leave its route: send it without escapes, dots and empty parts"
                .to_owned(),
        }
    }
}

/// Explains to the operator what to add to the plan for a model that it does not have.
pub(super) fn explain_unknown_model(route: &str, model: &str) -> String {
    if let Err(error) = model.parse::<Name>() {
        let model = observe::shortened(model);
        return format!(
            "route {route:?} is asked for a model that no plan can have, {model:?}: {error}"
        );
    }
    format!(
        "route {route:?} is asked for model {model:?}, which the plan does not have; \
         [models.{model:?}] with hardware = \"<name>\" adds it"
    )
}

impl ModelInBody {
    /// Returns the names of the body's fields, in the order in which [`fill`](Self::fill) takes
    /// their values.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.template.fields().collect()
    }

    /// Returns the name of the model.
    pub(crate) fn fill(&self, values: &[String]) -> String {
        self.template.fill(values)
    }

    pub(crate) const fn feature(&self) -> &Name {
        &self.feature
    }
}

impl Target {
    const fn is_metered(&self) -> bool {
        matches!(self, Self::Model { .. } | Self::Hardware { .. })
    }
}
