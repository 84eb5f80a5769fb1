//! What long runs and crowds cost in memory and time: `scripts/soak`. Prints what it measured; ends
//! in an error where memory grew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "the tests' own server")]
mod redis_server;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use benches::plan;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Empty, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_credits::{
    BearerTokens, ComputeTime, CreditMeter, HoldAhead, Identity, MemoryLedger, RedisLedger,
    RedisTokens,
    identify::{Identify, Identifying, IdentityFromExtensions, RequestHead},
    ledger::Ledger,
};

use self::redis_server::RedisServer;

type Asked = Request<Empty<Bytes>>;

fn identity(user: &str) -> Identity {
    benches::identity(user, "pro")
}

fn service(
    meter: &CreditMeter,
) -> impl Service<Asked, Response = Response<impl Send>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    meter.layer(service_fn(async |_: Asked| {
        // Lets others in, as a model would.
        tokio::task::yield_now().await;
        Ok(Response::builder()
            .extension(ComputeTime(Duration::from_millis(1)))
            .body(Empty::<Bytes>::new())
            .unwrap())
    }))
}

/// Memory of this process that is in RAM, in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Does something again and again for a minute; answers how often.
async fn for_a_minute(mut work: impl AsyncFnMut()) -> u64 {
    let (began, mut times) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(60) {
        work().await;
        times += 1;
    }
    times
}

/// Ten minutes of streams of ten thousand frames.
async fn ten_minutes_of_frames() {
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), IdentityFromExtensions)
        .hold_ahead(HoldAhead::default())
        .build()
        .unwrap();
    let frames = || {
        stream::iter((0..10_000).map(|_| {
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"one small frame\n")))
        }))
    };
    let service = meter.layer(service_fn(move |_: Asked| {
        std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(frames()))))
    }));
    let user = Arc::new(identity("streamer"));
    let mut streams = 0;
    rounds("ten minutes of streams of 10 000 frames", 2_048, async |_| {
        streams += for_a_minute(async || {
            let request =
                Request::post("/models/echo").extension(user.clone()).body(Empty::new()).unwrap();
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                assert!(frame.is_ok());
                tokio::task::consume_budget().await;
            }
        })
        .await;
    })
    .await;
    let settlement = meter.shutdown().await;
    println!(
        "{streams} streams, settled {}, unsettled accounts {}",
        settlement.settled,
        settlement.unsettled.len()
    );
    assert!(settlement.unsettled.is_empty());
}

/// Ten minutes of requests of a million accounts, by chance.
async fn ten_minutes_of_a_million_accounts() {
    const ACCOUNTS: u64 = 1_000_000;
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), IdentityFromExtensions)
        .hold_ahead(HoldAhead::default())
        .ledger_timeout(Duration::from_secs(5))
        .max_accounts(2_000_000.try_into().unwrap())
        .build()
        .unwrap();
    let service = service(&meter);
    let users: Vec<_> =
        (0..ACCOUNTS).map(|user| Arc::new(identity(&format!("user-{user}")))).collect();
    let request = |number: u64| {
        Request::post("/models/echo")
            .extension(users[(number % ACCOUNTS) as usize].clone())
            .body(Empty::new())
            .unwrap()
    };
    // Everybody once, so that all are there.
    assert_eq!(ask(&service, ACCOUNTS, request).await, ACCOUNTS);
    let mut requests = ACCOUNTS;
    rounds("ten minutes of a million accounts", 65_536, async |_| {
        for_a_minute(async || {
            // By a multiplicative step that visits all of them.
            let from = requests;
            assert_eq!(
                ask(&service, 10_000, |number| request((from + number).wrapping_mul(7_368_787)))
                    .await,
                10_000
            );
            requests += 10_000;
        })
        .await;
    })
    .await;
    let settlement = meter.shutdown().await;
    println!(
        "{requests} requests, settled {}, unsettled accounts {}",
        settlement.settled,
        settlement.unsettled.len()
    );
    assert_eq!(
        settlement.settled.as_nano_usd()
            + settlement.unsettled.iter().map(|left| left.amount.as_nano_usd()).sum::<i64>(),
        requests as i64 * 120
    );
}

/// Runs rounds of the same work. The first ones fill pools and caches; from then on memory must not
/// grow by more than `slack_kib`.
async fn rounds(name: &str, slack_kib: i64, mut round: impl AsyncFnMut(u64)) {
    let mut after = Vec::new();
    let began = Instant::now();
    for number in 0..10 {
        round(number).await;
        after.push(resident());
    }
    println!(
        "{name}: {:.1} s; resident memory after each tenth, KiB: {after:?}",
        began.elapsed().as_secs_f64()
    );
    let grown = after[9] - after[3];
    assert!(
        grown <= slack_kib,
        "{name}: memory grew by {grown} KiB between the fourth and the tenth tenth"
    );
}

/// Asks `count` times, 64 at a time; answers how many were served.
async fn ask<S, R>(service: &S, count: u64, request: impl Fn(u64) -> Asked) -> u64
where
    S: Service<Asked, Response = Response<R>, Error = Infallible> + Clone,
{
    stream::iter(0..count)
        .map(|number| service.clone().oneshot(request(number)))
        .buffer_unordered(64)
        .fold(0, async |served, answer| served + u64::from(answer.unwrap().status() == 200))
        .await
}

async fn a_million_requests(name: &str, ledger: impl Ledger, ahead: bool) {
    let builder = CreditMeter::builder(plan(), ledger, IdentityFromExtensions);
    let meter =
        if ahead { builder.hold_ahead(HoldAhead::default()) } else { builder }.build().unwrap();
    let users: Vec<_> =
        (0..1_000).map(|user| Arc::new(identity(&format!("user-{user}")))).collect();
    let service = service(&meter);
    rounds(name, 2_048, async |_| {
        let request = |number: u64| {
            Request::post("/models/echo")
                .extension(users[number as usize % 1_000].clone())
                .body(Empty::new())
                .unwrap()
        };
        assert_eq!(ask(&service, 100_000, request).await, 100_000);
    })
    .await;
    let settlement = meter.shutdown().await;
    assert_eq!(
        (settlement.settled.as_nano_usd(), settlement.unsettled.len()),
        (1_000_000 * 120, 0),
        "to the nano-dollar"
    );
}

async fn a_million_bad_tokens(name: &str, identify: impl Identify, token: impl Fn(u64) -> String) {
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), identify);
    let service = service(&meter);
    rounds(name, 2_048, async |round| {
        let request = |number: u64| {
            let bearer = format!("Bearer {}", token(100_000 * round + number));
            Request::post("/models/echo").header(AUTHORIZATION, bearer).body(Empty::new()).unwrap()
        };
        assert_eq!(ask(&service, 100_000, request).await, 0);
    })
    .await;
}

/// Everybody is somebody new.
#[derive(Debug, Default)]
struct Strangers(AtomicU64);

impl Identify for Strangers {
    fn identify(&self, _: RequestHead<'_>) -> Identifying {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Identifying::Ready(Ok(Arc::new(identity(&format!("stranger-{number}")))))
    }
}

/// More new accounts than are let in: the bound holds, and what it costs is told.
async fn new_accounts() {
    let most = 100_000_usize;
    let before = resident();
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), Strangers::default())
        .max_accounts(most.try_into().unwrap())
        .build()
        .unwrap();
    let service = service(&meter);
    let request = |_| Request::post("/models/echo").body(Empty::new()).unwrap();
    let served = ask(&service, most as u64, request).await;
    let with_all = resident();
    println!(
        "new accounts: {served} of {most} were served; {} bytes each, of which the memory ledger keeps a part",
        (with_all - before) * 1024 / most as i64
    );
    assert_eq!(ask(&service, 100_000, request).await, 0, "there is no room for more");
    let grown = resident() - with_all;
    println!("100 000 more found no room; memory grew by {grown} KiB");
    assert!(grown < 4_096);
}

/// Ten thousand requests at once, all the time, over a hundred thousand accounts, each of which
/// asks the ledger.
async fn a_crowd(ledger: RedisLedger) {
    let accounts = 100_000_u64;
    let users: Arc<Vec<_>> =
        Arc::new((0..accounts).map(|user| Arc::new(identity(&format!("user-{user}")))).collect());
    let before = resident();
    // The deadline is far: what is asked is who waits how long.
    let meter = CreditMeter::builder(plan(), ledger, IdentityFromExtensions)
        .ledger_timeout(Duration::from_secs(5))
        .max_accounts(200_000.try_into().unwrap())
        .build()
        .unwrap();
    let service = service(&meter);
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..10_000)
        .map(|_| {
            let (service, users, next) = (service.clone(), Arc::clone(&users), Arc::clone(&next));
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 3 * accounts {
                        return waits;
                    }
                    // Each account three times, in another order each time.
                    let user = (number * 7_919 + number / accounts) % accounts;
                    let request = Request::post("/models/echo")
                        .extension(users[user as usize].clone())
                        .body(Empty::new())
                        .unwrap();
                    let asked_at = Instant::now();
                    let status = service.clone().oneshot(request).await.unwrap().status();
                    assert_eq!(status, 200);
                    waits.push(asked_at.elapsed());
                }
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    let took = began.elapsed();
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    println!(
        "a crowd: {} requests of {accounts} accounts, 10 000 at once, in {:.1} s ({:.0} a second); waited: median {:?}, p99 {:?}, slowest {:?}; \
         memory grew by {} bytes an account",
        waits.len(),
        took.as_secs_f64(),
        waits.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        (resident() - before) * 1024 / accounts as i64
    );
    let settlement = meter.shutdown().await;
    println!(
        "a crowd: settled {}, unsettled accounts {}",
        settlement.settled,
        settlement.unsettled.len()
    );
    assert_eq!(
        (settlement.settled.as_nano_usd(), settlement.unsettled.len()),
        (3 * accounts as i64 * 120, 0)
    );
}

/// A token of the shape of those that are issued, and was not.
fn well_formed(number: u64) -> String {
    use sha2::{Digest, Sha256};
    let body = format!("tc_{number:048x}");
    let check = Sha256::digest(&body);
    format!("{body}{:02x}{:02x}{:02x}{:02x}", check[0], check[1], check[2], check[3])
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // Arguments choose parts by their names; none chooses all.
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|word| word == part);
    let server = RedisServer::start();
    let redis = async |prefix: &str| {
        RedisLedger::builder(server.url()).prefix(prefix).connect().await.unwrap()
    };
    if wanted("memory") {
        a_million_requests("a million requests, memory ledger, strict", MemoryLedger::new(), false)
            .await;
        a_million_requests("a million requests, memory ledger, ahead", MemoryLedger::new(), true)
            .await;
    }
    if wanted("redis") {
        a_million_requests("a million requests, Redis, ahead", redis("ahead").await, true).await;
        a_million_requests("a million requests, Redis, strict", redis("strict").await, false).await;
    }
    if wanted("tokens") {
        let tokens = BearerTokens::new().with("s3cret", identity("alice"));
        a_million_bad_tokens("a million bad tokens, in memory", tokens, |number| {
            format!("token-{number}")
        })
        .await;
        let tokens = RedisTokens::connect(server.url()).await.unwrap();
        a_million_bad_tokens("a million bad tokens, in Redis", tokens, well_formed).await;
    }
    if wanted("accounts") {
        new_accounts().await;
    }
    // Ten minutes each: only where they are asked for by name.
    if chosen.iter().any(|part| part == "frames") {
        ten_minutes_of_frames().await;
    }
    if chosen.iter().any(|part| part == "million") {
        ten_minutes_of_a_million_accounts().await;
    }
    if wanted("crowd") {
        a_crowd(redis("crowd").await).await;
    }
}
