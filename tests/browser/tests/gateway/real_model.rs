//! The same with a language model, which `scripts/llm` serves:
//! `LLM_URL=http://127.0.0.1:8080 cargo test -p browser -- --ignored real_model --nocapture`.

use super::{exact_cost, gateway, open};
use crate::driver::Browser;

fn model_server() -> String {
    std::env::var("LLM_URL").expect("LLM_URL is the address that scripts/llm says")
}

async fn ask(browser: &Browser, question: &str) {
    browser.until("#send:enabled", |text| text == "Send").await;
    browser.fill("#message", question).await;
    browser.click("#send").await;
    browser.until("#status", |said| said == "The model is answering.").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs LLM_URL, a server of the model"]
async fn real_model_talks_and_writes_sql_and_is_billed_to_the_nano_dollar() {
    let (_server, url) = gateway("real-model", &model_server(), &[]);
    let browser = Browser::open("real-model", &url).await;
    open(&browser, "demo-free", "/playground").await;
    let mut billed = 0;
    for question in ["Why is the sky blue? Answer in two sentences.", "Say that in a shorter way."]
    {
        ask(&browser, question).await;
        let said = browser.until("#status", |said| !said.starts_with("The model")).await;
        let text = browser.says("#conversation li:last-child .words").await;
        assert!(said == "Done." || said.contains("512 tokens"), "{said}: {text}");
        assert!(text.len() > 10, "{text}");
        let cost;
        (cost, billed) = exact_cost(&browser, "playground", billed).await;
        println!("{question}\n{text}\n{cost} nano-dollars, {}", browser.says("#compute").await);
    }
    browser.look("talked").await;
    ask(&browser, "Tell me a long story about a lighthouse and the sea.").await;
    browser.until("#conversation li:last-child .words", |text| text.len() > 40).await;
    browser.click("#stop").await;
    browser.until("#status", |said| said == "Stopped.").await;
    let (cost, _) = exact_cost(&browser, "playground", billed).await;
    println!("stopped after {cost} nano-dollars, {}", browser.says("#compute").await);

    browser.goto("/data-studio").await;
    browser.until("#left", |left| left.starts_with('$')).await;
    let mut billed = 0;
    for (question, column) in
        [("Average amount by product", "AVG(amount)"), ("How many sales are there?", "COUNT(*)")]
    {
        browser.until("#write:enabled", |text| text == "Write SQL").await;
        browser.fill("#question", question).await;
        browser.click("#write").await;
        browser.until("#rows thead", |head| head.contains(column)).await;
        let cost;
        (cost, billed) = exact_cost(&browser, "data-studio", billed).await;
        let sql = browser.run("return document.getElementById('sql').value").await;
        let rows = browser.says("#rows").await;
        println!("{question}\n{sql}\n{rows}\n{cost} nano-dollars");
    }
    browser.look("asked").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs LLM_URL, a server of the model"]
async fn real_model_is_cut_off_when_credits_run_out() {
    let few = [("included = \"0.10\"", "included = \"0.001\"")];
    let (_server, url) = gateway("real-model-few", &model_server(), &few);
    let browser = Browser::open("real-model-few", &url).await;
    open(&browser, "demo-free", "/playground").await;
    let mut before = 0;
    // A fast machine writes several stories for eight seconds' worth of credits.
    loop {
        ask(&browser, "Tell me a long story about a lighthouse and the sea.").await;
        let said = browser.until("#status", |said| !said.starts_with("The model")).await;
        let (cost, billed) = exact_cost(&browser, "playground", before).await;
        println!("{said} {cost} nano-dollars, {}", browser.says("#compute").await);
        before = billed;
        if said == "The answer was cut off." {
            break;
        }
    }
    assert_eq!(before, 1_000_000, "the bill ends at the limit");
    let problem = browser.says("#problem").await;
    assert!(problem.contains("are used up"), "{problem}");
    let text = browser.says("#conversation li:last-child .words").await;
    assert!(!text.is_empty(), "the text so far is kept");
    println!("{problem}\n{text}");
    browser.look("used-up").await;
    browser.close().await;
}
