//! Whatever happens to Redis, every caller has an answer in time, and the debits arrive, exactly.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::sync::watch;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{ComputeTime, CreditMeter, RedisLedger, ledger::LedgerError, meter::MeterBody};

use crate::support::{proxy::Proxy, redis_server::RedisServer, *};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// SIGSTOP.
    Stopped,
    /// `kill -9`, then a restart.
    Killed,
    /// Answers take longer than the deadline.
    Slow,
    /// Answers are errors: the server is out of memory.
    Failing,
    /// Connections stay open and nothing passes.
    BlackHoled,
    /// It became a replica of a master that is not there: it keeps its data, and refuses to write.
    Replica,
}

impl Fault {
    fn begin(self, server: &mut RedisServer, proxy: &Proxy) {
        match self {
            Self::Stopped => server.stop(),
            Self::Killed => server.kill(),
            Self::Slow => proxy.delay(Duration::from_millis(400)),
            Self::Failing => drop(server.command(&["CONFIG", "SET", "maxmemory", "1"])),
            Self::BlackHoled => proxy.silence(true),
            Self::Replica => drop(server.command(&["REPLICAOF", "127.0.0.1", "1"])),
        }
    }

    fn end(self, server: &mut RedisServer, proxy: &Proxy) {
        match self {
            Self::Stopped => server.go_on(),
            Self::Killed => server.restart(),
            Self::Slow => proxy.delay(Duration::ZERO),
            Self::Failing => drop(server.command(&["CONFIG", "SET", "maxmemory", "0"])),
            Self::BlackHoled => proxy.silence(false),
            Self::Replica => drop(server.command(&["REPLICAOF", "NO", "ONE"])),
        }
    }
}

/// Each call reports ten milliseconds of compute: 1 200 nano-dollars.
const COST: i64 = 1_200;

type Answer = Response<MeterBody<Empty<Bytes>>>;

/// A service that counts its calls; a call to `hold` waits to be released.
fn counting(
    meter: &CreditMeter,
    called: &Arc<AtomicU64>,
    release: &watch::Receiver<bool>,
) -> impl Service<Request<Empty<Bytes>>, Response = Answer, Error = Infallible, Future: Send>
+ Clone
+ Send
+ use<> {
    let (called, release) = (called.clone(), release.clone());
    ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |request: Request<Empty<Bytes>>| {
            let (called, mut release) = (called.clone(), release.clone());
            async move {
                called.fetch_add(1, Ordering::SeqCst);
                if request.headers().contains_key("x-hold") {
                    release.wait_for(|released| *released).await.unwrap();
                }
                Ok(Response::builder()
                    .extension(ComputeTime(Duration::from_millis(10)))
                    .body(Empty::new())
                    .unwrap())
            }
        },
    ))
}

async fn survives(fault: Fault) {
    let mut server = RedisServer::start();
    let proxy = Proxy::before(server.port).await;
    let meter = CreditMeter::new(
        plan(),
        RedisLedger::connect(proxy.url()).await.unwrap(),
        tower_credits::identify::IdentityFromExtensions,
    );
    let called = Arc::new(AtomicU64::new(0));
    let (release, released) = watch::channel(false);
    let service = counting(&meter, &called, &released);
    let ask = async |user: &str, tier: &str| {
        let began = Instant::now();
        let status =
            service.clone().oneshot(request(user, tier, Empty::new())).await.unwrap().status();
        (status, began.elapsed())
    };

    for _ in 0..20 {
        assert_eq!(ask("alice", "free").await.0, StatusCode::OK);
    }
    // One that runs through the outage and ends in it.
    let mut held = request("alice", "free", Empty::new());
    held.headers_mut().insert("x-hold", http::HeaderValue::from_static("1"));
    let held = tokio::spawn(service.clone().oneshot(held));
    eventually(async || (called.load(Ordering::SeqCst) == 21).then_some(())).await;

    fault.begin(&mut server, &proxy);
    release.send(true).unwrap();
    assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::OK);

    // Until the next report, some may be admitted on what the lease still holds; then everybody is
    // denied, in time.
    let mut slowest = eventually(async || match ask("alice", "free").await {
        (StatusCode::SERVICE_UNAVAILABLE, took) => Some(took),
        (status, _) => {
            assert_eq!(status, StatusCode::OK, "{fault:?}");
            None
        }
    })
    .await;
    for _ in 0..5 {
        let (status, took) = ask("alice", "free").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{fault:?}");
        slowest = slowest.max(took);
    }
    // Bob's tier allows two slices during an outage.
    let before = called.load(Ordering::SeqCst);
    for expected in [StatusCode::OK, StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE] {
        let (status, took) = ask("bob", "pro").await;
        assert_eq!(status, expected, "{fault:?}");
        slowest = slowest.max(took);
    }
    let (status, took) = ask("carol", "free").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{fault:?}");
    eprintln!("{fault:?}: once that is known, an answer took {took:?}");
    let bobs = called.load(Ordering::SeqCst) - before;
    assert!(slowest < seconds(2), "{fault:?}: the deadline is 250 ms, and one waited {slowest:?}");
    eprintln!("{fault:?}: the slowest answer took {slowest:?}");

    fault.end(&mut server, &proxy);
    eventually(async || (ask("alice", "free").await.0 == StatusCode::OK).then_some(())).await;
    let total = called.load(Ordering::SeqCst);
    let alice = settled(&meter, "alice", "free", total - bobs).await;
    let bob = settled(&meter, "bob", "pro", bobs).await;
    assert_eq!(alice.used, nanos(COST * i64::try_from(total - bobs).unwrap()), "{fault:?}");
    assert_eq!(bob.used, nanos(COST * i64::try_from(bobs).unwrap()), "{fault:?}");
    assert_eq!(alice.lines.len() + bob.lines.len(), 2, "{fault:?}: nothing had to be recovered");
    let settlement = meter.shutdown().await;
    assert_eq!(
        (settlement.settled, settlement.unsettled.len()),
        (nanos(COST * i64::try_from(total).unwrap()), 0)
    );
    if fault == Fault::BlackHoled {
        assert!(
            proxy.connections.load(Ordering::SeqCst) >= 2,
            "the black-holed connection was replaced"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server() {
    survives(Fault::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_restarted_server() {
    survives(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server() {
    survives(Fault::Slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_returns_errors() {
    survives(Fault::Failing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_black_holed() {
    survives(Fault::BlackHoled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_without_the_server_says_what_it_could_not_settle() {
    let mut server = RedisServer::start();
    let meter = CreditMeter::new(
        plan(),
        RedisLedger::connect(server.url()).await.unwrap(),
        tower_credits::identify::IdentityFromExtensions,
    );
    let (called, (release, released)) = (Arc::new(AtomicU64::new(0)), watch::channel(false));
    let service = counting(&meter, &called, &released);
    let mut held = request("alice", "free", Empty::new());
    held.headers_mut().insert("x-hold", http::HeaderValue::from_static("1"));
    let held = tokio::spawn(service.clone().oneshot(held));
    eventually(async || (called.load(Ordering::SeqCst) == 1).then_some(())).await;
    server.kill();
    release.send(true).unwrap();
    held.await.unwrap().unwrap();
    let settlement = meter.shutdown().await;
    let [unsettled] = settlement.unsettled.as_slice() else { panic!("{settlement:?}") };
    assert_eq!(
        (unsettled.account.as_str(), unsettled.amount, settlement.settled),
        ("user:alice", nanos(COST), nanos(0))
    );
}

#[tokio::test]
async fn servers_that_would_lose_or_mix_money_are_refused() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = RedisLedger::connect(server.url()).await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::Unfit(reason) if reason.contains("set `maxmemory-policy noeviction`")),
        "{error}"
    );

    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["SET", "old:schema", "0"]);
    let error = RedisLedger::builder(server.url()).prefix("old").connect().await.unwrap_err();
    assert!(error.to_string().contains("schema version 0"), "{error}");
    for version in ["4", "5"] {
        server.command(&["SET", "old:schema", version]);
        let builder = RedisLedger::builder(server.url()).prefix("old");
        assert!(builder.connect().await.is_ok(), "{version} is read");
    }
    let error = RedisLedger::builder(server.url()).prefix("{x}").connect().await.unwrap_err();
    assert!(error.to_string().contains("brace"), "{error}");
    RedisLedger::builder(server.url()).prefix("new").connect().await.unwrap();

    let error = RedisLedger::connect("redis://127.0.0.1:1/").await.unwrap_err();
    assert!(matches!(error, LedgerError::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_stopped_because_the_ledger_is_away_is_told_so() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let meter = meter(ledger).ledger_timeout(Duration::from_millis(50)).build().unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |_: Request<Empty<Bytes>>| {
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        },
    ));
    let call = tokio::spawn(service.oneshot(request("alice", "free", Empty::new())));
    eventually(async || {
        (statement(&meter, "alice", "free").await.held == nanos(SLICE)).then_some(())
    })
    .await;
    server.stop();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.extensions().get::<tower_credits::Rejection>(),
        Some(&tower_credits::Rejection::LedgerUnreachable)
    );
    server.go_on();
    assert_eq!(
        settled(&meter, "alice", "free", 1).await.used,
        nanos(SLICE),
        "it is billed what was on hold for it, and no more"
    );
}

/// What became of the requests of [`under_load`] so far.
#[derive(Default)]
pub struct Load {
    served: [AtomicU64; 8],
    denied: [AtomicU64; 8],
    slowest_micros: [AtomicU64; 8],
}

impl Load {
    /// How many requests of each user were served.
    pub fn served(&self) -> [u64; 8] {
        std::array::from_fn(|user| self.served[user].load(Ordering::SeqCst))
    }

    /// How many requests of each user were denied.
    pub fn denied(&self) -> [u64; 8] {
        std::array::from_fn(|user| self.denied[user].load(Ordering::SeqCst))
    }

    /// The slowest answer to each user since this was last asked.
    pub fn take_slowest(&self) -> [Duration; 8] {
        std::array::from_fn(|user| {
            Duration::from_micros(self.slowest_micros[user].swap(0, Ordering::SeqCst))
        })
    }

    /// Waits until everybody was served a few more times.
    pub async fn until_served(&self) {
        self.until_these_are_served(|_| true).await;
    }

    /// Waits until these were served a few more times.
    pub async fn until_these_are_served(&self, user: impl Fn(usize) -> bool) {
        let before = self.served();
        eventually(async || {
            let served = self.served().into_iter().zip(before).enumerate();
            let mut these = served.filter(|(number, _)| user(*number));
            these.all(|(_, (now, before))| now > before + 5).then_some(())
        })
        .await;
    }

    /// Waits until a few more were denied.
    pub async fn until_denied(&self) {
        let denied = || self.denied().iter().sum::<u64>();
        let before = denied();
        eventually(async || (denied() > before + 50).then_some(())).await;
    }
}

/// Eight users ask all the time; `harm` begins when all were served, and when it is over all must
/// be served again. Then each one's bill is what was served, exactly. Answers how many requests
/// that were.
pub async fn under_load(meter: &CreditMeter, harm: impl AsyncFnOnce(&Load)) -> u64 {
    let (called, (_release, released)) = (Arc::new(AtomicU64::new(0)), watch::channel(false));
    let service = counting(meter, &called, &released);
    let (stop, stopped) = watch::channel(false);
    let load = Arc::new(Load::default());
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (service, stopped, load) = (service.clone(), stopped.clone(), Arc::clone(&load));
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    let user = format!("alice-{number}");
                    let began = Instant::now();
                    let answer =
                        service.clone().oneshot(request(&user, "plenty", Empty::new())).await;
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap();
                    load.slowest_micros[number].fetch_max(took, Ordering::SeqCst);
                    match answer.unwrap().status() {
                        StatusCode::OK => &load.served[number],
                        StatusCode::SERVICE_UNAVAILABLE => &load.denied[number],
                        status => panic!("{status}"),
                    }
                    .fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    load.until_served().await;
    harm(&load).await;
    load.until_served().await;
    stop.send(true).unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    for (number, served) in load.served().into_iter().enumerate() {
        // The amount: a failover may lose the lines of what it forgot, which is then `recovered`.
        let (user, used) =
            (format!("alice-{number}"), nanos(COST * i64::try_from(served).unwrap()));
        eventually(async || {
            let statement = statement(meter, &user, "plenty").await;
            assert!(statement.used <= used, "{user}, {served} served: {statement:?}");
            (statement.held.is_zero() && statement.used == used).then_some(())
        })
        .await;
    }
    assert_eq!(called.load(Ordering::SeqCst), load.served().iter().sum::<u64>());
    assert!(meter.shutdown().await.unsettled.is_empty());
    called.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_the_total_is_exact_whatever_happens_to_the_server() {
    for fault in [
        Fault::Stopped,
        Fault::Killed,
        Fault::Slow,
        Fault::Failing,
        Fault::BlackHoled,
        Fault::Replica,
    ] {
        let mut server = RedisServer::start();
        let proxy = Proxy::before(server.port).await;
        let meter = CreditMeter::new(
            plan(),
            RedisLedger::connect(proxy.url()).await.unwrap(),
            tower_credits::identify::IdentityFromExtensions,
        );
        let served = under_load(&meter, async |load| {
            fault.begin(&mut server, &proxy);
            load.until_denied().await;
            fault.end(&mut server, &proxy);
        })
        .await;
        eprintln!("{fault:?}: {served} served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_with_scripts_flushed_and_clients_killed_the_total_is_exact() {
    let server = Arc::new(RedisServer::start());
    let meter = CreditMeter::new(
        plan(),
        RedisLedger::connect(server.url()).await.unwrap(),
        tower_credits::identify::IdentityFromExtensions,
    );
    let harm = server.clone();
    under_load(&meter, async |_| {
        let harm = tokio::task::spawn_blocking(move || {
            // Ten times a second, for two seconds.
            let began = Instant::now();
            for round in 1..=20 {
                harm.command(&["SCRIPT", "FLUSH"]);
                harm.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                while began.elapsed() < Duration::from_millis(100 * round) {
                    harm.command(&["SCRIPT", "FLUSH"]);
                }
            }
        });
        harm.await.unwrap();
    })
    .await;
}
