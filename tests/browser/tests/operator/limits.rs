//! An organisation's owner sets limits of groups, members and keys on the page, and reads what each
//! has used.

use std::time::Duration;

use axum::{Router, body::Body, http::Request, routing::post};
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_credits::{
    Account, BearerTokens, CreditMeter, Identity, MemoryLedger, Plan, billing, clock::ManualClock,
};

use crate::driver::Browser;

const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"
[models.rnnoise]
hardware = "gpu-small"
[routes]
"/api/rnnoise" = { model = "rnnoise" }
[tiers.enterprise]
included = "0.001"
included_per_day = "0.0005"
when_used_up = "pay-as-you-go"
most_per_day = "1.00"
parts = [{ most_per_month = "0.50" }]
"#;

const PARTS: [&str; 4] = [
    "research/ann/notebook",
    "research/ben/ci",
    "support/cat/a-key-whose-name-is-so-long-that-a-narrow-page-has-no-room-for-it",
    "ops",
];

struct Page {
    browser: Browser,
    app: Router,
    meter: CreditMeter,
    acme: Account,
}

impl Page {
    async fn open() -> Self {
        let clock = ManualClock::at("2026-11".parse().unwrap());
        let acme = Account::org("acme").unwrap();
        let identity = |name: &str| {
            Identity::new(name.parse().unwrap(), acme.clone(), "enterprise".parse().unwrap())
        };
        let tokens = BearerTokens::new()
            .or_cookie("session".parse().unwrap())
            .with("owner", identity("olga"));
        let tokens = PARTS.iter().fold(tokens, |tokens, part| {
            tokens.with(part, identity("member").in_part(part.parse().unwrap()))
        });
        let ledger = MemoryLedger::with_clock(clock.clone());
        let meter = CreditMeter::builder(Plan::from_toml(PLAN).unwrap(), ledger, tokens)
            .clock(clock.clone())
            .build()
            .unwrap();
        let run = move || {
            clock.advance(Duration::from_secs(1));
            std::future::ready("ok")
        };
        let app = Router::new()
            .route("/api/rnnoise", post(run))
            .layer(meter.clone())
            .merge(billing::router(&meter));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = app.clone();
        tokio::spawn(async move { axum::serve(listener, served).await });
        Self { browser: Browser::open("limits", &url).await, app, meter, acme }
    }

    /// Asks for a second; answers the status once that is settled.
    async fn asks(&self, part: &str) -> u16 {
        let request =
            Request::post("/api/rnnoise").header("authorization", format!("Bearer {part}"));
        let response =
            self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        drop(response);
        let accounts = self.meter.accounts();
        let settled = async || {
            let statement = accounts.statement(&self.acme, "2026-11".parse().unwrap()).await;
            statement.ok().filter(|statement| statement.held.is_zero()).map(drop)
        };
        crate::eventually(settled).await;
        status
    }

    async fn set(&self, fields: [(&str, &str); 3]) {
        for (id, text) in fields {
            self.browser.fill(&format!("#{id}"), text).await;
        }
        self.browser.click("form[action='/billing/limits'] button").await;
    }

    /// The names of the table's rows, in their order.
    async fn rows(&self) -> serde_json::Value {
        let names = "return [...document.querySelectorAll('#table-parts tbody th')].map((name) => name.textContent)";
        self.browser.run(names).await
    }

    async fn row(&self, part: &str) -> String {
        let row = format!(
            "const row = [...document.querySelectorAll('#table-parts tbody tr')].find((row) => \
             row.querySelector('th').textContent === '{part}')"
        );
        let cells =
            format!("{row}; return [...row.cells].map((cell) => cell.textContent).join(' | ')");
        self.browser.run(&cells).await.as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_sets_limits_of_groups_and_sees_what_each_has_used() {
    let page = Page::open().await;
    let browser = &page.browser;
    browser.sign_in("owner").await;
    assert_eq!(browser.says("#most-per-day").await, "$1.00");
    assert_eq!(browser.says("#included-left-today").await, "$0.0005");
    browser.look("limits-before-use").await;

    for (part, times) in PARTS.into_iter().zip([1, 3, 2, 1]) {
        for _ in 0..times {
            assert_eq!(page.asks(part).await, 200, "{part}");
        }
    }
    browser.goto("/billing").await;
    assert_eq!(browser.says("#included-left-today").await, "$0.00");
    assert_eq!(
        page.row("research").await,
        "research | $0.00048 | $0.50 (tier) | $0.00048 | no limit | $0.00"
    );
    browser.look("limits-with-parts").await;
    crate::is_read_aloud(browser, &[]).await;

    // By name, or what used most first.
    let by_name = page.rows().await;
    assert_eq!(by_name[0], "ops");
    browser.click("#table-parts th:nth-child(2) a").await;
    browser.until("#table-parts th[aria-sort=descending]", |head| head == "Used this month").await;
    assert_eq!(page.rows().await[0], "research");
    assert_eq!(page.rows().await.as_array().unwrap().len(), by_name.as_array().unwrap().len());
    browser.look("limits-sorted").await;

    let fields =
        |part, month, day| [("limits-part", part), ("limits-month", month), ("limits-day", day)];
    page.set(fields("research/ben", "a lot", "")).await;
    browser.until("#limits-error", |error| error.contains("not a decimal number")).await;
    assert_eq!(
        browser.run("return document.getElementById('limits-month').value").await,
        json!("a lot"),
        "what was typed is there to be mended"
    );
    browser.look("limits-mistake").await;
    page.set(fields("research//ben", "1", "")).await;
    browser.until("#limits-error", |error| error.contains("name") || error.contains("empty")).await;

    page.set(fields("research/ben", "", "0.0004")).await;
    browser.until("#table-parts", |table| table.contains("$0.0004")).await;
    assert_eq!(
        page.row("research/ben").await,
        "research/ben | $0.00036 | no limit | $0.00036 | $0.0004 | $0.00"
    );
    // A little is left of the day: that runs, and then no more.
    let statuses = [page.asks("research/ben/ci").await, page.asks("research/ben/ci").await];
    assert_eq!(statuses[1], 403, "{statuses:?}");
    assert_eq!(page.asks("research/ann/notebook").await, 200, "another member's is her own");

    // The lower of the account's own day and the tier's counts, and is shown.
    page.set(fields("", "", "0.002")).await;
    browser.until("#most-per-day", |limit| limit == "$0.002").await;
    page.set(fields("", "", "5.00")).await;
    browser.until("#most-per-day", |limit| limit == "$1.00").await;
    page.set(fields("research", "no limit", "")).await;
    browser.until("#table-parts", |table| table.matches("(tier)").count() == 2).await;
    browser.look("limits-set").await;
    let research = page.row("research").await;
    assert!(research.contains("| no limit |") && !research.contains("(tier)"), "{research}");

    // Another site's page cannot set any: the browser says where a form comes from.
    let forged = "const form = document.createElement('form'); form.method = 'post'; \
                  form.action = new URL('/billing/limits', location.href).href; return form.action";
    let action = browser.run(forged).await.as_str().unwrap().to_owned();
    let html = format!(
        "data:text/html,<form method=post action='{action}'><input name=part value=ops>\
         <input name=per_month value=0><input name=per_day value=0><button>go</button></form>"
    );
    browser.client.goto(&html).await.unwrap();
    browser.click("button").await;
    browser.until("body", |text| !text.contains("go")).await;
    browser.goto("/billing").await;
    assert!(page.row("ops").await.contains("$0.50 (tier)"), "{}", page.row("ops").await);
    page.browser.complaints().await;
}
