//! Whole servers under load: `scripts/load`. `wrk` for HTTP/1.1, `h2load` for HTTP/2 and gRPC;
//! servers take turns, ratios are within a round.
//!
//! This program is driver and server: with `serve <kind> <port> <redis-url> <accounts>` it is one
//! of the servers, else it starts them one after the other. Arguments: the seconds of each run
//! (default 5) and the number of rounds (default 5), and parts by name: http1, http1-many, http2,
//! grpc, growth.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "the tests' own server")]
mod redis_server;

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, routing::post};
use benches::{
    identity,
    peers::ByToken,
    plan,
    plots::{self, Bar},
};
use tower_credits::{
    BearerTokens, CreditMeter, HoldAhead, MemoryLedger, RedisLedger, ledger::Ledger,
};
use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder};

use self::redis_server::RedisServer;

fn token(user: u64) -> String {
    format!("hf_{user:034}")
}

async fn serve(kind: &str, port: u16, redis: &str, accounts: u64) {
    let answer = "x".repeat(256);
    let (mut reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let _ = &mut reporter;
    let grpc = tonic::service::Routes::new(health).into_axum_router();
    let app = Router::new()
        .route("/models/{model}", post(move |_: axum::body::Bytes| async move { answer }))
        .merge(grpc);
    let meter = async |ahead: bool, memory: bool| {
        let tokens = (0..accounts).fold(BearerTokens::new(), |tokens, user| {
            tokens.with(&token(user), identity(&format!("user-{user}"), "pro"))
        });
        let builder = if memory {
            build(MemoryLedger::new(), tokens)
        } else {
            build(RedisLedger::connect(redis).await.unwrap(), tokens)
        };
        let builder = builder.max_accounts(2_000_000.try_into().unwrap());
        if ahead { builder.hold_ahead(HoldAhead::default()) } else { builder }.build().unwrap()
    };
    let app = match kind {
        "bare" => app,
        "tower_governor" => {
            let config = GovernorConfigBuilder::default()
                .per_nanosecond(1)
                .burst_size(1_000_000_000)
                .key_extractor(ByToken)
                .finish()
                .unwrap();
            app.layer(GovernorLayer::new(Arc::new(config)))
        }
        "trace" => app.layer(tower_http::trace::TraceLayer::new_for_http()),
        "ahead" => app.layer(meter(true, false).await),
        "strict" => app.layer(meter(false, false).await),
        "ahead-memory" => app.layer(meter(true, true).await),
        _ => panic!("no server is called {kind:?}"),
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true))),
        app,
    )
    .await
    .unwrap();
}

fn build(ledger: impl Ledger, tokens: BearerTokens) -> tower_credits::CreditMeterBuilder {
    CreditMeter::builder(plan(), ledger, tokens).inference_id(false).request_extensions(false)
}

/// One of the servers, as a process of its own.
struct Server {
    child: Child,
    port: u16,
    redis: RedisServer,
}

impl Server {
    fn start(kind: &str, accounts: u64) -> Self {
        let redis = RedisServer::start();
        let port = RedisServer::free_port();
        let child = Command::new(env::current_exe().unwrap())
            .args(["serve", kind, &port.to_string(), &redis.url(), &accounts.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (server, began) = (Self { child, port, redis }, Instant::now());
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the server came up");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// What a server and its Redis have used so far.
#[derive(Clone, Copy, Default)]
struct Used {
    /// Processor time of the server, in microseconds.
    server: f64,
    /// Processor time of Redis, in microseconds.
    redis: f64,
    /// Calls of scripts.
    calls: f64,
}

impl Server {
    /// What was used since the start, or 0 where the system does not say it.
    fn used(&self) -> Used {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // Fields 14 and 15, in hundredths of a second; the second is a name in parentheses.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|word| word.parse::<f64>().ok()).sum();
        let info = self.redis.command(&["INFO", "cpu"]);
        let seconds = ["used_cpu_user:", "used_cpu_sys:"].map(|name| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<f64>().ok()).unwrap_or_default()
        });
        Used {
            server: ticks * 10_000.0,
            redis: seconds.iter().sum::<f64>() * 1_000_000.0,
            calls: self.redis.calls("evalsha") as f64,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests a second, and what 99 % of them were answered within, in milliseconds.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    p99: f64,
    /// How many there were.
    requests: f64,
}

fn output(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("{name}: {error} (Debian: apt-get install wrk nghttp2-client)")
    });
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wrk(server: &Server, folder: &Path, accounts: u64, seconds: u64) -> Run {
    let script = folder.join("tokens.lua");
    let lua = format!(
        "local post = {{}}\nlocal seed = 0\nfunction setup(thread) seed = seed + 1; thread:set('mine', seed) end\n\
         function init() math.randomseed(mine) end\n\
         function request()\n  local headers = {{ Authorization = string.format('Bearer hf_%034d', math.random(0, {accounts} - 1)) }}\n  \
         return wrk.format('POST', '/models/echo', headers, 'sixteen bytes...')\nend\n\
         function done(summary) if summary.errors.status > 0 then io.stderr:write('errors: ', summary.errors.status); os.exit(1) end end\n"
    );
    fs::write(&script, lua).unwrap();
    let url = format!("http://127.0.0.1:{}/", server.port);
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-c", "64", "-d", &format!("{seconds}s"), "--latency", "-s"])
        .arg(&script)
        .arg(url);
    let text = output(&mut command);
    let after = |head: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(head))
            .unwrap_or_else(|| panic!("{text}"))
            .trim()
            .to_owned()
    };
    let p99 = after("99%");
    let number = |text: &str| text.trim_end_matches(char::is_alphabetic).parse::<f64>().unwrap();
    let p99 = if p99.ends_with("us") {
        number(&p99) / 1000.0
    } else if p99.ends_with("ms") {
        number(&p99)
    } else {
        number(&p99) * 1000.0
    };
    let rate = number(&after("Requests/sec:"));
    Run { rate, p99, requests: rate * seconds as f64 }
}

fn h2load(server: &Server, folder: &Path, grpc: bool, seconds: u64) -> Run {
    let (log, data) = (folder.join("h2load.log"), folder.join("body"));
    let _ = fs::remove_file(&log);
    // An empty message of gRPC: not compressed, of length 0.
    fs::write(&data, if grpc { &b"\0\0\0\0\0"[..] } else { b"sixteen bytes..." }).unwrap();
    let path = if grpc { "grpc.health.v1.Health/Check" } else { "models/echo" };
    let mut command = Command::new("h2load");
    command
        .args(["-t", "1", "-c", "64", "-m", "1", "--duration", &seconds.to_string(), "--log-file"])
        .arg(&log)
        .arg("-d")
        .arg(&data);
    command.args(["-H", &format!("authorization: Bearer {}", token(0))]);
    if grpc {
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    let text = output(command.arg(format!("http://127.0.0.1:{}/{path}", server.port)));
    assert!(text.contains("0 4xx, 0 5xx"), "{text}");
    // Each line: when it began, its status, and how long it took, in microseconds.
    let mut took: Vec<f64> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse().ok())
        .collect();
    took.sort_by(f64::total_cmp);
    let requests = took.len() as f64;
    Run { rate: requests / seconds as f64, p99: took[took.len() * 99 / 100] / 1000.0, requests }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Runs all kinds in turns, in another order each round, and prints each beside the first.
fn compare(
    file: &str,
    title: &str,
    kinds: &[(&str, u64)],
    rounds: usize,
    load: impl Fn(&Server, u64) -> Run,
) {
    let mut runs = vec![Vec::new(); kinds.len()];
    let mut used = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let (kind, accounts) = kinds[at];
            let server = Server::start(kind, accounts);
            // Connections, leases and caches.
            load(&server, 1);
            let (before, began) = (server.used(), Instant::now());
            let run = load(&server, 0);
            let (after, took) = (server.used(), began.elapsed().as_secs_f64());
            runs[at].push(run);
            used[at].push(Used {
                server: (after.server - before.server) / run.requests,
                redis: (after.redis - before.redis) / run.requests,
                calls: (after.calls - before.calls) / took,
            });
        }
    }
    println!("\n{title}; {rounds} rounds\n");
    println!(
        "| server | requests/s: median (least .. most) | against the first, same round: median (least .. most) | p99 ms: median | p99 against the first | us of processor a request: server | Redis | script calls/s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut bars = Vec::new();
    for (at, (kind, accounts)) in kinds.iter().enumerate() {
        let spread = |of: &[f64]| {
            let (least, most) = (
                of.iter().copied().fold(f64::MAX, f64::min),
                of.iter().copied().fold(0.0, f64::max),
            );
            (median(of.to_vec()), least, most)
        };
        let (rate, least, most) = spread(&runs[at].iter().map(|run| run.rate).collect::<Vec<_>>());
        let ratios: Vec<f64> =
            runs[at].iter().zip(&runs[0]).map(|(run, first)| run.rate / first.rate).collect();
        let (ratio, least_ratio, most_ratio) = spread(&ratios);
        let p99 = median(runs[at].iter().map(|run| run.p99).collect());
        let p99_ratio =
            median(runs[at].iter().zip(&runs[0]).map(|(run, first)| run.p99 / first.p99).collect());
        let of = |what: fn(&Used) -> f64| median(used[at].iter().map(what).collect());
        println!(
            "| {kind}, {accounts} accounts | {rate:.0} ({least:.0} .. {most:.0}) | {ratio:.3} ({least_ratio:.3} .. {most_ratio:.3}) | {p99:.2} | {p99_ratio:.2} | {:.2} | {:.2} | {:.0} |",
            of(|used| used.server),
            of(|used| used.redis),
            of(|used| used.calls),
        );
        let ours = kind.starts_with("ahead") || *kind == "strict";
        bars.push(Bar {
            name: (*kind).to_owned(),
            value: ratio,
            least: least_ratio,
            most: most_ratio,
            ours,
        });
    }
    plots::draw(file, &format!("Requests a second against the bare server: {title}"), "x", &bars);
}

fn main() {
    let arguments: Vec<String> =
        env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if arguments.first().is_some_and(|word| word == "serve") {
        let (kind, port, redis, accounts) = (
            &arguments[1],
            arguments[2].parse().unwrap(),
            &arguments[3],
            arguments[4].parse().unwrap(),
        );
        tokio::runtime::Runtime::new().unwrap().block_on(serve(kind, port, redis, accounts));
        return;
    }
    let numbers: Vec<u64> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let (seconds, rounds) =
        (numbers.first().copied().unwrap_or(5), numbers.get(1).copied().unwrap_or(5) as usize);
    let named: Vec<&String> =
        arguments.iter().filter(|word| word.parse::<u64>().is_err()).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|word| *word == part);
    let folder: PathBuf =
        env::temp_dir().join(format!("tower-credits-load-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    // A warm-up is short.
    let time = |warm_up: u64| if warm_up == 1 { 1 } else { seconds };
    for (part, accounts) in [("http1", 1), ("http1-many", 1_000)] {
        // With a ledger in memory, no other process takes part.
        let kinds = ["bare", "tower_governor", "trace", "ahead", "strict", "ahead-memory"]
            .map(|kind| (kind, accounts));
        if wanted(part) {
            let title = format!("HTTP/1.1, wrk, 64 connections, {accounts} accounts by chance");
            compare(&format!("load-{part}.svg"), &title, &kinds, rounds, |server, warm_up| {
                wrk(server, &folder, accounts, time(warm_up))
            });
        }
    }
    for (part, grpc) in [("http2", false), ("grpc", true)] {
        let kinds = ["bare", "tower_governor", "trace", "ahead", "strict"].map(|kind| (kind, 1));
        if wanted(part) {
            let title = format!("{part}, h2load, 64 connections, one account, Redis");
            compare(&format!("load-{part}.svg"), &title, &kinds, rounds, |server, warm_up| {
                h2load(server, &folder, grpc, time(warm_up))
            });
        }
    }
    if wanted("growth") {
        let kinds = [("ahead-memory", 1), ("ahead-memory", 10_000), ("ahead-memory", 1_000_000)];
        println!("\nGrowth: each line's requests are of as many accounts as it says, by chance");
        let mut runs = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for ((kind, accounts), runs) in kinds.iter().zip(&mut runs) {
                let server = Server::start(kind, *accounts);
                wrk(&server, &folder, *accounts, 2);
                runs.push(1_000_000.0 / wrk(&server, &folder, *accounts, seconds).rate);
            }
        }
        let medians = runs.map(median);
        for ((_, accounts), micros) in kinds.iter().zip(medians) {
            println!("{accounts} accounts: {micros:.1} us a request, {:.2} x", micros / medians[0]);
        }
    }
    fs::remove_dir_all(folder).unwrap();
}
