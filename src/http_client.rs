//! Client of HTTP servers that take records and totals: posts a body, and reads the answer.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// The time that one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The most bytes of an answer that are logged.
const MAX_LOGGED_BYTES: usize = 300;

/// Client of one URL. A redirect is not followed. For `https`, the system's certificates count.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    token: Option<HeaderValue>,
}

/// Answer of a server.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: StatusCode,
    #[cfg(feature = "export")]
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl HttpClient {
    /// Returns a client, or an error if the URL cannot be read, or if the system's certificates
    /// cannot be found.
    pub(crate) fn to(url: &str) -> Result<Self, crate::BoxError> {
        let wrong = |reason: &dyn fmt::Display| {
            format!("the URL {url:?} cannot be used ({reason}): write a URL of http or https")
        };
        let url: Uri = url.parse().map_err(|error| wrong(&error))?;
        match (url.scheme_str(), url.host()) {
            (Some("http" | "https"), Some(_)) => {}
            (Some("http" | "https"), None) | (None, _) => return Err(wrong(&"no server").into()),
            (Some(scheme), _) => return Err(wrong(&format_args!("`{scheme}`")).into()),
        }
        let connector = HttpsConnectorBuilder::new();
        let provider = rustls::crypto::ring::default_provider();
        let connector = if url.scheme_str() == Some("https") {
            connector.with_provider_and_native_roots(provider)?
        } else {
            // Nobody is to be trusted: there may be no certificates on this machine.
            let config = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            connector.with_tls_config(config)
        };
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, url, token: None })
    }

    /// Sets the token that is sent in `Authorization: Bearer`.
    pub(crate) fn bearer_token(
        self,
        token: &str,
    ) -> Result<Self, http::header::InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Self { token: Some(value), ..self })
    }

    /// Returns a client of another URL, with the same token.
    #[cfg(feature = "export")]
    pub(crate) fn at(self, url: &str) -> Result<Self, crate::BoxError> {
        Ok(Self { token: self.token, ..Self::to(url)? })
    }

    /// The server's name, without a user and a password.
    pub(crate) fn host(&self) -> &str {
        self.url.host().unwrap_or_default()
    }

    /// Posts a body. An error, as a text, stands for a call that had no answer: the server may have
    /// taken the body all the same.
    pub(crate) async fn post(
        &self,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer, String> {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let call = async {
            let response = self.client.request(request).await.map_err(|error| causes(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = match body {
                Ok(body) => body.to_bytes(),
                // The status says enough, if it says that the call failed.
                Err(_) if !head.status.is_success() => Bytes::new(),
                Err(error) => return Err(causes(&*error)),
            };
            Ok(HttpAnswer {
                status: head.status,
                #[cfg(feature = "export")]
                headers: head.headers,
                body,
            })
        };
        timeout(TIMEOUT, call)
            .await
            .unwrap_or_else(|_| Err(format!("it did not answer within {TIMEOUT:?}")))
    }
}

/// The status, and the beginning of the body.
impl fmt::Display for HttpAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(MAX_LOGGED_BYTES)];
        write!(f, "it answered {}: {}", self.status, String::from_utf8_lossy(shown))
    }
}

/// Returns an error with its sources.
fn causes(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    reason
}
