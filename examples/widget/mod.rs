//! A widget: a page that tries the model in a browser. It uses its user's own credits.

use axum::{
    Router,
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    response::{Html, IntoResponse},
    routing::get,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; media-src blob:; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// Routes of the page and its files, which are not metered. The page calls `POST /widget/rnnoise`,
/// whose feature in the plan is `widget`.
pub(crate) fn router() -> Router {
    Router::new()
        .route(
            "/",
            get(async || ([(CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("index.html")))),
        )
        .route(
            "/widget/widget.js",
            get(async || file("text/javascript; charset=utf-8", include_bytes!("widget.js"))),
        )
        .route(
            "/widget/noisy.pcm",
            get(async || file("application/octet-stream", include_bytes!("../noisy.pcm"))),
        )
}

fn file(content_type: &'static str, bytes: &'static [u8]) -> impl IntoResponse {
    ([(CONTENT_TYPE, content_type)], bytes)
}
