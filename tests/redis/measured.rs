//! What faults cost, and how fast ledgers are: tables, not tests. `scripts/faults` prints them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::task::spawn_blocking;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, CreditMeter, Period, RedisLedger,
    clock::UnixTime,
    identify::IdentityFromExtensions,
    ledger::{LeaseId, Ledger, Renewal, Terms},
};

use crate::{
    outages::{Load, under_load},
    support::{
        redis_cluster::{RedisCluster, until},
        redis_sentinel::Watched,
        redis_server::RedisServer,
        *,
    },
};

/// Runs a fault under load, and prints its row. That nothing is lost, doubled, overspent or on hold
/// at the end is what [`under_load`] asserts.
async fn row(name: &str, url: String, fault: impl AsyncFnOnce(&Load)) {
    // Each row has keys of its own.
    let prefix = format!("t{:x}", fastrand::u64(..));
    row_of(name, RedisLedger::builder(url).prefix(prefix).connect().await.unwrap(), fault).await;
}

async fn row_of(name: &str, ledger: impl Ledger, fault: impl AsyncFnOnce(&Load)) {
    let meter = CreditMeter::new(plan(), ledger, IdentityFromExtensions);
    let (mut well, mut denied, mut slowest) = (Duration::ZERO, 0, Duration::ZERO);
    let served = under_load(&meter, async |load| {
        load.take_slowest();
        fault(load).await;
        let ended = Instant::now();
        load.until_served().await;
        well = ended.elapsed();
        denied = load.denied().iter().sum::<u64>();
        slowest = load.take_slowest().into_iter().max().unwrap();
    })
    .await;
    println!(
        "| {name} | {} | {denied} | 0 | 0 | 0 | 0 | {} ms | {} ms |",
        served + denied,
        slowest.as_millis(),
        well.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a table: scripts/faults prints it"]
async fn what_faults_cost() {
    println!("| fault | requests | denied | lost | double | overspent | held | longest | well |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let server = tokio::sync::Mutex::new(RedisServer::start());
    let url = server.lock().await.url();
    row("one server, none", url.clone(), async |_| {
        tokio::time::sleep(seconds(2)).await;
    })
    .await;
    row("one server, killed for a second", url, async |_| {
        let mut server = server.lock().await;
        server.kill();
        tokio::time::sleep(seconds(1)).await;
        server.restart();
    })
    .await;
    let mut watched = spawn_blocking(Watched::start).await.unwrap();
    let url = watched.url();
    row("Sentinel, master killed, replica takes over", url, async |_| {
        watched.servers[0].kill();
        until("the replica took over", || watched.role(1).contains("role:master"));
    })
    .await;
    let mut cluster = spawn_blocking(|| RedisCluster::start(3, true)).await.unwrap();
    let url = cluster.url();
    row("cluster, CLUSTER FAILOVER", url.clone(), async |_| {
        let slot = cluster.slot_of("alice-0");
        let master = cluster.owner(slot).unwrap();
        let _: () = cluster.ask(master + 3, &["CLUSTER", "FAILOVER"]);
        until("the replica took over", || cluster.owner(slot) == Some(master + 3));
    })
    .await;
    let slot = cluster.slot_of("alice-1");
    let master = cluster.owner(slot).unwrap();
    row("cluster, master killed, replica takes over", url.clone(), async |_| {
        cluster.servers[master].kill();
        until("a replica took over", || cluster.owner(slot).is_some_and(|owner| owner != master));
    })
    .await;
    row("cluster, that master comes back", url, async |_| {
        cluster.servers[master].restart();
        until("it is a replica", || {
            let role: String =
                cluster.try_ask(master, &["INFO", "replication"]).unwrap_or_default();
            role.contains("role:slave") && role.contains("master_link_status:up")
        });
    })
    .await;
    let cluster = Arc::new(spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap());
    let url = cluster.url();
    row("cluster, a shard away for two seconds", url.clone(), async |_| {
        cluster.servers[0].stop();
        tokio::time::sleep(seconds(2)).await;
        cluster.servers[0].go_on();
    })
    .await;
    row("cluster, eight slots move there and back", url, async |_| {
        let cluster = cluster.clone();
        let moves = spawn_blocking(move || {
            for user in (0..8).chain(0..8) {
                let slot = cluster.slot_of(&format!("alice-{user}"));
                let to = (cluster.owner(slot).unwrap() + 1) % 3;
                cluster.move_slot(slot, to, Duration::ZERO);
            }
        });
        moves.await.unwrap();
    })
    .await;
}

/// Renews leases of a thousand accounts, 256 at a time, for some seconds. Returns how many renewals
/// a second.
async fn speed(ledger: impl Ledger + Clone) -> f64 {
    let period = Period::containing(UnixTime::now());
    let began = Instant::now();
    let until = began + seconds(5);
    let renewed = Arc::new(AtomicU64::new(0));
    join_all((0..256_u64).map(|worker| {
        let (ledger, renewed) = (ledger.clone(), Arc::clone(&renewed));
        tokio::spawn(async move {
            let mut seq = 0;
            while Instant::now() < until {
                seq += 1;
                let account = Account::user(&format!("u{}", (worker * 4 + seq % 4) % 1_000));
                let renewal = Renewal {
                    lease: LeaseId::from_bits(u128::from(worker) + 1),
                    seq,
                    batch: 0,
                    settled: nanos(i64::try_from(seq).unwrap()),
                    reported: nanos(0),
                    lines: [].into(),
                    keep: nanos(100),
                    refill: nanos(0),
                    need: nanos(100),
                    extra: nanos(0),
                    terms: Terms {
                        included: nanos(2_000_000_000),
                        included_per_day: nanos(0),
                        per_seat: false,
                        pay_as_you_go: nanos(0),
                    },
                    terms_at: UnixTime::now(),
                    ttl: seconds(600),
                    forget: false,
                    most_per_day: None,
                    parts: std::sync::Arc::default(),
                    permits: None,
                    concurrency: None,
                };
                ledger.renew(&account.unwrap(), period, &renewal, seconds(5)).await.unwrap();
                renewed.fetch_add(1, Ordering::Relaxed);
            }
        })
    }))
    .await;
    renewed.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a table: scripts/faults prints it"]
async fn how_fast_ledgers_are() {
    let one = RedisServer::start();
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    let always = RedisServer::start_with(&["--appendfsync", "always"]);
    let connect = async |url: String| RedisLedger::connect(url).await.unwrap();
    let file = folder::Folder::new("speed");
    let path = file.0.join("credits.redb");
    println!("| ledger | renewals a second, twice |");
    println!("|---|---|");
    let (mut rows, one, cluster, always) = (
        Vec::new(),
        connect(one.url()).await,
        connect(cluster.url()).await,
        connect(always.url()).await,
    );
    let embedded = tower_credits::EmbeddedLedger::open(path).unwrap();
    for _ in 0..2 {
        rows.push([
            speed(one.clone()).await,
            speed(cluster.clone()).await,
            speed(always.clone()).await,
            speed(embedded.clone()).await,
        ]);
    }
    let names = [
        "Redis, one server",
        "Redis Cluster, three masters",
        "Redis, one server, `appendfsync always`",
        "EmbeddedLedger",
    ];
    for (at, name) in names.iter().enumerate() {
        println!("| {name} | {:.0}, {:.0} |", rows[0][at], rows[1][at]);
    }
}

/// Sets the size beyond which this process can write no file.
#[cfg(feature = "embedded")]
fn set_file_limit(limit: &str) {
    let limit = format!("--fsize={limit}:");
    let pid = std::process::id().to_string();
    let set = std::process::Command::new("prlimit").args([&limit, "--pid", &pid]).status();
    assert!(set.unwrap().success(), "prlimit (util-linux) sets it");
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a table: scripts/faults prints it, and has the signal ignored that a full disk sends"]
async fn what_a_full_disk_costs() {
    let folder = folder::Folder::new("full-disk");
    let ledger = tower_credits::EmbeddedLedger::open(folder.0.join("credits.redb")).unwrap();
    row_of("embedded file, none", ledger.clone(), async |_| {
        tokio::time::sleep(seconds(2)).await;
    })
    .await;
    let folder = folder::Folder::new("full-disk-later");
    let ledger = tower_credits::EmbeddedLedger::open(folder.0.join("credits.redb")).unwrap();
    row_of("embedded file, disk full for a second", ledger, async |_| {
        set_file_limit("4096");
        tokio::time::sleep(seconds(1)).await;
        set_file_limit("unlimited");
    })
    .await;
}

/// Bytes that this process has had written to disks.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

#[cfg(feature = "journal")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a table: scripts/faults prints it"]
async fn what_a_journal_costs() {
    println!("| journal | requests in five seconds | slowest | written |");
    println!("|---|---|---|---|");
    let server = RedisServer::start();
    for (round, journaled) in [false, true, false, true].into_iter().enumerate() {
        let prefix = format!("j{round}");
        let ledger = RedisLedger::builder(server.url()).prefix(prefix).connect().await.unwrap();
        let folder = folder::Folder::new("journal-cost");
        let mut builder = CreditMeter::builder(plan(), ledger, IdentityFromExtensions);
        if journaled {
            let journal = tower_credits::Journal::open(folder.0.join("journal")).unwrap();
            builder = builder.journal(journal);
        }
        let before = written();
        let mut slowest = Duration::ZERO;
        let served = under_load(&builder.build().unwrap(), async |load| {
            load.take_slowest();
            tokio::time::sleep(seconds(5)).await;
            slowest = load.take_slowest().into_iter().max().unwrap();
        })
        .await;
        let name = if journaled { "yes" } else { "no" };
        let kib = (written() - before) / 1_024;
        println!("| {name} | {served} | {} us | {kib} KiB |", slowest.as_micros());
    }
}

/// A rate of 600 a minute, 100 at once, on five nodes over Redis, for a minute of real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a table: scripts/faults prints it"]
async fn a_rate_over_five_nodes_for_a_minute() {
    const MINUTE: Duration = Duration::from_secs(60);
    let server = RedisServer::start();
    let plan = PLAN
        .replace("count = 6, per = \"1m\", burst = 2", "count = 600, per = \"1m\", burst = 100");
    let plan = tower_credits::Plan::from_toml(&plan).unwrap();
    // Requests a second of each node: fewer than the rate, about as many, more.
    println!(
        "| requests a second of the nodes | asked | begun | of what may | most over the bound |"
    );
    println!("|---|---|---|---|---|");
    for (number, loads) in
        [[5.0, 2.0, 1.0, 0.5, 0.2], [8.0, 4.0, 2.0, 0.5, 0.1], [40.0, 10.0, 5.0, 1.0, 0.2]]
            .into_iter()
            .enumerate()
    {
        let began = Instant::now();
        let nodes = loads.map(|load: f64| {
            let (url, plan) = (server.url(), plan.clone());
            tokio::spawn(async move {
                let ledger = RedisLedger::connect(url).await.unwrap();
                let meter = CreditMeter::new(plan, ledger, IdentityFromExtensions);
                let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
                    async |_: Request<Empty<Bytes>>| {
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    },
                ));
                let (mut begun, mut asked) = (Vec::new(), 0);
                let mut next = began;
                while next < began + MINUTE {
                    tokio::time::sleep_until(next.into()).await;
                    let who = request(&format!("minute-{number}"), "slow", Empty::new());
                    asked += 1;
                    if service.clone().oneshot(who).await.unwrap().status() == 200 {
                        begun.push(began.elapsed());
                    }
                    next += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / load);
                }
                meter.shutdown().await;
                (begun, asked)
            })
        });
        let (mut begun, mut asked) = (Vec::new(), 0);
        for node in nodes {
            let (of_node, number): (Vec<Duration>, u32) = node.await.unwrap();
            begun.extend(of_node);
            asked += number;
        }
        begun.sort();
        // A bucket that drains at the rate: what it holds more than the burst.
        let (mut level, mut last, mut most) = (0.0_f64, Duration::ZERO, 0.0_f64);
        for at in &begun {
            level = (level - (*at - last).as_secs_f64() * 10.0).max(0.0) + 1.0;
            (last, most) = (*at, most.max(level));
        }
        // Permits lapse in 0.2 s: ten a second make two.
        let over = most - 100.0 - 2.0;
        let may = f64::from(asked).min(100.0 + 600.0);
        println!(
            "| {loads:?} | {asked} | {} | {:.1} % | {over:.1} |",
            begun.len(),
            100.0 * begun.len() as f64 / may
        );
        assert!(over <= 1.0 && begun.len() as f64 >= 0.97 * may);
    }
}
