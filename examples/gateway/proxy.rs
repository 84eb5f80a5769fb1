//! A reverse proxy: sends a request to the server of its model, and streams the answer back.
//!
//! Written on hyper's client instead of a ready-made proxy, because the caller's credentials have
//! to be taken out, the server is chosen by what is billed, and trailers have to pass.

use std::{collections::HashMap, error::Error};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version,
    header::{
        ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, CONTENT_LENGTH,
        CONTENT_TYPE, COOKIE, EXPECT, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
        IF_UNMODIFIED_SINCE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, SET_COOKIE, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tower_credits::plan::Workload;

/// Fields that concern one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Fields of the caller that are no business of the server's: credentials, the accounts of other
/// services, and conditions, by which a server that has computed could answer that it has not.
const NOT_SENT_ON: [HeaderName; 13] = [
    AUTHORIZATION,
    COOKIE,
    HOST,
    EXPECT,
    RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-hf-bill-to"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
];

/// Fields of the server that are about the gateway's callers.
const NOT_SENT_BACK: [HeaderName; 6] = [
    SET_COOKIE,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderName::from_static("access-control-allow-credentials"),
    HeaderName::from_static("inference-id"),
    HeaderName::from_static("x-cost-nano-usd"),
    HeaderName::from_static("x-credits-remaining"),
];

/// The servers behind the gateway.
#[derive(Debug)]
pub(crate) struct Upstreams {
    default: Upstream,
    by_model: HashMap<String, Upstream>,
    key: Option<HeaderValue>,
}

/// A server: everything of its URLs before the path of the API.
#[derive(Debug, PartialEq, Eq)]
struct Upstream(String);

/// Sends requests to the servers.
pub(crate) struct Proxy {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    upstreams: Upstreams,
}

impl Upstreams {
    /// Reads the settings `UPSTREAM`, `UPSTREAMS` and `UPSTREAM_KEY`.
    pub(crate) fn from_settings(
        default: &str,
        by_model: Option<&str>,
        key: Option<&str>,
    ) -> Result<Self, String> {
        let pairs = by_model.unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty());
        let by_model = pairs.map(|pair| {
            let (model, url) = pair.split_once('=').ok_or_else(|| {
                format!("UPSTREAMS: {pair:?} has no URL: write <model>=http://<host>:<port>")
            })?;
            Ok((model.trim().to_owned(), Upstream::parse("UPSTREAMS", url)?))
        });
        let key = key.map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
                "UPSTREAM_KEY has a character that no header field can carry".to_owned()
            })?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        Ok(Self {
            default: Upstream::parse("UPSTREAM", default)?,
            by_model: by_model.collect::<Result<_, String>>()?,
            key: key.transpose()?,
        })
    }

    fn of(&self, workload: Option<&Workload>) -> &Upstream {
        let own = workload.and_then(|workload| self.by_model.get(workload.model.as_str()));
        own.unwrap_or(&self.default)
    }
}

impl Upstream {
    fn parse(setting: &str, url: &str) -> Result<Self, String> {
        let base = url.trim().trim_end_matches('/');
        // Other clients are given the URL with the API's version.
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let parsed = base.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some()
                && uri.query().is_none()
                && !base.contains(['#', '@'])
        });
        parsed.map(|_| Self(base.to_owned())).ok_or_else(|| {
            format!("{setting}: {url:?} is not a server: write http://<host>:<port>")
        })
    }
}

impl Proxy {
    pub(crate) fn new(upstreams: Upstreams) -> Result<Self, Box<dyn Error>> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let provider = rustls::crypto::ring::default_provider();
        let https = HttpsConnectorBuilder::new();
        let https = match https.with_provider_and_native_roots(provider.clone()) {
            Ok(https) => https,
            Err(error) => {
                tracing::warn!(%error, "no certificates: only http:// can be reached");
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let https = https.https_or_http().enable_http1().enable_http2().wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(https), upstreams })
    }

    /// Sends a request to the server of its model, under this path. When the answer is dropped, so
    /// is the connection to the server, which stops computing.
    pub(crate) async fn send(
        &self,
        workload: Option<&Workload>,
        path: &str,
        request: Request,
    ) -> Response {
        let upstream = self.upstreams.of(workload);
        let (mut parts, body) = request.into_parts();
        let Ok(uri) = format!("{}{path}", upstream.0).parse() else {
            return problem(StatusCode::BAD_REQUEST, "The path cannot be sent on.");
        };
        (parts.uri, parts.version) = (uri, Version::default());
        parts.extensions.clear();
        remove_hop_by_hop(&mut parts.headers);
        for name in &NOT_SENT_ON {
            parts.headers.remove(name);
        }
        // Trailers pass.
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        // A compressed stream has no place for the event that says that credits ran out.
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // The key is the default server's.
        if let Some(key) = &self.upstreams.key
            && std::ptr::eq(upstream, &raw const self.upstreams.default)
        {
            parts.headers.insert(AUTHORIZATION, key.clone());
        }
        match self.client.request(Request::from_parts(parts, body)).await {
            // The caller's own token is good.
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                tracing::warn!(upstream = upstream.0, "refuses the key: check UPSTREAM_KEY");
                let detail = "The model's server does not accept this gateway. You were not \
                              charged. Report this to the operator of this service.";
                problem(StatusCode::BAD_GATEWAY, detail)
            }
            Ok(mut response) => {
                let headers = response.headers_mut();
                // A chunked answer has no length, whatever its head says (RFC 9112, section 6.3).
                if headers.contains_key(TRANSFER_ENCODING) {
                    headers.remove(CONTENT_LENGTH);
                }
                remove_hop_by_hop(headers);
                for name in &NOT_SENT_BACK {
                    headers.remove(name);
                }
                response.map(Body::new)
            }
            Err(error) => {
                tracing::warn!(upstream = upstream.0, error = &error as &dyn Error, "no answer");
                problem(
                    StatusCode::BAD_GATEWAY,
                    "The model's server does not answer. You were not charged. Try again later.",
                )
            }
        }
    }
}

/// Removes the fields that concern one connection, and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        // One name that cannot be read does not hide the others.
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// An error of the gateway itself, in the shape of the meter's denials.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = json!({
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "error": { "message": detail, "type": "server_error", "code": null, "param": null },
    });
    let mut response = (status, problem.to_string()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_with_or_without_the_version() {
        for url in ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/"]
        {
            assert_eq!(Upstream::parse("U", url).unwrap().0, "http://127.0.0.1:8080", "{url}");
        }
        assert_eq!(Upstream::parse("U", "https://x.test/api/v1").unwrap().0, "https://x.test/api");
        for url in
            ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x?y=1", "unix:/x", "http://u:p@x"]
        {
            assert!(Upstream::parse("U", url).unwrap_err().contains("http://<host>"), "{url}");
        }
        let some = Some("whisper=http://a:1, small=http://b:2/v1,");
        let upstreams = Upstreams::from_settings("http://c", some, Some("k")).unwrap();
        assert_eq!(upstreams.by_model.len(), 2);
        assert!(Upstreams::from_settings("http://c", Some("whisper"), None).is_err());
        assert!(Upstreams::from_settings("http://c", None, Some("a\nb")).is_err());
    }

    #[test]
    fn what_concerns_one_connection_is_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
            .append("connection", HeaderValue::from_bytes(b"X-Other,, \xff ,\tx-third").unwrap());
        headers.insert("x-other", HeaderValue::from_static("1"));
        headers.insert("x-third", HeaderValue::from_static("1"));
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-kept"]);
    }
}
