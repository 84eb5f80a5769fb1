//! Routes as they are written: which model or hardware the requests to a path pay for.

use crate::{DenialFormat, Name};

/// Meaning of the requests to a path: free, refused, or metered as a model or as hardware.
///
/// ```
/// use tower_credits::plan::Route;
///
/// // `POST /models/whisper` runs the model `whisper`.
/// let by_path = ("/models/{model}", Route::model("{model}"));
/// // The model is named in a header field; usage has a line of its own on the bill.
/// let by_header = ("/v1/chat", Route::model("{header:x-model}").feature("chat".parse()?));
/// let health = ("/health", Route::free());
/// # Ok::<(), tower_credits::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub(super) kind: RouteKind,
    pub(super) feature: Option<Name>,
    pub(super) denials: Option<DenialFormat>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteKind {
    Free,
    Authenticated,
    Refuse,
    /// A [`Template`](super::template::Template), not parsed yet.
    Model(String),
    Hardware(Name),
}

impl Route {
    /// Returns a route whose requests reach the service without metering.
    pub const fn free() -> Self {
        Self::new(RouteKind::Free)
    }

    /// Returns a route whose requests reach the service without metering, if their callers have
    /// valid credentials: a list of models, for example.
    pub const fn authenticated() -> Self {
        Self::new(RouteKind::Authenticated)
    }

    /// Returns a route whose requests are denied with 404, or with 401 if the caller has no valid
    /// credentials.
    pub const fn refuse() -> Self {
        Self::new(RouteKind::Refuse)
    }

    /// Returns a route whose requests run this model of the plan.
    ///
    /// The model is a name, or a template: `{name}` stands for a part of the path,
    /// `{header:x-model}` for a header field of the request or for gRPC metadata, `{query:model}`
    /// for a part of the query, and `{body:model}` for a field of a JSON or multipart body. A
    /// request whose model is not in the plan is denied with 404.
    ///
    /// `{body:model}` needs the layer of
    /// [`CreditMeter::buffer_bodies`](crate::CreditMeter::buffer_bodies). With another layer, such
    /// requests are denied with 500.
    pub fn model(template: impl Into<String>) -> Self {
        Self::new(RouteKind::Model(template.into()))
    }

    /// Returns a route whose requests pay for this hardware. On the bill their model is `unlisted`.
    pub const fn hardware(name: Name) -> Self {
        Self::new(RouteKind::Hardware(name))
    }

    /// Sets the feature that a metered route's usage is billed as, without braces. Default: `api`.
    /// A request's [`Feature`](super::Feature) extension replaces it.
    ///
    /// Only metered routes have a feature: [`PlanBuilder::build`](super::PlanBuilder::build)
    /// refuses one on a route that is not metered.
    #[must_use]
    pub fn feature(mut self, name: Name) -> Self {
        self.feature = Some(name);
        self
    }

    /// Sets the format of denials on this route, whatever client asks. Default: the one that the
    /// client reads ([`DenialFormat::of_client`]).
    #[must_use]
    pub const fn denials(mut self, format: DenialFormat) -> Self {
        self.denials = Some(format);
        self
    }

    const fn new(kind: RouteKind) -> Self {
        Self { kind, feature: None, denials: None }
    }
}
