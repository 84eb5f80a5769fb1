//! What many accounts cost: time of a request and memory of a lease. `cargo bench -p benches
//! --bench growth`.
//!
//! The ledger behind the layer grants everything and keeps nothing, so that what is measured is the
//! node's own. Every request is of another account, in an order that jumps about.
//!
//! Arguments: parts by name (memory, time), the number of rounds, and numbers of accounts.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use benches::{Asked, Echo, identity, plan};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service};
use tower_credits::{
    Account, CreditMeter, Credits, HoldAhead, Identity, Period,
    identify::IdentityFromExtensions,
    ledger::{
        Amendment, Answer, Ledger, LedgerFuture, Outcome, Renewal, Standing, Statement, Terms,
    },
    meter::CreditService,
};

/// Grants whatever is asked.
#[derive(Clone, Debug, Default)]
struct Generous(Arc<AtomicU64>);

impl Ledger for Generous {
    fn renew<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        renewal: &'a Renewal,
        _: Duration,
    ) -> LedgerFuture<'a, Answer> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let now = tower_credits::clock::UnixTime::now();
        let hold = [renewal.refill, renewal.need, renewal.extra]
            .into_iter()
            .try_fold(renewal.keep, Credits::checked_add)
            .unwrap();
        let standing = Standing { limit: Credits::MAX, ..Standing::default() };
        let outcome = if renewal.forget {
            Outcome::Forgotten
        } else {
            Outcome::Renewed {
                hold,
                // So much is left that reports can wait.
                standing,
                permits: None,
                concurrency: None,
                parts: Default::default(),
            }
        };
        Box::pin(std::future::ready(Ok(Answer { outcome, now })))
    }

    fn statement<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        unreachable!("nobody asks for it")
    }

    fn amend<'a>(&'a self, _: &'a Account, _: Amendment) -> LedgerFuture<'a, bool> {
        unreachable!("nobody asks for it")
    }
}

/// The system's allocator, which counts the bytes that were asked for and not given back.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

// SAFETY: everything is the system's allocator's.
#[expect(unsafe_code, reason = "an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocated() -> i64 {
    ALLOCATED.load(Ordering::Relaxed)
}

struct World {
    ledger: Generous,
    service: CreditService<Echo>,
    users: Arc<Vec<Arc<Identity>>>,
    next: usize,
}

impl World {
    fn new(accounts: usize, ahead: bool) -> Self {
        let ledger = Generous::default();
        let builder = CreditMeter::builder(plan(), ledger.clone(), IdentityFromExtensions)
            .inference_id(false)
            .request_extensions(false)
            .ledger_timeout(Duration::from_secs(5))
            .max_accounts(2_000_000.try_into().unwrap());
        let builder = if ahead { builder.hold_ahead(HoldAhead::default()) } else { builder };
        let users =
            (0..accounts).map(|user| Arc::new(identity(&format!("user-{user}"), "pro"))).collect();
        Self {
            ledger,
            service: builder.build().unwrap().layer(Echo),
            users: Arc::new(users),
            next: 0,
        }
    }

    /// So many requests, one after the other, of the half of the accounts that asked last in
    /// [`all`](Self::all): with a million, what the others held may have lapsed since.
    async fn ask(&mut self, requests: usize) {
        let before = self.users.len() / 2;
        for _ in 0..requests {
            self.next = (self.next + 7_368_787) % (self.users.len() - before).max(1);
            assert!(ask(&mut self.service, &self.users[before + self.next]).await);
        }
    }

    /// The same, each timed. Returns the times in nanoseconds, sorted.
    async fn timed(&mut self, requests: usize) -> Vec<u64> {
        let mut times = Vec::with_capacity(requests);
        for _ in 0..requests {
            let began = Instant::now();
            self.ask(1).await;
            times.push(began.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        times
    }

    /// Every account once, many at a time.
    async fn all(&self) {
        let served = stream::iter(0..self.users.len())
            .map(|user| {
                let (mut service, users) = (self.service.clone(), Arc::clone(&self.users));
                async move { ask(&mut service, &users[user]).await }
            })
            .buffer_unordered(256)
            .filter(|served| std::future::ready(*served))
            .count();
        assert_eq!(served.await, self.users.len());
    }

    /// Until nothing is sent any more for longer than `report_within`.
    async fn quiet(&self) {
        let mut before = u64::MAX;
        while std::mem::replace(&mut before, self.ledger.0.load(Ordering::Relaxed)) != before {
            tokio::time::sleep(Duration::from_millis(1_400)).await;
        }
    }
}

async fn ask(service: &mut CreditService<Echo>, user: &Arc<Identity>) -> bool {
    let request: Asked = Request::post("/models/echo")
        .extension(Arc::clone(user))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = service.call(request).await.unwrap();
    response.status() == 200 && response.into_body().collect().await.is_ok()
}

/// How long a hold admits requests.
const ADMIT_FOR: Duration = Duration::from_secs(10);

fn time(runtime: &Runtime, rounds: usize, counts: &[usize]) {
    const REQUESTS: usize = 100_000;
    let mut worlds: Vec<_> = counts.iter().map(|accounts| World::new(*accounts, true)).collect();
    let mut nanos = vec![Vec::new(); worlds.len()];
    let mut calls = vec![Vec::new(); worlds.len()];
    let mut timed = vec![Vec::new(); worlds.len()];
    for round in 0..=rounds {
        for (((world, nanos), calls), timed) in
            worlds.iter_mut().zip(&mut nanos).zip(&mut calls).zip(&mut timed)
        {
            runtime.block_on(async {
                // Held ahead anew, and reported, so that what is measured is admission on this
                // node.
                let began = Instant::now();
                world.all().await;
                let took = began.elapsed();
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (began, before) = (Instant::now(), world.ledger.0.load(Ordering::Relaxed));
                world.ask(REQUESTS).await;
                if round > 0 {
                    nanos.push(began.elapsed().as_nanos() as f64 / REQUESTS as f64);
                    let called = world.ledger.0.load(Ordering::Relaxed) - before;
                    calls.push(called as f64 / REQUESTS as f64);
                    timed.push(world.timed(REQUESTS).await);
                    if took / 2 + began.elapsed() > ADMIT_FOR {
                        println!(
                            "{} accounts: to ask for each once took {took:.1?}, so holds may have lapsed: not comparable",
                            world.users.len()
                        );
                    }
                }
                // What it still reports and gives back does not disturb the next one.
                if world.users.len() > 1 {
                    tokio::time::sleep(ADMIT_FOR).await;
                    world.quiet().await;
                }
            });
        }
    }
    let medians: Vec<f64> = nanos
        .iter_mut()
        .map(|of| {
            of.sort_by(f64::total_cmp);
            of[of.len() / 2]
        })
        .collect();
    for (((accounts, median), calls), timed) in
        counts.iter().zip(&medians).zip(&mut calls).zip(&timed)
    {
        calls.sort_by(f64::total_cmp);
        // The median of the rounds.
        let part = |thousandths: usize| {
            let mut of: Vec<_> =
                timed.iter().map(|of| of[of.len() * thousandths / 1_000]).collect();
            of.sort_unstable();
            of[of.len() / 2] as f64 / 1_000.0
        };
        println!(
            "{accounts} accounts: {median:.0} ns a request, the layer and its background task: {:.2} x; {:.2} calls of the ledger a request; 50 %, 99 %, 99.9 % of requests within {:.1}, {:.1}, {:.1} us",
            median / medians[0],
            calls[calls.len() / 2],
            part(500),
            part(990),
            part(999),
        );
    }
}

fn memory(runtime: &Runtime, ahead: bool) {
    const ACCOUNTS: usize = 200_000;
    let world = World::new(ACCOUNTS, ahead);
    runtime.block_on(async {
        let before = allocated();
        world.all().await;
        world.quiet().await;
        let each = |bytes: i64| bytes / ACCOUNTS as i64;
        let holding = if ahead { "holds credits ahead" } else { "holds nothing" };
        println!(
            "{ACCOUNTS} live leases, each of which {holding}: {} bytes each, what is kept with an identity included",
            each(allocated() - before)
        );
    });
    // What it frees would be taken off the next one's.
    std::mem::forget(world);
}

fn main() {
    let numbers: Vec<usize> =
        std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let chosen = |part: &str| {
        std::env::args().all(|argument| {
            argument.starts_with("--")
                || argument.contains('/')
                || argument.parse::<u64>().is_ok()
                || argument == part
        })
    };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if chosen("memory") {
        memory(&runtime, false);
        memory(&runtime, true);
    }
    if chosen("time") {
        let counts = numbers.get(1..).filter(|counts| !counts.is_empty());
        time(
            &runtime,
            numbers.first().copied().unwrap_or(5),
            counts.unwrap_or(&[1, 10_000, 1_000_000]),
        );
    }
}
