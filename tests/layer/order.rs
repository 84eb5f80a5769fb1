//! In which order a node speaks to its ledger.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, MemoryLedger, Period,
    ledger::{Amendment, Answer, Ledger, LedgerFuture, Renewal, Statement, Terms},
};

use crate::support::{switched::Switched, *};

/// A ledger that takes its time for one account, and remembers who asked when.
#[derive(Clone, Debug)]
struct Far {
    ledger: MemoryLedger,
    for_bob: Duration,
    began: Instant,
    asked: Arc<Mutex<Vec<(String, Duration)>>>,
}

impl Ledger for Far {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        self.asked.lock().unwrap().push((account.to_string(), self.began.elapsed()));
        Box::pin(async move {
            if account.to_string() == "user:bob" {
                sleep(self.for_bob).await;
            }
            self.ledger.renew(account, period, renewal, within).await
        })
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

/// Alice's report is due `within` her request's end; bob asks so long before that. How many
/// microseconds after it was due was it sent?
async fn report_of_alice(within: Duration, before: Duration, for_bob: Duration) -> i128 {
    let asked = Arc::default();
    let ledger = Far {
        ledger: MemoryLedger::new(),
        for_bob,
        began: Instant::now(),
        asked: Arc::clone(&asked),
    };
    let began = ledger.began;
    let meter = meter(ledger).report_within(within).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())),
    ));
    assert_eq!(
        service.clone().oneshot(request("alice", "pro", Empty::new())).await.unwrap().status(),
        200
    );
    sleep((within - before).saturating_sub(began.elapsed())).await;
    assert_eq!(service.oneshot(request("bob", "pro", Empty::new())).await.unwrap().status(), 200);
    settled(&meter, "alice", "pro", 1).await;
    let asked: &Mutex<Vec<(String, Duration)>> = &asked;
    let asked = asked.lock().unwrap();
    assert_eq!(
        asked.iter().map(|(who, _)| who.as_str()).take(3).collect::<Vec<_>>(),
        ["user:alice", "user:bob", "user:alice"]
    );
    asked[2].1.as_micros().cast_signed() - within.as_micros().cast_signed()
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_sent_before_an_answer_that_somebody_waits_for() {
    let ms = Duration::from_millis;
    let late = report_of_alice(ms(100), ms(1), ms(3)).await;
    assert!((2_000..4_000).contains(&late), "right after bob has his answer, {late} us late");
}

#[tokio::test(start_paused = true)]
async fn but_five_milliseconds_later_it_is_however_long_reports_may_wait() {
    let ms = Duration::from_millis;
    // One that may wait for long is due up to 10 ms early, with those of others.
    for (within, early) in [(ms(100), ms(0)), (ms(5_000), ms(10))] {
        let late = report_of_alice(within, early + ms(1), ms(50)).await;
        let least = 5_000 - early.as_micros().cast_signed();
        assert!((least..8_000).contains(&late), "{late} us late, within {within:?}");
    }
}

/// Of accounts whose requests end one after the other, those that are due at nearly the same time
/// are reported at once, and none later than it may be.
#[tokio::test(start_paused = true)]
async fn reports_of_accounts_that_fall_due_close_together_are_sent_together() {
    let ms = Duration::from_millis;
    let asked = Arc::default();
    let ledger = Far {
        ledger: MemoryLedger::new(),
        for_bob: Duration::ZERO,
        began: Instant::now(),
        asked: Arc::clone(&asked),
    };
    let began = ledger.began;
    let meter = meter(ledger).report_within(ms(1_000)).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())),
    ));
    let mut ended = Vec::new();
    for user in 0..40 {
        let user = format!("user-{user}");
        let request = request(&user, "pro", Empty::new());
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 200);
        ended.push((format!("user:{user}"), began.elapsed()));
        sleep(ms(1)).await;
    }
    sleep(ms(1_100)).await;
    let asked: Vec<_> = asked.lock().unwrap().clone();
    let mut moments = Vec::new();
    for (account, ended) in ended {
        let reported: Vec<_> =
            asked.iter().filter(|(of, at)| *of == account && *at > ended).collect();
        let [(_, at)] = &reported[..] else { panic!("{account} was reported once: {reported:?}") };
        // The timer's resolution is a millisecond.
        let waited = *at - ended;
        assert!(waited <= ms(1_001) && waited + ms(10) >= ms(1_000), "{account}: {waited:?}");
        moments.push(*at);
    }
    moments.dedup();
    assert!((2..=7).contains(&moments.len()), "40 reports within 40 ms: {moments:?}");
}

/// All the way from a request's end to the ledger.
#[tokio::test(start_paused = true)]
async fn what_a_request_did_not_use_is_free_in_time_and_a_call_after_its_end() {
    let ms = Duration::from_millis;
    // With nine slices left, the one on hold is more than an eighth of the rest.
    for (tier, within) in [("free", ms(1_000)), ("ten", ms(100))] {
        for (call, runs) in [
            (ms(0), ms(1)),
            (ms(0), ms(70)),
            (ms(0), ms(540)),
            (ms(40), ms(1)),
            (ms(40), ms(260)),
            (ms(40), ms(1_999)),
        ] {
            let ledger = Switched::default();
            ledger.takes(call);
            let meter = meter(ledger).report_within(ms(1_000)).build().unwrap();
            // As the ledger has it: to ask the meter would have it reported.
            let (accounts, alice) = (meter.accounts(), Account::user("alice").unwrap());
            let month = statement(&meter, "bob", tier).await.period;
            let held = async || accounts.statement(&alice, month).await.unwrap().held;
            let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
                move |request: Request<Empty<Bytes>>| async move {
                    let is_first = request.headers().contains_key("first");
                    sleep(if is_first { ms(1_000) } else { runs }).await;
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                },
            ));
            let mut first = request("alice", tier, Empty::new());
            first.headers_mut().insert("first", "1".parse().unwrap());
            drop(service.clone().oneshot(first).await.unwrap());
            settled(&meter, "alice", tier, 1).await;
            drop(service.oneshot(request("alice", tier, Empty::new())).await.unwrap());
            let ended = Instant::now();
            assert!(held().await > nanos(SLICE / 3), "much of it is not used");
            while !held().await.is_zero() {
                let since = ended.elapsed();
                assert!(
                    since <= within + ms(1) + call,
                    "{tier}, a request of {runs:?}, calls of {call:?}: held {since:?} after its end"
                );
                sleep(ms(1)).await;
            }
            let since = ended.elapsed();
            assert!(since > within - ms(10), "{tier}: {since:?}, although nobody needs it");
        }
    }
}

/// Who asks for its own statement sees what it used on this node, also of a request that runs.
#[tokio::test(start_paused = true)]
async fn a_caller_who_asks_sees_at_once_what_it_used_on_this_node() {
    let ms = Duration::from_millis;
    for (call, is_away) in [(ms(0), false), (ms(40), false), (ms(0), true)] {
        let ledger = Switched::default();
        ledger.takes(call);
        let meter = meter(ledger.clone()).report_within(seconds(60)).build().unwrap();
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            async |_: Request<Empty<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            },
        ));
        for asked in 1..=3 {
            // Of each request the host makes another identity.
            let request = request("alice", "pro", Empty::new());
            drop(service.clone().oneshot(request).await.unwrap());
            let began = Instant::now();
            ledger.off(is_away && asked == 3);
            let statement = statement(&meter, "alice", "pro").await;
            let requests = if is_away && asked == 3 { 2 } else { asked };
            assert_eq!(statement.requests(), requests);
            let longest = if requests == asked { call * 2 + ms(8) } else { ms(260) };
            assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
        }
        // Nothing to report: nobody waits.
        let began = Instant::now();
        meter.statement(&identity("bob", "pro"), None).await.unwrap();
        assert!(began.elapsed() <= call + ms(2));
    }
}
