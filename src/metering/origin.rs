//! The origin of a request: its name, the host's trace that it belongs to, and the caps that its
//! client set.

use http::{HeaderMap, Uri, uri::PathAndQuery};
use tracing::Span;

use super::client_caps::ClientCaps;
use crate::{Name, RequestId};

/// Origin of a request, taken when the layer sees it first.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: RequestId,
    /// The host's span at that moment, if there was one. Events of the request are inside of it,
    /// also those that are emitted elsewhere, after the client has gone away. In a box, as the path
    /// and the caps are, because every request moves this.
    pub(crate) span: Option<Box<Span>>,
    /// The caps that its client set, or the field that cannot be read.
    pub(crate) caps: Result<Option<Box<ClientCaps>>, &'static str>,
    /// `Some` if the request may be reported with its path.
    path: Option<Box<PathAndQuery>>,
}

impl Origin {
    /// Returns the origin of a request that is being decided on.
    pub(crate) fn new(id: RequestId, uri: &Uri, headers: &HeaderMap, has_path: bool) -> Self {
        let span = Span::current();
        let span = (!span.is_disabled()).then(|| {
            // If the host has declared the field. Otherwise this does nothing.
            span.record("request_id", tracing::field::display(&id));
            Box::new(span)
        });
        let caps = ClientCaps::read(headers);
        let path = uri.path_and_query().filter(|_| has_path);
        Self { id, span, caps, path: path.map(|path| Box::new(path.clone())) }
    }

    /// Tells the host's trace the model that the request runs. The name is that of OpenTelemetry's
    /// conventions for generative AI, which are in development.
    pub(crate) fn runs(&self, model: &Name) {
        if let Some(span) = &self.span {
            span.record("gen_ai.request.model", model.as_str());
        }
    }

    /// Does something inside of the host's span, if there is one.
    pub(crate) fn in_scope<T>(&self, act: impl FnOnce(Option<&Span>) -> T) -> T {
        match &self.span {
            Some(span) => span.in_scope(|| act(Some(span))),
            None => act(None),
        }
    }

    /// `true` if its client set caps.
    pub(crate) fn has_client_caps(&self) -> bool {
        matches!(self.caps, Ok(Some(_)))
    }

    /// Returns the path, without the query.
    pub(crate) fn path(&self) -> Option<&str> {
        self.path.as_deref().map(PathAndQuery::path)
    }
}
