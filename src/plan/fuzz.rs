//! Any text as a plan, and any text as a path.

use std::panic::AssertUnwindSafe;

use http::HeaderMap;

use super::{Classification, Plan};
use crate::pieces::inputs;

const PLAN_WORDS: &[&str] = &[
    "[hardware.gpu]\n",
    "price_per_second = ",
    "\"0.00012\"\n",
    "shared = true\n",
    "unit = ",
    "[models.echo]\n",
    "hardware = \"gpu\"\n",
    "[routes]\n",
    "\"/models/{model}\" = ",
    "{ model = \"{model}\" }\n",
    "{ model = \"echo\", feature = \"widget\" }\n",
    "\"free\"\n",
    "otherwise = ",
    "\"refuse\"\n",
    "[tiers.free]\n",
    "included = ",
    "when_used_up = ",
    "\"block\"\n",
    "\"pay-as-you-go\"\n",
    "midway = \"stop\"\n",
    "hold = ",
    "\"1s\"\n",
    "requests = { count = 6, per = \"1m\", burst = 2 }\n",
    "during_outage = ",
    "\"deny\"\n",
    "{ allow = \"0.05\" }\n",
    "per_seat = true\n",
    "included_per_day = ",
    "price_factor = ",
    "most_running = 4\n",
    "unbilled = [\"5xx\"]\n",
    "currency = \"EUR\"\n",
    "[[hardware.gpu.prices]]\n",
    "from = \"2026-12-01\"\n",
    "{body:model}",
    "{header:x-model}",
    "-1",
    "1e400",
    "\u{0}",
];

const PLANS: &[&str] = &[
    include_str!("__fuzz__/plan/corpus/example.toml"),
    include_str!("__fuzz__/plan/corpus/body_model.toml"),
];

#[test]
fn a_plan_is_read_or_refused_with_a_reason() {
    bolero::check!(name = "plan").for_each(|bytes| {
        for text in inputs(bytes, PLAN_WORDS, PLANS) {
            match Plan::from_toml(&text) {
                Ok(plan) => drop(plan.classify("/models/echo", &HeaderMap::new())),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}

const PATH_WORDS: &[&str] = &[
    "/",
    "//",
    "/./",
    "/../",
    "paid",
    "/paid/echo",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    ";",
    ";x=1",
    "%3b",
    "%2e",
    "%2e%2e",
    "%252f",
    "%70aid",
    "PAID",
    "p%61id",
    "%00",
    "%",
    "%c0%af",
    "\u{ff0f}",
    "?",
    "/health",
    "*",
    "{model}",
    " ",
    "%20",
    "+",
    "echo/",
    "echo",
    "&",
    "#",
    "%23",
    "%3f",
    ".",
    "..",
    "~",
];

/// A path as lenient services read it: decoded until nothing is encoded, without empty and dot
/// segments, parameters, case, and with one kind of slash.
fn lenient(path: &str) -> String {
    let mut path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    loop {
        let decoded = percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.replace('\\', "/").split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_lowercase()),
        }
    }
    segments.join("/")
}

#[test]
fn a_path_that_any_service_takes_for_a_metered_one_is_not_free() {
    let plan = Plan::from_toml(
        r#"
        [hardware.gpu]
        price_per_second = "0.1"
        [models.echo]
        hardware = "gpu"
        [routes]
        "/paid/{model}" = { model = "{model}" }
        otherwise = "free"
        [tiers.free]
        included = "0.1"
        when_used_up = "block"
        "#,
    )
    .unwrap();
    let plan = AssertUnwindSafe(plan);
    bolero::check!(name = "path").for_each(|bytes| {
        for text in inputs(bytes, PATH_WORDS, &["paid/echo", "paid/a/../%65cho"]) {
            let Ok(uri) = format!("/{text}").parse::<http::Uri>() else { continue };
            let found = plan.classify(uri.path(), &HeaderMap::new());
            if matches!(found, Classification::Free) {
                let read = lenient(uri.path());
                let is_metered = read
                    .split_once('/')
                    .is_some_and(|(first, model)| first == "paid" && !model.contains('/'));
                assert!(!is_metered, "{uri:?} is free, and some services read {read:?}");
            }
        }
    });
}
