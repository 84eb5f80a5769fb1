//! The gateway's pages: the playground and Data Studio, before a model's server of the test's own.

mod data_studio;
mod playground;
mod real_model;
mod upstream;

use std::path::PathBuf;

use serde_json::Value;

use crate::{
    driver::{Browser, Process, serve},
    eventually, nanos,
};

/// Starts the gateway in front of a server. Its plan is the example's, with these replacements.
fn gateway(name: &str, upstream: &str, replacements: &[(&str, &str)]) -> (Process, String) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gateway/plan.toml");
    let mut plan = std::fs::read_to_string(root).unwrap();
    for (from, to) in replacements {
        assert!(plan.contains(from), "the plan has no {from}");
        plan = plan.replace(from, to);
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    std::fs::write(&path, plan).unwrap();
    serve("gateway", &[("UPSTREAM", upstream), ("PLAN", path.to_str().unwrap())])
}

/// Signs in, and opens one of the gateway's pages once it can be used.
async fn open(browser: &Browser, token: &str, page: &str) {
    browser.sign_in(token).await;
    browser.goto(page).await;
    browser.until("#left", |left| left.starts_with('$')).await;
    browser.until("#price", |price| !price.is_empty()).await;
}

/// The bill once nothing is on hold, and what its lines of this feature cost.
async fn settled(browser: &Browser, feature: &str) -> (Value, i64) {
    let bill =
        eventually(async || Some(browser.bill().await).filter(|bill| bill["held_nano_usd"] == 0))
            .await;
    let lines = bill["lines"].as_array().unwrap().iter();
    let lines = lines.filter(|line| line["feature"] == feature);
    let cost = lines.map(|line| line["cost_nano_usd"].as_i64().unwrap()).sum();
    (bill, cost)
}

/// The exact cost of the latest request, which is what the bill's lines of this feature have grown
/// by since they were `before`. Returns both.
async fn exact_cost(browser: &Browser, feature: &str, before: i64) -> (i64, i64) {
    browser.until("#cost-note", |note| note == "The exact cost, as on your bill.").await;
    let cost = nanos(&browser.says("#cost").await);
    let (bill, billed) = settled(browser, feature).await;
    assert_eq!(billed - before, cost, "to the nano-dollar: {bill}");
    let [included, used] =
        ["included_nano_usd", "used_nano_usd"].map(|of| bill[of].as_i64().unwrap());
    let left = browser.until("#left", |left| amount_left(left) == (included - used).max(0)).await;
    assert!(left.contains(" of $"), "{left}");
    (cost, billed)
}

fn amount_left(text: &str) -> i64 {
    text.split_once(' ').map_or(-1, |(left, _)| nanos(left))
}
