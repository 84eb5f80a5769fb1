//! Paths that are classified once, when the plan is built.
//!
//! These are the paths that routes write out, and those of routes whose only parameter is a model,
//! with each model of the plan.

use std::collections::HashMap;

use http::HeaderMap;

use super::{
    catalog::Catalog,
    routes::{Classification, Routes},
};

/// The most paths that are classified in advance. The others are classified for each request.
const MAX_PRECOMPUTED_PATHS: usize = 10_000;

/// Classifications of paths that depend on nothing else.
#[derive(Clone, Debug)]
pub(super) struct PrecomputedPaths(HashMap<Box<str>, Classification, foldhash::fast::RandomState>);

impl PrecomputedPaths {
    pub(super) fn new(catalog: &Catalog, routes: &Routes) -> Self {
        let paths = routes.patterns().flat_map(|pattern| paths(catalog, pattern));
        // A path whose model is named elsewhere in the head is unknown without that.
        let classified = paths.take(MAX_PRECOMPUTED_PATHS).filter_map(|path| {
            match routes.classify(catalog, &path, None, &HeaderMap::new()) {
                Classification::Unknown | Classification::UnknownModel(_) => None,
                found => Some((path.into(), found)),
            }
        });
        Self(classified.collect())
    }

    pub(super) fn get(&self, path: &str) -> Option<&Classification> {
        self.0.get(path)
    }
}

/// Returns the paths of a pattern: itself, or its only parameter replaced with each model.
fn paths<'a>(catalog: &'a Catalog, pattern: &'a str) -> Box<dyn Iterator<Item = String> + 'a> {
    match (pattern.split_once('{'), pattern.split_once('}')) {
        (None, None) => Box::new(std::iter::once(pattern.to_owned())),
        (Some((before, _)), Some((_, after))) if !after.contains(['{', '}']) => {
            // Other characters may be escaped in a path.
            let needs_no_escape = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let models =
                catalog.models().filter(move |model| model.as_str().bytes().all(needs_no_escape));
            Box::new(models.map(move |model| format!("{before}{model}{after}")))
        }
        _ => Box::new(std::iter::empty()),
    }
}
