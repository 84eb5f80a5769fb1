//! A table, questions about it, and what is refused.

use serde_json::json;

use super::{exact_cost, gateway, open, settled, upstream::Upstream};
use crate::{driver::Browser, eventually, is_read_aloud};

async fn run(browser: &Browser, sql: &str) {
    browser.until("#run:enabled", |text| text == "Run").await;
    browser.fill("#sql", sql).await;
    browser.click("#run").await;
}

/// Chooses a file with this content, and uploads it.
async fn upload(browser: &Browser, name: &str, csv: &str) {
    let path = browser.downloads.join(name);
    std::fs::write(&path, csv).unwrap();
    browser.fill("#file", path.to_str().unwrap()).await;
    browser.click("#send-file").await;
}

async fn problem(browser: &Browser) -> String {
    browser.until("#problem", |text| !text.is_empty()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_becomes_sql_and_rows_and_is_billed_to_the_data_studio() {
    let upstream = Upstream::start().await;
    let (_server, url) = gateway("data-studio", &upstream.url, &[]);
    let browser = Browser::open("data-studio", &url).await;
    browser.goto("/data-studio").await;
    assert_eq!(problem(&browser).await, "Sign in first: to the billing page");
    browser.look("signed-out").await;

    open(&browser, "demo-free", "/data-studio").await;
    let words = browser.until("#table-words", |words| words.starts_with("sales has ")).await;
    assert_eq!(words, "sales has 5 columns and 60 rows, of which you see the first 8.");
    browser.look("sample").await;

    upstream.set_sql("SELECT product, AVG(amount) FROM sales GROUP BY product");
    browser.fill("#question", "Average amount by product").await;
    browser.click("#write").await;
    browser.until("#status", |said| said == "The model is writing SQL.").await;
    browser.until("#cost.estimate", |cost| cost.starts_with("≈ $")).await;
    browser.look("writing").await;
    upstream.let_say(1);
    let words = browser.until("#result-words", |words| !words.is_empty()).await;
    assert!(words.starts_with("5 rows, in "), "{words}");
    assert!(browser.says("#rows tbody").await.starts_with("Cocoa "));
    let typed = "return document.getElementById('sql').value";
    let sql = "SELECT product, AVG(amount) FROM sales GROUP BY product";
    assert_eq!(browser.run(typed).await, json!(sql));
    let asked = upstream.latest().0;
    assert!(asked["prompt"].as_str().unwrap().contains("Average amount by product"), "{asked}");
    assert!(asked["grammar"].as_str().unwrap().starts_with("root ::="), "{asked}");
    let (_, billed) = exact_cost(&browser, "data-studio", 0).await;
    browser.look("answered").await;
    is_read_aloud(&browser, &["This question cost", "Compute time", "Included credits left"]).await;

    // A question that is taken back.
    browser.until("#write:enabled", |text| text == "Write SQL").await;
    browser.click("#write").await;
    eventually(async || (upstream.open_answers() == 1).then_some(())).await;
    browser.click("#stop").await;
    browser.until("#status", |said| said == "Stopped.").await;
    eventually(async || (upstream.open_answers() == 0).then_some(())).await;
    exact_cost(&browser, "data-studio", billed).await;
    let (bill, _) = settled(&browser, "data-studio").await;
    assert_eq!(bill["requests"], 2, "tables and queries are free");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_that_run_out_before_there_is_sql_are_said_with_what_the_question_cost() {
    let upstream = Upstream::start().await;
    let few = [("included = \"0.10\"", "included = \"0.0001\"")];
    let (_server, url) = gateway("data-studio-few", &upstream.url, &few);
    let browser = Browser::open("data-studio-few", &url).await;
    open(&browser, "demo-free", "/data-studio").await;
    browser.fill("#question", "How many sales are there?").await;
    browser.click("#write").await;
    let said = problem(&browser).await;
    assert!(said.contains(" are used up. ") && said.ends_with("Go to the billing page"), "{said}");
    eventually(async || (upstream.open_answers() == 0).then_some(())).await;
    assert_eq!(exact_cost(&browser, "data-studio", 0).await.0, 100_000, "it ends at the limit");
    browser.look("used-up").await;
    run(&browser, "SELECT COUNT(*) FROM sales").await;
    browser.until("#rows tbody", |rows| rows == "60").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_sql_and_wrong_files_are_refused_in_a_sentence_and_a_file_replaces_the_table() {
    let upstream = Upstream::start().await;
    let (_server, url) = gateway("data-studio-files", &upstream.url, &[]);
    let browser = Browser::open("data-studio-files", &url).await;
    open(&browser, "demo-free", "/data-studio").await;
    for sql in [
        "DROP TABLE sales",
        "SELECT * FROM sqlite_master",
        "SELECT 1; DELETE FROM sales",
        "SELECT load_extension('x')",
    ] {
        browser.run("document.getElementById('problem').textContent = ''").await;
        run(&browser, sql).await;
        let said = problem(&browser).await;
        let only = "Only one SELECT that reads the table may run here: ";
        assert!(said.starts_with(only) && said.ends_with('.'), "{sql}: {said}");
    }
    browser.look("forbidden").await;
    run(&browser, "SELECT price FROM sales").await;
    browser.until("#problem", |text| text == "SQLite says: no such column: price.").await;

    upload(&browser, "wrong.csv", "city,people\nParis,2100000\nRome\n").await;
    let said = browser.until("#problem", |text| text.starts_with("Line ")).await;
    let expected = "Line 3: 1 value, but the first line names 2 columns. Quote values that have \
                    commas in them.";
    assert_eq!(said, expected);
    assert!(browser.says("#table-words").await.starts_with("sales has "), "it stays as it was");
    browser.look("wrong-file").await;

    let long = "a-very-long-word-without-any-space".repeat(4);
    let csv = format!("city,people,note\nParis,2100000,\"old, big\"\nRome,2800000,{long}\n");
    upload(&browser, "Cities of Europe.csv", &csv).await;
    let words = browser.until("#table-words", |words| !words.starts_with("sales")).await;
    assert_eq!(words, "cities_of_europe has 3 columns and 2 rows.");
    run(&browser, "SELECT SUM(people) AS people FROM cities_of_europe").await;
    browser.until("#rows tbody", |rows| rows == "4900000").await;
    run(&browser, "SELECT * FROM cities_of_europe").await;
    browser.until("#result-words", |words| words.starts_with("2 rows")).await;
    browser.look("own-table").await;
    let (bill, _) = settled(&browser, "data-studio").await;
    assert_eq!((&bill["requests"], upstream.latest().1), (&json!(0), 0), "no model has run");
    browser.close().await;
}
