//! Real nodes, each a process of its own, on a real Redis: killed, and stopped for a while, under
//! long streams.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{net::TcpListener, sync::mpsc};
use tower_credits::{
    BearerTokens, CreditMeter, RedisLedger,
    ledger::{Ledger, Statement},
};

use crate::support::{fair::on_a_fair_machine, redis_server::RedisServer, *};

const NODE: &str = "NODE_REDIS_URL";

/// A node; started by the tests below, and ended by them.
#[test]
#[ignore = "it is the node that other tests of this file start"]
fn node() {
    let Ok(url) = std::env::var(NODE) else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let tokens = (0..STREAMS).fold(BearerTokens::new(), |tokens, number| {
            let tier = if number % 2 == 0 { "free" } else { "pro" };
            let user = format!("{}-{number}", std::process::id());
            tokens.with(&format!("{number}"), identity(&user, tier))
        });
        let meter = CreditMeter::new(plan(), RedisLedger::connect(&*url).await.unwrap(), tokens);
        let app = Router::new().route("/models/{model}", post(endless)).layer(meter);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("listens on {}", listener.local_addr().unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

/// Sends a byte every ten milliseconds, for a minute at most.
async fn endless() -> Body {
    let (feed, fed) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    tokio::spawn(async move {
        for _ in 0..6_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if feed.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.is_err() {
                return;
            }
        }
    });
    Body::new(StreamBody::new(futures_util::stream::unfold(fed, async |mut fed| {
        Some((fed.recv().await?, fed))
    })))
}

/// Streams of each node, each of an account of its own.
const STREAMS: usize = 4;

struct Node {
    process: Child,
    address: SocketAddr,
    began: Instant,
    streams: Vec<reqwest::Response>,
}

impl Node {
    async fn start(url: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nodes::node", "--ignored", "--nocapture"])
            .env(NODE, url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let address = tokio::task::spawn_blocking(move || {
            output
                .lines()
                .map_while(Result::ok)
                .find_map(|line| line.split_once("listens on ")?.1.trim().parse().ok())
        });
        let address = address.await.unwrap().expect("it listens");
        let mut node = Self { process, address, began: Instant::now(), streams: Vec::new() };
        let client = reqwest::Client::new();
        for number in 0..STREAMS {
            let response = client
                .post(format!("http://{}/models/echo", node.address))
                .bearer_auth(number)
                .send()
                .await
                .unwrap();
            assert_eq!(response.status(), 200);
            node.streams.push(response);
        }
        node.began = Instant::now();
        node
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([signal, &self.process.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn statement(&self, ledger: &RedisLedger, number: usize) -> Statement {
        let account = identity(&format!("{}-{number}", self.process.id()), "free").account;
        let period = tower_credits::Period::containing(tower_credits::clock::UnixTime::now());
        ledger.statement(&account, period, None).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_loses_half_a_hold_of_each_stream_at_most() {
    on_a_fair_machine(kill_nodes).await;
}

/// Twenty of them, four at a time.
async fn kill_nodes() -> Result<(), String> {
    let redis = RedisServer::start();
    let ledger = RedisLedger::connect(&*redis.url()).await.unwrap();
    let mut lost = Vec::new();
    for round in 0..5 {
        let killed = (0..4).map(|node| {
            let (url, ledger) = (redis.url(), &ledger);
            async move {
                let mut node_process = Node::start(&url).await;
                tokio::time::sleep(Duration::from_millis(700 + 317 * node + 131 * round)).await;
                let ran = node_process.began.elapsed();
                node_process.process.kill().unwrap();
                node_process.process.wait().unwrap();
                let mut lost = Vec::new();
                for number in 0..STREAMS {
                    let statement = node_process.statement(ledger, number).await;
                    assert_eq!(statement.requests(), 0, "none of them ended");
                    assert_eq!(
                        statement
                            .lines
                            .iter()
                            .map(|line| line.usage.cost.as_nano_usd())
                            .sum::<i64>(),
                        statement.used.as_nano_usd()
                    );
                    lost.push(ran.saturating_sub(statement.compute()));
                }
                lost
            }
        });
        lost.extend(futures_util::future::join_all(killed).await.into_iter().flatten());
    }
    lost.sort();
    eprintln!(
        "lost of {} streams: {:?} in the middle, {:?} at most",
        lost.len(),
        lost[lost.len() / 2],
        lost[lost.len() - 1]
    );
    // Half a hold is 500 ms; the rest is what a busy machine takes to ask, and to be killed.
    let is_bounded = lost[lost.len() - 1] <= Duration::from_millis(650)
        && lost[lost.len() / 2] <= Duration::from_millis(500);
    if is_bounded { Ok(()) } else { Err(format!("lost {lost:?}")) }
}

/// It goes on for longer than a slice lasts while nothing that it reports arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_while_redis_is_away_loses_what_ran_since() {
    let redis = RedisServer::start();
    let ledger = RedisLedger::connect(&*redis.url()).await.unwrap();
    let mut node = Node::start(&redis.url()).await;
    eventually(async || {
        let statement = node.statement(&ledger, 0).await;
        (statement.compute() > seconds(1)).then_some(())
    })
    .await;
    let before = node.began.elapsed();
    redis.stop();
    // The first stream's account may stop, and has nothing that it could go on with.
    let reading = tokio::time::timeout(seconds(60), async {
        while let Ok(Some(_)) = node.streams[0].chunk().await {}
    });
    reading.await.expect("it is cut off");
    node.process.kill().unwrap();
    node.process.wait().unwrap();
    redis.go_on();
    for number in 0..STREAMS {
        let billed = eventually(async || {
            let account = identity(&format!("{}-{number}", node.process.id()), "free").account;
            let month = tower_credits::Period::containing(tower_credits::clock::UnixTime::now());
            Some(ledger.statement(&account, month, None).await.ok()?.compute())
        })
        .await;
        // Half a hold before, and what a busy machine takes. Streams begin before their heads come.
        let least = before.saturating_sub(seconds(1));
        let most = before + Duration::from_millis(400);
        assert!((least..=most).contains(&billed), "{billed:?} of {least:?} to {most:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_for_a_while_cuts_nobody() {
    on_a_fair_machine(stop_nodes).await;
}

/// Stopped for longer than a slice lasts, at any moment: nobody who has credits is cut, and all of
/// it is billed.
async fn stop_nodes() -> Result<(), String> {
    let redis = RedisServer::start();
    let ledger = RedisLedger::connect(&*redis.url()).await.unwrap();
    let stopped = (0..6_u64).map(|node| {
        let (url, ledger) = (redis.url(), &ledger);
        async move {
            let mut node_process = Node::start(&url).await;
            for round in 0..4_u64 {
                tokio::time::sleep(Duration::from_millis(150 + 83 * ((7 * node + 3 * round) % 11)))
                    .await;
                node_process.signal("-STOP");
                tokio::time::sleep(Duration::from_millis(600 + 150 * ((node + round) % 7))).await;
                node_process.signal("-CONT");
            }
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            for (number, stream) in node_process.streams.iter_mut().enumerate() {
                // What came meanwhile, and then what comes.
                let reading = tokio::time::timeout(Duration::from_millis(400), async {
                    loop {
                        match stream.chunk().await {
                            Ok(Some(_)) => {}
                            ended => break format!("{ended:?}"),
                        }
                    }
                });
                if let Ok(ended) = reading.await {
                    return Err(format!("node {node}, stream {number} was cut: {ended}"));
                }
            }
            for number in 0..STREAMS {
                let statement = node_process.statement(ledger, number).await;
                assert!(statement.compute() > Duration::from_secs(3), "{statement:?}");
            }
            Ok(())
        }
    });
    futures_util::future::join_all(stopped).await.into_iter().collect()
}
