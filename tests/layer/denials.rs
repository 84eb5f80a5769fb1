//! Denials tell the truth.

use std::{convert::Infallible, sync::atomic::Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use serde_json::Value;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    BearerTokens, CreditMeter, DenialFormat, MemoryLedger, Rejection,
    clock::TokioClock,
    identify::IdentityFromExtensions,
    ledger::{Amendment, Ledger},
};

use crate::support::{bodies::Fed, broken::Broken, *};

/// Asks a service behind the meter that nothing denied may reach.
pub async fn ask<B>(meter: &CreditMeter, request: Request<B>) -> (Response<()>, Value)
where
    B: http_body::Body + Send + 'static,
{
    let called = counter();
    let count = called.clone();
    let service =
        ServiceBuilder::new().layer(meter.clone()).service(service_fn(move |_: Request<B>| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}")))) }
        }));
    let response = service.oneshot(request).await.unwrap();
    let denied = response.extensions().get::<Rejection>().is_some();
    assert_eq!(
        called.load(Ordering::SeqCst),
        usize::from(!denied),
        "what is denied never reaches the service"
    );
    let (parts, body) = response.into_parts();
    let text = read(Response::new(body)).await.unwrap();
    (Response::from_parts(parts, ()), serde_json::from_slice(&text).unwrap())
}

fn check(response: &Response<()>, problem: &Value, status: u16, reason: &str) {
    assert_eq!(
        (response.status().as_u16(), problem["reason"].as_str()),
        (status, Some(reason)),
        "{problem}"
    );
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(problem["status"], status);
    assert!(
        problem["error"].is_string()
            && problem["error"] == problem["detail"]
            && problem["title"].is_string()
    );
    assert!(problem["type"].as_str().unwrap().starts_with("urn:tower-credits:"));
    assert!(response.headers()["inference-id"].len() == 36);
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!((rejection.reason(), rejection.to_string()), (reason, detail(problem)));
    same_as_a_hosts_own(response, problem, rejection);
}

fn detail(problem: &Value) -> String {
    problem["detail"].as_str().unwrap().to_owned()
}

/// A host that denies on routes of its own sends what the layer sends.
fn same_as_a_hosts_own(response: &Response<()>, problem: &Value, rejection: &Rejection) {
    let own = rejection.clone().into_http_response(DenialFormat::Problem);
    for name in own.headers().keys() {
        let values =
            |headers: &http::HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(response.headers()), values(own.headers()), "{name}");
    }
    assert_eq!(own.status(), rejection.status());
    // A meter may have another status for what cannot be answered now.
    let own_problem: Value = serde_json::from_slice(own.body()).unwrap();
    if rejection.status() == StatusCode::SERVICE_UNAVAILABLE {
        assert_eq!(own_problem["detail"], problem["detail"]);
    } else {
        assert_eq!((own.status(), &own_problem), (response.status(), problem));
    }
}

pub fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

pub fn metered() -> CreditMeter {
    CreditMeter::new(plan(), MemoryLedger::new(), IdentityFromExtensions)
}

#[tokio::test]
async fn credentials() {
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), tokens);
    let asked = |path: &str, token: Option<&str>| {
        let request = Request::post(path);
        let request = token.into_iter().fold(request, |request, token| {
            request.header("authorization", format!("Bearer {token}"))
        });
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let (response, problem) = ask(&meter, asked("/models/echo", None)).await;
    check(&response, &problem, 401, "UNAUTHENTICATED");
    assert_eq!(header(&response, "www-authenticate"), Some("Bearer"));
    let (response, problem) = ask(&meter, asked("/models/echo", Some("guess"))).await;
    check(&response, &problem, 401, "UNAUTHENTICATED");
    assert_eq!(header(&response, "www-authenticate"), Some("Bearer error=\"invalid_token\""));
    // Who is not known is not told what there is.
    let (response, problem) = ask(&meter, asked("/models/secret", None)).await;
    check(&response, &problem, 401, "UNAUTHENTICATED");
    let (response, problem) = ask(&meter, asked("/models/secret", Some("s3cret"))).await;
    check(&response, &problem, 404, "MODEL_NOT_FOUND");
    assert_eq!(ask(&meter, asked("/models/echo", Some("s3cret"))).await.0.status(), StatusCode::OK);
    assert_eq!(ask(&meter, asked("/health", None)).await.0.status(), StatusCode::OK);
}

#[tokio::test]
async fn used_up_is_a_402_that_says_when_it_resets_and_what_to_do() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone())).clock(clock).build().unwrap();
    let (response, problem) = ask(&meter, request("alice", "none", Empty::<Bytes>::new())).await;
    check(&response, &problem, 402, "CREDITS_USED_UP");
    assert_eq!(header(&response, "x-should-retry"), Some("false"));
    assert_eq!(header(&response, "retry-after"), None);
    assert_eq!(problem["resets_at"], "2026-12-01T00:00:00Z");
    assert!(problem["detail"].as_str().unwrap().ends_with("Upgrade to PRO."));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_hold_is_a_429_and_never_called_used_up() {
    let clock = november();
    let meter =
        meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
    let mut running = Vec::new();
    for _ in 0..10 {
        let (feed, body) = Fed::new();
        let body = Once::new(body);
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let body = body.take();
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        let response = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        running.push((feed, response));
    }
    let (response, problem) = ask(&meter, request("alice", "ten", Empty::<Bytes>::new())).await;
    check(&response, &problem, 429, "CREDITS_ON_HOLD");
    assert_eq!(header(&response, "retry-after"), Some("1"));
    assert_eq!(problem.get("resets_at"), None);
    clock.advance(seconds(1));
    drop(running);
    let (response, problem) = ask(&meter, request("alice", "ten", Empty::<Bytes>::new())).await;
    check(&response, &problem, 402, "CREDITS_USED_UP");
    assert_eq!(settled(&meter, "alice", "ten", 10).await.used, nanos(10 * SLICE));
}

#[tokio::test]
async fn the_owners_own_limit_is_a_403() {
    let ledger = MemoryLedger::new();
    let alice = identity("alice", "pro").account;
    ledger.amend(&alice, Amendment::SpendingLimit(Some(nanos(0)))).await.unwrap();
    let meter = CreditMeter::new(
        tower_credits::Plan::from_toml(&PLAN.replace(
            "included = \"2.00\"\nwhen_used_up = \"pay",
            "included = \"0\"\nwhen_used_up = \"pay",
        ))
        .unwrap(),
        ledger.clone(),
        IdentityFromExtensions,
    );
    let (response, problem) = ask(&meter, request("alice", "pro", Empty::<Bytes>::new())).await;
    check(&response, &problem, 403, "SPENDING_LIMIT");
    assert_eq!(header(&response, "retry-after"), None);
    ledger.amend(&alice, Amendment::SpendingLimit(None)).await.unwrap();
    assert_eq!(
        ask(&meter, request("alice", "pro", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn request_rates_are_told_before_and_after_they_are_reached() {
    let meter = metered();
    let (response, _) = ask(&meter, request("alice", "slow", Empty::<Bytes>::new())).await;
    assert_eq!(header(&response, "ratelimit"), Some("\"requests\";r=1;t=10"));
    assert_eq!(header(&response, "ratelimit-policy"), Some("\"requests\";q=6;w=60"));
    assert_eq!(header(&response, "retry-after"), None);
    ask(&meter, request("alice", "slow", Empty::<Bytes>::new())).await;
    let (response, problem) = ask(&meter, request("alice", "slow", Empty::<Bytes>::new())).await;
    check(&response, &problem, 429, "REQUEST_RATE");
    let retry_after: u64 = header(&response, "retry-after").unwrap().parse().unwrap();
    assert!((9..=10).contains(&retry_after));
    assert_eq!(
        header(&response, "ratelimit"),
        Some(format!("\"requests\";r=0;t={retry_after}").as_str())
    );
    assert_eq!(header(&response, "ratelimit-policy"), Some("\"requests\";q=6;w=60"));
    // Another account has its own.
    assert_eq!(
        ask(&meter, request("bob", "slow", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn the_operators_mistakes_are_500s_and_full_nodes_503s() {
    let (response, problem) =
        ask(&metered(), request("alice", "platinum", Empty::<Bytes>::new())).await;
    check(&response, &problem, 500, "UNKNOWN_TIER");

    let meter = meter(MemoryLedger::new())
        .max_accounts(1.try_into().unwrap())
        .unavailable_status(StatusCode::TOO_MANY_REQUESTS)
        .build()
        .unwrap();
    assert_eq!(
        ask(&meter, request("alice", "pro", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK
    );
    let (response, problem) = ask(&meter, request("bob", "pro", Empty::<Bytes>::new())).await;
    check(&response, &problem, 429, "BUSY");
    assert_eq!(header(&response, "retry-after"), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn without_the_ledger_the_tier_decides_by_the_deadline() {
    let clock = november();
    let meter = meter(Broken).clock(clock.clone()).build().unwrap();
    let began = tokio::time::Instant::now();
    let (response, problem) = ask(&meter, request("alice", "free", Empty::<Bytes>::new())).await;
    check(&response, &problem, 503, "LEDGER_UNREACHABLE");
    assert_eq!(header(&response, "retry-after"), Some("1"));
    assert!((250..300).contains(&began.elapsed().as_millis()));
    // From then on the account does not wait to learn that, and once it is the same for three of
    // them, nobody does.
    for (user, waits) in [("alice", false), ("carol", true), ("dave", true), ("erin", false)] {
        let began = tokio::time::Instant::now();
        let (response, problem) = ask(&meter, request(user, "free", Empty::<Bytes>::new())).await;
        check(&response, &problem, 503, "LEDGER_UNREACHABLE");
        assert_eq!(began.elapsed().as_millis() > 0, waits, "{user}");
    }
    // PRO is allowed two slices.
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            clock.advance(seconds(1));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        },
    ));
    for expected in [200, 200, 503] {
        assert_eq!(
            service.clone().oneshot(request("bob", "pro", Empty::new())).await.unwrap().status(),
            expected
        );
    }
    let settlement = meter.shutdown().await;
    let [unsettled] = settlement.unsettled.as_slice() else { panic!("{settlement:?}") };
    assert_eq!((unsettled.account.as_str(), unsettled.amount), ("user:bob", nanos(2 * SLICE)));
}

/// Somebody else is asked who the caller is.
#[derive(Debug)]
struct AskedElsewhere;

impl tower_credits::identify::Identify for AskedElsewhere {
    fn identify(
        &self,
        head: tower_credits::identify::RequestHead<'_>,
    ) -> tower_credits::identify::Identifying {
        let who =
            head.headers.get("x-user").and_then(|who| who.to_str().ok()).map(ToOwned::to_owned);
        tower_credits::identify::Identifying::Later(Box::pin(async move {
            // Longer than the ledger's deadline, which does not count meanwhile.
            tokio::time::sleep(seconds(1)).await;
            match who.as_deref() {
                None => Err(tower_credits::identify::IdentifyError::Missing),
                Some("outsider") => Err(tower_credits::identify::IdentifyError::NotAMember),
                Some("unlucky") => Err(tower_credits::identify::IdentifyError::Unavailable(
                    std::sync::Arc::new(std::io::Error::other("down")),
                )),
                Some(who) => Ok(std::sync::Arc::new(identity(who, "pro"))),
            }
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn identities_may_come_later() {
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), AskedElsewhere)
        .clock(TokioClock)
        .build()
        .unwrap();
    let asked = |user: Option<&str>, path: &str| {
        let request = user
            .into_iter()
            .fold(Request::post(path), |request, user| request.header("x-user", user));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    assert_eq!(ask(&meter, asked(Some("alice"), "/models/echo")).await.0.status(), StatusCode::OK);
    for (user, path, status, reason) in [
        (None, "/models/echo", 401, "UNAUTHENTICATED"),
        (Some("outsider"), "/models/echo", 403, "NOT_A_MEMBER"),
        (Some("unlucky"), "/models/echo", 503, "CREDENTIALS_UNCHECKED"),
        (Some("alice"), "/models/none", 404, "MODEL_NOT_FOUND"),
        (None, "/models/none", 401, "UNAUTHENTICATED"),
    ] {
        let (response, problem) = ask(&meter, asked(user, path)).await;
        check(&response, &problem, status, reason);
    }
    assert_eq!(settled(&meter, "alice", "pro", 1).await.requests(), 1);
}

/// A handler that does not look at the method would run, with its input in the query.
#[tokio::test]
async fn a_preflight_passes_without_credentials_only_where_the_plan_says_so() {
    let preflight = |path: &str| {
        let request = Request::options(path).header("origin", "https://x.example");
        request.header("access-control-request-method", "POST")
    };
    let empty = |request: http::request::Builder| request.body(Full::new(Bytes::new())).unwrap();
    for (says, passes) in
        [("", false), ("preflight = \"refuse\"\n", false), ("preflight = \"free\"\n", true)]
    {
        let plan = tower_credits::Plan::from_toml(
            &PLAN.replace("[routes]\n", &format!("[routes]\n{says}")),
        )
        .unwrap();
        let meter = CreditMeter::new(plan, MemoryLedger::new(), BearerTokens::new());
        let (response, problem) = ask(&meter, empty(preflight("/models/echo?prompt=x"))).await;
        if passes {
            assert_eq!(response.status(), StatusCode::OK);
        } else {
            check(&response, &problem, 401, "UNAUTHENTICATED");
        }
        assert_eq!(
            ask(&meter, empty(preflight("/health"))).await.0.status(),
            StatusCode::OK,
            "what is free is free"
        );
        let with_input =
            preflight("/models/echo").body(Full::new(Bytes::from_static(b"a prompt"))).unwrap();
        let bare = empty(Request::options("/models/echo"));
        let upgrading = empty(preflight("/models/echo").header("upgrade", "websocket"));
        let (elsewhere, unheard_of) =
            (empty(preflight("/elsewhere")), empty(preflight("/models/unheard-of")));
        for request in [with_input, bare, upgrading, elsewhere, unheard_of] {
            let (response, problem) = ask(&meter, request).await;
            check(&response, &problem, 401, "UNAUTHENTICATED");
        }
    }
}

#[tokio::test]
async fn short_holds_and_deadlines_admit() {
    let plan = tower_credits::Plan::from_toml(&PLAN.replace("hold = \"100ms\"", "hold = \"5ms\""))
        .unwrap();
    let meter = CreditMeter::builder(plan, MemoryLedger::new(), IdentityFromExtensions)
        .ledger_timeout(std::time::Duration::from_millis(5))
        .build()
        .unwrap();
    assert_eq!(
        ask(&meter, request("alice", "quick", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn as_many_requests_run_at_once_as_may() {
    let text = PLAN.replace("[tiers.pro]", "[tiers.pro]\nmost_running = 2");
    let meter = CreditMeter::new(
        tower_credits::Plan::from_toml(&text).unwrap(),
        MemoryLedger::new(),
        IdentityFromExtensions,
    );
    let mut running = Vec::new();
    for _ in 0..2 {
        let (feed, body) = Fed::new();
        let body = Once::new(body);
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let body = body.take();
                async move { Ok::<_, Infallible>(Response::new(body)) }
            },
        ));
        running.push((feed, service.oneshot(request("alice", "pro", Empty::new())).await.unwrap()));
    }
    let (response, problem) = ask(&meter, request("alice", "pro", Empty::<Bytes>::new())).await;
    check(&response, &problem, 429, "TOO_MANY_RUNNING");
    assert_eq!(header(&response, "retry-after"), Some("1"));
    assert_eq!(
        ask(&meter, request("bob", "pro", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK
    );
    running.pop();
    eventually(async || {
        let (response, _) = ask(&meter, request("alice", "pro", Empty::<Bytes>::new())).await;
        (response.status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_shadow_mode_nothing_is_denied_or_stopped_and_everything_is_metered() {
    let clock = november();
    let shadow = || {
        meter(MemoryLedger::with_clock(clock.clone()))
            .clock(clock.clone())
            .shadow(true)
            .build()
            .unwrap()
    };
    let meter = shadow();
    let passing = clock.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            let passing = passing.clone();
            let clock = request
                .extensions()
                .get::<tower_credits::ComputeClock>()
                .expect("a handler finds its clock")
                .clone();
            async move {
                passing.advance(seconds(5));
                assert_eq!(clock.left(), std::time::Duration::MAX);
                // Long enough to be cut off, were this not shadow mode.
                tokio::time::sleep(seconds(5)).await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        },
    ));
    let status = async |request: Request<Empty<Bytes>>| {
        service.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for tier in ["none", "ten", "quick"] {
        assert_eq!(status(request(tier, tier, Empty::new())).await, 200, "{tier}");
        assert_eq!(settled(&meter, tier, tier, 1).await.used, nanos(5 * SLICE), "{tier}");
    }
    for _ in 0..3 {
        assert_eq!(status(request("slow", "slow", Empty::new())).await, 200);
    }
    settled(&meter, "slow", "slow", 3).await;
    assert_eq!(status(request("gold", "gold", Empty::new())).await, 200, "an unknown tier");
    assert_eq!(
        status(Request::post("/nowhere").body(Empty::new()).unwrap()).await,
        200,
        "nobody, nowhere"
    );
    let away =
        CreditMeter::builder(plan(), Broken, IdentityFromExtensions).shadow(true).build().unwrap();
    assert_eq!(
        ask(&away, request("alice", "free", Empty::<Bytes>::new())).await.0.status(),
        StatusCode::OK,
        "no ledger"
    );
}

#[tokio::test]
async fn denials_in_the_shape_that_openais_clients_read() {
    let meter = meter(MemoryLedger::new())
        .denial_format(tower_credits::DenialFormat::OpenAi)
        .build()
        .unwrap();
    let (response, body) = ask(&meter, request("alice", "none", Empty::<Bytes>::new())).await;
    assert_eq!(
        (response.status().as_u16(), header(&response, "content-type")),
        (402, Some("application/json"))
    );
    let error = &body["error"];
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str(), &error["param"]),
        (Some("insufficient_quota"), Some("credits_used_up"), &Value::Null)
    );
    assert!(error["message"].as_str().unwrap().ends_with("Upgrade to PRO."));
    let (_, body) =
        ask(&meter, Request::post("/models/echo").body(Empty::<Bytes>::new()).unwrap()).await;
    assert_eq!(body["error"]["type"], "authentication_error");
}

#[tokio::test(start_paused = true)]
async fn what_remains_is_told_where_that_is_set() {
    let clock = november();
    let tells = |on| {
        meter(MemoryLedger::with_clock(clock.clone()))
            .clock(clock.clone())
            .usage_headers(on)
            .build()
            .unwrap()
    };
    for (on, remaining, time) in [(true, Some("0.10"), Some("2.000000")), (false, None, None)] {
        let passing = clock.clone();
        let service = ServiceBuilder::new().layer(tells(on)).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                passing.advance(seconds(2));
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            },
        ));
        let (parts, _) =
            service.oneshot(request("alice", "free", Empty::new())).await.unwrap().into_parts();
        let response = Response::from_parts(parts, ());
        assert_eq!(
            (header(&response, "x-credits-remaining"), header(&response, "x-compute-time")),
            (remaining, time)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_grpc_call_is_answered_while_its_caller_goes_on_sending() {
    let asked_at = tokio::time::Instant::now();
    let (_never_ends, body) = Fed::new();
    let mut call = request("alice", "none", body);
    *call.version_mut() = http::Version::HTTP_2;
    call.headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/grpc+proto"));
    let service =
        ServiceBuilder::new().layer(metered()).service(service_fn(async |_: Request<Fed>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    let response = service.oneshot(call).await.unwrap();
    assert_eq!(
        (response.status(), response.headers()["grpc-status"].to_str().unwrap()),
        (StatusCode::OK, "8")
    );
    assert!(http_body::Body::is_end_stream(response.body()), "the head is all");
    assert_eq!(asked_at.elapsed(), std::time::Duration::ZERO);
}
