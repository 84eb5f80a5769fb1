//! Which path runs which model.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use http::{HeaderMap, HeaderName};
use matchit::{Params, Router};
use percent_encoding::percent_decode_str;

use super::{Plan, Workload};
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
    pub(super) otherwise: Target,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Free,
    Refuse,
    Model { model: Template, feature: Name },
    Hardware { hardware: Name, feature: Name },
}

/// A model's name, or one with parts taken from the path, `{org}/{name}`, or from a header field, `{header:x-model}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(pub(super) Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Parameter(String),
    Header(HeaderName),
}

impl Routes {
    pub(super) fn classify(&self, plan: &Plan, path: &str, headers: &HeaderMap) -> Classification {
        // What stands behind may resolve them and run something else.
        if path.contains(['.', '%']) && path.split('/').any(is_dot_segment) {
            return Classification::Unknown;
        }
        let found = self.router.at(path).ok().and_then(|found| Some((self.targets.get(*found.value)?, found.params)));
        let workload = match &found {
            Some((target, parameters)) => target.workload(plan, Some(parameters), headers),
            None => self.otherwise.workload(plan, None, headers),
        };
        workload.unwrap_or(Classification::Unknown)
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

/// `.` or `..` (RFC 3986, section 3.3), also where the dots are percent-encoded.
fn is_dot_segment(segment: &str) -> bool {
    segment.len() <= 6 && matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

impl Target {
    fn workload(&self, plan: &Plan, parameters: Option<&Params<'_, '_>>, headers: &HeaderMap) -> Option<Classification> {
        let workload = match self {
            Self::Free => return Some(Classification::Free),
            Self::Refuse => return None,
            Self::Model { model, feature } => plan.workload(&model.fill(parameters, headers)?, feature)?,
            Self::Hardware { hardware, feature } => plan.on_hardware(&Name::known("unlisted"), hardware, feature)?,
        };
        Some(Classification::Workload(workload))
    }
}

impl Template {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
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
                Part::Parameter(name) => percent_decode_str(parameters?.get(name)?).decode_utf8().ok(),
                Part::Header(name) => {
                    let mut values = headers.get_all(name).iter();
                    // Which of two the service behind would take is anybody's guess.
                    values.next().filter(|_| values.next().is_none())?.to_str().ok().map(Cow::Borrowed)
                }
            })
            .collect()
    }
}
