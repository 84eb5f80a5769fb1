//! Billing pages that others attack: by names, by frames, and from pages of their own.

use std::convert::Infallible;

use axum::{Extension, body::Body};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use reqwest::RequestBuilder;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    Account, CreditMeter, Identity, MemoryLedger, Plan, billing, identify::IdentityFromExtensions,
    plan::Classification,
};

use crate::{bill::*, support::*};

/// A name that is a page's own code, if it is not escaped. It ends with `END`.
fn hostile(name: &str) -> String {
    format!("{name}\"'><script>alert(1)<!--&END")
}

/// The texts that begin with the name of a hostile name, as the page has them.
fn written<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let rest = page.match_indices(name).map(|(at, _)| &page[at + name.len()..]);
    rest.map(|rest| rest.split_once("END").unwrap().0).collect()
}

fn assert_escaped(page: &str, names: &[&str]) {
    for name in names {
        let found = written(page, name);
        assert!(!found.is_empty(), "{name} is not on the page: {page}");
        for text in found {
            let is_plain = !text.contains(['<', '>', '"', '\'']);
            let entities = text.matches('&').count() == text.matches("&#").count();
            assert!(is_plain && entities, "{name} is not escaped: {text}");
        }
    }
}

#[tokio::test]
async fn hostile_names_are_text_on_the_page() {
    let quoted = |name: &str| format!("{:?}", hostile(name));
    let plan = format!(
        "[hardware.{hardware}]\nprice_per_second = \"0.00012\"\n\
         [models.{model}]\nhardware = {hardware}\n\
         [tiers.{tier}]\nincluded = \"0.00012\"\nwhen_used_up = \"block\"\nhint = {hint}\n\
         [tiers.payg]\nincluded = \"1\"\nwhen_used_up = \"pay-as-you-go\"\n",
        hardware = quoted("hw-"),
        model = quoted("model-"),
        tier = quoted("tier-"),
        hint = quoted("hint-"),
    );
    let clock = november();
    let plan = Plan::from_toml(&plan).unwrap();
    let ledger = MemoryLedger::with_clock(clock.clone());
    let meter = CreditMeter::builder(plan, ledger, IdentityFromExtensions)
        .clock(clock.clone())
        .classify(|_, plan| {
            let feature = hostile("feature-").parse().unwrap();
            let workload = plan.workload(&hostile("model-"), &feature);
            workload.map_or(Classification::Unknown, Classification::Workload)
        })
        .build()
        .unwrap();
    let who = |tier: &str| {
        let account = Account::org(&hostile("account-")).unwrap();
        Identity::new(hostile("subject-").parse().unwrap(), account, tier.parse().unwrap())
    };
    let blocked = who(&hostile("tier-")).in_part(hostile("part-").parse().unwrap());
    let service = meter.layer(service_fn(move |_: Request<Empty<bytes::Bytes>>| {
        clock.advance(seconds(1));
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())))
    }));
    let request = Request::post("/run").extension(blocked.clone()).body(Empty::new()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    let month = eventually(async || {
        let statement = meter.statement(&blocked, None).await.unwrap();
        (statement.held.is_zero() && statement.requests() == 1).then_some(statement.period)
    })
    .await;
    let (id, reason) = (hostile("refund-"), hostile("reason-"));
    let (id, reason) = (id.parse().unwrap(), reason.parse().unwrap());
    meter.accounts().refund(&blocked.account, month, id, nanos(1), reason).await.unwrap();

    let page = async |who: Identity, request: http::request::Builder, body: String| {
        let router = billing::router(&meter).layer(Extension(who));
        let request = request
            .header("accept", "text/html")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin");
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let member = blocked.member_of(&hostile("other-"), "payg".parse().unwrap()).unwrap();
    let shown = page(member, Request::get("/billing"), String::new()).await;
    let names = [
        "account-", "other-", "subject-", "tier-", "hw-", "model-", "feature-", "part-", "refund-",
        "reason-", "hint-",
    ];
    assert_escaped(&shown, &names);
    let entered = |field: &str, name: &str| {
        let text = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        format!("{field}={text}")
    };
    for (path, field) in [("spending-limit", "limit"), ("limits", "part"), ("limits", "per_day")] {
        // A part has three names at most.
        let text = format!("////{}", hostile("typed-"));
        let answer =
            page(who("payg"), Request::post(format!("/billing/{path}")), entered(field, &text));
        assert_escaped(&answer.await, &["typed-"]);
    }
}

fn assert_locked(headers: &HeaderMap, what: &str) {
    let field = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!(field("content-type"), "text/html; charset=utf-8", "{what}");
    assert_eq!(
        field("content-security-policy"),
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        "{what}"
    );
    assert_eq!(field("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(field("referrer-policy"), "same-origin", "{what}");
    assert_eq!(field("cache-control"), "no-store", "{what}");
}

#[tokio::test]
async fn no_page_runs_a_script_or_lets_itself_be_framed() {
    let server = Server::start().await;
    assert_eq!(server.run("pro", "/models/echo", &[]).await, 200);
    let get = |query: &str| {
        let request = server.client.get(server.url(&format!("/billing{query}")));
        request.header("sec-fetch-site", "none")
    };
    let signed_in = |request: RequestBuilder| request.header("cookie", "session=pro");
    let elsewhere = |path: &str| {
        server
            .client
            .post(server.url(path))
            .header("sec-fetch-site", "cross-site")
            .body("token=pro")
    };
    let form = |path, body| server.form(path, Some("owner"), body);
    let pages = [
        (200, signed_in(get(""))),
        (400, signed_in(get("?period=october"))),
        (403, signed_in(get("?organisation=acme"))),
        (401, get("")),
        (401, server.form("/billing/sign-in", None, "token=guess")),
        (401, server.form("/billing/sign-in", None, "token=a%3Bb")),
        (422, server.form("/billing/sign-in", None, "")),
        (403, elsewhere("/billing/sign-in")),
        (403, elsewhere("/billing/sign-out")),
        (422, form("/billing/spending-limit", "limit=a+lot")),
        (422, form("/billing/limits", "part=a%2F%2Fb&per_month=1&per_day=")),
        (422, form("/billing/limits", "per_month=1&per_month=2")),
    ];
    for (at, (status, request)) in pages.into_iter().enumerate() {
        let response = request.header("accept", "text/html").send().await.unwrap();
        let what = format!("page {at}, {status}");
        assert_eq!(response.status().as_u16(), status, "{what}");
        assert_locked(response.headers(), &what);
        let page = text(response).await;
        for code in ["<script", "javascript:", " style=", "<iframe", "http-equiv", " onclick="] {
            assert!(!page.contains(code), "{what} has {code}: {page}");
        }
    }
    let style = server.client.get(server.url("/billing/style.css")).send().await.unwrap();
    assert_eq!(style.headers()["x-content-type-options"], "nosniff");
    assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn another_site_signs_nobody_in_or_out() {
    let server = Server::start().await;
    let own = format!("http://{}", server.address);
    let from: [&[(&str, &str)]; 8] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", &own)],
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site"), ("authorization", "Basic cHJvOnBybw==")],
        // A browser that states nothing.
        &[],
    ];
    for fields in from {
        for path in ["/billing/sign-in", "/billing/sign-out"] {
            for cookie in [None, Some("session=pro")] {
                let request = server
                    .client
                    .post(server.url(path))
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body("token=free");
                let fields = fields.iter().copied().chain(cookie.map(|cookie| ("cookie", cookie)));
                let request =
                    fields.fold(request, |request, (name, value)| request.header(name, value));
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 403, "{path}, {cookie:?}");
                assert_eq!(response.headers().get("set-cookie"), None, "{path}, {cookie:?}");
            }
        }
    }
    // A link or an image is no form.
    for path in ["/billing/sign-in", "/billing/sign-out"] {
        let link = server.client.get(server.url(path)).header("cookie", "session=pro");
        let link = link.header("sec-fetch-site", "cross-site").send().await.unwrap();
        assert_eq!((link.status().as_u16(), link.headers().get("set-cookie")), (303, None));
    }
}
