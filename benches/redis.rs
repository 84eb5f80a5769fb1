//! What the Redis ledger costs, beside bare calls by the same client:
//! `cargo bench -p benches --bench redis`.
//!
//! Each part starts a server of its own on a free port of the loopback interface. Figures that are
//! compared are taken in turns.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "the tests' own server")]
mod redis_server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use benches::{Asked, Echo, identity, plan};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tower::{Layer, Service, ServiceExt};
use tower_credits::{
    Account, CreditMeter, CreditMeterBuilder, Credits, HoldAhead, Identity, MemoryLedger, Period,
    RedisLedger,
    clock::UnixTime,
    identify::IdentityFromExtensions,
    ledger::{LeaseId, Ledger, LineKey, Outcome, Renewal, Terms, Usage, UsageLine},
};

use self::redis_server::RedisServer;

fn users(count: u64) -> Arc<Vec<Arc<Identity>>> {
    Arc::new((0..count).map(|user| Arc::new(identity(&format!("user-{user}"), "pro"))).collect())
}

fn request(user: &Arc<Identity>) -> Asked {
    Request::post("/models/echo").extension(Arc::clone(user)).body(Full::new(Bytes::new())).unwrap()
}

async fn builder(server: &RedisServer) -> CreditMeterBuilder {
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    CreditMeter::builder(plan(), ledger, IdentityFromExtensions)
        .inference_id(false)
        .request_extensions(false)
}

/// Calls and reads to the end.
async fn ask(
    service: &mut (
             impl Service<
        Asked,
        Response = http::Response<impl http_body::Body>,
        Error = std::convert::Infallible,
    > + Clone
         ),
    user: &Arc<Identity>,
) {
    let response = service.ready().await.unwrap().call(request(user)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_ok());
}

/// The first renewal of a strict admission, as the ledger sends it, by a client of the bench's own.
#[derive(Clone)]
struct Bare {
    link: MultiplexedConnection,
    /// The call that the ledger sent for the account `user-0`, as the server saw it.
    words: Vec<Vec<u8>>,
    /// The place of the first argument after the keys.
    first: usize,
}

/// The places of a renewal's numbers among them, and of them among the arguments.
const SEQ: usize = 0;
const BATCH: usize = 1;
const SETTLED: usize = 2;
const NOT_AFTER: usize = 14;
const NUMBERS: usize = 3;

/// Numbers as the script reads them.
fn packed(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| (*number as f64).to_le_bytes()).collect()
}

/// The words of a line of `MONITOR`.
fn monitored(line: &str) -> Vec<Vec<u8>> {
    let (mut words, mut in_word) = (Vec::new(), false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        let mut next = || bytes.next().unwrap();
        let byte = match byte {
            b'"' => {
                in_word = !in_word;
                if in_word {
                    words.push(Vec::new());
                }
                continue;
            }
            b'\\' => match next() {
                b'x' => {
                    let digits = [next(), next()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                other => other,
            },
            other => other,
        };
        if in_word {
            words.last_mut().unwrap().push(byte);
        }
    }
    words
}

impl Bare {
    async fn connect(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let link = client.get_multiplexed_async_connection().await.unwrap();
        let ask_once = async || {
            let meter = builder(server).await.build().unwrap();
            ask(&mut meter.layer(Echo), &users(1)[0]).await;
            drop(meter.shutdown().await);
        };
        // The first call brings the script itself.
        ask_once().await;
        let mut monitor = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        monitor.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(monitor).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        ask_once().await;
        let words = loop {
            let line = lines.next_line().await.unwrap().expect("the server goes on");
            let words = monitored(&line);
            if words.first().is_some_and(|word| word == b"EVALSHA") {
                break words;
            }
        };
        let first = 3 + String::from_utf8_lossy(&words[2]).parse::<usize>().unwrap();
        assert_eq!(words.len(), first + NUMBERS + 1, "a renewal without lines");
        Self { link, words, first }
    }

    /// The words of a call for another account and lease.
    fn words(&self, account: &str, lease: &str, seq: u64, settled: u64) -> Vec<Vec<u8>> {
        let mut words = self.words.clone();
        for key in &mut words[3..self.first] {
            *key = String::from_utf8_lossy(key).replace("user-0", account).into_bytes();
        }
        words[self.first] = lease.into();
        let not_after = tower_credits::clock::UnixTime::now().as_millis() + 600_000;
        let numbers = &mut words[self.first + NUMBERS];
        for (at, number) in [(SEQ, seq), (BATCH, seq), (SETTLED, settled), (NOT_AFTER, not_after)] {
            numbers[8 * at..][..8].copy_from_slice(&packed(&[number]));
        }
        words
    }

    async fn renew(&mut self, account: &str, lease: u64, seq: u64) {
        let words = self.words(account, &format!("{lease:032x}"), seq, 0);
        let mut call = redis::cmd("EVALSHA");
        call.arg(&words[1..]);
        let answer: String = call.query_async(&mut self.link).await.unwrap();
        assert!(answer.starts_with("renewed "), "{answer}");
    }
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let began = Instant::now();
    work.await;
    began.elapsed().as_nanos() as f64 / 1_000.0
}

/// Long enough for what others do meanwhile, and the processor stays awake.
async fn pause() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(200) {
        tokio::task::yield_now().await;
    }
}

/// A renewal as the first of a strict admission is.
fn renewal(seq: u64) -> Renewal {
    let nanos = |nanos| Credits::from_nano_usd(nanos).unwrap();
    Renewal {
        lease: LeaseId::from_bits(1),
        seq,
        batch: seq,
        settled: Credits::ZERO,
        reported: Credits::ZERO,
        lines: [].into(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: nanos(1_200_000),
        extra: Credits::ZERO,
        terms: Terms {
            included: nanos(2_000_000_000),
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::MAX,
        },
        terms_at: UnixTime::now(),
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: [].into(),
        permits: None,
        concurrency: None,
    }
}

/// One request that has to ask the ledger, one bare call of the same script, and one call of a
/// script that does nothing, in turns.
async fn latency(name: &str) {
    let server = RedisServer::start();
    let users = users(2_000);
    let mut service = builder(&server).await.build().unwrap().layer(Echo);
    let mut bare = Bare::connect(&server).await;
    let nothing: String =
        redis::cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut bare.link).await.unwrap();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let in_memory = CreditMeter::builder(plan(), MemoryLedger::new(), IdentityFromExtensions);
    let in_memory = in_memory.inference_id(false).request_extensions(false);
    let mut in_memory = in_memory.build().unwrap().layer(Echo);
    let [mut strict, mut script, mut one, mut alone, mut memory] = [const { Vec::new() }; 5];
    for number in 0..12_000_u64 {
        // Each account again only after its lease has given back what the last request left.
        let user = &users[number as usize % users.len()];
        pause().await;
        let asked = timed(ask(&mut service, user)).await;
        pause().await;
        let called = timed(bare.renew(
            &format!("bare-{number}", number = number % 2_000),
            1,
            number / users.len() as u64 + 1,
        ))
        .await;
        pause().await;
        let called_by_ledger = {
            let account = Account::user(&format!("alone-{}", number % 2_000)).unwrap();
            let renewal = renewal(number / users.len() as u64 + 1);
            let period = Period::containing(UnixTime::now());
            timed(async {
                let within = Duration::from_millis(250);
                let answer = ledger.renew(&account, period, &renewal, within).await.unwrap();
                assert!(matches!(answer.outcome, Outcome::Renewed { .. }), "{answer:?}");
            })
            .await
        };
        pause().await;
        let asked_memory = timed(ask(&mut in_memory, user)).await;
        pause().await;
        let nothing = timed(async {
            let answer: u64 = redis::cmd("EVALSHA")
                .arg(&nothing)
                .arg(0)
                .query_async(&mut bare.link)
                .await
                .unwrap();
            assert_eq!(answer, 1);
        })
        .await;
        if number >= 2_000 {
            for (of, took) in [
                (&mut strict, asked),
                (&mut script, called),
                (&mut one, nothing),
                (&mut alone, called_by_ledger),
                (&mut memory, asked_memory),
            ] {
                of.push(took);
            }
        }
    }
    let (strict, script, one) = (median(&mut strict), median(&mut script), median(&mut one));
    let (alone, memory) = (median(&mut alone), median(&mut memory));
    println!(
        "latency, {name}: the ledger's own call {alone:.1} us, a strict request that asks a ledger in memory {memory:.1} us; a strict request {strict:.1} us, a bare call of the script {script:.1} us, EVALSHA `return 1` {one:.1} us: \
         strict / script {:.2}, script / nothing {:.2}",
        strict / script,
        script / one
    );
}

/// How often a second `work` is done by a thousand tasks, for a while.
async fn rate<F: Future<Output = ()> + Send>(
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> f64 {
    let (done, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let tasks: Vec<_> = (0..1_000)
        .map(|task| {
            let (work, done) = (work.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while began.elapsed() < Duration::from_secs(2) {
                    work(task).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// A thousand tasks on one account: admissions, against one call of the script for each request.
async fn one_account() {
    let server = RedisServer::start();
    let user = Arc::new(identity("alice", "pro"));
    let service =
        builder(&server).await.ledger_timeout(Duration::from_secs(1)).build().unwrap().layer(Echo);
    let bare = Bare::connect(&server).await;
    let seq = Arc::new(AtomicU64::new(0));
    let (mut metered, mut each) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (service, user) = (service.clone(), Arc::clone(&user));
        metered.push(
            rate(move |_| {
                let (mut service, user) = (service.clone(), Arc::clone(&user));
                async move { ask(&mut service, &user).await }
            })
            .await,
        );
        let (bare, seq) = (bare.clone(), Arc::clone(&seq));
        each.push(
            rate(move |_| {
                let (mut bare, lease) = (bare.clone(), seq.fetch_add(1, Ordering::Relaxed));
                async move { bare.renew("bare", 1 + lease % 1_000, 1 + lease).await }
            })
            .await,
        );
    }
    let (metered, each) = (median(&mut metered), median(&mut each));
    println!(
        "one account, 1 000 tasks, strict: {metered:.0} admissions a second; one call of the script for each request: {each:.0}: {:.1} x",
        metered / each
    );
}

/// A thousand tasks on a hundred thousand accounts: renewals, against bare calls of the same script
/// with as many under way.
async fn many_accounts() {
    const ACCOUNTS: u64 = 100_000;
    let server = RedisServer::start();
    let users = users(ACCOUNTS);
    let meter = builder(&server)
        .await
        .ledger_timeout(Duration::from_secs(5))
        .max_accounts(200_000.try_into().unwrap())
        .build()
        .unwrap();
    let (service, next) = (meter.layer(Echo), Arc::new(AtomicU64::new(0)));
    let (before, began) = (renewals(&server), Instant::now());
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (mut service, users, next) =
                (service.clone(), Arc::clone(&users), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 3 * ACCOUNTS {
                        return;
                    }
                    ask(&mut service, &users[(number * 7_919 % ACCOUNTS) as usize]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let renewals = (renewals(&server) - before) as f64 / began.elapsed().as_secs_f64();
    let admissions = 3.0 * ACCOUNTS as f64 / began.elapsed().as_secs_f64();
    drop(meter.shutdown().await);

    for depth in [1_000, 100] {
        let peer = pipelines(depth).await;
        println!(
            "100 000 accounts, 1 000 tasks, strict: {renewals:.0} renewals and {admissions:.0} admissions a second; a bare client, {depth} commands at once: \
             {peer:.0} calls of the script a second: {:.2}",
            renewals / peer
        );
    }
}

/// The renewals that a server made: each reads the record once, and a call can be for several.
fn renewals(server: &RedisServer) -> u64 {
    server.calls("hgetall")
}

/// The processor time that a server took, in seconds.
fn processor(server: &RedisServer) -> f64 {
    let info = server.command(&["INFO", "cpu"]);
    let of = |field: &str| -> f64 {
        let value = info.lines().find_map(|line| line.strip_prefix(field));
        value.and_then(|value| value.trim().parse().ok()).unwrap()
    };
    of("used_cpu_sys:") + of("used_cpu_user:")
}

/// Renewals of leases that the ledger already has. Each settles one request and asks for a new
/// hold. Two connections send pipelines of 100, each for accounts of its own.
async fn known_leases() {
    const ACCOUNTS: u64 = 1_000;
    let server = RedisServer::start();
    let bare = Bare::connect(&server).await;
    let client = redis::Client::open(server.url()).unwrap();
    let renew_all = |connection: u64, from: u64, until: Instant| {
        let (bare, client) = (bare.clone(), client.clone());
        tokio::spawn(async move {
            let mut link = client.get_multiplexed_async_connection().await.unwrap();
            let mut seq = from;
            while Instant::now() < until || seq == from {
                for first in (0..ACCOUNTS).step_by(100) {
                    let mut pipe = redis::pipe();
                    for account in first..first + 100 {
                        let account = format!("known-{connection}-{account}");
                        let lease = format!("{connection:032x}");
                        let mut words = bare.words(&account, &lease, seq, seq * 1_200);
                        words.push("20\techo\tgpu\tapi\talice".into());
                        words.push(packed(&[1, 10, 1_200]));
                        let mut call = redis::cmd("EVALSHA");
                        call.arg(&words[1..]);
                        pipe.add_command(call);
                    }
                    let answers: Vec<String> = pipe.query_async(&mut link).await.unwrap();
                    assert!(answers.iter().all(|answer| answer.starts_with("renewed ")));
                }
                seq += 1;
            }
            seq
        })
    };
    // The first round creates the leases.
    let mut next = Vec::new();
    for connection in 0..2 {
        next.push(renew_all(connection, 1, Instant::now()).await.unwrap());
    }
    let mut rates = Vec::new();
    for _ in 0..5 {
        let (before, began) = (server.calls("evalsha"), Instant::now());
        let until = began + Duration::from_secs(2);
        let tasks =
            [0, 1].map(|connection| renew_all(connection, next[connection as usize], until));
        for (task, next) in tasks.into_iter().zip(&mut next) {
            *next = task.await.unwrap();
        }
        rates.push((server.calls("evalsha") - before) as f64 / began.elapsed().as_secs_f64());
    }
    let rate = median(&mut rates);
    println!(
        "known leases, each renewal settles a request: {rate:.0} renewals a second ({:.0} .. {:.0})",
        rates[0],
        rates[rates.len() - 1]
    );
}

/// The same by the ledger, which sends several in one call: so many tasks, each with an account of
/// its own.
async fn by_ledger() {
    for tasks in [4_u64, 64, 1_000] {
        let server = RedisServer::start();
        let ledger = RedisLedger::connect(server.url()).await.unwrap();
        let work = |from: u64, until: Instant| {
            let ledger = ledger.clone();
            let tasks = (0..tasks).map(|task| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let account = Account::user(&format!("known-{task}")).unwrap();
                    let period = Period::containing(UnixTime::now());
                    let mut seq = from;
                    while Instant::now() < until || seq == from {
                        let renewal = settles(seq);
                        let within = Duration::from_secs(5);
                        let answer =
                            ledger.renew(&account, period, &renewal, within).await.unwrap();
                        assert!(matches!(answer.outcome, Outcome::Renewed { .. }), "{answer:?}");
                        seq += 1;
                    }
                    seq
                })
            });
            futures_util::future::join_all(tasks)
        };
        // The first round creates the leases.
        let mut next = 2;
        work(1, Instant::now()).await;
        let (mut rates, mut costs, mut calls) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..5 {
            let before = (renewals(&server), server.calls("evalsha"), processor(&server));
            let began = Instant::now();
            let reached = work(next, began + Duration::from_secs(1)).await;
            next = reached.into_iter().map(Result::unwrap).max().unwrap();
            let took = began.elapsed().as_secs_f64();
            let renewed = (renewals(&server) - before.0) as f64;
            rates.push(renewed / took);
            costs.push((processor(&server) - before.2) / renewed * 1e6);
            calls = renewed / (server.calls("evalsha") - before.1) as f64;
        }
        let (rate, cost) = (median(&mut rates), median(&mut costs));
        println!(
            "known leases, by the ledger, {tasks} tasks: {rate:.0} renewals a second ({:.0} .. {:.0}), {calls:.1} in a call; {cost:.1} us of the server's processor each ({:.1} .. {:.1}): {:.0} a second of one core",
            rates[0],
            rates[rates.len() - 1],
            costs[0],
            costs[costs.len() - 1],
            1e6 / cost
        );
    }
}

/// A renewal that settles one request, and asks for a new hold.
fn settles(seq: u64) -> Renewal {
    let nanos = |nanos| Credits::from_nano_usd(nanos).unwrap();
    let of = |settled: u64| nanos(i64::try_from(settled * 1_200).unwrap());
    let key = LineKey::Of {
        day: 20,
        model: "echo".parse().unwrap(),
        hardware: "gpu".parse().unwrap(),
        feature: "api".parse().unwrap(),
        subject: "alice".parse().unwrap(),
    };
    let usage = Usage { requests: 1, compute_micros: 10, cost: nanos(1_200) };
    Renewal {
        settled: of(seq),
        reported: of(seq - 1),
        lines: [UsageLine { key, usage }].into(),
        ..renewal(seq)
    }
}

/// Calls of the script a second by a bare client: one connection, pipelines of this depth, a
/// hundred thousand accounts, and leases that are mostly new, so that each call has its whole
/// effect.
async fn pipelines(depth: u64) -> f64 {
    const CALLS: u64 = 300_000;
    let server = RedisServer::start();
    let mut bare = Bare::connect(&server).await;
    let began = Instant::now();
    for first in (0..CALLS).step_by(depth as usize) {
        let mut pipe = redis::pipe();
        for number in first..first + depth {
            let number = number * 7_919 % 100_000;
            let words = bare.words(&format!("user-{number}"), &format!("{number:032x}"), 1, 0);
            pipe.cmd("EVALSHA").arg(&words[1..]);
        }
        let answers: Vec<String> = pipe.query_async(&mut bare.link).await.unwrap();
        assert_eq!(answers.len() as u64, depth);
    }
    CALLS as f64 / began.elapsed().as_secs_f64()
}

/// Fifty thousand requests a second over a thousand accounts, held ahead: what reaches the server.
async fn ahead_calls() {
    for (accounts, a_second) in [(1_000_u64, 50_000_u64), (100, 50_000), (1_000, 5_000)] {
        let server = RedisServer::start();
        let users = users(accounts);
        let meter = builder(&server).await.hold_ahead(HoldAhead::default()).build().unwrap();
        let mut service = meter.layer(Echo);
        let batch = a_second / 1_000;
        let (mut number, seconds) = (0_u64, 5);
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let (mut before, mut calls_before) = (0, 0);
        let mut began = Instant::now();
        for millisecond in 0..1_000 * (seconds + 1) {
            if millisecond == 1_000 {
                (before, began, number) = (renewals(&server), Instant::now(), 0);
                calls_before = server.calls("evalsha");
            }
            tick.tick().await;
            for _ in 0..batch {
                ask(&mut service, &users[(number * 7_919 % accounts) as usize]).await;
                number += 1;
            }
        }
        let took = began.elapsed().as_secs_f64();
        let calls = (server.calls("evalsha") - calls_before) as f64 / took;
        let renewed = (renewals(&server) - before) as f64 / took;
        println!(
            "ahead: {:.0} requests a second over {accounts} accounts: {renewed:.0} renewals a second in {calls:.0} calls; accounts x 1 s / (report_within + a round trip) is at most {}",
            number as f64 / took,
            accounts
        );
        drop(meter.shutdown().await);
    }
}

/// What an account-month that rests takes of the server's memory: its lease forgotten, one usage
/// line.
async fn memory() {
    const ACCOUNTS: u64 = 10_000;
    let server = RedisServer::start();
    let users = users(ACCOUNTS);
    let used = || {
        let info = server.command(&["INFO", "memory"]);
        info.lines()
            .find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<i64>().ok())
            .unwrap()
    };
    let meter = builder(&server).await.ledger_timeout(Duration::from_secs(5)).build().unwrap();
    let mut service = meter.layer(Echo);
    ask(&mut service, &Arc::new(identity("the-first", "pro"))).await;
    let before = used();
    for user in users.iter() {
        ask(&mut service, user).await;
    }
    drop(meter.shutdown().await);
    let with_leases = used();
    let client = redis::Client::open(server.url()).unwrap();
    let mut link = client.get_multiplexed_async_connection().await.unwrap();
    // As each lease does once it has rested for its time to live.
    for user in users.iter() {
        let period = tower_credits::Period::containing(tower_credits::clock::UnixTime::now());
        let gone: u64 = redis::cmd("DEL")
            .arg(format!("tc:{{user:{}}}:{period}:l", user.subject))
            .query_async(&mut link)
            .await
            .unwrap();
        assert_eq!(gone, 1);
    }
    let resting = used();
    let each = |bytes: i64| bytes / i64::try_from(ACCOUNTS).unwrap();
    println!(
        "memory: an account-month in Redis takes {} bytes with a lease that holds nothing, {} bytes at rest (what the server's `used_memory` grew by, keys \
         and expiries included)",
        each(with_leases - before),
        each(resting - before)
    );
}

fn main() {
    // Arguments choose parts by their names; none chooses all.
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|word| word == part);
    let many = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    };
    if wanted("latency") {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(latency("one thread"));
        let runtime = many();
        runtime.block_on(async { tokio::spawn(latency("two worker threads")).await.unwrap() });
    }
    let runtime = many();
    let run = |part: &str, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        if wanted(part) {
            runtime.block_on(async { tokio::spawn(work).await.unwrap() });
        }
    };
    run("one-account", Box::pin(one_account()));
    run("many-accounts", Box::pin(many_accounts()));
    run("known-leases", Box::pin(known_leases()));
    run("by-ledger", Box::pin(by_ledger()));
    run("ahead", Box::pin(ahead_calls()));
    run("memory", Box::pin(memory()));
}
