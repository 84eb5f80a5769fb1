//! What people see: the example's widget and its billing page, and the gateway's pages, in
//! Chromium. Pictures of every state are in the build folder's `tmp`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

mod driver;
mod gateway;
mod operator;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use driver::{Browser, example};
use fantoccini::{
    Locator,
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
};
use serde_json::json;

/// The example's plan, with credits for a few dozen runs of the widget on Free, and two on PRO.
fn plan(name: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/plan.toml");
    let plan = std::fs::read_to_string(root)
        .unwrap()
        .replace("\"0.10\"", "\"0.0001\"")
        .replace("\"2.00\"", "\"0.000004\"");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    std::fs::write(&path, plan).unwrap();
    path
}

async fn keys(browser: &Browser, keys: impl IntoIterator<Item = char>) {
    let actions = keys.into_iter().fold(KeyActions::new("keyboard".into()), |actions, value| {
        actions.then(KeyAction::Down { value }).then(KeyAction::Up { value })
    });
    browser.client.perform_actions(actions).await.unwrap();
}

/// Runs the widget once; answers whether it ran, or why not.
async fn run(browser: &Browser) -> Result<(), String> {
    browser.until("#run:enabled", |text| !text.is_empty()).await;
    browser.run("document.getElementById('status').textContent = 'asked'").await;
    let before = browser.says("#used").await;
    browser.click("#run").await;
    let said = browser
        .until("#status", |text| !["asked", "The noise is being removed."].contains(&text))
        .await;
    if said != "Done." {
        return Err(said);
    }
    browser.until("#used", |used| used.starts_with('$') && used != before).await;
    Ok(())
}

/// Runs the widget until it is denied; answers why. What was cut off midway is denied the next
/// time.
async fn denied(browser: &Browser) -> String {
    for _ in 0..100 {
        match run(browser).await {
            Err(why) if !why.contains("cut off") => return why,
            _ => {}
        }
    }
    panic!("it runs and runs")
}

/// Every figure, control and picture has a name that is read aloud.
async fn is_read_aloud(browser: &Browser, figures: &[&str]) {
    let tree = browser.tree().await;
    let named = [
        "button",
        "columnheader",
        "definition",
        "heading",
        "image",
        "link",
        "navigation",
        "progressbar",
        "region",
        "rowheader",
        "table",
        "textbox",
    ];
    let nameless: Vec<_> = tree
        .iter()
        .filter(|node| named.contains(&node.role.as_str()) && node.name.is_empty())
        .collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    let found: BTreeSet<_> = tree
        .iter()
        .filter(|node| node.role == "definition")
        .map(|node| node.name.as_str())
        .collect();
    assert!(figures.iter().all(|figure| found.contains(figure)), "{figures:?} of {found:?}");
    if browser.has("#included-words").await {
        let find = |role: &str| {
            tree.iter()
                .find(|node| node.role == role)
                .unwrap_or_else(|| panic!("no {role} in {tree:?}"))
        };
        let (bar, chart) = (find("progressbar"), find("image"));
        assert!(bar.name == "Included credits" && bar.description.contains(" used"), "{bar:?}");
        assert!(chart.name.starts_with("Cost by day ") && chart.name.ends_with('.'), "{chart:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_user_tries_the_widget_until_the_credits_are_used_up_and_reads_why() {
    let (_server, url) = example(&plan("free"));
    let browser = Browser::open("free", &url).await;
    browser.goto("/").await;
    assert_eq!(run(&browser).await, Err("Sign in first: to the billing page".to_owned()));
    browser.look("widget-stranger").await;

    browser.goto("/billing").await;
    browser.look("sign-in").await;
    // With the keyboard alone: the form's field is the first stop.
    keys(&browser, [char::from(Key::Tab)]).await;
    keys(&browser, "demo-fre".chars()).await;
    keys(&browser, [char::from(Key::Enter)]).await;
    browser.until("#wrong", |wrong| wrong.contains("not valid")).await;
    browser.look("sign-in-wrong").await;
    browser.sign_in("demo-free").await;
    assert_eq!(
        (browser.says("#account").await, browser.says("#used").await),
        ("user:demo-free".into(), "$0.00".into())
    );
    assert!(
        browser.says("#chart-words").await.starts_with("No costs in "),
        "a chart before any use"
    );
    browser.look("bill-before-use").await;

    browser.goto("/").await;
    assert_eq!(run(&browser).await, Ok(()));
    let (cost, compute, used) =
        (browser.says("#cost").await, browser.says("#compute").await, browser.says("#used").await);
    assert_eq!(cost, used, "the first run is all that was used");
    let length = "return ['before', 'after'].map((id) => document.getElementById(id)).map((sound) => sound.duration)";
    let loaded = async || {
        browser
            .run(length)
            .await
            .as_array()
            .filter(|lengths| lengths.iter().all(|length| length.is_f64()))
            .cloned()
    };
    let lengths = eventually(loaded).await;
    assert_eq!(lengths[0], lengths[1], "both can be played");
    browser.look("widget-after-a-run").await;
    is_read_aloud(&browser, &["This run cost", "Compute time", "Used by this widget this month"])
        .await;
    println!("a run of the widget: {cost} for {compute}");
    browser.goto("/billing").await;
    assert_eq!(
        (browser.says("#used").await, browser.says("#compute").await),
        (used.clone(), compute)
    );
    assert_eq!(browser.says("#table-feature tbody").await.split_once(' ').unwrap().0, "widget");
    browser.look("bill-after-a-run").await;

    // A sound of the visitor's own.
    browser.goto("/").await;
    browser.until("#run:enabled", |text| !text.is_empty()).await;
    browser.click("#record").await;
    browser.until("#source", |source| source.starts_with("Your recording: ")).await;
    assert_eq!(run(&browser).await, Ok(()));
    browser.look("widget-recording").await;

    browser.goto("/").await;
    let why = denied(&browser).await;
    assert!(why.contains("used up") && why.contains("Upgrade to PRO"), "{why}");
    browser.look("widget-used-up").await;
    browser.goto("/billing").await;
    let notice = browser.says("#notice").await;
    assert!(
        notice.contains("All credits are used up") && notice.contains("Upgrade to PRO"),
        "{notice}"
    );
    println!(
        "free, used up: {} of {}, {} left; {notice}",
        browser.says("#included-used").await,
        browser.says("#included").await,
        browser.says("#included-left").await
    );
    browser.look("bill-used-up").await;
    is_read_aloud(
        &browser,
        &[
            "Total used",
            "Pay-as-you-go",
            "On hold now",
            "Purchased credits left",
            "Requests",
            "Compute time",
        ],
    )
    .await;
    browser.close().await;
}

async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < limit, "the condition did not come to hold");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whole nano-dollars of an amount as it is shown.
fn nanos(dollars: &str) -> i64 {
    let (whole, part) = dollars.trim_start_matches('$').split_once('.').unwrap();
    format!("{whole}{part:0<9}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pro_user_sets_a_spending_limit_hits_it_and_takes_the_bill_along() {
    let (_server, url) = example(&plan("pro"));
    let browser = Browser::open("pro", &url).await;
    browser.sign_in("demo-pro").await;
    browser.goto("/").await;
    while browser.says("#used").await == "–" || nanos(&browser.says("#used").await) <= 6_000 {
        assert_eq!(run(&browser).await, Ok(()));
    }
    browser.goto("/billing").await;
    let on_top = browser.says("#pay-as-you-go").await;
    assert_eq!(
        nanos(&on_top),
        nanos(&browser.says("#used").await) - 4_000,
        "what is beyond the included credits is charged on top"
    );
    browser.look("bill-on-top").await;

    let set = async |limit: &str| {
        let field = browser.client.find(Locator::Css("#limit")).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(limit).await.unwrap();
        keys(&browser, [char::from(Key::Enter)]).await;
    };
    set("a lot").await;
    browser.until("#limit-error", |error| error.contains("not a decimal number of dollars")).await;
    assert_eq!(
        browser.run("return document.getElementById('limit').value").await,
        json!("a lot"),
        "what was typed is there to be mended"
    );
    browser.look("limit-mistake").await;
    is_read_aloud(&browser, &[]).await;
    set("0.00001").await;
    browser.until("#spending-limit", |limit| limit == "$0.00001").await;
    browser.look("limit-set").await;
    browser.goto("/").await;
    let why = denied(&browser).await;
    assert!(why.contains("spending limit"), "{why}");
    browser.look("widget-limit-hit").await;
    browser.goto("/billing").await;
    let notice = browser.says("#notice").await;
    assert!(notice.contains("You have reached your spending limit"), "{notice}");
    println!(
        "pro, limit hit: on top {} of {}; {notice}",
        browser.says("#pay-as-you-go").await,
        browser.says("#spending-limit").await
    );
    browser.look("bill-limit-hit").await;
    browser.click("button[name=remove]").await;
    browser.until("#spending-limit", |limit| limit == "no limit").await;
    assert!(!browser.has("#notice").await);

    browser.click("a[href^='/billing.csv']").await;
    let csv = eventually(async || {
        let file = std::fs::read_dir(&browser.downloads)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "csv"))?;
        std::fs::read_to_string(file).ok().filter(|csv| csv.ends_with("\r\n"))
    })
    .await;
    let costs = csv.lines().skip(1).map(|line| line.rsplit(',').nth(1).unwrap());
    assert_eq!(costs.map(nanos).sum::<i64>(), nanos(&browser.says("#used").await));

    let month = browser.says("#period").await;
    browser.click("a[rel=prev]").await;
    browser.until("#period", |period| !period.is_empty() && period != month).await;
    assert_eq!(browser.says("#used").await, "$0.00");
    browser.look("earlier-month").await;
    browser.click("a[rel=next]").await;
    browser.until("#period", |period| period == month).await;

    browser
        .client
        .find(Locator::LinkText("org:demo-enterprise"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.until("#account", |account| account == "org:demo-enterprise").await;
    browser.look("organisation").await;
    browser.goto("/billing?period=never").await;
    browser.until("#detail", |detail| detail.contains("period=2026-11")).await;
    browser.look("problem").await;
    browser.goto("/billing").await;
    browser
        .client
        .find(Locator::XPath("//button[text()='Sign out']"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.until("label[for=token]", |label| label == "Access token").await;
    browser.close().await;
}

/// Where the focus is: what it is called, and whether it can be seen to be there.
const FOCUS: &str = "
    const at = document.activeElement;
    if (at === document.body) return null;
    const box = at.getBoundingClientRect();
    const style = getComputedStyle(at);
    return [at.getAttribute('aria-label') ?? at.id + at.textContent.trim(), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
        && box.width > 0 && box.top >= 0 && box.bottom <= innerHeight + 1];";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_done_with_the_keyboard_alone() {
    let (_server, url) = example(&plan("keyboard"));
    let browser = Browser::open("keyboard", &url).await;
    browser.sign_in("demo-pro").await;
    browser.goto("/").await;
    browser.until("#run:enabled", |text| !text.is_empty()).await;
    browser.run("document.getElementById('run').focus()").await;
    keys(&browser, [' ']).await;
    browser.until("#cost", |cost| cost.starts_with('$')).await;
    assert_eq!(
        browser.run("return document.activeElement.id").await,
        json!("run"),
        "the focus stays where it was"
    );
    keys(&browser, [' ']).await;
    browser.run("document.querySelector('header a').focus()").await;
    browser.until("#status", |said| said == "Done.").await;
    browser.until("#run:enabled", |text| !text.is_empty()).await;
    assert_eq!(
        browser.run("return document.activeElement.tagName").await,
        json!("A"),
        "or where it was moved to"
    );
    browser.goto("/billing").await;
    let mut stops = Vec::new();
    loop {
        keys(&browser, [char::from(Key::Tab)]).await;
        let stop = browser.run(FOCUS).await;
        let Some(seen) = stop.as_array() else { break };
        assert_eq!(seen[1], json!(true), "{stop} can be seen");
        stops.push(seen[0].as_str().unwrap().to_owned());
        assert!(stops.len() < 50, "{stops:?}");
    }
    let expected = [
        "Sign out",
        "user:demo-pro",
        "org:demo-enterprise",
        "Previous month",
        "limit",
        "Set limit",
        "By model, scrollable table",
        "By hardware, scrollable table",
        "By feature, scrollable table",
        "By day, scrollable table",
        "CSV",
        "JSON",
    ];
    assert_eq!(stops, expected);
    // From the fourth stop into the month before, and with the first form's field a limit is set.
    let tabs = |count| std::iter::repeat_n(char::from(Key::Tab), count);
    keys(&browser, tabs(5).chain("1.50".chars()).chain([char::from(Key::Enter)])).await;
    browser.until("#spending-limit", |limit| limit == "$1.50").await;
    keys(&browser, tabs(4).chain([char::from(Key::Enter)])).await;
    browser.until("a[rel=next]", |next| next == "Next month").await;
    browser.close().await;
}
