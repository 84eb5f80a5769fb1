//! Paths whose workload is known before anybody asks: those that a plan writes out, and those of
//! routes that name a model, for each of its models.

use std::collections::HashMap;

use http::HeaderMap;

use super::{
    catalog::Catalog,
    routes::{Classification, Routes},
};

/// The most of them; a path that is not among them is looked for among the routes.
const MOST: usize = 10_000;

/// Where paths lead that are known in advance.
#[derive(Clone, Debug, Default)]
pub(super) struct ExactPaths(HashMap<Box<str>, Classification, foldhash::fast::RandomState>);

impl ExactPaths {
    pub(super) fn of(catalog: &Catalog, routes: &Routes) -> Self {
        let paths = routes.patterns.iter().flat_map(|pattern| paths(catalog, pattern));
        // What depends on more than the path leads nowhere without its header field.
        let known = paths.take(MOST).filter_map(|path| {
            match routes.classify(catalog, &path, &HeaderMap::new()) {
                Classification::Unknown => None,
                known => Some((path.into(), known)),
            }
        });
        Self(known.collect())
    }

    pub(super) fn find(&self, path: &str) -> Option<Classification> {
        self.0.get(path).cloned()
    }
}

/// The paths of a pattern: itself, or with each model in the place of its only parameter.
fn paths<'a>(catalog: &'a Catalog, pattern: &'a str) -> Box<dyn Iterator<Item = String> + 'a> {
    match (pattern.split_once('{'), pattern.split_once('}')) {
        (None, None) => Box::new(std::iter::once(pattern.to_owned())),
        (Some((before, _)), Some((_, after))) if !after.contains(['{', '}']) => {
            // Those that are spelled in a path as in the plan.
            let models = catalog.models.keys().filter(|model| {
                model
                    .as_str()
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            });
            Box::new(models.map(move |model| format!("{before}{model}{after}")))
        }
        _ => Box::new(std::iter::empty()),
    }
}
