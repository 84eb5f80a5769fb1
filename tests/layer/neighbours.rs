//! One bad account, one panic of the host's code, one suspended moment: what it may cost, and that
//! it costs nobody else.

use std::{
    collections::HashSet,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, ComputeTime, CreditMeter, HoldAhead, MemoryLedger, Period, Rejection,
    clock::TokioClock,
    identify::{Identify, Identifying, IdentityFromExtensions, RequestHead},
    ledger::{Amendment, Answer, Ledger, LedgerError, LedgerFuture, Renewal, Statement, Terms},
    plan::DuringOutage,
};

use crate::support::{switched::Switched, *};

type Body = Empty<Bytes>;

async fn ask(meter: &CreditMeter, user: &str, tier: &str) -> StatusCode {
    asked(meter, request(user, tier, Body::new())).await.status()
}

async fn asked(
    meter: &CreditMeter,
    request: Request<Body>,
) -> Response<tower_credits::meter::MeterBody<Body>> {
    let service =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::new())));
    ServiceBuilder::new().layer(meter.clone()).service(service).oneshot(request).await.unwrap()
}

/// How a ledger fails some accounts.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It answers, with an error.
    Failed,
    Malformed,
    /// It cannot be reached for them.
    Unreachable,
    /// It does not answer.
    Silent,
    Panics,
}

/// A ledger that fails some accounts, and is well for all others.
#[derive(Clone, Debug)]
struct Failing {
    ledger: MemoryLedger,
    way: Way,
    bad: Arc<Mutex<HashSet<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Failing {
    fn new(way: Way, bad: &[&str]) -> Self {
        let bad = bad.iter().map(|user| format!("user:{user}")).collect();
        Self {
            ledger: MemoryLedger::new(),
            way,
            bad: Arc::new(Mutex::new(bad)),
            asked: Arc::default(),
        }
    }
}

impl Ledger for Failing {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        if !self.bad.lock().unwrap().contains(account.as_str()) {
            return self.ledger.renew(account, period, renewal, within);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.way {
            Way::Failed => Box::pin(async {
                Err(LedgerError::Failed { reason: "ERR upstream failure".into(), source: None })
            }),
            Way::Malformed => {
                Box::pin(async { Err(LedgerError::Malformed("tc:{user:x} seats \"many\"".into())) })
            }
            Way::Unreachable => Box::pin(async {
                Err(LedgerError::Unreachable { reason: "refused".into(), source: None })
            }),
            Way::Silent => Box::pin(std::future::pending()),
            Way::Panics => panic!("the host's ledger has a fault"),
        }
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        self.ledger.statement(account, period, terms)
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        self.ledger.amend(account, amendment)
    }
}

/// On a quiet node, where nobody else's answers tell that the ledger is well.
#[tokio::test(start_paused = true)]
async fn what_the_ledger_cannot_say_of_one_account_is_nobody_elses_denial() {
    for way in [Way::Failed, Way::Malformed, Way::Unreachable, Way::Silent, Way::Panics] {
        let ledger = Failing::new(way, &["mallory", "eve"]);
        let meter = meter(ledger.clone()).build().unwrap();
        let mut waits = Vec::new();
        for round in 0..20 {
            for bad in ["mallory", "eve"] {
                let began = Instant::now();
                assert_eq!(ask(&meter, bad, "free").await, 503, "{way:?}");
                waits.push(began.elapsed());
            }
            assert_eq!(ask(&meter, &format!("user-{round}"), "free").await, 200, "{way:?}");
            sleep(seconds(3)).await;
        }
        // Not even those who are denied wait for long: once it is known, not at all.
        assert!(waits.iter().filter(|wait| wait.is_zero()).count() > 20, "{way:?}: {waits:?}");
        let asked = ledger.asked.load(Ordering::SeqCst);
        assert!(
            (20..400).contains(&asked),
            "{way:?}: it is asked now and then: {asked} times in a minute"
        );
        // Once the ledger can say something of them, they are as others.
        ledger.bad.lock().unwrap().clear();
        eventually(async || (ask(&meter, "mallory", "free").await == 200).then_some(())).await;
        assert_eq!(meter.shutdown().await.unsettled, [], "{way:?}");
    }
}

/// However many accounts the ledger answers with an error, that is an answer: nobody is denied for
/// them. Nobody else's answers tell that here.
#[tokio::test(start_paused = true)]
async fn three_accounts_with_an_error_on_a_quiet_node_are_no_outage() {
    let (log, _guard) = crate::support::logs::Log::from(tracing::Level::ERROR);
    let bad = ["mallory", "eve", "trudy", "oscar"];
    for way in [Way::Failed, Way::Malformed] {
        let ledger = Failing::new(way, &bad);
        let meter = meter(ledger.clone()).build().unwrap();
        for round in 0..20 {
            for user in bad {
                assert_eq!(ask(&meter, user, "free").await, 503, "{way:?}");
            }
            let began = Instant::now();
            let user = format!("user-{round}");
            assert_eq!(ask(&meter, &user, "free").await, 200, "{way:?}, {round}");
            assert!(began.elapsed().is_zero(), "{way:?}: it waits for the bad ones");
            sleep(seconds(3)).await;
        }
        assert_eq!(log.lines(&["the ledger does not answer"]), [""; 0], "{way:?}");
        assert_eq!(meter.shutdown().await.unsettled, [], "{way:?}");
    }
}

/// An outage that only three have met is over for all when one of them is answered.
#[tokio::test(start_paused = true)]
async fn whoever_was_denied_without_being_asked_for_finds_out_when_the_ledger_is_back() {
    let ledger = Failing::new(Way::Silent, &["a", "b", "c", "d"]);
    let meter = meter(ledger.clone()).build().unwrap();
    for user in ["a", "b", "c"].repeat(4) {
        assert_eq!(ask(&meter, user, "free").await, 503);
    }
    let began = Instant::now();
    assert_eq!(ask(&meter, "d", "free").await, 503);
    assert!(began.elapsed().is_zero(), "the breaker is open");
    // The ledger is back, and nobody else asks for anything.
    ledger.bad.lock().unwrap().clear();
    sleep(seconds(5)).await;
    assert_eq!(ask(&meter, "d", "free").await, 200, "what it was denied had the ledger asked");
}

/// A clock of the host's that panics when it is read while it has a fault: the next time only, or
/// all the while.
#[derive(Clone, Debug)]
struct Faulty {
    fault: Arc<AtomicBool>,
    once: bool,
}

impl Faulty {
    fn check(&self) {
        let has_fault = self.fault.fetch_and(!self.once, Ordering::SeqCst);
        assert!(!has_fault, "the host's clock has a fault");
    }
}

impl tower_credits::clock::Clock for Faulty {
    fn monotonic(&self) -> Duration {
        self.check();
        tower_credits::clock::TokioClock.monotonic()
    }

    fn unix_time(&self) -> tower_credits::clock::UnixTime {
        self.check();
        november().unix_time()
    }
}

/// The worker goes on, whatever the host's code does in it.
#[tokio::test(start_paused = true)]
async fn a_clock_that_panics_once_stops_nothing() {
    let fault = Arc::new(AtomicBool::new(false));
    let clock = Faulty { fault: fault.clone(), once: true };
    let meter = meter(MemoryLedger::new()).clock(clock).build().unwrap();
    // All of them are to be looked at when it happens.
    let users = ["alice", "bob", "carol", "dave", "erin"];
    let all = futures_util::future::join_all(users.map(|user| ask(&meter, user, "free"))).await;
    assert_eq!(all, [200; 5].map(|status| StatusCode::from_u16(status).unwrap()));
    fault.store(true, Ordering::SeqCst);
    sleep(seconds(400)).await;
    assert!(!fault.load(Ordering::SeqCst), "it panicked in the worker");
    for user in users {
        assert_eq!(ask(&meter, user, "free").await, 200, "{user}");
        settled(&meter, user, "free", 2).await;
    }
    assert_eq!(meter.shutdown().await.unsettled, []);
}

/// The worker takes up its work while accounts are being made.
#[test]
fn first_requests_that_come_at_once_are_all_served() {
    let rounds = async {
        for _ in 0..300 {
            let meter = CreditMeter::builder(
                plan(),
                MemoryLedger::new(),
                tower_credits::identify::IdentityFromExtensions,
            );
            let meter = meter.ledger_timeout(seconds(5)).build().unwrap();
            let first = (0..16).map(|user| {
                let meter = meter.clone();
                tokio::spawn(async move { ask(&meter, &format!("user-{user}"), "free").await })
            });
            let all = futures_util::future::join_all(first).await;
            assert!(all.into_iter().all(|status| status.unwrap() == 200));
        }
    };
    // Threads that wait for each other's locks fire no timer.
    let (tell, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(rounds);
        tell.send(()).unwrap();
    });
    done.recv_timeout(seconds(60)).expect("nobody waits for ever");
}

#[test]
fn a_meter_outlives_the_runtime_of_its_first_request() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let ledger = MemoryLedger::new();
    let meter =
        CreditMeter::new(plan(), ledger.clone(), tower_credits::identify::IdentityFromExtensions);
    let first = runtime();
    assert_eq!(first.block_on(ask(&meter, "alice", "free")), 200);
    drop(first);
    let second = runtime();
    second.block_on(async {
        for user in ["alice", "bob"] {
            assert_eq!(ask(&meter, user, "free").await, 200, "{user}");
        }
        settled(&meter, "alice", "free", 2).await;
    });
    drop(second);
    assert_eq!(runtime().block_on(meter.shutdown()).unsettled, []);
}

#[tokio::test(start_paused = true)]
async fn what_panics_in_the_hosts_code_is_that_codes_failure() {
    // In a drop, while a handler panics: a second panic there would end the process.
    let meter = meter(MemoryLedger::new())
        .bill_if(|_| panic!("the host's policy has a fault"))
        .build()
        .unwrap();
    let service =
        meter.layer(service_fn(async |_: Request<Body>| -> Result<Response<Body>, Infallible> {
            panic!("the handler has a fault")
        }));
    let panicked = AssertUnwindSafe(service.oneshot(request("alice", "pro", Body::new())))
        .catch_unwind()
        .await;
    assert!(panicked.is_err());
    assert_eq!(settled(&meter, "alice", "pro", 1).await.requests(), 1, "it is billed");

    let meter = crate::support::meter(MemoryLedger::new())
        .classify(|_, _| panic!("the host's classifier has a fault"))
        .build()
        .unwrap();
    let response = asked(&meter, request("alice", "pro", Body::new())).await;
    assert_eq!(
        (response.status(), response.extensions().get()),
        (StatusCode::INTERNAL_SERVER_ERROR, Some(&Rejection::Unclassified))
    );

    #[derive(Debug)]
    struct Faulty(bool);
    impl Identify for Faulty {
        fn identify(&self, _: RequestHead<'_>) -> Identifying {
            assert!(self.0, "the host's check has a fault");
            Identifying::Later(Box::pin(async { panic!("the host's check has a fault") }))
        }
    }
    for later in [false, true] {
        let meter = CreditMeter::new(plan(), MemoryLedger::new(), Faulty(later));
        assert_eq!(ask(&meter, "alice", "pro").await, 503);
    }
}

/// What is only remembered makes room.
#[tokio::test(start_paused = true)]
async fn accounts_of_an_outage_or_of_shadow_mode_do_not_fill_a_node_for_a_month() {
    let most = 20;
    let allowing =
        PLAN.replace("[tiers.free]\n", "[tiers.free]\nduring_outage = { allow = \"0.001\" }\n");
    for shadow in [false, true] {
        let ledger = crate::support::switched::Switched::default();
        let builder =
            meter(ledger.clone()).clock(november()).max_accounts(most.try_into().unwrap());
        let meter = if shadow { builder.shadow(true) } else { builder }.build().unwrap();
        meter.plan().replace(tower_credits::Plan::from_toml(&allowing).unwrap());
        assert!(matches!(
            meter.plan().current().tier(&"free".parse().unwrap()).unwrap().during_outage,
            DuringOutage::Allow(_)
        ));
        ledger.off(true);
        for number in 0..most {
            assert_eq!(ask(&meter, &format!("early-{number}"), "free").await, 200);
        }
        ledger.off(false);
        // Their leases say goodbye.
        sleep(seconds(3_600)).await;
        for number in 0..3 * most {
            assert_eq!(
                ask(&meter, &format!("later-{number}"), "free").await,
                200,
                "shadow {shadow}, {number}"
            );
            sleep(seconds(60)).await;
        }
    }
}

/// Monotonic time stands still while a node is suspended, and what it held has been given to others
/// since.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_suspended_asks_before_it_admits() {
    let (ledger, clock) = (crate::support::switched::Switched::default(), november());
    let meter = meter(ledger.clone())
        .clock(clock.clone())
        .hold_ahead(HoldAhead::default())
        .build()
        .unwrap();
    assert_eq!(ask(&meter, "alice", "free").await, 200);
    assert_eq!(ask(&meter, "alice", "free").await, 200);
    ledger.off(true);
    assert_eq!(ask(&meter, "alice", "free").await, 200, "on what it holds ahead");
    sleep(seconds(1)).await;
    tower_credits::clock::Clock::unix_time(&clock);
    clock.set_unix_time(tower_credits::clock::Clock::unix_time(&clock) + seconds(700));
    assert_eq!(ask(&meter, "alice", "free").await, 503, "the ledger is asked, and does not answer");
    ledger.off(false);
    eventually(async || (ask(&meter, "alice", "free").await == 200).then_some(())).await;
}

/// What was asked for before the node slept is asked for again when it wakes, if somebody still
/// waits for it.
#[tokio::test(start_paused = true)]
async fn who_waited_while_a_node_was_suspended_is_asked_for_again() {
    let (ledger, clock) = (crate::support::switched::Switched::default(), november());
    let meter = meter(ledger.clone()).clock(clock.clone()).build().unwrap();
    ledger.takes(seconds(1) / 10);
    for (user, sleeps, takes) in [("alice", false, 100), ("bob", true, 200)] {
        let began = Instant::now();
        let suspended = async {
            sleep(seconds(1) / 20).await;
            if sleeps {
                clock.set_unix_time(tower_credits::clock::Clock::unix_time(&clock) + seconds(700));
            }
        };
        let (status, ()) = tokio::join!(ask(&meter, user, "free"), suspended);
        assert_eq!(status, 200);
        let took = began.elapsed().as_millis();
        assert!((takes..takes + 50).contains(&took), "{took} ms");
    }
}

/// The task that asks the ledger ends with the runtime that it is on, and others wait for what it
/// asked.
#[test]
fn who_waits_when_the_workers_runtime_ends_is_asked_for_by_another() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let ledger = crate::support::switched::Switched::default();
    let builder = CreditMeter::builder(
        plan(),
        ledger.clone(),
        tower_credits::identify::IdentityFromExtensions,
    );
    let meter = builder.ledger_timeout(seconds(5)).build().unwrap();
    let (first, second) = (runtime(), runtime());
    assert_eq!(first.block_on(ask(&meter, "alice", "free")), 200);
    ledger.takes(seconds(1));
    let asking = second.spawn({
        let meter = meter.clone();
        async move { ask(&meter, "bob", "free").await }
    });
    second.block_on(eventually(async || (ledger.most_under_way() > 0).then_some(())));
    let began = std::time::Instant::now();
    drop(first);
    assert_eq!(second.block_on(asking).unwrap(), 200);
    assert!(began.elapsed() < seconds(5), "before its deadline");
    assert_eq!(second.block_on(meter.shutdown()).unsettled, []);
}

/// A second panic, in a drop, would end the process.
#[tokio::test(start_paused = true)]
async fn a_clock_that_panics_while_a_handler_panics_ends_nothing() {
    let fault = Arc::new(AtomicBool::new(false));
    let meter = meter(MemoryLedger::new())
        .clock(Faulty { fault: fault.clone(), once: false })
        .build()
        .unwrap();
    let handler = {
        let fault = fault.clone();
        service_fn(move |_: Request<Body>| {
            let fault = fault.clone();
            async move {
                sleep(seconds(1)).await;
                if fault.swap(true, Ordering::SeqCst) {
                    return Ok::<_, Infallible>(Response::new(Body::new()));
                }
                panic!("the handler has a fault")
            }
        })
    };
    let panicked =
        AssertUnwindSafe(meter.layer(handler).oneshot(request("alice", "pro", Body::new())))
            .catch_unwind()
            .await;
    assert!(panicked.is_err());
    fault.store(false, Ordering::SeqCst);
    let statement = settled(&meter, "alice", "pro", 1).await;
    assert!(statement.used <= nanos(SLICE), "what the clock said last counts: {statement:?}");
    assert_eq!(ask(&meter, "alice", "pro").await, 200);
    assert_eq!(meter.shutdown().await.unsettled, []);
}

/// Nothing is owed of it, so nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_malformed_account_keeps_no_shutdown_waiting() {
    let ledger = Failing::new(Way::Malformed, &[]);
    let meter = meter(ledger.clone()).build().unwrap();
    assert_eq!(ask(&meter, "mallory", "free").await, 200);
    settled(&meter, "mallory", "free", 1).await;
    ledger.bad.lock().unwrap().insert("user:mallory".to_owned());
    for _ in 0..5 {
        assert_eq!(ask(&meter, "mallory", "free").await, 503);
        sleep(seconds(1)).await;
    }
    let began = Instant::now();
    assert_eq!(meter.shutdown().await.unsettled, []);
    assert!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
}

/// The log names each of them, with its reason, and is not filled by them.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_renewed_is_logged_once_a_minute_for_each_account() {
    let (log, _guard) = crate::support::logs::Log::of_this_thread();
    let meter = meter(Failing::new(Way::Malformed, &["mallory", "eve"])).build().unwrap();
    for _ in 0..300 {
        for bad in ["mallory", "eve"] {
            assert_eq!(ask(&meter, bad, "free").await, 503);
        }
        sleep(seconds(1)).await;
    }
    for bad in ["mallory", "eve"] {
        let lines = log.lines(&[&format!("account=user:{bad}"), "could not be renewed"]);
        assert!((5..=6).contains(&lines.len()), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("tc:{user:x} seats")), "{lines:?}");
    }
}

/// Past what one amount can be, an account is told so, its holds return, and nothing is tried for
/// ever.
#[tokio::test(start_paused = true)]
async fn past_the_largest_amount_an_account_is_told_so() {
    let dear = PLAN.replace("price_per_second = \"0.00012\"", "price_per_second = \"4000000\"");
    let meter = meter(MemoryLedger::new()).clock(november()).build().unwrap();
    meter.plan().replace(tower_credits::Plan::from_toml(&dear).unwrap());
    // The second uses more than there is room for.
    for takes in [1, 2] {
        let service = service_fn(move |_: Request<Body>| {
            let response = Response::builder()
                .extension(tower_credits::ComputeTime(seconds(takes)))
                .body(Body::new())
                .unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let service = ServiceBuilder::new().layer(meter.clone()).service(service);
        assert_eq!(
            service.oneshot(request("alice", "pro", Body::new())).await.unwrap().status(),
            200
        );
        eventually(async || statement(&meter, "alice", "pro").await.held.is_zero().then_some(()))
            .await;
    }
    let full = eventually(async || {
        let statement = statement(&meter, "alice", "pro").await;
        (statement.used == tower_credits::Credits::MAX && statement.held.is_zero())
            .then_some(statement)
    })
    .await;
    let lines: i64 = full.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
    assert_eq!(lines, full.used.as_nano_usd());
    let response = asked(&meter, request("alice", "pro", Body::new())).await;
    assert_eq!(response.status(), 402);
    assert!(matches!(response.extensions().get(), Some(Rejection::LargestAmount { .. })));
    assert_eq!(meter.shutdown().await.unsettled, []);
}

/// Two tokens of one account may have different tiers.
#[tokio::test(start_paused = true)]
async fn tiers_that_take_turns_do_not_reset_an_accounts_request_rate() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let faster = "[tiers.faster]\nincluded = \"2.00\"\nwhen_used_up = \"block\"\nrequests = { count = 6, per = \"1h\", burst = 3 }\n";
    meter.plan().replace(tower_credits::Plan::from_toml(&format!("{PLAN}{faster}")).unwrap());
    let mut served = 0;
    for turn in 0..100 {
        served += usize::from(ask(&meter, "alice", ["slow", "faster"][turn % 2]).await == 200);
    }
    assert_eq!(served, 2 + 3);
}

/// The ledger's clock goes to another hour or month and back while requests run; wherever they were
/// debited, it was once.
#[tokio::test(start_paused = true)]
async fn whatever_the_ledgers_clock_does_the_bills_add_up() {
    let month: Period = "2026-11".parse().unwrap();
    let mut elsewhere = 0;
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ledgers = november();
        let right = || month.begins() + seconds(15 * 86_400);
        let ahead = rng.bool().then(HoldAhead::default);
        let ledger = MemoryLedger::with_clock(ledgers.clone());
        let clock = november();
        let builder = meter(ledger.clone()).clock(clock.clone());
        let meter = if let Some(ahead) = ahead { builder.hold_ahead(ahead) } else { builder }
            .build()
            .unwrap();
        clock.set_unix_time(right());
        ledgers.set_unix_time(right());
        let mut served = 0;
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            async |_: Request<Body>| {
                sleep(seconds(1) / 20).await;
                let response = Response::builder()
                    .extension(tower_credits::ComputeTime(seconds(1)))
                    .body(Body::new())
                    .unwrap();
                Ok::<_, Infallible>(response)
            },
        ));
        for _ in 0..40 {
            if rng.u8(0..4) == 0 {
                let by = [seconds(3_600), seconds(86_400), seconds(30 * 86_400), Duration::ZERO]
                    [rng.usize(0..4)];
                ledgers.set_unix_time(if rng.bool() { right() + by } else { right() - by });
            }
            let asking = (0..rng.usize(1..4))
                .map(|_| service.clone().oneshot(request("alice", "pro", Body::new())));
            for response in futures_util::future::join_all(asking).await {
                served += i64::from(response.unwrap().status() == 200);
            }
            sleep(Duration::from_millis(rng.u64(0..400))).await;
        }
        ledgers.set_unix_time(right());
        sleep(seconds(if rng.bool() { 700 } else { 1 })).await;
        assert_eq!(meter.shutdown().await.unsettled, [], "seed {seed}");
        let mut used = Vec::new();
        for month in [month.previous(), month, month.next()] {
            let statement =
                ledger.statement(&Account::user("alice").unwrap(), month, None).await.unwrap();
            let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
            assert_eq!(
                (lines, statement.held),
                (statement.used.as_nano_usd(), nanos(0)),
                "seed {seed}, {month}"
            );
            used.push(lines);
        }
        assert_eq!(used.iter().sum::<i64>(), served * SLICE, "seed {seed}: {used:?}");
        assert!(served > 20, "seed {seed}: {served} served");
        elsewhere += usize::from(used[0] + used[2] > 0);
    }
    assert!(elsewhere > 20, "in {elsewhere} of 60 something was debited in another month");
}

/// Holds that expire early are granted a second time, and nothing else is.
#[tokio::test(start_paused = true)]
async fn if_the_ledgers_clock_steps_ahead_the_limit_is_passed_by_what_was_on_hold_at_most() {
    let (clock, ledgers) = (november(), november());
    let ledger = MemoryLedger::with_clock(ledgers.clone());
    let node = || meter(ledger.clone()).clock(clock.clone()).build().unwrap();
    let nodes = [node(), node()];
    let (release, released) = tokio::sync::watch::channel(false);
    let asked = |node: &CreditMeter, waits: bool| {
        let released = released.clone();
        let service = ServiceBuilder::new().layer(node.clone()).service(service_fn(
            move |_: Request<Body>| {
                let mut released = released.clone();
                async move {
                    if waits {
                        released.wait_for(|released| *released).await.unwrap();
                    }
                    // More than is on hold for it.
                    let time = tower_credits::ComputeTime(seconds(if waits { 3 } else { 1 }));
                    Ok::<_, Infallible>(
                        Response::builder().extension(time).body(Body::new()).unwrap(),
                    )
                }
            },
        ));
        tokio::spawn(service.oneshot(request("alice", "ten", Body::new())))
    };
    let running: Vec<_> = (0..4).map(|_| asked(&nodes[0], true)).collect();
    let held = async || statement(&nodes[0], "alice", "ten").await.held;
    eventually(async || (held().await == nanos(4 * SLICE)).then_some(())).await;
    ledgers.advance(seconds(3_600));
    let mut served = 0;
    while asked(&nodes[1], false).await.unwrap().unwrap().status() == 200 {
        served += 1;
        assert!(served <= 10, "the limit is ten seconds");
    }
    assert_eq!(served, 10, "what is on hold has expired");
    release.send(true).unwrap();
    for request in running {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    let statement = settled(&nodes[0], "alice", "ten", 14).await;
    assert_eq!((statement.limit, statement.used), (nanos(10 * SLICE), nanos(14 * SLICE)));
}

/// The worker and requests share threads: however many accounts are due at once, others have their
/// turn.
#[tokio::test(start_paused = true)]
async fn accounts_that_are_due_at_once_keep_nobody_waiting() {
    const ACCOUNTS: usize = 5_000;
    let ledger = Switched::default();
    let builder = CreditMeter::builder(plan(), ledger.clone(), IdentityFromExtensions);
    let meter = builder.clock(TokioClock).build().unwrap();
    let service = meter.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        let answer = Response::builder().extension(ComputeTime(Duration::from_millis(1)));
        Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
    }));
    for user in 0..ACCOUNTS {
        let request = request(&format!("user-{user}"), "pro", Empty::new());
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 200);
    }
    let before = ledger.examined();
    // It gives others their turn, too.
    tokio::time::advance(seconds(3)).await;
    let (mut most, mut last) = (0, before);
    while last < before + ACCOUNTS {
        let now = ledger.examined();
        (most, last) = (most.max(now - last), now);
        tokio::task::yield_now().await;
    }
    assert!(most <= 1_000, "{most} accounts were examined in one turn");
}
