//! The origin of a request: its name, and the host's trace that it belongs to.

use http::{Uri, uri::PathAndQuery};
use tracing::Span;

use crate::RequestId;

/// Origin of a request, taken when the layer sees it first.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: RequestId,
    /// The host's span at that moment. Events of the request are inside of it, also those that are
    /// emitted elsewhere, after the client has gone away.
    pub(crate) span: Span,
    /// `Some` if the request may be reported with its path.
    path: Option<PathAndQuery>,
}

impl Origin {
    /// Returns the origin of a request that is being decided on.
    pub(crate) fn new(id: RequestId, uri: &Uri, has_path: bool) -> Self {
        let span = Span::current();
        // If the host has declared the field. Otherwise this does nothing.
        span.record("request_id", tracing::field::display(&id));
        Self { id, span, path: uri.path_and_query().filter(|_| has_path).cloned() }
    }

    /// Returns the path, without the query.
    pub(crate) fn path(&self) -> Option<&str> {
        self.path.as_ref().map(PathAndQuery::path)
    }
}
