//! How long a caller waits for a ledger that gives no answer, and who decides then.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::CreditMeter;

use crate::support::{switched::Switched, *};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn ask(meter: &CreditMeter, user: &str, tier: &str) -> StatusCode {
    let service = meter.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    service.oneshot(request(user, tier, Empty::new())).await.unwrap().status()
}

/// A ledger that answers with errors, and one that does not answer.
fn away() -> [(&'static str, Switched); 2] {
    let (failing, silent) = (Switched::default(), Switched::default());
    failing.off(true);
    silent.takes(seconds(3_600));
    [("failing", failing), ("silent", silent)]
}

/// Who is denied learns that no later than who is admitted.
#[tokio::test(start_paused = true)]
async fn without_a_ledger_an_allowance_admits_by_the_deadline_and_then_at_once() {
    for (tier, status) in [("pro", 200), ("free", 503)] {
        for (kind, ledger) in away() {
            let meter = meter(ledger).build().unwrap();
            // After three different accounts that waited nobody does.
            for (user, waits) in
                [("alice", true), ("bob", true), ("carol", true), ("dave", false), ("alice", false)]
            {
                // The worker hears of a call's end when its request does.
                tokio::time::sleep(ms(1)).await;
                let began = Instant::now();
                assert_eq!(ask(&meter, user, tier).await, status, "{user}, {tier}, {kind} ledger");
                let waited = began.elapsed();
                let range = if waits { ms(249)..ms(253) } else { ms(0)..ms(1) };
                assert!(range.contains(&waited), "{user}, {tier}, {kind} ledger: {waited:?}");
            }
        }
    }
}

/// The answer of a ledger may lie unread while the whole process stands still.
#[tokio::test(start_paused = true)]
async fn after_a_pause_of_the_process_an_answer_is_waited_for_another_100_ms() {
    for (answers_after, pause, status, waited) in [
        (ms(320), ms(0), 503, ms(250)),
        (ms(320), ms(280), 200, ms(320)),
        (ms(375), ms(280), 200, ms(375)),
        (ms(900), ms(280), 503, ms(380)),
    ] {
        let case = format!("an answer after {answers_after:?}, a pause of {pause:?}");
        let ledger = Switched::default();
        ledger.takes(answers_after);
        let meter = meter(ledger.clone()).build().unwrap();
        let began = Instant::now();
        let asking = tokio::spawn(async move { ask(&meter, "alice", "free").await });
        while ledger.most_under_way() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(pause).await;
        assert_eq!(asking.await.unwrap(), status, "{case}");
        let took = began.elapsed();
        assert!((waited - ms(1)..waited + ms(4)).contains(&took), "{case}: {took:?}");
    }
}
