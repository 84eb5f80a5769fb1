//! Nobody is cut, or billed for less than was used, before the ledger has said no; and what runs is
//! settled as it goes.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    ComputeClock, CreditMeter, MemoryLedger, Plan,
    ledger::{Amendment, Ledger},
    meter::{CreditService, CutOff, End},
};

use crate::support::{bodies::Fed, switched::Switched, *};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

trait Streams:
    Service<Request<Empty<Bytes>>, Response = Response<Fed>, Error = Infallible, Future: Send> + Clone
{
}

impl<S> Streams for S where
    S: Service<Request<Empty<Bytes>>, Response = Response<Fed>, Error = Infallible, Future: Send>
        + Clone
{
}

/// What a running request of [`streaming`] is driven by.
type Begun = (ComputeClock, tokio::sync::mpsc::Sender<Bytes>);

/// A service that hands out its clocks and feeds, and streams what it is fed.
fn streaming(
    meter: &CreditMeter,
) -> (CreditService<impl Streams>, tokio::sync::mpsc::UnboundedReceiver<Begun>) {
    let (begun, told) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Empty<Bytes>>| {
        let (feed, body) = Fed::new();
        begun.send((request.extensions().get::<ComputeClock>().unwrap().clone(), feed)).unwrap();
        std::future::ready(Ok(Response::new(body)))
    });
    (ServiceBuilder::new().layer(meter.clone()).service(service), told)
}

/// A node that stands still for longer than a slice lasts: its timers fire together when it goes
/// on, in whatever order.
#[tokio::test(start_paused = true)]
async fn a_node_that_stands_still_cuts_nobody_who_has_credits() {
    for round in 0..60 {
        let mut rng = fastrand::Rng::with_seed(round);
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (service, mut told) = streaming(&meter);
        let mut running = Vec::new();
        for _ in 0..3 {
            let response =
                service.clone().oneshot(request("alice", "free", Empty::new())).await.unwrap();
            let (_, feed) = told.recv().await.unwrap();
            running.push((response, feed));
            tokio::time::sleep(millis(rng.u64(0..400))).await;
        }
        let mut sent = vec![0; running.len()];
        for _ in 0..8 {
            tokio::time::sleep(millis(rng.u64(0..900))).await;
            let one = rng.usize(0..running.len());
            running[one]
                .1
                .send(Bytes::from_static(b"x"))
                .await
                .unwrap_or_else(|_| panic!("round {round}: it was cut"));
            sent[one] += 1;
            tokio::time::sleep(millis(rng.u64(0..3))).await;
            tokio::time::advance(millis(rng.u64(600..3_000))).await;
        }
        for ((response, feed), sent) in running.into_iter().zip(sent) {
            drop(feed);
            assert_eq!(
                read(response).await.unwrap_or_else(|error| panic!("round {round}: {error}")).len(),
                sent,
                "round {round}"
            );
        }
        let statement = settled(&meter, "alice", "free", 3).await;
        let compute = i64::try_from(statement.compute().as_micros()).unwrap();
        assert!(
            (statement.used.as_nano_usd() - compute * 12 / 100).abs() <= 6,
            "all of it is billed: {statement:?}"
        );
    }
}

/// What is reported at once may be more than a slice: the ledger is asked before anybody is cut.
#[tokio::test(start_paused = true)]
async fn a_report_of_more_than_the_slice_cuts_nobody_who_has_credits() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "free", Empty::new())).await.unwrap();
    let (clock, feed) = told.recv().await.unwrap();
    for reported in [3, 7, 200] {
        clock.report(seconds(reported));
        feed.send(Bytes::from_static(b"x")).await.unwrap();
        tokio::time::sleep(millis(300)).await;
    }
    drop((feed, clock));
    assert_eq!(read(response).await.expect("it is not cut"), b"xxx");
    assert_eq!(settled(&meter, "alice", "free", 1).await.used, nanos(200 * SLICE));
}

/// It is cut with the reason that the ledger's answer gives, and its bill ends at the limit.
#[tokio::test(start_paused = true)]
async fn a_report_of_more_than_there_is_ends_with_the_reason_that_the_ledger_gives() {
    for (others, reason, used) in [(0, "CREDITS_USED_UP", 10), (3, "CREDITS_ON_HOLD", 7)] {
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (service, mut told) = streaming(&meter);
        let mut running = Vec::new();
        for _ in 0..others {
            // They have just begun, and hold a second each.
            running.push(
                service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap(),
            );
            running.last().map(|_| told.try_recv().map(std::mem::forget).unwrap()).unwrap();
        }
        let response =
            service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        let (clock, _feed) = told.recv().await.unwrap();
        clock.report(seconds(40));
        let error = read(response).await.unwrap_err().downcast::<CutOff>().unwrap();
        assert_eq!(error.rejection().reason(), reason);
        let statement = eventually(async || {
            let statement = statement(&meter, "alice", "ten").await;
            (statement.requests() == 1).then_some(statement)
        })
        .await;
        assert!(
            (nanos(used * SLICE)..nanos(used * SLICE + SLICE / 20)).contains(&statement.used),
            "{reason}: {}",
            statement.used
        );
    }
}

/// A request that ends with more used than was on hold for it is billed as far as its account can
/// pay, however it ends.
#[tokio::test(start_paused = true)]
async fn what_is_used_beyond_the_slice_when_it_ends_is_billed_as_far_as_the_account_can_pay() {
    for (tier, reported, billed) in
        [("free", 3, 3), ("ten", 40, 10), ("ten-finish", 40, 40), ("pro", 40, 40)]
    {
        for end in ["complete", "gone", "panics", "fails"] {
            let meter = meter(MemoryLedger::new()).build().unwrap();
            let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
                move |request: Request<Empty<Bytes>>| async move {
                    request.extensions().get::<ComputeClock>().unwrap().report(seconds(reported));
                    match end {
                        "gone" => std::future::pending().await,
                        "panics" => panic!("as asked"),
                        "fails" => Err("as asked"),
                        _ => Ok(Response::new(Empty::<Bytes>::new())),
                    }
                },
            ));
            let mut call = tokio::spawn(service.oneshot(request("alice", tier, Empty::new())));
            if end == "gone" {
                // It has reported, and is not looked at again.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                call.abort();
            }
            drop((&mut call).await);
            let statement = settled(&meter, "alice", tier, 1).await;
            assert_eq!(statement.used, nanos(billed * SLICE), "{tier}, {end}");
            assert_eq!(meter.shutdown().await.unsettled.len(), 0);
        }
    }
}

/// What is over its slice is seen when it is reported, however many frames passed before, and the
/// request ends as soon as the ledger has answered.
#[tokio::test(start_paused = true)]
async fn a_report_of_more_than_there_is_is_seen_when_it_comes() {
    for frames in [0, 1, 5, 40] {
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (service, mut told) = streaming(&meter);
        let response = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        let (clock, feed) = told.recv().await.unwrap();
        for _ in 0..frames {
            feed.send(Bytes::from_static(b"x")).await.unwrap();
        }
        tokio::time::sleep(millis(100)).await;
        clock.report(seconds(40));
        let began = tokio::time::Instant::now();
        feed.closed().await;
        assert!(
            began.elapsed() < millis(20),
            "after {frames} frames it was cut {:?} later",
            began.elapsed()
        );
        assert!(read(response).await.unwrap_err().is::<CutOff>());
        assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(10 * SLICE));
    }
}

/// A stopwatch runs on while nobody reads: credits end on time all the same.
#[tokio::test(start_paused = true)]
async fn what_a_service_tells_ends_its_credits_also_while_it_is_held_back() {
    let meter = meter(MemoryLedger::new()).read_ahead_per_response(1).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
    let (clock, feed) = told.recv().await.unwrap();
    let began = tokio::time::Instant::now();
    clock.start();
    for _ in 0..20 {
        tokio::time::sleep(millis(1)).await;
        feed.send(Bytes::from_static(b"x")).await.unwrap();
    }
    feed.closed().await;
    assert!((millis(9_950)..millis(10_050)).contains(&began.elapsed()), "{:?}", began.elapsed());
    drop(response);
    assert_eq!(settled(&meter, "alice", "ten", 1).await.used, nanos(10 * SLICE));
}

/// The same for one that starts its stopwatch only then, and for the most that one request may use.
#[tokio::test(start_paused = true)]
async fn a_stopwatch_that_is_started_while_the_service_is_held_back_ends_at_the_cap() {
    let plan =
        Plan::from_toml(&PLAN.replace("[tiers.pro]", "[tiers.pro]\nmost_per_request = \"80ms\""))
            .unwrap();
    let builder = CreditMeter::builder(
        plan,
        MemoryLedger::new(),
        tower_credits::identify::IdentityFromExtensions,
    )
    .clock(tower_credits::clock::TokioClock);
    let meter = builder.read_ahead_per_response(1).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    let (clock, feed) = told.recv().await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(millis(1)).await;
        feed.send(Bytes::from_static(b"x")).await.unwrap();
    }
    tokio::time::sleep(seconds(10)).await;
    assert!(!feed.is_closed(), "it is held back, and that costs nothing");
    let began = tokio::time::Instant::now();
    clock.start();
    feed.closed().await;
    assert!(began.elapsed() < millis(90), "{:?}", began.elapsed());
    drop(response);
    assert_eq!(settled(&meter, "alice", "pro", 1).await.used, nanos(9_600));
}

/// The service is held back while the ledger is asked about a frame in hand: that is nobody's
/// computation.
#[tokio::test(start_paused = true)]
async fn waiting_for_the_ledger_is_not_billed() {
    let ledger = Switched::default();
    ledger.takes(millis(200));
    let meter = meter(ledger).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "free", Empty::new())).await.unwrap();
    let (clock, feed) = told.recv().await.unwrap();
    drop(clock);
    // The node stands still beyond its slice, and finds a frame when it wakes.
    feed.send(Bytes::from_static(b"x")).await.unwrap();
    tokio::time::sleep(millis(20)).await;
    for _ in 0..3 {
        feed.try_send(Bytes::from_static(b"x")).unwrap();
        tokio::time::advance(millis(1_600)).await;
        tokio::time::sleep(millis(400)).await;
    }
    drop(feed);
    assert_eq!(read(response).await.expect("it is not cut").len(), 4);
    let compute = settled(&meter, "alice", "free", 1).await.compute();
    assert!((millis(5_400)..millis(6_050)).contains(&compute), "{compute:?}");
}

/// What is free by its head is not stopped, and holds nothing that others could use.
#[tokio::test(start_paused = true)]
async fn what_is_not_billed_is_not_cut_and_holds_nothing() {
    let meter = meter(MemoryLedger::new()).bill_if_head(|_| false).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "quick", Empty::new())).await.unwrap();
    let (_clock, feed) = told.recv().await.unwrap();
    eventually(async || statement(&meter, "alice", "quick").await.held.is_zero().then_some(()))
        .await;
    tokio::time::sleep(seconds(30)).await;
    feed.send(Bytes::from_static(b"x")).await.unwrap();
    drop(feed);
    assert_eq!(read(response).await.expect("it is not cut"), b"x");
    assert_eq!(settled(&meter, "alice", "quick", 0).await.used, nanos(0));
}

/// What a shutdown says that it settled is what was debited, however it came to that.
#[tokio::test(start_paused = true)]
async fn a_shutdown_says_all_that_was_settled() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let mut running = Vec::new();
    for reported in [5, 1, 7] {
        running
            .push(service.clone().oneshot(request("alice", "free", Empty::new())).await.unwrap());
        let (clock, feed) = told.recv().await.unwrap();
        std::mem::forget(feed);
        clock.report(millis(reported * 900));
    }
    let settlement = meter.shutdown().await;
    assert_eq!((settlement.settled, settlement.unsettled.len()), (nanos(13 * SLICE * 9 / 10), 0));
}

/// It ends with a shutdown, too.
#[tokio::test(start_paused = true)]
async fn a_shutdown_bills_what_is_used_beyond_the_slice() {
    for (tier, billed) in [("free", 5), ("quick", 300)] {
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (service, mut told) = streaming(&meter);
        let response = service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
        let (clock, _feed) = told.recv().await.unwrap();
        clock.report(seconds(5));
        let settlement = meter.shutdown().await;
        let expected = if tier == "free" { billed * SLICE } else { billed * SLICE / 1_000 };
        assert_eq!(
            (settlement.settled, settlement.unsettled.len()),
            (nanos(expected), 0),
            "{tier}"
        );
        drop(response);
        assert_eq!(settled(&meter, "alice", tier, 1).await.used, nanos(expected));
    }
}

/// Where the ledger gives no answer, that is what is said, after its deadline and not much later.
#[tokio::test(start_paused = true)]
async fn a_request_whose_ledger_is_silent_is_cut_with_that_reason() {
    let ledger = Switched::default();
    let meter = meter(ledger.clone()).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let response = service.oneshot(request("alice", "free", Empty::new())).await.unwrap();
    let (_clock, _feed) = told.recv().await.unwrap();
    let began = tokio::time::Instant::now();
    ledger.takes(seconds(3_600));
    let error = read(response).await.unwrap_err().downcast::<CutOff>().unwrap();
    assert_eq!(error.rejection().reason(), "LEDGER_UNREACHABLE");
    assert!((millis(990)..millis(1_300)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

/// What a stream has used is on the bill while it runs; the request is counted when it ends, and
/// nothing is counted twice.
#[tokio::test(start_paused = true)]
async fn what_runs_is_settled_as_it_goes() {
    for tier in ["free", "pro"] {
        let meter = meter(MemoryLedger::new()).build().unwrap();
        let (service, mut told) = streaming(&meter);
        let response = service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
        let (clock, feed) = told.recv().await.unwrap();
        drop(clock);
        let began = tokio::time::Instant::now();
        for _ in 0..40 {
            tokio::time::sleep(millis(257)).await;
            feed.send(Bytes::from_static(b"x")).await.unwrap();
            let statement = statement(&meter, "alice", tier).await;
            let behind = began.elapsed().saturating_sub(statement.compute());
            assert!(behind <= millis(510), "{tier}: {behind:?} of it are not settled");
            assert_eq!(
                (
                    statement.requests(),
                    statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum()
                ),
                (0, statement.used.as_nano_usd())
            );
        }
        drop(feed);
        assert_eq!(read(response).await.unwrap().len(), 40);
        let statement = settled(&meter, "alice", tier, 1).await;
        let compute = i64::try_from(statement.compute().as_micros()).unwrap();
        assert!((10_279_000..10_282_000).contains(&compute), "{compute} µs");
        assert!(
            (0..=1).contains(&(statement.used.as_nano_usd() - compute * 12 / 100)),
            "the parts are rounded as the whole is: {statement:?}"
        );
        assert_eq!(statement.lines.len(), 1);
    }
}

/// A service may still say that it computed for less than what is measured: then nothing is settled
/// before it did, or before it cannot any more.
#[tokio::test(start_paused = true)]
async fn what_may_still_be_reported_is_not_settled_in_advance() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let used = async || statement(&meter, "alice", "pro").await.used;
    let (mut clocks, mut feeds) = (Vec::new(), Vec::new());
    for reports in [true, false] {
        let response =
            service.clone().oneshot(request("alice", "pro", Empty::new())).await.unwrap();
        let (clock, feed) = told.recv().await.unwrap();
        tokio::time::sleep(seconds(5)).await;
        let before = used().await;
        if reports {
            assert_eq!(before, nanos(0), "it has its clock, and has said nothing");
            clock.report(seconds(2));
            tokio::time::sleep(seconds(1)).await;
            assert_eq!(used().await, nanos(2 * SLICE), "it has said something");
            clocks.push(clock);
        } else {
            assert_eq!(before, nanos(2 * SLICE), "those for this model report");
            drop(clock);
            tokio::time::sleep(seconds(1)).await;
            assert!(used().await > nanos(7 * SLICE), "nobody can report any more");
        }
        feeds.push(feed);
        drop(response);
        settled(&meter, "alice", "pro", 1 + u64::from(!reports)).await;
    }
    assert!(
        (nanos(8 * SLICE)..nanos(8 * SLICE + SLICE / 50)).contains(&used().await),
        "{}",
        used().await
    );
}

/// Before its head any response may bring a time of its own: what requests for its model did before
/// tells whether it will.
#[tokio::test(start_paused = true)]
async fn before_the_head_what_others_did_decides() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |request: Request<Empty<Bytes>>| {
            let time = request
                .headers()
                .get("x-time")
                .map_or(0, |time| time.to_str().unwrap().parse().unwrap());
            if request.headers().contains_key("x-refused") {
                return Ok(Response::builder().status(400).body(Empty::<Bytes>::new()).unwrap());
            }
            // Nobody can report with its clock any more.
            drop(request);
            tokio::time::sleep(seconds(time)).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    ));
    let call = |time: &'static str| {
        let mut request = request("alice", "free", Empty::new());
        request.headers_mut().insert("x-time", http::HeaderValue::from_static(time));
        tokio::spawn(service.clone().oneshot(request))
    };
    // One that is refused says nothing of those that are not.
    let mut refused = request("alice", "free", Empty::new());
    refused.headers_mut().insert("x-refused", http::HeaderValue::from_static("1"));
    assert_eq!(service.clone().oneshot(refused).await.unwrap().status(), StatusCode::BAD_REQUEST);
    settled(&meter, "alice", "free", 1).await;
    let first = call("4");
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(statement(&meter, "alice", "free").await.used, nanos(0));
    first.await.unwrap().unwrap();
    settled(&meter, "alice", "free", 2).await;
    let second = call("4");
    tokio::time::sleep(seconds(3)).await;
    let used = statement(&meter, "alice", "free").await.used;
    assert!(used >= nanos(4 * SLICE + SLICE * 24 / 10), "it is settled as it goes: {used}");
    second.await.unwrap().unwrap();
    let used = settled(&meter, "alice", "free", 3).await.used;
    assert!((nanos(8 * SLICE)..nanos(8 * SLICE + SLICE / 50)).contains(&used), "{used}");
}

/// A policy that decides at the end has decided nothing before; one that decides at the head has,
/// from then on.
#[tokio::test(start_paused = true)]
async fn what_is_not_decided_is_not_settled() {
    let builder = || meter(MemoryLedger::new());
    for (at_head, meter) in [
        (false, builder().bill_if(|ending| ending.end == End::Complete).build().unwrap()),
        (
            true,
            builder()
                .bill_if_head(|head| head.is_some_and(|head| head.status == StatusCode::OK))
                .build()
                .unwrap(),
        ),
    ] {
        for (status, ends) in [(200, true), (200, false), (500, true)] {
            let user = format!("alice-{status}-{ends}");
            let (body, feed) = {
                let (feed, body) = Fed::new();
                (Once::new(body), feed)
            };
            let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
                move |_: Request<Empty<Bytes>>| {
                    std::future::ready(Ok::<_, Infallible>(
                        Response::builder().status(status).body(body.take()).unwrap(),
                    ))
                },
            ));
            let response = service.oneshot(request(&user, "pro", Empty::new())).await.unwrap();
            tokio::time::sleep(seconds(5)).await;
            let used = statement(&meter, &user, "pro").await.used;
            assert_eq!(
                used > nanos(0),
                at_head && status == 200,
                "{user}, at the head: {at_head}: {used}"
            );
            if ends {
                drop(feed);
                read(response).await.unwrap();
            } else {
                drop(response);
            }
            let billed = if at_head { status == 200 } else { ends };
            let statement = settled(&meter, &user, "pro", u64::from(billed)).await;
            assert_eq!(statement.used > nanos(0), billed, "{user}, at the head: {at_head}");
        }
    }
    // One that ends without a head.
    for billable in [true, false] {
        let meter = builder().bill_if_head(move |head| head.is_some() || billable).build().unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            async |_: Request<Empty<Bytes>>| {
                tokio::time::sleep(seconds(3)).await;
                Err::<Response<Empty<Bytes>>, _>("no")
            },
        ));
        assert!(service.oneshot(request("alice", "pro", Empty::new())).await.is_err());
        settled(&meter, "alice", "pro", u64::from(billable)).await;
    }
}

/// A plan whose requests wait for each other: what one was granted is not taken by another, and
/// nobody is told no in its place.
#[tokio::test(start_paused = true)]
async fn what_the_ledger_gave_to_one_no_other_takes() {
    let plan =
        Plan::from_toml(&PLAN.replace("included = \"0.0012\"", "included = \"0.012\"")).unwrap();
    let meter = CreditMeter::builder(
        plan,
        MemoryLedger::new(),
        tower_credits::identify::IdentityFromExtensions,
    )
    .clock(tower_credits::clock::TokioClock)
    .build()
    .unwrap();
    let (service, mut told) = streaming(&meter);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut running = Vec::new();
    for _ in 0..30 {
        let response =
            service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let (clock, feed) = told.recv().await.unwrap();
        tokio::time::sleep(millis(rng.u64(0..60))).await;
        clock.report(millis(rng.u64(0..1_500)));
        running.push((response, clock, feed));
    }
    for (response, clock, feed) in running {
        drop((clock, feed));
        let mut body = Box::pin(response.into_body());
        assert!(body.frame().await.is_none(), "it has credits");
    }
    settled(&meter, "alice", "ten", 30).await;
}

/// PLAN with tiers whose accounts have a limit of another kind than included credits.
fn limited() -> Plan {
    let tiers = r#"
[tiers.daily]
included = "1.00"
when_used_up = "block"
most_per_day = "0.00036"
[tiers.owner]
included = "0"
when_used_up = "pay-as-you-go"
midway = "stop"
"#;
    Plan::from_toml(&format!("{PLAN}{tiers}")).unwrap()
}

fn reason_of(error: tower_credits::BoxError) -> &'static str {
    error.downcast::<CutOff>().expect("it is cut").rejection().reason()
}

/// A cut says whose limit it is.
#[tokio::test(start_paused = true)]
async fn a_cut_names_the_owners_limit_or_the_budget_that_is_used_up() {
    for (tier, reason) in [("owner", "SPENDING_LIMIT"), ("daily", "BUDGET")] {
        let ledger = MemoryLedger::new();
        let limit = Amendment::SpendingLimit(Some(nanos(3 * SLICE)));
        ledger.amend(&identity("alice", tier).account, limit).await.unwrap();
        let meter = meter(ledger).build().unwrap();
        meter.plan().replace(limited());
        let (service, mut told) = streaming(&meter);
        let response = service.oneshot(request("alice", tier, Empty::new())).await.unwrap();
        let (clock, _feed) = told.recv().await.unwrap();
        drop(clock);
        let error = read(response).await.expect_err("its limit ends it");
        assert_eq!(reason_of(error), reason, "{tier}");
        assert_eq!(settled(&meter, "alice", tier, 1).await.used, nanos(3 * SLICE), "{tier}");
    }
}

/// What is on hold for a request stays so if the limit is lowered to nothing, and it gets no more.
#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lowered_leaves_a_running_request_what_it_has_on_hold() {
    for (ran, on_hold) in [(millis(300), SLICE), (millis(700), SLICE + SLICE / 2)] {
        let ledger = MemoryLedger::new();
        let meter = meter(ledger.clone()).build().unwrap();
        meter.plan().replace(limited());
        let (service, mut told) = streaming(&meter);
        let response =
            service.clone().oneshot(request("alice", "owner", Empty::new())).await.unwrap();
        let (clock, _feed) = told.recv().await.unwrap();
        drop(clock);
        tokio::time::sleep(ran).await;
        let before = statement(&meter, "alice", "owner").await;
        let granted = before.used.as_nano_usd() + before.held.as_nano_usd();
        assert!((on_hold..on_hold + SLICE / 100).contains(&granted), "{before:?}");
        let nothing = Amendment::SpendingLimit(Some(nanos(0)));
        ledger.amend(&identity("alice", "owner").account, nothing).await.unwrap();
        let next = service.oneshot(request("alice", "owner", Empty::new())).await.unwrap();
        let reason = next.extensions().get().map(tower_credits::Rejection::reason);
        assert_eq!(reason, Some("SPENDING_LIMIT"));
        let error = read(response).await.expect_err("its limit ends it");
        assert_eq!(reason_of(error), "SPENDING_LIMIT");
        let used = settled(&meter, "alice", "owner", 1).await.used;
        assert_eq!(used, nanos(granted), "all that was on hold, after {ran:?}");
    }
}

/// A service that sends nothing more is cut when its credits end, as one is that sends frames.
#[tokio::test(start_paused = true)]
async fn a_service_that_falls_silent_is_cut_when_its_credits_end() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (service, mut told) = streaming(&meter);
    let began = tokio::time::Instant::now();
    let response = service.oneshot(request("alice", "quick", Empty::new())).await.unwrap();
    let (_, feed) = told.recv().await.unwrap();
    feed.send(Bytes::from_static(b"x")).await.unwrap();
    let read = tokio::time::timeout(seconds(60), response.into_body().collect()).await;
    let error = read.expect("it is cut").unwrap_err();
    assert!(error.is::<CutOff>(), "{error}");
    let took = began.elapsed();
    assert!((millis(299)..millis(310)).contains(&took), "{took:?}");
    drop(feed);
}
