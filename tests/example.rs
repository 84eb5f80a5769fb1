//! The examples as a newcomer uses them: each its own process, a real client, the sample that is
//! shipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(all(feature = "axum", feature = "redis"))]

#[path = "support/redis_server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis_server;
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
mod proto {
    include!("../examples/denoise/denoise.v1.rs");
}

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proto::{Audio, denoise_client::DenoiseClient};
use redis_server::RedisServer;
use reqwest::Client;
use serde_json::Value;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};

/// The script that runs an example.
const RUN_EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/run-example");

struct Example {
    child: Child,
    lines: Receiver<String>,
    url: String,
    /// How long the next line may take: longer where cargo builds first.
    patience: Duration,
}

impl Example {
    /// Starts it with balances in this file, or in memory, or in this Redis.
    fn start(name: &str, ledger: &str) -> Self {
        Self::start_by(Command::new(RUN_EXAMPLE), name, ledger)
    }

    /// Has a command that runs examples run one.
    fn prepare(command: &mut Command, name: &str, ledger: &str) {
        command.arg(name).current_dir(env!("CARGO_MANIFEST_DIR"));
        let variable = if ledger.starts_with("redis://") { "REDIS_URL" } else { "LEDGER" };
        command.env("ADDR", "127.0.0.1:0").env_remove("REDIS_URL").env(variable, ledger);
        // What cargo told this test of its own package would have dependencies built anew.
        for (name, _) in std::env::vars().filter(|(name, _)| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }

    /// Starts it by a command that runs examples.
    fn start_by(mut command: Command, name: &str, ledger: &str) -> Self {
        Self::prepare(&mut command, name, ledger);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("cargo runs");
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        let mut example =
            Self { child, lines, url: String::new(), patience: Duration::from_secs(300) };
        let line = example.line_with("listening on ");
        example.patience = Duration::from_secs(60);
        example.url = line.split("listening on ").nth(1).expect("an address").to_owned();
        example
    }

    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(self.patience).expect("the example goes on");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Stops it, and looks at what it says: something was settled, and nothing is left.
    fn stops_settled(&self) {
        self.terminate();
        let settled = self.line_with("shut down");
        assert!(
            settled.contains("unsettled=0") && !settled.contains("settled=$0.00 "),
            "{settled}"
        );
    }

    fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, signal: &str) {
        // The example is the only child of `cargo run`, which passes no signals on.
        let script = format!(
            "kill -{1} $(cat /proc/{0}/task/{0}/children 2>/dev/null || pgrep -P {0}) 2>/dev/null || kill -{1} {0}",
            self.child.id(),
            signal
        );
        let sent = Command::new("sh").arg("-c").arg(script).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal("KILL");
            let _ = self.child.wait();
        }
    }
}

/// An upload that stalls would keep a server for ever that waits for what is under way.
#[test]
fn a_stalled_upload_does_not_keep_an_example_from_ending() {
    use std::io::Write;
    let ends = |name: &'static str| {
        std::thread::spawn(move || {
            let example = Example::start(name, "memory");
            let address = example.url.trim_start_matches("http://").to_owned();
            let mut upload = std::net::TcpStream::connect(address).expect("it listens");
            let head = "POST /models/rnnoise HTTP/1.1\r\nhost: test\r\nauthorization: Bearer demo-pro\r\ncontent-length: 96000\r\n\r\n";
            upload
                .write_all(head.as_bytes())
                .and_then(|()| upload.write_all(&[0; 9600]))
                .expect("it reads");
            // It has begun: its head is there.
            let mut first = [0; 1];
            std::io::Read::read_exact(&mut upload, &mut first).expect("it answers");
            example.terminate();
            assert!(example.line_with("shut down").contains("unsettled=0"), "{name}");
        })
    };
    for ended in ["axum", "one_port", "hyper"].map(ends) {
        ended.join().expect("it ends in time");
    }
}

/// How loud the first tenth of a second is, where nobody speaks.
fn noise(pcm: &[u8]) -> f64 {
    let samples: Vec<_> = pcm[..9600]
        .chunks_exact(2)
        .map(|bytes| f64::from(i16::from_le_bytes([bytes[0], bytes[1]])))
        .collect();
    (samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64).sqrt()
}

fn sample() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/noisy.pcm"))
        .expect("the sample is there")
}

fn is_denoised(sample: &[u8], denoised: &[u8]) {
    assert_eq!(denoised.len(), sample.len(), "as many samples come out as went in");
    assert!(noise(denoised) < noise(sample) / 5.0, "{} {}", noise(denoised), noise(sample));
}

async fn denoises_and_bills(ledger: &str) {
    let example = Example::start("axum", ledger);
    let client = Client::new();
    let sample = sample();
    let response = client
        .post(format!("{}/models/rnnoise", example.url))
        .bearer_auth("demo-free")
        .body(sample.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        response.headers().contains_key("inference-id")
            && response.headers().contains_key("ratelimit")
    );
    let id = response.headers()["inference-id"].to_str().unwrap().to_owned();
    is_denoised(&sample, &response.bytes().await.unwrap());

    let logged = example.line_with("metered");
    assert!(logged.contains(&format!("request_id={id} ")), "{logged}");
    // What it cost, by its id: as in the log.
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    let costs = loop {
        let asked = client
            .post(format!("{}/billing/requests", example.url))
            .bearer_auth("demo-free")
            .body(serde_json::json!({ "requestIds": [id] }).to_string());
        let found = asked.send().await.unwrap().bytes().await.unwrap();
        let found: Value = serde_json::from_slice(&found).unwrap();
        if let [cost] = &found["requests"].as_array().unwrap()[..] {
            break cost["costNanoUsd"].as_i64().unwrap();
        }
        assert!(std::time::Instant::now() < limit, "{found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let cost = format!("cost=${}.{:09}", costs / 1_000_000_000, costs % 1_000_000_000);
    assert!(logged.contains(cost.trim_end_matches('0')), "{cost}: {logged}");
    if cfg!(feature = "metrics") {
        let metrics = client.get(format!("{}/metrics", example.url)).send().await.unwrap();
        let metrics = String::from_utf8(metrics.bytes().await.unwrap().to_vec()).unwrap();
        for line in [
            "tower_credits_requests_total{tier=\"free\",hardware=\"gpu-small\",end=\"complete\"} 1",
            "tower_credits_leases 1",
            "tower_credits_renewal_seconds_bucket{outcome=\"renewed\",le=\"60\"}",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
    }
    for field in [
        "tier=free",
        "model=rnnoise",
        "compute_seconds=0.",
        "cost=$0.",
        "left=$0.09",
        "end=Complete",
    ] {
        assert!(logged.contains(field), "{field}: {logged}");
    }
    // A path that no route has is denied by the meter, and not by axum's empty answer.
    let unknown = client.post(format!("{}/models", example.url)).bearer_auth("demo-free");
    let unknown = unknown.send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    let unknown: Value = serde_json::from_slice(&unknown.bytes().await.unwrap()).unwrap();
    assert_eq!(unknown["reason"], "NOT_IN_PLAN", "{unknown}");

    // A client that sends half a sample gets the whole ones back, one that sends nothing nothing.
    for (odd, whole) in [(vec![0; 4801], 4800), (Vec::new(), 0)] {
        let response = client
            .post(format!("{}/models/rnnoise", example.url))
            .bearer_auth("demo-free")
            .body(odd)
            .send()
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), response.bytes().await.unwrap().len()),
            (200, whole)
        );
        example.line_with("metered");
    }

    let bill = async || -> Value {
        let response = client
            .get(format!("{}/billing.json", example.url))
            .bearer_auth("demo-free")
            .send()
            .await
            .unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    };
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    let bill = loop {
        let bill = bill().await;
        if bill["requests"] == 3 && bill["held_nano_usd"] == 0 {
            break bill;
        }
        assert!(std::time::Instant::now() < limit, "{bill}");
        tokio::task::yield_now().await;
    };
    // In a browser: the form that asks for a token, and with it the page.
    let page = client.get(format!("{}/billing", example.url)).send().await.unwrap();
    assert_eq!(page.status(), 401);
    let page = client
        .get(format!("{}/billing", example.url))
        .header("cookie", "tower-credits-token=demo-free");
    let page = page.header("sec-fetch-site", "none").send().await.unwrap();
    let page = String::from_utf8(page.bytes().await.unwrap().to_vec()).unwrap();
    assert!(
        page.contains("user:demo-free") && page.contains("rnnoise") && page.contains("gpu-small"),
        "{page}"
    );
    let used = bill["used_nano_usd"].as_i64().unwrap();
    let micros = (bill["compute_seconds"].as_f64().unwrap() * 1e6).round() as i64;
    assert!(used > 0 && (used - micros * 120 / 1000).abs() <= 6, "{bill}");
    assert_eq!(
        bill["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["cost_nano_usd"].as_i64().unwrap())
            .sum::<i64>(),
        used
    );
    assert_eq!(
        client.post(format!("{}/models/rnnoise", example.url)).send().await.unwrap().status(),
        401
    );
    // The bill has it before the answer says so to the node.
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    let health = loop {
        let health = client.get(format!("{}/health", example.url)).send().await.unwrap();
        assert_eq!(health.status(), 200);
        let health = health.text().await.unwrap();
        if health.contains("unsettled: $0.00\n") {
            break health;
        }
        assert!(std::time::Instant::now() < limit, "{health}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for line in ["ready\n", "ledger: well\n", "identify: well\n", "plan: well\n"] {
        assert!(health.contains(line), "{health}");
    }
    assert!(!health.contains("none yet"), "{health}");

    example.stops_settled();
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    denoises_and_bills("memory").await;
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    let server = RedisServer::start();
    denoises_and_bills(&server.url()).await;
}

/// Denoises the sample for a user of the tier `free`. Returns the status.
async fn denoise(example: &Example) -> u16 {
    denoise_for(example, "demo-free").await
}

async fn denoise_for(example: &Example, token: &str) -> u16 {
    let request = Client::new()
        .post(format!("{}/models/rnnoise", example.url))
        .bearer_auth(token)
        .body(sample());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    response.bytes().await.unwrap();
    status
}

/// The bill of the user of the tier `free` once nothing is on hold.
async fn bill(example: &Example) -> Value {
    bill_of(example, "demo-free").await
}

async fn bill_of(example: &Example, token: &str) -> Value {
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let bill = Client::new()
            .get(format!("{}/billing.json", example.url))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        let bill: Value = serde_json::from_slice(&bill.bytes().await.unwrap()).unwrap();
        if bill["held_nano_usd"] == 0 {
            return bill;
        }
        assert!(std::time::Instant::now() < limit, "{bill}");
        tokio::task::yield_now().await;
    }
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_file_balances_survive_a_kill_and_a_file_has_one_process() {
    let folder = tempfile("killed");
    let file = folder.join("credits.redb");
    let file = file.to_str().unwrap();
    let example = Example::start("axum", file);
    assert_eq!(denoise(&example).await, 200);
    let before = bill(&example).await;
    assert_eq!(before["requests"], 1);
    let mut second = Command::new(RUN_EXAMPLE);
    Example::prepare(&mut second, "axum", file);
    let second = second.output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("is in use by another process"), "{said}");
    // What is acknowledged is on the disk.
    example.signal("KILL");
    drop(example);
    let example = Example::start("axum", file);
    let after = bill(&example).await;
    assert_eq!(after["used_nano_usd"], before["used_nano_usd"]);
    assert_eq!(denoise(&example).await, 200);
    assert_eq!(bill(&example).await["requests"], 2);
    example.stops_settled();
    std::fs::remove_dir_all(folder).unwrap();
}

/// The file may not be written beyond its beginning, and later it may: as a disk that is full,
/// until somebody makes room.
// Lines are waited for on this thread; connections go on beside it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_requests_are_denied_until_there_is_room_and_the_total_is_exact() {
    let folder = tempfile("full");
    let file = folder.join("credits.redb");
    let file = file.to_str().unwrap();
    let mut shell = Command::new("sh");
    let script = r#"trap "" XFSZ; exec "$0" "$@""#;
    shell.args(["-c", script, RUN_EXAMPLE]);
    let example = Example::start_by(shell, "axum", file);
    let limit = |bytes: &str| {
        let script = format!(
            "child=$(cat /proc/{0}/task/{0}/children); prlimit --fsize={bytes}: --pid ${{child:-{0}}}",
            example.child.id()
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    assert_eq!(denoise(&example).await, 200);
    limit("4096");
    let mut served = 1;
    let until = std::time::Instant::now() + Duration::from_secs(60);
    // What is on hold may be used still.
    while denoise(&example).await == 200 {
        served += 1;
        assert!(std::time::Instant::now() < until, "the disk is never full: {served} served");
    }
    let health = async || {
        Client::new().get(format!("{}/health", example.url)).send().await.unwrap().status()
    };
    while health().await != 503 {
        assert!(std::time::Instant::now() < until, "it says that it is ready");
    }
    limit("unlimited");
    while denoise(&example).await != 200 {
        assert!(std::time::Instant::now() < until, "there is room, and it is not used");
    }
    served += 1;
    assert_eq!(bill(&example).await["requests"], served);
    example.stops_settled();
    std::fs::remove_dir_all(folder).unwrap();
}

/// With Redis away, requests end; then the process is killed. When it starts again, all that ended
/// is debited, once.
// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_not_settled_is_settled_by_its_journal_once() {
    let folder = tempfile("journal");
    let journal = folder.join("journal.redb");
    let mut server = RedisServer::start();
    let url = server.url();
    let start = || {
        let mut command = Command::new(RUN_EXAMPLE);
        command.env("JOURNAL", &journal);
        Example::start_by(command, "axum", &url)
    };
    let example = start();
    assert_eq!(denoise_for(&example, "demo-pro").await, 200);
    let before = bill_of(&example, "demo-pro").await;
    example.line_with("metered");
    server.kill();
    // The tier allows some during an outage.
    let mut expected = before["used_nano_usd"].as_i64().unwrap();
    let mut ended = 0;
    while ended < 20 && denoise_for(&example, "demo-pro").await == 200 {
        let line = example.line_with("metered");
        let cost = line.split("cost=$").nth(1).unwrap().split(' ').next().unwrap();
        expected += (cost.parse::<f64>().unwrap() * 1e9).round() as i64;
        ended += 1;
    }
    assert!(ended > 0, "some were served while Redis was away");
    // Within 20 ms and a flush of the disk, the journal has it. It is in use, so a copy is read.
    let owed = expected - before["used_nano_usd"].as_i64().unwrap();
    let copied = folder.join("copied");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        std::fs::copy(&journal, &copied).unwrap();
        let has_all = tower_credits::Journal::open(&copied)
            .is_ok_and(|journal| journal.unsettled().as_nano_usd() == owed);
        if has_all {
            break;
        }
        assert!(std::time::Instant::now() < until, "the journal does not have {owed}");
        tokio::task::yield_now().await;
    }
    example.signal("KILL");
    drop(example);
    server.restart();
    for _ in 0..2 {
        let example = start();
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        let bill = loop {
            let bill = bill_of(&example, "demo-pro").await;
            if bill["used_nano_usd"] == expected {
                break bill;
            }
            assert!(std::time::Instant::now() < limit, "{expected}: {bill}");
            tokio::task::yield_now().await;
        };
        assert_eq!(bill["requests"], 1 + ended, "with their lines");
        // Nothing of it is left: the second start settles nothing.
        example.terminate();
        assert!(example.line_with("shut down").contains("unsettled=0"));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A folder of a test's own.
fn tempfile(name: &str) -> std::path::PathBuf {
    let folder =
        std::env::temp_dir().join(format!("tower-credits-example-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn over_grpc() {
    let example = Example::start("tonic", "memory");
    let channel = Channel::from_shared(example.url.clone()).unwrap().connect().await.unwrap();
    let mut client = DenoiseClient::new(channel.clone());
    let sample = sample();
    let asking = |token: &str| {
        let parts: Vec<_> =
            sample.chunks(4_000).map(|part| Audio { pcm: Bytes::copy_from_slice(part) }).collect();
        let mut request = Request::new(stream::iter(parts));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    // As it is spoken, and all at once.
    let mut answer = client.stream(asking("demo-free")).await.unwrap().into_inner();
    let mut denoised = Vec::new();
    while let Some(part) = answer.message().await.unwrap() {
        denoised.extend_from_slice(&part.pcm);
    }
    is_denoised(&sample, &denoised);
    let trailers = answer.trailers().await.unwrap().unwrap();
    let cost: i64 = trailers.get("x-cost-nano-usd").unwrap().to_str().unwrap().parse().unwrap();
    assert!(cost > 0 && trailers.contains_key("x-compute-time"), "{trailers:?}");
    let collected = client.collect(asking("demo-free")).await.unwrap();
    assert_eq!(collected.get_ref().pcm, denoised);
    let whole = || {
        let mut request = Request::new(Audio { pcm: sample.clone().into() });
        request.metadata_mut().insert("authorization", "Bearer demo-free".parse().unwrap());
        request
    };
    assert_eq!(client.whole(whole()).await.unwrap().get_ref().pcm, denoised);
    let split = client.split(whole()).await.unwrap().into_inner();
    let split = split.map(|part| part.unwrap().pcm.to_vec()).concat().await;
    assert_eq!(split, denoised);
    assert_eq!(client.stream(asking("nobody")).await.unwrap_err().code(), Code::Unauthenticated);
    for _ in 0..4 {
        example.line_with("metered");
    }

    // Health and reflection cost nothing, and ask nobody who they are.
    let mut health = HealthClient::new(channel.clone());
    let asked = HealthCheckRequest { service: "denoise.v1.Denoise".into() };
    assert_eq!(health.check(asked).await.unwrap().get_ref().status(), ServingStatus::Serving);
    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("reflection lists services");
    };
    assert!(
        services.service.iter().any(|service| service.name == "denoise.v1.Denoise"),
        "{services:?}"
    );
    let asked = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut answers = v1alpha::server_reflection_client::ServerReflectionClient::new(channel)
        .server_reflection_info(stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().unwrap().message_response.is_some(), "older clients");
    example.stops_settled();
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn http_and_grpc_on_one_port() {
    let example = Example::start("one_port", "memory");
    let sample = sample();
    let http = Client::new();
    let asked = http
        .post(format!("{}/models/rnnoise", example.url))
        .bearer_auth("demo-pro")
        .body(sample.clone());
    is_denoised(&sample, &asked.send().await.unwrap().bytes().await.unwrap());
    let mut request = Request::new(Audio { pcm: sample.clone().into() });
    request.metadata_mut().insert("authorization", "Bearer demo-pro".parse().unwrap());
    let mut grpc = DenoiseClient::connect(example.url.clone()).await.unwrap();
    is_denoised(&sample, &grpc.whole(request).await.unwrap().get_ref().pcm);
    for _ in 0..2 {
        example.line_with("metered");
    }
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let bill = http
            .get(format!("{}/billing.json", example.url))
            .bearer_auth("demo-pro")
            .send()
            .await
            .unwrap();
        let bill: Value = serde_json::from_slice(&bill.bytes().await.unwrap()).unwrap();
        if bill["requests"] == 2 {
            break;
        }
        assert!(std::time::Instant::now() < limit, "{bill}");
    }
    assert_eq!(
        http.get(format!("{}/nothing", example.url))
            .bearer_auth("demo-pro")
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    drop(grpc);
    example.stops_settled();
}

// Lines are waited for on this thread; connections go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn on_hyper_alone() {
    let example = Example::start("hyper", "memory");
    let sample = sample();
    for client in [Client::builder().http1_only(), Client::builder().http2_prior_knowledge()] {
        let client = client.build().unwrap();
        let asked = client
            .post(format!("{}/models/rnnoise", example.url))
            .bearer_auth("demo-pro")
            .body(sample.clone());
        let response = asked.send().await.unwrap();
        assert!(response.status() == 200 && response.headers().contains_key("inference-id"));
        is_denoised(&sample, &response.bytes().await.unwrap());
        example.line_with("metered");
        assert_eq!(
            client.post(format!("{}/models/rnnoise", example.url)).send().await.unwrap().status(),
            401
        );
        assert_eq!(
            client
                .get(format!("{}/health", example.url))
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap(),
            "ok\n"
        );
    }
    example.stops_settled();
}
