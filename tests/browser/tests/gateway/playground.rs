//! A conversation, what it costs, and every way in which an answer ends.

use fantoccini::key::Key;
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    exact_cost, gateway, open, settled,
    upstream::{ANSWER, Upstream},
};
use crate::{driver::Browser, eventually, is_read_aloud, keys};

/// The words of the last answer.
const LAST_ANSWER: &str = "#conversation li:last-child .words";

async fn ask(browser: &Browser, question: &str) {
    browser.fill("#message", question).await;
    browser.until("#send:enabled", |text| text == "Send").await;
    browser.click("#send").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_signs_in_talks_to_a_model_and_sees_what_it_costs() {
    let upstream = Upstream::start().await;
    let (_server, url) = gateway("playground", &upstream.url, &[]);
    let browser = Browser::open("playground", &url).await;
    browser.goto("/").await;
    let problem = browser.until("#problem", |text| !text.is_empty()).await;
    assert_eq!(problem, "Sign in first: to the billing page");
    assert!(!browser.has("#send:enabled").await);
    browser.look("signed-out").await;
    browser.click("#problem a").await;
    browser.until("label[for=token]", |label| label == "Access token").await;

    open(&browser, "demo-free", "/playground").await;
    assert_eq!(browser.says("#left").await, "$0.10 of $0.10");
    assert_eq!(browser.says("#model").await, "smollm2-135m");
    assert_eq!(browser.says("#price").await, "$0.00012 per second on cpu");
    browser.look("before-use").await;

    ask(&browser, "Why is the sky blue?").await;
    browser.until("#status", |said| said == "The model is answering.").await;
    upstream.let_say(3);
    browser.until(LAST_ANSWER, |text| text.trim_end() == "Air scatters blue").await;
    let estimate = browser.until("#cost.estimate", |cost| cost.starts_with("≈ $")).await;
    browser.until("#cost.estimate", |cost| cost != estimate).await;
    browser.look("streaming").await;
    upstream.let_say(ANSWER.len() - 3);
    browser.until("#status", |said| said == "Done.").await;
    assert_eq!(browser.says(LAST_ANSWER).await, ANSWER.concat());
    let (_, billed) = exact_cost(&browser, "playground", 0).await;
    assert_eq!(browser.run("return document.activeElement.id").await, json!("message"));
    assert!(!browser.has("#cost.estimate").await);
    browser.look("answered").await;
    is_read_aloud(&browser, &["This answer cost", "Compute time", "Included credits left"]).await;

    // An answer without an end, which is stopped.
    browser.fill("#message", "Count, please.").await;
    keys(&browser, [char::from(Key::Enter)]).await;
    upstream.let_say(2);
    browser.until(LAST_ANSWER, |text| text.trim_end() == "1 2").await;
    let asked = upstream.latest().0;
    let said: Vec<_> = asked["messages"].as_array().unwrap().iter().map(|it| &it["role"]).collect();
    assert_eq!(said, ["user", "assistant", "user"], "the model is told what was said before");
    assert_eq!(asked["model"], "smollm2-135m");
    assert_eq!(upstream.open_answers(), 1);
    browser.click("#stop").await;
    browser.until("#status", |said| said == "Stopped.").await;
    eventually(async || (upstream.open_answers() == 0).then_some(())).await;
    browser.until("#send:enabled", |text| text == "Send").await;
    assert_eq!(browser.says(LAST_ANSWER).await, "1 2 ");
    assert_eq!(browser.says("#conversation .cut").await, "You stopped the answer here.");
    let (_, billed) = exact_cost(&browser, "playground", billed).await;
    browser.look("stopped").await;

    browser.click("#new").await;
    assert!(!browser.has("#conversation li").await);
    let (bill, _) = settled(&browser, "playground").await;
    assert_eq!((&bill["requests"], &bill["used_nano_usd"]), (&json!(2), &json!(billed)));
    browser.goto("/billing").await;
    assert!(browser.says("#table-feature tbody").await.starts_with("playground "));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_that_run_out_end_an_answer_keep_its_text_and_are_denied_from_then_on() {
    let upstream = Upstream::start().await;
    let few = [("included = \"0.10\"", "included = \"0.0002\"")];
    let (_server, url) = gateway("playground-few", &upstream.url, &few);
    let browser = Browser::open("playground-few", &url).await;
    open(&browser, "demo-free", "/playground").await;
    ask(&browser, "Count until I have no credits left.").await;
    upstream.let_say(12);
    let problem = browser.until("#problem", |text| !text.is_empty()).await;
    let is_used_up = |text: &str| {
        text.starts_with("Your credits for ")
            && text.contains(" are used up. They reset at 1 ")
            && text.contains(", 00:00 UTC. ")
            && text.ends_with(
                "Upgrade to PRO for $2.00 of credits every month. Go to the billing page",
            )
    };
    assert!(is_used_up(&problem), "{problem}");
    let said = browser.says(LAST_ANSWER).await;
    assert_eq!(said, "1 2 3 4 5 6 7 8 9 10 11 12 ", "the text so far is kept");
    assert_eq!(browser.says("#conversation .cut").await, "The answer was cut off here.");
    eventually(async || (upstream.open_answers() == 0).then_some(())).await;
    let (cost, _) = exact_cost(&browser, "playground", 0).await;
    assert_eq!(cost, 200_000, "the bill ends at the limit");
    browser.look("used-up-midway").await;

    let requests = upstream.latest().1;
    ask(&browser, "Why is the sky blue?").await;
    let problem = browser.until("#problem", |text| !text.is_empty()).await;
    assert!(is_used_up(&problem), "{problem}");
    let draft = "return document.getElementById('message').value";
    assert_eq!(browser.run(draft).await, json!("Why is the sky blue?"), "to be sent again");
    assert_eq!(browser.says("#cost").await, "–");
    assert_eq!(upstream.latest().1, requests, "the model was not asked");
    browser.look("used-up").await;
    browser.click("#problem a").await;
    browser.until("#notice", |notice| notice.contains("All credits are used up")).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_and_a_rate_that_is_exceeded_are_said_in_words() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rate = [("count = 600, per = \"1m\", burst = 100", "count = 1, per = \"1m\", burst = 1")];
    let (_server, url) = gateway("playground-away", &format!("http://{closed}"), &rate);
    let browser = Browser::open("playground-away", &url).await;
    open(&browser, "demo-free", "/playground").await;
    ask(&browser, "Why is the sky blue?").await;
    let problem = browser.until("#problem", |text| !text.is_empty()).await;
    let away = "The model's server does not answer. You were not charged. Try again later.";
    assert_eq!(problem, away);
    assert_eq!(browser.says("#cost").await, "–");
    browser.look("server-away").await;

    browser.until("#send:enabled", |text| text == "Send").await;
    browser.click("#send").await;
    let problem = browser.until("#problem", |text| !text.is_empty() && text != away).await;
    let (before, after) = problem.split_once("Try again in ").expect("when to try again");
    assert_eq!(before, "You have exceeded your limit of 1 request per minute. ");
    assert!(!after.contains("ry again"), "said once: {problem}");
    browser.look("rate-exceeded").await;
    let (bill, _) = settled(&browser, "playground").await;
    assert_eq!((&bill["requests"], &bill["used_nano_usd"]), (&json!(0), &json!(0)));
    browser.close().await;
}
