//! However a path is spelled: what any server, proxy or framework takes to a metered route is not
//! free.

use axum::{Router, body::Body, extract::Path, routing::any};
use fastrand::Rng;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_credits::{Plan, plan::Classification};

use crate::support::PLAN;

fn plan() -> Plan {
    let routes = "[routes]\notherwise = \"free\"\n\"/files/{*path}\" = \"free\"\n\"/cheap/{*path}\" = { model = \"cheap\" }\n";
    Plan::from_toml(
        &PLAN
            .replace("[routes]\n", routes)
            .replace("[models.echo]", "[models.cheap]\nhardware = \"gpu-small\"\n[models.echo]"),
    )
    .unwrap()
}

/// The router that stands behind, by its own rules: axum looks for a route as a path is written,
/// and decodes the parts of it.
async fn by_axum(path: &str) -> Option<String> {
    let app = Router::new()
        .route("/models/{model}", any(async |Path(model): Path<String>| model))
        .route("/files/{*path}", any(async || "free"))
        .fallback(async || "free");
    let request = Request::builder().uri(path).body(Body::empty()).ok()?;
    let answer =
        app.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    Some(String::from_utf8_lossy(&answer).into_owned()).filter(|model| model == "echo")
}

/// The model that `/models/{model}` has in a path that was read.
fn model(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/models/")?;
    let model = percent_decode_str(rest).decode_utf8_lossy().into_owned();
    Some(model).filter(|model| model == "echo")
}

fn decoded(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Without `.` and `..`, and without empty segments.
fn resolved(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// What the WHATWG's URL Standard makes of it, as browsers and reqwest send it on.
fn by_url(path: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("http://host{path}")).ok()?;
    model(url.path()).or_else(|| model(&decoded(url.path())))
}

/// nginx decodes, merges slashes and resolves dots before it looks for a location.
fn by_nginx(path: &str) -> Option<String> {
    model(&resolved(&decoded(path)))
}

/// Starlette decodes, and redirects what has a slash too many or too few at its end.
fn by_starlette(path: &str) -> Option<String> {
    let path = decoded(path);
    model(&path).or_else(|| model(path.trim_end_matches('/')))
}

/// Servlet containers drop what follows a `;`, and Windows takes `\` for `/` and does not mind
/// case.
fn by_others(path: &str) -> Option<String> {
    let path = decoded(&decoded(path)).replace('\\', "/").replace('\0', "");
    let path: Vec<_> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    model(&resolved(&path.join("/")).to_ascii_lowercase())
}

/// Tomcat, Jetty and Spring drop what follows a `;` before they decode.
fn by_servlets(path: &str) -> Option<String> {
    let path: Vec<_> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    model(&resolved(&decoded(&path.join("/"))))
}

/// Some spelling of a path, the same for many eyes.
fn spelled(rng: &mut Rng, path: &str) -> String {
    let mut text = String::new();
    for c in path.chars() {
        let mut c = c.to_string();
        match rng.u8(0..40) {
            0 => c = format!("%{:02x}", c.as_bytes()[0]),
            1 => c = format!("%{:02X}", c.as_bytes()[0]),
            2 => c = format!("%25{:02x}", c.as_bytes()[0]),
            3 => c = c.to_ascii_uppercase(),
            4 if c == "/" => c = "//".to_owned(),
            5 | 6 if c == "/" => {
                let others = [
                    "/./",
                    "/%2e/",
                    "/x/../",
                    "/x/%2e%2e/",
                    "/x/..;/",
                    ";v=1/",
                    "\\",
                    "%5c",
                    "%2f",
                    "/.%00./",
                ];
                c = others[rng.usize(0..others.len())].to_owned();
            }
            _ => {}
        }
        text.push_str(&c);
    }
    text + ["", "", "", "/", ";x", ";%2fz", "//", "%20"][rng.usize(0..8)]
}

#[tokio::test]
async fn what_anybody_takes_to_a_metered_route_is_not_free() {
    let spellings = std::env::var("SPELLINGS")
        .map_or(20_000, |spellings| spellings.parse().expect("SPELLINGS is a number"));
    let (plan, mut rng) = (plan(), Rng::with_seed(7));
    let classify = |path: &str| plan.classify(path, &HeaderMap::new());
    let (mut metered, mut refused, mut free) = (0, 0, 0);
    for _ in 0..spellings {
        let base = [
            "/models/echo",
            "/files/../models/echo",
            "/files/x/../../models/echo",
            "/cheap/../models/echo",
            "/files/a/b",
        ][rng.usize(0..5)];
        let path = spelled(&mut rng, base);
        if path.parse::<http::Uri>().is_err() {
            continue;
        }
        let path = path.parse::<http::Uri>().unwrap().path().to_owned();
        let readers = [
            by_axum(&path).await,
            by_url(&path),
            by_nginx(&path),
            by_starlette(&path),
            by_servlets(&path),
            by_others(&path),
        ];
        match classify(&path) {
            Classification::Free => {
                assert!(
                    readers.iter().all(Option::is_none),
                    "{path} is free, and read as {readers:?}"
                );
                free += 1;
            }
            Classification::Workload(workload) => {
                let leads_to_echo = readers.iter().any(Option::is_some);
                assert!(
                    !leads_to_echo || workload.model.as_str() == "echo",
                    "{path} is billed as {}, and read as {readers:?}",
                    workload.model
                );
                metered += 1;
            }
            _ => refused += 1,
        }
    }
    eprintln!("metered {metered}, refused {refused}, free {free}");
    assert!(metered > 0 && refused > 0 && free > 0);
}

#[test]
fn what_is_plain_is_never_refused() {
    let (plan, mut rng) = (plan(), Rng::with_seed(11));
    let part = |rng: &mut Rng| {
        let length = rng.usize(1..12);
        let text: String = (0..length)
            .map(|_| *rng.choice(b"abcXYZ019-_~!$&'()*+,=:@.").unwrap() as char)
            .collect();
        if text.chars().all(|c| c == '.') { "a".to_owned() } else { text }
    };
    for _ in 0..20_000 {
        let rest: Vec<_> = (0..rng.usize(1..5)).map(|_| part(&mut rng)).collect();
        let rest = rest.join("/");
        let classify = |path: &str| plan.classify(path, &HeaderMap::new());
        assert_eq!(classify(&format!("/files/{rest}")), Classification::Free, "/files/{rest}");
        assert_eq!(classify(&format!("/other-{rest}")), Classification::Free, "/other-{rest}");
        assert!(
            matches!(classify(&format!("/cheap/{rest}")), Classification::Workload(_)),
            "/cheap/{rest}"
        );
    }
    assert!(matches!(
        plan.classify("/models/echo", &HeaderMap::new()),
        Classification::Workload(_)
    ));
}
