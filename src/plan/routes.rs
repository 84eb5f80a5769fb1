//! Which path runs which model.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use http::{HeaderMap, HeaderName};
use matchit::{Params, Router};
use percent_encoding::percent_decode_str;

use super::{
    catalog::{Catalog, Workload},
    spelling::{Spelling, folded},
};
use crate::Name;

/// What a request runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Classification {
    /// This, for money.
    Workload(Arc<Workload>),
    /// Nothing that costs anything.
    Free,
    /// The plan does not say.
    Unknown,
}

/// The plan's routes, in axum's path patterns.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// Which of the targets a path leads to.
    pub(super) router: Router<usize>,
    pub(super) targets: Vec<Target>,
    /// Their patterns.
    pub(super) patterns: Vec<String>,
    /// Which of the targets a path leads to but for case and a slash at its end.
    pub(super) folded: Router<usize>,
    pub(super) otherwise: Target,
    /// A browser's preflight passes without credentials.
    pub(super) free_preflights: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Free,
    Refuse,
    Model { model: Template, feature: Name },
    Hardware { hardware: Name, feature: Name },
}

/// A model's name, or one with parts taken from the path, `{org}/{name}`, or from a header field,
/// `{header:x-model}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(pub(super) Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Parameter(String),
    Header(HeaderName),
}

impl Routes {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            targets: Vec::new(),
            patterns: Vec::new(),
            folded: Router::new(),
            otherwise: Target::Refuse,
            free_preflights: false,
        }
    }

    /// Adds a route.
    pub(super) fn insert(
        &mut self,
        pattern: &str,
        target: Target,
    ) -> Result<(), matchit::InsertError> {
        let number = self.targets.len();
        self.router.insert(pattern, number)?;
        // Of two that differ in case alone, the one that is not free counts.
        if self.folded.insert(fold_pattern(pattern), number).is_err()
            && target != Target::Free
            && let Ok(other) = self.folded.at_mut(&folded(pattern))
        {
            *other.value = number;
        }
        self.targets.push(target);
        self.patterns.push(pattern.to_owned());
        Ok(())
    }

    pub(super) fn classify(
        &self,
        catalog: &Catalog,
        path: &str,
        headers: &HeaderMap,
    ) -> Classification {
        self.read(catalog, path, headers).unwrap_or(Classification::Unknown)
    }

    /// What a path leads to, however it is read, or why that cannot be said.
    fn read(
        &self,
        catalog: &Catalog,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Classification, Unlisted<'_>> {
        let readings = match Spelling::of(path) {
            Spelling::Refused => return Err(Unlisted::Spelling(self.nearly(path, path))),
            Spelling::Plain => Vec::new(),
            Spelling::Ambiguous(readings) => readings,
        };
        let found = self.lead(catalog, path, headers)?;
        for reading in &readings {
            let is_other = match (&found, self.lead(catalog, reading, headers)) {
                (Classification::Workload(one), Ok(Classification::Workload(other))) => {
                    *one != other
                }
                (
                    Classification::Free,
                    Ok(Classification::Workload(_)) | Err(Unlisted::Model { .. }),
                ) => true,
                // A route that says so, and not what is left.
                (_, Err(Unlisted::Route)) => self.route(reading).is_some(),
                _ => false,
            };
            if is_other {
                return Err(Unlisted::Spelling(self.nearly(path, reading)));
            }
        }
        let spelled = readings.iter().map(String::as_str).chain([path]);
        match spelled.filter_map(|reading| self.nearly(path, reading)).next() {
            Some(pattern) => Err(Unlisted::Spelling(Some(pattern))),
            None => Ok(found),
        }
    }

    fn route(&self, path: &str) -> Option<usize> {
        self.router.at(path).ok().map(|found| *found.value)
    }

    /// What a path leads to as it is written.
    fn lead(
        &self,
        catalog: &Catalog,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Classification, Unlisted<'_>> {
        let found =
            self.router.at(path).ok().and_then(|found| {
                Some((*found.value, self.targets.get(*found.value)?, found.params))
            });
        let (number, target, parameters) = match &found {
            Some((number, target, parameters)) => (Some(*number), *target, Some(parameters)),
            None => (None, &self.otherwise, None),
        };
        let pattern =
            number.and_then(|number| self.patterns.get(number)).map_or("otherwise", String::as_str);
        match target {
            Target::Free => Ok(Classification::Free),
            Target::Refuse => Err(Unlisted::Route),
            Target::Hardware { hardware, feature } => {
                let workload = catalog.on_hardware(&Name::known("unlisted"), hardware, feature);
                workload.map(Classification::Workload).ok_or(Unlisted::Route)
            }
            Target::Model { model, feature } => {
                let name = model
                    .fill(parameters, headers)
                    .ok_or(Unlisted::Model { pattern, model: None })?;
                let workload = catalog.workload(&name, feature);
                workload
                    .map(Classification::Workload)
                    .ok_or(Unlisted::Model { pattern, model: Some(name) })
            }
        }
    }

    /// The route that one reading of a path is nearly one of, but for case and a slash at its end,
    /// if that is not free and not the path's own.
    fn nearly(&self, path: &str, reading: &str) -> Option<&str> {
        let own = self.route(path);
        let is_written_out = own
            .and_then(|own| self.patterns.get(own))
            .is_some_and(|pattern| !pattern.contains('{'));
        if is_written_out {
            return None;
        }
        let number = *self.folded.at(&folded(reading)).ok()?.value;
        let (target, own) = (
            self.targets.get(number)?,
            own.and_then(|own| self.targets.get(own)).unwrap_or(&self.otherwise),
        );
        let is_other = *target != Target::Free && target != own;
        self.patterns.get(number).filter(|_| is_other).map(String::as_str)
    }

    /// What to do about a path that leads nowhere, for the operator.
    pub(super) fn advice(&self, catalog: &Catalog, path: &str, headers: &HeaderMap) -> String {
        match self.read(catalog, path, headers) {
            Ok(_) | Err(Unlisted::Route) => format!(
                "the plan has no route for this path; under [routes], {path:?} = {{ model = \"<name>\" }} meters it, and {path:?} = \"free\" lets it pass \
                 unmetered"
            ),
            Err(Unlisted::Model { pattern, model: Some(model) }) => format!(
                "route {pattern:?} is asked for model {model:?}, which the plan does not have; [models.{model:?}] with hardware = \"<name>\" adds it"
            ),
            Err(Unlisted::Model { pattern, model: None }) => {
                format!("route {pattern:?} takes its model from the path or a header field, and this request names none that can be read")
            }
            Err(Unlisted::Spelling(Some(pattern))) => {
                format!(
                    "the path may be read as one of the metered route {pattern:?}, by a service that decodes, resolves or folds it: write it plainly"
                )
            }
            Err(Unlisted::Spelling(None)) => {
                "the path can be read in several ways, some of which leave its route: write it plainly".to_owned()
            }
        }
    }

    /// The features that routes are used through.
    pub(super) fn features(&self) -> BTreeSet<Name> {
        let feature = |target: &Target| match target {
            Target::Model { feature, .. } => Some(feature.clone()),
            Target::Free | Target::Refuse | Target::Hardware { .. } => None,
        };
        self.targets.iter().chain([&self.otherwise]).filter_map(feature).collect()
    }
}

/// Why a path leads nowhere.
#[derive(Debug)]
enum Unlisted<'a> {
    /// There is no route, or one that refuses.
    Route,
    /// A route's model is not in the plan, or not named.
    Model { pattern: &'a str, model: Option<String> },
    /// It may be read in several ways; as one of this metered route, for one.
    Spelling(Option<&'a str>),
}

/// A pattern with everything but the names of its parameters in lower case.
fn fold_pattern(pattern: &str) -> String {
    let mut in_braces = false;
    let folded = pattern.chars().map(|c| {
        in_braces = (in_braces || c == '{') && c != '}';
        if in_braces { c } else { c.to_ascii_lowercase() }
    });
    let folded: String = folded.collect();
    if folded.len() > 1 { folded.trim_end_matches('/').to_owned() } else { folded }
}

impl Target {
    pub(super) const fn is_metered(&self) -> bool {
        matches!(self, Self::Model { .. } | Self::Hardware { .. })
    }
}

impl Template {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            if name.contains(':') && !name.starts_with("header:") {
                return None;
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name.strip_prefix("header:") {
                Some(header) => Part::Header(header.parse().ok()?),
                None => Part::Parameter(name.to_owned()),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let is_whole = |part: &Part| match part {
            Part::Text(text) => !text.contains('}'),
            Part::Parameter(name) => !name.is_empty() && !name.contains('{'),
            Part::Header(_) => true,
        };
        (!parts.is_empty() && parts.iter().all(is_whole)).then_some(Self(parts))
    }

    /// The name, if it is the same for every path.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    fn fill(&self, parameters: Option<&Params<'_, '_>>, headers: &HeaderMap) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(Cow::Borrowed(text.as_str())),
                Part::Parameter(name) => {
                    percent_decode_str(parameters?.get(name)?).decode_utf8().ok()
                }
                Part::Header(name) => {
                    let mut values = headers.get_all(name).iter();
                    // Which of two the service behind would take is anybody's guess.
                    values
                        .next()
                        .filter(|_| values.next().is_none())?
                        .to_str()
                        .ok()
                        .map(Cow::Borrowed)
                }
            })
            .collect()
    }
}
