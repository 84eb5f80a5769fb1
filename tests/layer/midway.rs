//! What happens to running requests when their credits end.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    BoxError, CreditMeter, MemoryLedger,
    meter::{CutOff, MeterBody},
};

use crate::support::{bodies::Fed, *};

const LIMIT: i64 = 36_000;

/// Its requests hold 100 ms each, so that they are refilled before 300 ms are used up.
fn quick_meter() -> CreditMeter {
    meter(MemoryLedger::new())
        .ledger_timeout(Duration::from_millis(20))
        .report_within(Duration::from_millis(20))
        .build()
        .unwrap()
}

/// What the stream is said to be.
#[derive(Clone, Copy)]
struct Said {
    content_type: &'static str,
    encoding: Option<&'static str>,
}

const EVENTS: Said = Said { content_type: "text/event-stream; charset=utf-8", encoding: None };

/// A service that streams an event every ten milliseconds for as long as somebody listens, or until
/// `total` of them.
fn streaming(
    meter: &CreditMeter,
    said: Said,
    event: &'static str,
    total: usize,
) -> impl tower::Service<
    Request<Empty<Bytes>>,
    Response = Response<MeterBody<Fed>>,
    Error = Infallible,
    Future: Send,
> + use<> {
    ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| async move {
            let (feed, body) = Fed::new();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                for _ in 0..total {
                    ticks.tick().await;
                    if feed.send(Bytes::from_static(event.as_bytes())).await.is_err() {
                        break;
                    }
                }
            });
            let response = Response::builder().header(header::CONTENT_TYPE, said.content_type);
            let response = said.encoding.into_iter().fold(response, |response, encoding| {
                response.header(header::CONTENT_ENCODING, encoding)
            });
            Ok(response.body(body).unwrap())
        },
    ))
}

/// All data up to the end or the error, and when that was.
async fn listen<B>(response: Response<MeterBody<B>>) -> (String, Option<BoxError>, Instant)
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(response.into_body());
    let mut text = String::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
            Some(Err(error)) => return (text, Some(error), Instant::now()),
            None => return (text, None, Instant::now()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_cut_when_its_credits_end_and_its_bill_ends_at_the_limit() {
    let meter = quick_meter();
    let mut lateness = Vec::new();
    for round in 0..5 {
        let user = format!("alice-{round}");
        let began = Instant::now();
        let response = streaming(&meter, EVENTS, "data: 1\n\n", 1000)
            .oneshot(request(&user, "quick", Empty::new()))
            .await
            .unwrap();
        let (text, error, ended) = listen(response).await;
        assert!(error.is_none(), "an event stream ends with an event: {error:?}");
        let (events, last) =
            text.rsplit_once("event: error\ndata: ").expect("the last event is an error");
        assert!(events.split_inclusive("\n\n").all(|event| event == "data: 1\n\n"), "{events}");
        let problem: serde_json::Value = serde_json::from_str(last.trim_end()).unwrap();
        assert_eq!(
            (problem["reason"].as_str(), problem["status"].as_u64()),
            (Some("CREDITS_USED_UP"), Some(402))
        );
        let statement = settled(&meter, &user, "quick", 1).await;
        assert_eq!(
            (statement.used, statement.held),
            (nanos(LIMIT), nanos(0)),
            "to the nano-dollar"
        );
        assert!(ended.duration_since(began) >= Duration::from_millis(300), "not a moment too soon");
        lateness.push(ended.duration_since(began) - Duration::from_millis(300));
    }
    eprintln!("cut later than 300 ms after the call by {lateness:?}");
}

#[tokio::test]
async fn what_is_no_event_stream_or_not_between_events_ends_with_an_error() {
    let bytes = Said { content_type: "application/octet-stream", encoding: None };
    for (said, event) in [
        (bytes, "x"),
        (EVENTS, "data: unfinished\n"),
        (Said { encoding: Some("gzip"), ..EVENTS }, "data: 1\n\n"),
    ] {
        let meter = quick_meter();
        let response = streaming(&meter, said, event, 1000)
            .oneshot(request("alice", "quick", Empty::new()))
            .await
            .unwrap();
        let mut body = Box::pin(response.into_body());
        let error = loop {
            match body.frame().await.expect("never a clean end") {
                Ok(frame) => assert!(frame.is_data()),
                Err(error) => break Some(error),
            }
        };
        assert!(
            body.is_end_stream()
                && body.size_hint().exact() == Some(0)
                && body.frame().await.is_none(),
            "and nothing after it"
        );
        let error = error.expect("never a clean end").downcast::<CutOff>().unwrap();
        assert_eq!(error.rejection().reason(), "CREDITS_USED_UP");
        assert_eq!(settled(&meter, "alice", "quick", 1).await.used, nanos(LIMIT));
    }
}

#[tokio::test]
async fn before_the_head_it_is_a_402() {
    let meter = quick_meter();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |_: Request<Empty<Bytes>>| {
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        },
    ));
    let response = service.oneshot(request("alice", "quick", Empty::new())).await.unwrap();
    assert_eq!(response.status(), 402);
    assert_eq!(settled(&meter, "alice", "quick", 1).await.used, nanos(LIMIT));
}

#[tokio::test]
async fn a_request_that_may_finish_does_and_its_debt_shows() {
    let meter = quick_meter();
    let response = streaming(&meter, EVENTS, "data: 1\n\n", 60)
        .oneshot(request("alice", "quick-finish", Empty::new()))
        .await
        .unwrap();
    let (text, error, _) = listen(response).await;
    assert!(error.is_none());
    assert_eq!(text, "data: 1\n\n".repeat(60));
    let statement = settled(&meter, "alice", "quick-finish", 1).await;
    let cost = i64::try_from(statement.compute().as_micros()).unwrap() * 120 / 1000;
    assert!(
        statement.used > nanos(LIMIT) && (cost..=cost + 2).contains(&statement.used.as_nano_usd()),
        "{statement:?}"
    );
    // And the account is stopped from then on.
    let response = streaming(&meter, EVENTS, "", 1)
        .oneshot(request("alice", "quick-finish", Empty::new()))
        .await
        .unwrap();
    assert_eq!(response.status(), 402);
}

#[tokio::test]
async fn a_cut_tells_the_truth_about_what_is_on_hold_elsewhere() {
    let meter = quick_meter();
    // Two requests share 300 ms: the first to be cut is cut while the other still holds a part.
    let (first, second) = tokio::join!(
        streaming(&meter, EVENTS, "data: 1\n\n", 1000).oneshot(request(
            "alice",
            "quick",
            Empty::new()
        )),
        streaming(&meter, EVENTS, "data: 1\n\n", 1000).oneshot(request(
            "alice",
            "quick",
            Empty::new()
        )),
    );
    let ((first, ..), (second, ..)) = tokio::join!(listen(first.unwrap()), listen(second.unwrap()));
    for text in [first, second] {
        assert!(
            ["CREDITS_ON_HOLD", "CREDITS_USED_UP"].iter().any(|reason| text.contains(reason)),
            "{text}"
        );
    }
    assert_eq!(settled(&meter, "alice", "quick", 2).await.used, nanos(LIMIT));
    let response = streaming(&meter, EVENTS, "", 1)
        .oneshot(request("alice", "quick", Empty::new()))
        .await
        .unwrap();
    assert_eq!(response.status(), 402);
}

#[tokio::test]
async fn a_request_that_reaches_its_cap_is_cut_off_also_where_it_may_finish() {
    for (tier, cap) in [
        ("pro", "most_per_request = \"80ms\""),
        ("free", "most_per_request = { cost = \"0.0000096\" }"),
    ] {
        let text = PLAN.replace(&format!("[tiers.{tier}]"), &format!("[tiers.{tier}]\n{cap}"));
        let meter = CreditMeter::new(
            tower_credits::Plan::from_toml(&text).unwrap(),
            MemoryLedger::new(),
            tower_credits::identify::IdentityFromExtensions,
        );
        let response = streaming(&meter, EVENTS, "data: 1\n\n", 1000)
            .oneshot(request("alice", tier, Empty::new()))
            .await
            .unwrap();
        let (text, error, _) = listen(response).await;
        assert!(
            error.is_none()
                && text.contains("\"reason\":\"REQUEST_CAP\"")
                && text.contains("\"status\":403"),
            "{text}"
        );
        assert_eq!(
            settled(&meter, "alice", tier, 1).await.used,
            nanos(9_600),
            "80 ms, to the nano-dollar"
        );
        // It is the request that is too long; the account goes on.
        let response = streaming(&meter, EVENTS, "data: 1\n\n", 1)
            .oneshot(request("alice", tier, Empty::new()))
            .await
            .unwrap();
        assert!(listen(response).await.1.is_none());
    }
}

/// One that answers a gRPC call with something else has a reader who takes trailers for a clean
/// end.
#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_is_cut_with_trailers_only_where_its_answer_is_grpc() {
    for (content_type, length, has_trailers) in [
        ("application/grpc+proto", None, true),
        ("application/grpc", Some("100"), true),
        ("text/plain", None, false),
    ] {
        let clock = november();
        let meter =
            meter(MemoryLedger::with_clock(clock.clone())).clock(clock.clone()).build().unwrap();
        let (feed, body) = Fed::new();
        let body = Once::new(body);
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let response = Response::builder().header(header::CONTENT_TYPE, content_type);
                let response = length.into_iter().fold(response, |response, length| {
                    response.header(header::CONTENT_LENGTH, length)
                });
                let response = response.body(body.take()).unwrap();
                async move { Ok::<_, Infallible>(response) }
            },
        ));
        let mut call = request("alice", "quick", Empty::new());
        call.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        let response = service.oneshot(call).await.unwrap();
        // A length is announced where nothing but data follows.
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        let mut body = Box::pin(response.into_body());
        feed.send(Bytes::from_static(&[b'x'; 100])).await.unwrap();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        clock.advance(seconds(1));
        feed.send(Bytes::from_static(b"more")).await.unwrap();
        let next =
            tokio::spawn(
                async move { body.frame().await.unwrap().map_err(|error| error.to_string()) },
            );
        match next.await.unwrap() {
            Ok(frame) => assert!(
                has_trailers && frame.trailers_ref().unwrap()["grpc-status"] == "8",
                "{content_type}: {frame:?}"
            ),
            Err(error) => {
                assert!(!has_trailers && error.starts_with("cut off"), "{content_type}: {error}");
            }
        }
        assert_eq!(settled(&meter, "alice", "quick", 1).await.used, nanos(LIMIT));
    }
}

/// One that is admitted without a word to the ledger, while nothing else happens, is refilled in
/// time all the same.
#[tokio::test(start_paused = true)]
async fn who_is_admitted_locally_is_refilled_in_time() {
    let meter =
        meter(MemoryLedger::new()).hold_ahead(tower_credits::HoldAhead::default()).build().unwrap();
    let stream = |total| streaming(&meter, EVENTS, "data: 1\n\n", total);
    assert!(
        listen(stream(1).oneshot(request("alice", "free", Empty::new())).await.unwrap())
            .await
            .1
            .is_none()
    );
    // Its news are told, and its surplus is still there.
    tokio::time::sleep(seconds(5)).await;
    assert!(statement(&meter, "alice", "free").await.held > nanos(SLICE));
    let (text, error, _) =
        listen(stream(300).oneshot(request("alice", "free", Empty::new())).await.unwrap()).await;
    assert!(error.is_none() && text.len() == 300 * 9, "{error:?} after {} events", text.len() / 9);
}

/// So is one that begins on the little that another one left.
#[tokio::test(start_paused = true)]
async fn who_is_admitted_on_little_is_refilled_before_that_ends() {
    /// Its calendar goes with tokio's time, by which is counted how long ago terms were stated.
    #[derive(Clone, Debug)]
    struct Calendar(tokio::time::Instant);
    impl tower_credits::clock::Clock for Calendar {
        fn monotonic(&self) -> Duration {
            tower_credits::clock::TokioClock.monotonic()
        }
        fn unix_time(&self) -> tower_credits::clock::UnixTime {
            november().unix_time() + self.0.elapsed()
        }
    }
    let clock = Calendar(tokio::time::Instant::now());
    let ledger = MemoryLedger::with_clock(clock.clone());
    let meter =
        meter(ledger).clock(clock).ledger_timeout(Duration::from_millis(20)).build().unwrap();
    let stream = |total| streaming(&meter, EVENTS, "data: 1\n\n", total);
    // It held a tenth of a second, of which some 60 ms are left: more than the least, and less than
    // the next one's hold of a second.
    assert!(
        listen(stream(4).oneshot(request("alice", "quick", Empty::new())).await.unwrap())
            .await
            .1
            .is_none()
    );
    let (text, error, _) =
        listen(stream(50).oneshot(request("alice", "free", Empty::new())).await.unwrap()).await;
    assert!(error.is_none() && text.len() == 50 * 9, "{error:?} after {text}");
}

/// However rarely a node reports: what runs is refilled in time.
#[tokio::test(start_paused = true)]
async fn reports_that_wait_for_long_cut_no_stream_that_has_credits() {
    for (within, ahead) in [(60, false), (60, true), (10, false)] {
        let builder = meter(MemoryLedger::new()).report_within(seconds(within));
        let meter =
            if ahead { builder.hold_ahead(tower_credits::HoldAhead::default()) } else { builder }
                .build()
                .unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            async |_: http::Request<Empty<Bytes>>| {
                let frames = futures_util::stream::unfold(0, |sent| async move {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    (sent < 50).then(|| {
                        (
                            Ok::<_, std::convert::Infallible>(http_body::Frame::data(
                                Bytes::from_static(b"x"),
                            )),
                            sent + 1,
                        )
                    })
                });
                Ok::<_, std::convert::Infallible>(http::Response::new(
                    http_body_util::StreamBody::new(frames),
                ))
            },
        ));
        let response = service.oneshot(request("alice", "free", Empty::new())).await.unwrap();
        assert_eq!(
            read(response).await.expect("it is not cut").len(),
            50,
            "within {within} s, ahead: {ahead}"
        );
        let settlement = meter.shutdown().await;
        assert!(
            (nanos(5 * SLICE)..nanos(52 * SLICE / 10)).contains(&settlement.settled),
            "{}",
            settlement.settled
        );
    }
}

/// The account is not looked at for each frame, and no frame beyond the slice gets through all the
/// same.
#[tokio::test]
async fn the_first_frame_after_the_slice_is_the_end() {
    let one_slice = PLAN.replace("included = \"0.0012\"", "included = \"0.00012\"");
    for millis in [1_u64, 3, 7, 15] {
        let clock = november();
        let ledger = MemoryLedger::with_clock(clock.clone());
        let plan = tower_credits::Plan::from_toml(&one_slice).unwrap();
        let meter =
            CreditMeter::builder(plan, ledger, tower_credits::identify::IdentityFromExtensions)
                .clock(clock.clone())
                .build()
                .unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let clock = clock.clone();
                let frames = (0..2_000).map(move |_| {
                    clock.advance(Duration::from_millis(millis));
                    Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"x")))
                });
                let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
                std::future::ready(Ok::<_, Infallible>(Response::new(body)))
            },
        ));
        let (text, error, _) =
            listen(service.oneshot(request("alice", "ten", Empty::new())).await.unwrap()).await;
        assert!(error.is_some_and(|error| error.is::<CutOff>()));
        assert_eq!(
            text.len() as u64,
            (1_000 - 1) / millis,
            "frames of {millis} ms in a slice of 1 s"
        );
        assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(SLICE));
    }
}

/// Who asked for trailers reads there what a stream cost that was cut off.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_off_says_what_it_cost() {
    use http_body_util::BodyExt;
    let meter = meter(MemoryLedger::new()).usage_headers(true).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| {
            let (feed, body) = crate::support::bodies::Fed::new();
            tokio::spawn(async move {
                while feed.send(Bytes::from_static(b"data: {}\n\n")).await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            });
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert("content-type", http::HeaderValue::from_static("text/event-stream"));
            Ok::<_, Infallible>(response)
        },
    ));
    let mut asked = request("alice", "quick", Empty::new());
    asked.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    let response = service.oneshot(asked).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert!(text.contains("event: error\ndata: {"), "{text}");
    assert_eq!(trailers["x-cost-nano-usd"], "36000", "all that there was");
    assert_eq!(settled(&meter, "alice", "quick", 1).await.used, nanos(36_000));
}
