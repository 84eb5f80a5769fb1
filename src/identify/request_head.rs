//! The head of a request.

use http::{
    Extensions, HeaderMap, HeaderName, Method, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN, UPGRADE},
};

/// Head of a request: all that is known before its body is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's target.
    pub uri: &'a Uri,
    /// The request's header fields.
    pub headers: &'a HeaderMap,
    /// The request's extensions.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a http::Request<B>> for RequestHead<'a> {
    fn from(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a http::request::Parts> for RequestHead<'a> {
    fn from(parts: &'a http::request::Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

impl RequestHead<'_> {
    /// `true` if a browser asks what it may send (Fetch standard, "CORS-preflight request"). It
    /// asks without credentials.
    pub(crate) fn is_preflight(&self) -> bool {
        let has = |name: HeaderName| self.headers.contains_key(name);
        let asks =
            self.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD);
        // Browsers send none of these with a preflight, so a request with one is something else.
        asks && !has(AUTHORIZATION) && !has(COOKIE) && !has(UPGRADE)
    }
}
