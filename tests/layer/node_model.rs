//! A whole node on paused time against a plain model: random requests, clients that leave, grants,
//! and a ledger that is away, slow, or there. What is billed is what ran, to the millisecond, and
//! never more than an account may use.
//!
//! `NODE_MODELS` sets how many histories are played.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use proptest::prelude::*;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{CreditMeter, clock::TokioClock, identify::IdentityFromExtensions};

use crate::support::{switched::Switched, *};

/// Two accounts that are stopped at their limit, one that finishes, one that pays as it goes.
const USERS: [(&str, &str); 4] =
    [("ann", "ten"), ("ben", "quick"), ("cat", "ten-finish"), ("dan", "pro")];

/// What a millisecond costs.
const PER_MILLI: i64 = 120;

/// The longest that a request runs on beyond what is paid, until it is cut, if the ledger answers
/// each call in its time.
const MOST_UNPAID_MILLIS: i64 = 300;

/// The same if it does not: the time of a renewal that was sent before and fails, the longest pause
/// after one, the time of the next, and a millisecond for each by which tokio's timers are late.
const MOST_UNPAID_UNANSWERED_MILLIS: i64 = 250 + 100 + 250 + 3;

#[derive(Clone, Debug)]
enum Step {
    /// A request comes that runs for so many milliseconds.
    Begin {
        user: usize,
        runs: u64,
    },
    Pass(u64),
    /// The client of the request that has run for longest leaves.
    Leave,
    LedgerOff(bool),
    LedgerTakes(u64),
    /// The first account gets more credits, in slices.
    Grant(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..USERS.len(), prop_oneof![0..20_u64, 1..500_u64, 1_000..9_000_u64])
            .prop_map(|(user, runs)| Step::Begin { user, runs }),
        5 => prop_oneof![1..50_u64, 100..3_000_u64].prop_map(Step::Pass),
        2 => Just(Step::Leave),
        1 => any::<bool>().prop_map(Step::LedgerOff),
        1 => (0..400_u64).prop_map(Step::LedgerTakes),
        1 => (1..5_i64).prop_map(Step::Grant),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a user's requests did.
#[derive(Clone, Copy, Default)]
struct Account {
    /// Milliseconds that the service ran for them.
    ran: i64,
    /// Requests that were denied or cut.
    not_served: i64,
    granted: i64,
}

/// Plays a history. Returns what is wrong with the bills.
async fn play(history: Vec<Step>) -> Result<(), String> {
    let ledger = Switched::default();
    let meter = CreditMeter::builder(plan(), ledger.clone(), IdentityFromExtensions)
        .clock(TokioClock)
        .build()
        .unwrap();
    // The service tells how long it ran, however it ended.
    let ran: std::sync::Arc<std::sync::Mutex<[Account; 4]>> = std::sync::Arc::default();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn({
        let ran = ran.clone();
        move |request: Request<Empty<Bytes>>| {
            let user: usize = request.headers()["x-user"].to_str().unwrap().parse().unwrap();
            let runs: u64 = request.headers()["x-runs"].to_str().unwrap().parse().unwrap();
            let stopwatch = Stopwatch { began: Instant::now(), user, ran: ran.clone() };
            async move {
                sleep(Duration::from_millis(runs)).await;
                drop(stopwatch);
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        }
    }));
    let is_unanswered =
        |step: &Step| matches!(step, Step::LedgerOff(true) | Step::LedgerTakes(250..));
    let most_unpaid = if history.iter().any(is_unanswered) {
        MOST_UNPAID_UNANSWERED_MILLIS
    } else {
        MOST_UNPAID_MILLIS
    };
    let (mut running, mut answered) = (Vec::new(), Vec::new());
    for step in history {
        match step {
            Step::Begin { user, runs } => {
                let (name, tier) = USERS[user];
                let mut request = request(name, tier, Empty::<Bytes>::new());
                request.headers_mut().insert("x-user", user.into());
                request.headers_mut().insert("x-runs", runs.into());
                let task = tokio::spawn(service.clone().oneshot(request));
                running.push((user, task));
            }
            Step::Pass(millis) => sleep(Duration::from_millis(millis)).await,
            Step::Leave => {
                if !running.is_empty() {
                    let (user, task): (usize, JoinHandle<_>) = running.remove(0);
                    if task.is_finished() {
                        // It has its answer, and is gone already.
                        answered.push((user, task));
                    } else {
                        task.abort();
                    }
                }
            }
            Step::LedgerOff(off) => ledger.off(off),
            Step::LedgerTakes(millis) => ledger.takes(Duration::from_millis(millis)),
            Step::Grant(slices) => {
                ledger.off(false);
                let account = identity(USERS[0].0, USERS[0].1).account;
                let id = format!("order-{}", fastrand::u64(..)).parse().unwrap();
                let accounts = meter.accounts();
                accounts.grant(&account, id, nanos(slices * SLICE), None).await.unwrap();
                ran.lock().unwrap()[0].granted += slices * SLICE;
            }
        }
    }
    ledger.off(false);
    ledger.takes(Duration::ZERO);
    for (user, task) in answered.into_iter().chain(running) {
        let status = task.await.unwrap().unwrap().status();
        let is_known = matches!(
            status,
            StatusCode::OK
                | StatusCode::PAYMENT_REQUIRED
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
        );
        if !is_known {
            return Err(format!("user {user}: status {status}"));
        }
        ran.lock().unwrap()[user].not_served += i64::from(status != StatusCode::OK);
    }
    let settlement = meter.shutdown().await;
    if !settlement.unsettled.is_empty() {
        return Err(format!("{settlement:?}"));
    }
    for (user, (name, tier)) in USERS.into_iter().enumerate() {
        let statement = statement(&meter, name, tier).await;
        let used = statement.used.as_nano_usd();
        let Account { ran, not_served, granted } = ran.lock().unwrap()[user];
        let limit = match tier {
            "ten" => 10 * SLICE + granted,
            "quick" => 36_000,
            _ => i64::MAX,
        };
        let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
        let ran = ran * PER_MILLI;
        // Those that finish are billed all that ran; the others no more than they may use.
        let is_right = if limit == i64::MAX { used == ran } else { used <= ran.min(limit) };
        // One that is cut ran on until the ledger had answered, or had had its time.
        let is_whole = used >= ran.min(limit) - not_served * most_unpaid * PER_MILLI;
        if !is_right || !is_whole || lines != used || !statement.held.is_zero() {
            return Err(format!(
                "{name}: used {used}, ran {ran}, limit {limit}, lines {lines}, held {}",
                statement.held
            ));
        }
    }
    Ok(())
}

/// Notes how long the service ran for a request.
struct Stopwatch {
    began: Instant,
    user: usize,
    ran: std::sync::Arc<std::sync::Mutex<[Account; 4]>>,
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        let millis = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        self.ran.lock().unwrap()[self.user].ran += millis;
    }
}

#[test]
fn a_node_bills_what_its_service_ran_and_never_more_than_an_account_may_use() {
    let histories = std::env::var("NODE_MODELS").map_or(300, |number| number.parse().unwrap());
    proptest!(ProptestConfig::with_cases(histories), |(history in steps())| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let played = runtime.block_on(play(history));
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    });
}
