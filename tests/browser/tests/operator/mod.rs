//! What operators did shows: refunds, purchased credits, closed months and what came late of them,
//! seats and members.

mod limits;

use std::time::Duration;

use axum::{Router, body::Body, extract::Path, http::Request, routing::post};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_credits::{
    Account, BearerTokens, CreditMeter, Identity, MemoryLedger, Period, Plan, billing,
    clock::ManualClock,
};

use crate::driver::Browser;

const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"
[hardware.gpu-large]
price_per_second = "0.000500001"
[models.rnnoise]
hardware = "gpu-small"
[models.llama-3-70b-instruct-with-a-name-that-is-long]
hardware = "gpu-large"
[routes]
"/api/{model}" = { model = "{model}" }
"/playground/{model}" = { model = "{model}", feature = "playground" }
"/data-studio/{model}" = { model = "{model}", feature = "data-studio" }
[tiers.enterprise]
included = "0.01"
per_seat = true
when_used_up = { pay_as_you_go_up_to = "0.001" }
"#;

const MEMBERS: [&str; 3] = ["ann", "ben", "cat"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_did_shows_on_the_bill() {
    let clock = ManualClock::at("2026-11".parse().unwrap());
    let acme = Account::org("acme").unwrap();
    let tokens = MEMBERS.iter().fold(
        BearerTokens::new().or_cookie("session".parse().unwrap()),
        |tokens, member| {
            let identity =
                Identity::new(member.parse().unwrap(), acme.clone(), "enterprise".parse().unwrap());
            tokens.with(member, identity)
        },
    );
    let ledger = MemoryLedger::with_clock(clock.clone());
    let meter = CreditMeter::builder(Plan::from_toml(PLAN).unwrap(), ledger, tokens)
        .clock(clock.clone())
        .build()
        .unwrap();
    let passing = clock.clone();
    let run = move |Path((_, _)): Path<(String, String)>| {
        passing.advance(Duration::from_millis(2_345));
        std::future::ready("ok")
    };
    let app = Router::new()
        .route("/{feature}/{model}", post(run))
        .layer(meter.clone())
        .merge(billing::router(&meter));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = app.clone();
    tokio::spawn(async move { axum::serve(listener, served).await });

    let accounts = meter.accounts();
    accounts.set_seats(&acme, 3.try_into().unwrap()).await.unwrap();
    accounts.grant(&acme, "order-1".parse().unwrap(), "0.02".parse().unwrap(), None).await.unwrap();
    let browser = Browser::open("operator", &url).await;
    browser.sign_in("ann").await;
    let november: Period = "2026-11".parse().unwrap();
    for (day, member) in [(0, 0), (1, 1), (1, 2), (4, 0), (9, 1), (9, 1), (9, 2), (22, 0), (29, 1)]
    {
        clock.set_unix_time(november.begins() + Duration::from_secs(86_400 * day + 43_200));
        for feature in ["api", "playground", "data-studio"] {
            for model in ["rnnoise", "llama-3-70b-instruct-with-a-name-that-is-long"] {
                let request = Request::post(format!("/{feature}/{model}"))
                    .header("authorization", format!("Bearer {}", MEMBERS[member]));
                let response =
                    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), 200);
            }
        }
    }
    let reason = "The answers of 9 November were cut off".parse().unwrap();
    assert!(
        accounts
            .refund(
                &acme,
                november,
                "case-2026-118".parse().unwrap(),
                "0.0025".parse().unwrap(),
                reason
            )
            .await
            .unwrap()
    );
    let settled = async || {
        accounts
            .statement(&acme, november)
            .await
            .ok()
            .filter(|statement| statement.held.is_zero())
            .map(drop)
    };
    crate::eventually(settled).await;
    browser.goto("/billing").await;
    assert_eq!(
        (browser.says("#refunded").await, browser.says("#seats").await),
        ("$0.0025".into(), "3".into())
    );
    // 27 requests of 2.345 s on each hardware.
    let figures = [
        ("used", "$0.039255381"),
        ("net", "$0.036755381"),
        ("included-used", "$0.03"),
        ("purchased-used", "$0.006755381"),
        ("purchased-left", "$0.013244619"),
        ("pay-as-you-go", "$0.00"),
        ("requests", "54"),
        ("compute", "126.630000 s"),
        ("tier-limit", "$0.001"),
        ("chart-words", "6 days with costs. The highest: $0.013085127 on 2026-11-10."),
    ];
    for (id, figure) in figures {
        assert_eq!(browser.says(&format!("#{id}")).await, figure, "{id}");
    }
    let bars = "return [...document.querySelectorAll('rect')].map((bar) => ['x', 'y', 'height'].map((name) => bar.getAttribute(name)).join(' '))";
    let expected = ["1 67 33", "11 34 66", "41 67 33", "91 0 100", "221 67 33", "291 67 33"];
    assert_eq!(browser.run(bars).await, serde_json::json!(expected), "as high as the day cost");
    browser.look("bill-of-an-organisation").await;
    crate::is_read_aloud(&browser, &["Refunded", "Seats", "Purchased credits used"]).await;

    clock.set_unix_time(november.ends() + Duration::from_secs(3_600));
    assert!(accounts.close(&acme, november).await.unwrap());
    browser.goto("/billing?period=2026-11").await;
    assert!(browser.says("#closed").await.contains("closed"));
    browser.look("closed-month").await;
    browser.close().await;
}
