//! A server whose bills are read as browsers and programs read them.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::Path, routing::post};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, RequestBuilder, Response, redirect::Policy};
use serde_json::Value;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_credits::{
    BearerTokens, CreditMeter, Feature, Identity, MemoryLedger, Plan, billing, clock::ManualClock,
    ledger::Statement,
};

use crate::support::*;

pub(super) const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"
[hardware.gpu-large]
price_per_second = "0.000500001"
[models.echo]
hardware = "gpu-small"
[models.large]
hardware = "gpu-large"
[models."=cmd,1"]
hardware = "gpu-large"
[routes]
"/models/{model}" = { model = "{model}" }
"/widget/{model}" = { model = "{model}", feature = "widget" }
[tiers.free]
included = "0.0012"
when_used_up = "block"
hint = "Upgrade to PRO."
[tiers.pro]
included = "0.0012"
when_used_up = "pay-as-you-go"
[tiers.enterprise]
included = "0.0012"
per_seat = true
when_used_up = "pay-as-you-go"
[tiers.capped]
included = "0.0012"
when_used_up = { pay_as_you_go_up_to = "0.00024" }
"#;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) meter: CreditMeter,
    pub(super) clock: ManualClock,
    pub(super) client: Client,
}

pub(super) fn person(user: &str, tier: &str) -> Identity {
    identity(user, tier)
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(PLAN).await
    }

    pub(super) async fn with(plan: &str) -> Self {
        let clock = november();
        let member = |user: &str, part: &str| {
            let part = Some(part.parse().unwrap());
            person(user, "pro").member_in("acme", part, "enterprise".parse().unwrap()).unwrap()
        };
        let of_acme = |subject: &str| {
            let acme = tower_credits::Account::org("acme").unwrap();
            Identity::new(subject.parse().unwrap(), acme, "enterprise".parse().unwrap())
        };
        let tokens = BearerTokens::new()
            .with("free", person("free", "free"))
            .with("pro", person("pro", "pro"))
            .with("capped", person("capped", "capped"))
            .with("owner", of_acme("owner"))
            .with("key", of_acme("key").in_part("research/ben".parse().unwrap()))
            .with("ann", member("ann", "research/ann"))
            .with("ben", member("ben", "research/ben"))
            .with("cat", member("cat", "ops"))
            .or_cookie("session".parse().unwrap());
        let meter = CreditMeter::builder(
            Plan::from_toml(plan).unwrap(),
            MemoryLedger::with_clock(clock.clone()),
            tokens,
        )
        .clock(clock.clone())
        .keep_costs(Duration::from_secs(3600))
        .build()
        .unwrap();
        let passing = clock.clone();
        let run = move |Path(_): Path<String>, fields: HeaderMap| {
            let micros = fields
                .get("x-runs-for")
                .map_or(1_000_000, |micros| micros.to_str().unwrap().parse().unwrap());
            passing.advance(Duration::from_micros(micros));
            std::future::ready("ok")
        };
        let layers = ServiceBuilder::new().map_request(set_feature).layer(meter.clone());
        let app = Router::new()
            .route("/models/{model}", post(run.clone()))
            .route("/widget/{model}", post(run))
            .layer(layers)
            .merge(billing::router(&meter));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            meter,
            clock,
            client: Client::builder().redirect(Policy::none()).build().unwrap(),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A second of compute, or as many microseconds as the field `x-runs-for` says; the host lets
    /// the caller name a feature.
    pub(super) async fn run(
        &self,
        token: &str,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> StatusCode {
        let request = self.client.post(self.url(path)).bearer_auth(token);
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let status = response.status();
        response.bytes().await.unwrap();
        status
    }

    pub(super) async fn settled(&self, identity: &Identity, requests: u64) -> Statement {
        eventually(async || {
            let statement = self.meter.statement(identity, None).await.ok()?;
            (statement.held.is_zero() && statement.requests() == requests).then_some(statement)
        })
        .await
    }

    /// As a browser does from a page of this server.
    pub(super) fn form(
        &self,
        path: &str,
        cookie: Option<&str>,
        body: &'static str,
    ) -> RequestBuilder {
        let request = self
            .client
            .post(self.url(path))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let request = request.header("sec-fetch-site", "same-origin");
        cookie
            .into_iter()
            .fold(request, |request, cookie| request.header("cookie", format!("session={cookie}")))
    }

    /// The page, as a browser with this cookie sees it.
    pub(super) async fn page(&self, cookie: &str, query: &str) -> (StatusCode, String) {
        let request = self
            .client
            .get(self.url(&format!("/billing{query}")))
            .header("cookie", format!("session={cookie}"));
        let response = request.header("sec-fetch-site", "none").send().await.unwrap();
        (response.status(), text(response).await)
    }

    pub(super) async fn json(&self, token: &str, query: &str) -> (StatusCode, Value) {
        let response = self
            .client
            .get(self.url(&format!("/billing.json{query}")))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        (response.status(), serde_json::from_str(&text(response).await).unwrap())
    }
}

/// The host sets the feature, by a header field of its own front end.
fn set_feature(mut request: axum::extract::Request) -> axum::extract::Request {
    if let Some(feature) =
        request.headers().get("x-front-end").and_then(|value| value.to_str().ok()?.parse().ok())
    {
        request.extensions_mut().insert(Feature(feature));
    }
    request
}

pub(super) async fn text(response: Response) -> String {
    String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap()
}

/// What an element of the page with this id says.
pub(super) fn says(page: &str, id: &str) -> String {
    let (_, after) =
        page.split_once(&format!(" id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {page}"));
    let (_, text) = after.split_once('>').unwrap();
    text.split('<').next().unwrap().to_owned()
}
