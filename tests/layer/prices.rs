//! Prices beyond a second's: fees, least charges, discounts, dates, outcomes that are not billed,
//! caps of clients, and costs that a service adds.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeClock, ComputeTime, CreditMeter, CreditMeterBuilder, MemoryLedger, Plan,
    clock::{ManualClock, TokioClock, UnixTime},
    identify::IdentityFromExtensions,
    meter::CutOff,
};

use crate::support::{bodies::Fed, logs::Log, *};

const PRICES: &str = r#"
unbilled = ["5xx", "404", "timeout", "dropped"]

[hardware.gpu-small]
price_per_second = "0.00012"

[[hardware.gpu-small.prices]]
from = "2026-12-10T00:00:00Z"
price_per_second = "0.00024"
fee_per_request = "0.001"

[hardware.images]
price_per_second = "0"
fee_per_request = "0.04"

[hardware.least]
price_per_second = "0.00012"
least_per_request = "0.00024"

[models.echo]
hardware = "gpu-small"

[models.image]
hardware = "images"

[models.least]
hardware = "least"

[models.greeting]                # a model's own fee
hardware = "least"
fee_per_request = "0.0001"
least_per_request = "0"

[routes]
"/models/{model}" = { model = "{model}" }
"/grpc.Echo/{method}" = { model = "echo" }

[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"

[tiers.discount]
included = "2.00"
when_used_up = "pay-as-you-go"
price_factor = "0.8"

[tiers.dime]                     # two images and a half
included = "0.10"
when_used_up = "block"

[hardware.added]                 # all that its requests cost is added
price_per_second = "0"
hold_per_request = "0.04"

[models.added]
hardware = "added"

[tiers.capped]
included = "2.00"
when_used_up = "pay-as-you-go"
most_per_request = { cost = "0.0006" }
"#;

fn builder(ledger: MemoryLedger) -> CreditMeterBuilder {
    CreditMeter::builder(Plan::from_toml(PRICES).unwrap(), ledger, IdentityFromExtensions)
        .report_within(Duration::from_millis(100))
}

fn ask_for(model: &str, user: &str, tier: &str) -> Request<Empty<Bytes>> {
    let mut asked = request(user, tier, Empty::new());
    *asked.uri_mut() = format!("/models/{model}").parse().unwrap();
    asked
}

/// Asks a service that reports a compute time, and answers with a status.
async fn ask(
    meter: &CreditMeter,
    request: Request<Empty<Bytes>>,
    compute: Duration,
    status: u16,
) -> Response<Vec<u8>> {
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| async move {
            let response = Response::builder().status(status).extension(ComputeTime(compute));
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(b"ok"))).unwrap())
        },
    ));
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    Response::from_parts(parts, read(Response::new(body)).await.unwrap())
}

#[tokio::test]
async fn fees_least_charges_and_discounts_are_on_the_bill_to_the_nano_dollar() {
    let meter = builder(MemoryLedger::new()).build().unwrap();
    for (model, tier, millis, cost) in [
        ("echo", "pro", 500, 60_000),
        ("image", "pro", 500, 40_000_000),
        ("least", "pro", 500, 240_000),
        ("least", "pro", 3_000, 360_000),
        ("greeting", "pro", 500, 160_000),
        ("echo", "discount", 500, 48_000),
        ("image", "discount", 1, 32_000_000),
        ("least", "discount", 500, 192_000),
    ] {
        let user = format!("{model}-{tier}-{millis}");
        let asked = ask_for(model, &user, tier);
        assert_eq!(ask(&meter, asked, Duration::from_millis(millis), 200).await.status(), 200);
        assert_eq!(settled(&meter, &user, tier, 1).await.used, nanos(cost), "{user}");
    }
}

/// A fee is on hold before the service is called: who cannot pay it is denied, however many ask at
/// once.
#[tokio::test]
async fn nobody_gets_more_images_than_there_are_credits_for() {
    let meter = builder(MemoryLedger::new()).build().unwrap();
    let asked = (0..20).map(|_| {
        let meter = meter.clone();
        tokio::spawn(async move {
            let asked = ask_for("image", "alice", "dime");
            ask(&meter, asked, Duration::from_millis(1), 200).await.status().as_u16()
        })
    });
    let mut served = 0;
    for asked in asked.collect::<Vec<_>>() {
        served += usize::from(asked.await.unwrap() == 200);
    }
    assert_eq!(served, 2, "a running request holds its fee once");
    let statement = settled(&meter, "alice", "dime", 2).await;
    assert_eq!(statement.used, nanos(80_000_000));
    let denied = ask(&meter, ask_for("image", "alice", "dime"), Duration::ZERO, 200).await;
    assert_eq!(denied.status(), StatusCode::PAYMENT_REQUIRED);
}

/// The rates are those of the moment of admission, by the ledger's clock.
#[tokio::test]
async fn a_price_from_a_date_on_counts_by_the_ledgers_clock() {
    // The node's clock is a day behind the ledger's.
    let at = |time: &str| {
        let time: jiff::Timestamp = time.parse().unwrap();
        UnixTime::from_millis(time.as_millisecond() as u64)
    };
    let (ledgers, nodes) = (ManualClock::at("2026-12".parse().unwrap()), november());
    let set = |ledger: &str, node: &str| {
        ledgers.set_unix_time(at(ledger));
        nodes.set_unix_time(at(node));
    };
    set("2026-12-09T23:00:00Z", "2026-12-08T23:00:00Z");
    let meter =
        builder(MemoryLedger::with_clock(ledgers.clone())).clock(nodes.clone()).build().unwrap();
    let second = Duration::from_secs(1);
    let ask = async |user: &str| {
        ask(&meter, ask_for("echo", user, "pro"), second, 200).await;
        settled(&meter, user, "pro", 1).await.used
    };
    assert_eq!(ask("before").await, nanos(120_000));
    set("2026-12-10T00:00:01Z", "2026-12-09T00:00:01Z");
    // An answer of the ledger says how late it is there.
    ask("tells").await;
    assert_eq!(ask("after").await, nanos(1_240_000));
}

#[tokio::test]
async fn outcomes_that_the_plan_does_not_bill_are_forgiven() {
    let meter = builder(MemoryLedger::new()).build().unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let second = Duration::from_secs(1);
    for (status, billed) in
        [(200, true), (500, false), (503, false), (404, false), (403, true), (408, false)]
    {
        let user = format!("of-{status}");
        assert_eq!(
            ask(&meter, ask_for("echo", &user, "pro"), second, status).await.status(),
            status
        );
        if billed {
            assert_eq!(settled(&meter, &user, "pro", 1).await.used, nanos(120_000), "{status}");
        } else {
            assert_eq!(log.lines(&["forgiven", &format!("account=user:{user}")]).len(), 1);
        }
    }
    // The code of a gRPC call that failed: UNAVAILABLE, and one that is the caller's mistake.
    for (code, user, billed) in [("14", "away", false), ("3", "wrong", true)] {
        let mut asked = ask_for("echo", user, "pro");
        *asked.uri_mut() = "/grpc.Echo/Say".parse().unwrap();
        asked.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| async move {
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", code)
                    .extension(ComputeTime(second));
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
            },
        ));
        service.oneshot(asked).await.unwrap();
        let lines = log.lines(&["tower_credits", &format!("account=user:{user}")]);
        assert!(lines.iter().any(|line| line.contains("metered") == billed), "{lines:?}");
    }
}

/// The host's code and the plan: whoever forgives, it is forgiven.
#[tokio::test]
async fn the_plan_and_the_hosts_code_forgive_together() {
    let meter = builder(MemoryLedger::new())
        .bill_if_head(|head| head.is_none_or(|head| head.status != 418))
        .build()
        .unwrap();
    let (log, _guard) = Log::from(tracing::Level::INFO);
    for (status, event) in [(418, "forgiven"), (500, "forgiven"), (200, "metered")] {
        let user = format!("of-{status}");
        ask(&meter, ask_for("echo", &user, "pro"), Duration::from_secs(1), status).await;
        assert_eq!(log.lines(&[event, &format!("account=user:{user}")]).len(), 1, "{status}");
    }
}

/// A stream that its client leaves is not billed if the plan says so; one that ends is.
#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_forgiven() {
    let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
    for (leaves, used) in [(true, 0), (false, 120_000)] {
        let (feed, body) = Fed::new();
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let body = body.lock().unwrap().take().unwrap();
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let user = if leaves { "leaves" } else { "stays" };
        let response = service.oneshot(ask_for("echo", user, "pro")).await.unwrap();
        feed.send(Bytes::from_static(b"first")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if leaves {
            drop(response);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(statement(&meter, user, "pro").await.used, nanos(used));
        } else {
            drop(feed);
            read(response).await.unwrap();
            let found = settled(&meter, user, "pro", 1).await.used.as_nano_usd();
            assert!((used..used + 1_000).contains(&found), "{found}");
        }
    }
}

/// A client's own limit: what it says is the most that its request costs.
#[tokio::test(start_paused = true)]
async fn a_client_caps_its_own_request() {
    for (field, value, tier, used, reason) in [
        ("x-max-cost", "0.00024", "pro", 240_000, Some("CLIENT_CAP")),
        ("x-max-compute", "2.5", "pro", 300_000, Some("CLIENT_CAP")),
        // The lower of the client's and the plan's.
        ("x-max-cost", "0.0003", "capped", 300_000, Some("CLIENT_CAP")),
        ("x-max-cost", "0.01", "capped", 600_000, Some("REQUEST_CAP")),
        ("x-max-cost", "0.01", "pro", 1_200_000, None),
    ] {
        let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
        let (feed, body) = Fed::new();
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let body = body.lock().unwrap().take().unwrap();
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let mut asked = ask_for("echo", "alice", tier);
        asked.headers_mut().insert(field, value.parse().unwrap());
        let response = service.oneshot(asked).await.unwrap();
        tokio::spawn(async move {
            for _ in 0..10 {
                if feed.send(Bytes::from_static(b"x")).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let ended = read(response).await;
        match reason {
            Some(reason) => {
                let cut_off = ended.unwrap_err().downcast::<CutOff>().unwrap();
                assert_eq!(cut_off.rejection().reason(), reason, "{field}: {value}, {tier}");
            }
            None => drop(ended.unwrap()),
        }
        let found = settled(&meter, "alice", tier, 1).await.used.as_nano_usd();
        assert!(
            found <= used && found > used - 1_000 || (reason.is_none() && found < used + 1_000),
            "{field}: {value}, {tier}: {found}"
        );
    }
}

#[tokio::test]
async fn a_cap_that_pays_for_nothing_or_cannot_be_read_is_denied() {
    let meter = builder(MemoryLedger::new()).build().unwrap();
    for (fields, status, reason) in [
        (&[("x-max-cost", "0.03")][..], 403, "CLIENT_CAP"),
        (&[("x-max-compute", "0")], 403, "CLIENT_CAP"),
        (&[("x-max-compute", "0.000000001")], 403, "CLIENT_CAP"),
        (&[("x-max-cost", "-1")], 400, "INVALID_CAP"),
        (&[("x-max-cost", "$1")], 400, "INVALID_CAP"),
        (&[("x-max-cost", "")], 400, "INVALID_CAP"),
        (&[("x-max-compute", "10s")], 400, "INVALID_CAP"),
        (&[("x-max-compute", "1e3")], 400, "INVALID_CAP"),
        (&[("x-max-cost", "1"), ("x-max-cost", "2")], 400, "INVALID_CAP"),
        (&[("x-max-cost", "0.05"), ("x-max-compute", " 3 ")], 200, ""),
    ] {
        let mut asked = ask_for("image", "alice", "pro");
        for (name, value) in fields {
            let value = http::HeaderValue::from_static(value);
            asked.headers_mut().append(*name, value);
        }
        let response = ask(&meter, asked, Duration::ZERO, 200).await;
        assert_eq!(response.status().as_u16(), status, "{fields:?}");
        let body = String::from_utf8_lossy(response.body()).into_owned();
        assert!(body.contains(reason), "{fields:?}: {body}");
    }
    assert_eq!(settled(&meter, "alice", "pro", 1).await.used, nanos(40_000_000));
}

/// A service adds a price of its own: for images, for tokens. The stream ends at zero all the same.
#[tokio::test(start_paused = true)]
async fn what_a_service_adds_is_billed_and_bounded() {
    for (tier, images, used, is_cut) in [
        ("pro", 3, 90_000_000, false),
        ("discount", 3, 90_000_000, false),
        ("dime", 3, 90_000_000, false),
        ("dime", 5, 100_000_000, true),
        ("capped", 1, 600_000, true),
    ] {
        let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |request: Request<Empty<Bytes>>| {
                let clock = request.extensions().get::<ComputeClock>().unwrap().clone();
                clock.report(Duration::ZERO);
                let (feed, body) = Fed::new();
                tokio::spawn(async move {
                    for _ in 0..images {
                        clock.add("0.03".parse().unwrap());
                        if feed.send(Bytes::from_static(b"image")).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                });
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let response = service.oneshot(ask_for("echo", "alice", tier)).await.unwrap();
        assert_eq!(read(response).await.is_err(), is_cut, "{tier}, {images}");
        assert_eq!(settled(&meter, "alice", tier, 1).await.used, nanos(used), "{tier}, {images}");
    }
}

/// Answers once it has added to the cost, after a while.
fn adding(
    meter: &CreditMeter,
    amount: &'static str,
) -> impl tower::Service<
    Request<Empty<Bytes>>,
    Response = Response<tower_credits::meter::MeterBody<Full<Bytes>>>,
    Error = Infallible,
    Future: Send,
> + Clone {
    ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| async move {
            let clock = request.extensions().get::<ComputeClock>().unwrap().clone();
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.add(amount.parse().unwrap());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"image"))))
        },
    ))
}

/// A client's cap does not make cheaper what it gets: beyond the cap, it gets nothing.
#[tokio::test(start_paused = true)]
async fn a_client_pays_its_cap_and_gets_nothing_beyond_it() {
    for (model, cap, status, used) in [
        ("added", "0.05", 200, 40_000_000),
        ("added", "0.04", 200, 40_000_000),
        ("added", "0.001", 403, 1_000_000),
        ("added", "0", 403, 0),
        ("echo", "0.001", 403, 1_000_000),
    ] {
        let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
        let mut asked = ask_for(model, "alice", "pro");
        asked.headers_mut().insert("x-max-cost", cap.parse().unwrap());
        let response = adding(&meter, "0.04").oneshot(asked).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{model}, {cap}");
        let body = read(response).await.unwrap();
        assert_eq!(body == b"image", status == 200, "{model}, {cap}");
        let requests = u64::from(used > 0);
        assert_eq!(settled(&meter, "alice", "pro", requests).await.used, nanos(used), "{cap}");
    }
}

/// Where time costs nothing, the plan says what is on hold at first. Who has less gets nothing.
#[tokio::test(start_paused = true)]
async fn what_is_added_to_a_free_model_ends_at_zero_too() {
    let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
    let statuses = [200, 200, 402];
    for status in statuses {
        let asked = ask_for("added", "alice", "dime");
        let response = adding(&meter, "0.04").oneshot(asked).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        drop(read(response).await);
    }
    assert_eq!(settled(&meter, "alice", "dime", 2).await.used, nanos(80_000_000));
}

/// A plan whose cap is below a request's fee lets no such request begin.
#[tokio::test]
async fn a_cap_below_the_fee_is_denied_before_anything_is_computed() {
    let meter = builder(MemoryLedger::new()).build().unwrap();
    let denied = ask(&meter, ask_for("image", "alice", "capped"), Duration::ZERO, 200).await;
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    assert!(String::from_utf8_lossy(denied.body()).contains("REQUEST_CAP"));
    assert!(statement(&meter, "alice", "capped").await.used.is_zero());
}

/// A connection that is no longer HTTP has no outcome that the plan knows: it is billed.
#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_billed_although_dropped_requests_are_not() {
    let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |request: Request<Empty<Bytes>>| async move {
            let clock = request.extensions().get::<ComputeClock>().unwrap().clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                drop(clock);
            });
            let response = Response::builder().status(101);
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
        },
    ));
    let response = service.oneshot(ask_for("echo", "alice", "pro")).await.unwrap();
    assert_eq!(response.status().as_u16(), 101);
    let used = settled(&meter, "alice", "pro", 1).await.used.as_nano_usd();
    assert!((360_000..361_000).contains(&used), "{used}");
}

/// Compute time has ended with the head, and the service still adds to the cost.
#[tokio::test(start_paused = true)]
async fn what_is_added_after_the_head_is_bounded_too() {
    for (tier, used, is_cut) in [("pro", 150_000_000, false), ("dime", 100_000_000, true)] {
        let meter = builder(MemoryLedger::new())
            .clock(TokioClock)
            .compute_until_head(true)
            .build()
            .unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            |request: Request<Empty<Bytes>>| {
                let clock = request.extensions().get::<ComputeClock>().unwrap().clone();
                let (feed, body) = Fed::new();
                tokio::spawn(async move {
                    for _ in 0..5 {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        clock.add("0.03".parse().unwrap());
                        if feed.send(Bytes::from_static(b"image")).await.is_err() {
                            break;
                        }
                    }
                });
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let response = service.oneshot(ask_for("echo", "alice", tier)).await.unwrap();
        assert_eq!(read(response).await.is_err(), is_cut, "{tier}");
        assert_eq!(settled(&meter, "alice", tier, 1).await.used, nanos(used), "{tier}");
    }
}

/// While a request runs, its fee is on hold once: it leaves others what is theirs.
#[tokio::test(start_paused = true)]
async fn a_running_request_holds_its_fee_once() {
    let meter = builder(MemoryLedger::new()).clock(TokioClock).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| {
            let (feed, body) = Fed::new();
            tokio::spawn(async move {
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if feed.send(Bytes::from_static(b"x")).await.is_err() {
                        break;
                    }
                }
            });
            Ok::<_, Infallible>(Response::new(body))
        },
    ));
    let mut running = Vec::new();
    for (status, held) in [(200, 40_000_000), (200, 80_000_000), (429, 80_000_000)] {
        let response = service.clone().oneshot(ask_for("image", "alice", "dime")).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        running.push(response);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = statement(&meter, "alice", "dime").await;
        // What was settled of it meanwhile is no longer on hold.
        assert_eq!(now.held.saturating_add(now.used), nanos(held), "{now:?}");
    }
    running.truncate(2);
    for response in running {
        assert_eq!(read(response).await.unwrap().len(), 10);
    }
    assert_eq!(settled(&meter, "alice", "dime", 2).await.used, nanos(80_000_000));
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn the_bill_has_the_plans_currency_its_units_and_the_prices_in_force() {
    use crate::bill::Server;

    let plan = format!(
        "currency = \"EUR\"\n{}\n{}",
        crate::bill::PLAN.replace("[tiers.pro]", "[tiers.pro]\nprice_factor = \"0.5\""),
        r#"
[hardware.tokens]
price_per_second = "2.50"
fee_per_request = "0.001"
unit = { name = "tokens", per_second = 1000000 }

[models.words]
hardware = "tokens"
"#
    );
    let server = Server::with(&plan).await;
    let user = identity("pro", "pro");
    for (path, micros) in [("/models/words", "1234"), ("/models/whisper-or-not", "1")] {
        let known = path == "/models/words";
        let status = server.run("pro", path, &[("x-runs-for", micros)]).await;
        assert_eq!(status.is_success(), known, "{path}");
    }
    let used = server.settled(&user, 1).await.used;
    // 1 234 microseconds at 2.50 a second and a fee, at half the price.
    assert_eq!(used, nanos(1_542_500 + 500_000));
    let (status, page) = server.page("pro", "").await;
    assert_eq!(status, 200);
    for shown in ["0.0020425 EUR", "1234 tokens", "1.25 EUR for 1000000 tokens", "0.0005 EUR"] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains('$'), "an amount has another label");
    let (_, json) = server.json("pro", "").await;
    assert_eq!((&json["currency"], &json["compute_seconds"]), (&"EUR".into(), &0.001_234.into()));
    let expected = serde_json::json!({"name": "tokens", "count": 1_234});
    assert_eq!(json["lines"][0]["units"], expected);

    for (text, error) in [
        ("currency = \"euro\"", "line 1: currency: `euro` is no code of a currency"),
        (
            "[hardware.gpu]\nprice_per_second = \"1\"\nunit = \"tokens\"",
            "line 3: hardware `gpu`, unit",
        ),
        (
            "[hardware.gpu]\nprice_per_second = \"1\"\nunit = { name = \"t\", per_second = 0 }",
            "per_second = 1000000",
        ),
    ] {
        let wrong = Plan::from_toml(text).unwrap_err().to_string();
        assert!(wrong.contains(error), "{wrong}");
    }
}

#[tokio::test]
async fn a_denial_has_the_plans_currency() {
    let plan = PRICES
        .replace("unbilled", "currency = \"EUR\"\nunbilled")
        .replace("[tiers.pro]", "[tiers.pro]\nmost_per_day = \"0.05\"");
    let plan = Plan::from_toml(&plan).unwrap();
    let meter = CreditMeter::new(plan, MemoryLedger::new(), IdentityFromExtensions);
    let answer = ask(&meter, ask_for("image", "alice", "pro"), Duration::ZERO, 200).await;
    assert_eq!(answer.status(), 200);
    settled(&meter, "alice", "pro", 1).await;
    let denied = ask(&meter, ask_for("image", "alice", "pro"), Duration::ZERO, 200).await;
    assert_eq!(denied.status(), 403);
    let text = String::from_utf8(denied.into_body()).unwrap();
    assert!(text.contains("its limit of 0.05 EUR") && text.contains("0.01 EUR"), "{text}");
}
