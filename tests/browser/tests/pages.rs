//! What people see: the widget and the billing page, in Chromium. Pictures of every state are in the build folder's `tmp`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]

mod driver;

use driver::{Browser, example};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first() {
    let plan = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plan.toml");
    std::fs::write(&plan, std::fs::read_to_string("../../examples/plan.toml").unwrap()).unwrap();
    let (_server, url) = example(&plan);
    let browser = Browser::open("first", &url).await;
    browser.goto("/billing").await;
    browser.look("sign-in").await;
    browser.sign_in("demo-pro").await;
    browser.look("empty").await;
    println!("{:#?}", browser.tree().await);
    browser.goto("/").await;
    browser.until("#status", str::is_empty).await;
    browser.click("#run").await;
    browser.until("#cost", |text| text.starts_with('$')).await;
    browser.look("widget").await;
    println!("{} {} {}", browser.says("#cost").await, browser.says("#compute").await, browser.says("#used").await);
    browser.close().await;
}
