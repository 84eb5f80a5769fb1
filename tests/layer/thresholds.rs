//! The host hears once of each threshold that an account reaches, whatever is lost on the way.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, ComputeTime, CreditMeter, MemoryLedger, Name, Period, Threshold,
    ledger::{
        Amendment, Answer, LeaseId, Ledger, LedgerError, LedgerFuture, Renewal, Statement, Terms,
    },
    meter::MeterBody,
};

use crate::support::*;

/// A ledger that claims as asked, and whose first answers to that get lost.
#[derive(Clone, Debug)]
struct Lossy {
    ledger: MemoryLedger,
    lost: Arc<AtomicUsize>,
    /// They get lost in panics of its code, at once and later.
    panics: bool,
    asked: Arc<AtomicUsize>,
}

impl Ledger for Lossy {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        self.ledger.renew(account, period, renewal, within)
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

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.ledger.claim(account, period, threshold, by);
        let lost =
            self.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lost| lost.checked_sub(1));
        match lost {
            Err(_) => answer,
            Ok(2) if self.panics => panic!("the host's ledger has a fault"),
            Ok(_) if self.panics => Box::pin(async { panic!("the host's ledger has a fault") }),
            Ok(_) => Box::pin(async { Err(LedgerError::Deadline(seconds(1))) }),
        }
    }
}

type Heard = Arc<Mutex<Vec<(String, i64)>>>;

fn node(ledger: impl Ledger, heard: &Heard, panics: bool) -> CreditMeter {
    let heard = Arc::clone(heard);
    meter(ledger)
        .thresholds(
            [Threshold::Included(80), Threshold::Included(100), Threshold::Limit(90)],
            move |reached| {
                heard.lock().unwrap().push((
                    format!("{} {}", reached.account, reached.threshold),
                    reached.used.as_nano_usd(),
                ));
                assert!(!panics, "the host's own mistake");
            },
        )
        .build()
        .unwrap()
}

/// A service whose calls take a second each.
fn seconds_each(
    meter: &CreditMeter,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<MeterBody<Empty<Bytes>>>,
    Error = Infallible,
> + Clone {
    ServiceBuilder::new().layer(meter.clone()).service(service_fn(|_: Request<Empty<Bytes>>| {
        let response =
            Response::builder().extension(ComputeTime(seconds(1))).body(Empty::new()).unwrap();
        std::future::ready(Ok(response))
    }))
}

#[tokio::test(start_paused = true)]
async fn parts_reach_thresholds_of_their_own_once_over_all_nodes() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ledger = MemoryLedger::new();
    let nodes = [(); 2].map(|()| {
        let heard = Arc::clone(&heard);
        meter(ledger.clone())
            .thresholds([Threshold::PartLimit(50), Threshold::PartLimit(100)], move |reached| {
                let part = reached.part.map(|part| part.to_string()).unwrap_or_default();
                let slices = [reached.used, reached.of].map(|amount| amount.as_nano_usd() / SLICE);
                heard.lock().unwrap().push((part, reached.threshold, slices));
            })
            .build()
            .unwrap()
    });
    let accounts = tower_credits::Accounts::new(ledger);
    let member = identity("acme", "ten").in_part("research/alice".parse().unwrap());
    let limits = |slices: i64, day: Option<i64>| tower_credits::Limits {
        per_month: Some(nanos(slices * SLICE)),
        per_day: day.map(|day| nanos(day * SLICE)),
    };
    // The day's limit is the tighter one all the time.
    let limit = async |part: &str, limits| {
        accounts.set_limits(&member.account, Some(&part.parse().unwrap()), limits).await.unwrap();
    };
    limit("research", limits(8, None)).await;
    limit("research/alice", limits(4, Some(4))).await;
    for number in 1..=4 {
        let request = http::Request::post("/models/echo").extension(member.clone());
        let request = request.body(Empty::new()).unwrap();
        let response = seconds_each(&nodes[number % 2]).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        eventually(async || {
            let statement = nodes[0].statement(&member, None).await.unwrap();
            (statement.requests() == number as u64 && statement.held.is_zero()).then_some(())
        })
        .await;
    }
    let all = [
        ("research/alice", Threshold::PartLimit(50), [2, 4]),
        ("research", Threshold::PartLimit(50), [4, 8]),
        ("research/alice", Threshold::PartLimit(100), [4, 4]),
    ];
    eventually(async || (heard.lock().unwrap().len() >= all.len()).then_some(())).await;
    for meter in &nodes {
        meter.shutdown().await;
    }
    let mut heard = heard.lock().unwrap().clone();
    heard.sort_by_key(|(part, threshold, _)| (*threshold, part.clone()));
    let mut expected = all.map(|(part, threshold, slices)| (part.to_owned(), threshold, slices));
    expected.sort_by_key(|(part, threshold, _)| (*threshold, part.clone()));
    assert_eq!(*heard, expected);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_made_again_and_told_once() {
    let heard = Heard::default();
    let ledger = Lossy {
        ledger: MemoryLedger::new(),
        lost: Arc::new(AtomicUsize::new(3)),
        panics: false,
        asked: Arc::default(),
    };
    let nodes = [node(ledger.clone(), &heard, false), node(ledger.clone(), &heard, false)];
    let services = nodes.each_ref().map(seconds_each);
    // Ten are included, and all there is: the eighth reaches 80 % of it, the ninth 90 % of all, the
    // tenth 100 %.
    for number in 1..=10 {
        let response = services[number % 2]
            .clone()
            .oneshot(request("alice", "ten", Empty::new()))
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "request {number}");
        drop(response);
        settled(&nodes[0], "alice", "ten", number as u64).await;
    }
    let all = ["user:alice included 80 %", "user:alice limit 90 %", "user:alice included 100 %"];
    eventually(async || (heard.lock().unwrap().len() == all.len()).then_some(())).await;
    // Both nodes see the same answers in time: they go on being asked for their leases.
    for meter in &nodes {
        assert!(meter.shutdown().await.unsettled.is_empty());
    }
    let mut heard = heard.lock().unwrap().clone();
    heard.sort_by_key(|(_, used)| *used);
    assert_eq!(
        heard,
        [
            (all[0].to_owned(), 8 * SLICE),
            (all[1].to_owned(), 9 * SLICE),
            (all[2].to_owned(), 10 * SLICE)
        ]
    );
    assert!(ledger.asked.load(Ordering::SeqCst) >= 6, "three answers were lost");
}

/// The last report of a node may be what reaches it.
#[tokio::test(start_paused = true)]
async fn a_shutdown_still_tells() {
    let heard = Heard::default();
    let meter = node(MemoryLedger::new(), &heard, false);
    let service = seconds_each(&meter);
    for _ in 0..9 {
        drop(service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap());
    }
    assert!(meter.shutdown().await.unsettled.is_empty());
    assert_eq!(heard.lock().unwrap().len(), 2, "{heard:?}");
}

/// What panics, hook or ledger, is asked or told again, and nothing else suffers.
#[tokio::test(start_paused = true)]
async fn a_hook_or_a_ledger_that_panics_stops_nothing() {
    for hook_panics in [true, false] {
        let heard = Heard::default();
        let lost = Arc::new(AtomicUsize::new(if hook_panics { 0 } else { 2 }));
        let ledger = Lossy {
            ledger: MemoryLedger::new(),
            lost: Arc::clone(&lost),
            panics: true,
            asked: Arc::default(),
        };
        let meter = node(ledger, &heard, hook_panics);
        let service = seconds_each(&meter);
        for number in 1..=10 {
            drop(service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap());
            assert_eq!(
                settled(&meter, "alice", "ten", number).await.used,
                nanos(number as i64 * SLICE)
            );
        }
        eventually(async || (heard.lock().unwrap().len() == 3).then_some(())).await;
        assert_eq!(lost.load(Ordering::SeqCst), 0, "all of the panics came");
        assert!(meter.shutdown().await.unsettled.is_empty());
    }
}

/// A node that begins when an account is past a threshold sees that too.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_twice_of_the_same_month() {
    let heard = Heard::default();
    let ledger = MemoryLedger::new();
    for (node_number, requests) in [(1, 9), (2, 1)] {
        let meter = node(ledger.clone(), &heard, false);
        let service = seconds_each(&meter);
        for _ in 0..requests {
            drop(service.clone().oneshot(request("alice", "ten", Empty::new())).await.unwrap());
        }
        assert!(meter.shutdown().await.unsettled.is_empty(), "node {node_number}");
    }
    let heard = heard.lock().unwrap().clone();
    assert_eq!(
        heard
            .iter()
            .map(|(what, _)| what.rsplit_once("user:alice ").unwrap().1)
            .collect::<Vec<_>>(),
        ["included 80 %", "limit 90 %", "included 100 %"]
    );
}

#[test]
fn more_thresholds_than_are_watched_are_refused() {
    let built = |most: u16| {
        meter(MemoryLedger::new())
            .thresholds((0..most).map(Threshold::Included), drop)
            .build()
            .map(drop)
    };
    assert_eq!(built(32), Ok(()));
    assert_eq!(built(33).unwrap_err().to_string(), "thresholds cannot be used: set at most 32");
}

/// What is left falls below an amount, a hook grants credits, and it falls below it again: an
/// automatic top-up, by two nodes, once each time.
#[tokio::test]
async fn credits_that_run_low_are_topped_up_each_time() {
    let ledger = MemoryLedger::new();
    let accounts = tower_credits::Accounts::new(ledger.clone());
    let topped_up = Arc::new(AtomicUsize::new(0));
    let build = || {
        let (accounts, topped_up) = (accounts.clone(), Arc::clone(&topped_up));
        meter(ledger.clone())
            .thresholds([Threshold::Left("0.0006".parse().unwrap())], move |reached| {
                let (accounts, topped_up) = (accounts.clone(), Arc::clone(&topped_up));
                tokio::spawn(async move {
                    let id = format!("top-up {} {}", reached.period, reached.of).parse().unwrap();
                    let amount = "0.0012".parse().unwrap();
                    let is_new = accounts.grant(&reached.account, id, amount, None).await.unwrap();
                    topped_up.fetch_add(usize::from(is_new), Ordering::SeqCst);
                });
            })
            .build()
            .unwrap()
    };
    let meters = [build(), build()];
    // Ten slices are included. Each request uses one.
    for at in 0..35 {
        let service = ServiceBuilder::new().layer(meters[at % 2].clone()).service(service_fn(
            async |_: Request<Empty<Bytes>>| {
                let response = Response::builder().extension(ComputeTime(seconds(1)));
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
            },
        ));
        let response = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{at}");
        let used = settled(&meters[0], "alice", "ten", at as u64 + 1).await.used.as_nano_usd();
        // Fewer than five slices are left after six, sixteen, twenty-six.
        let expected = usize::try_from((used / SLICE + 4) / 10).unwrap();
        eventually(async || (topped_up.load(Ordering::SeqCst) == expected).then_some(())).await;
    }
    assert_eq!(topped_up.load(Ordering::SeqCst), 3);
}
