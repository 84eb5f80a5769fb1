//! The axum example as a newcomer uses it: its own process, a real client, the sample that is shipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]
#![cfg(all(feature = "axum", feature = "redis"))]

#[path = "support/redis_server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis_server;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use redis_server::RedisServer;
use reqwest::Client;
use serde_json::Value;

struct Example {
    child: Child,
    lines: Receiver<String>,
    url: String,
}

impl Example {
    fn start(redis: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO"));
        command.args(["run", "--quiet", "--example", "axum"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env("ADDR", "127.0.0.1:0").env_remove("REDIS_URL").envs(redis.map(|url| ("REDIS_URL", url)));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("cargo runs");
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut example = Self { child, lines, url: String::new() };
        let line = example.line_with("listening on ");
        example.url = line.split("listening on ").nth(1).expect("an address").to_owned();
        example
    }

    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(300)).expect("the example goes on");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn terminate(&mut self) {
        // The example is the only child of `cargo run`, which passes no signals on.
        let script = format!(
            "kill -TERM $(cat /proc/{0}/task/{0}/children 2>/dev/null || pgrep -P {0}) 2>/dev/null || kill -TERM {0}",
            self.child.id()
        );
        let sent = Command::new("sh").arg("-c").arg(script).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

/// How loud the first tenth of a second is, where nobody speaks.
fn noise(pcm: &[u8]) -> f64 {
    let samples: Vec<_> = pcm[..9600].chunks_exact(2).map(|bytes| f64::from(i16::from_le_bytes([bytes[0], bytes[1]]))).collect();
    (samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64).sqrt()
}

async fn denoises_and_bills(redis: Option<&str>) {
    let mut example = Example::start(redis);
    let client = Client::new();
    let sample = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/noisy.pcm")).expect("the sample is there");
    let response =
        client.post(format!("{}/models/rnnoise", example.url)).bearer_auth("demo-free").body(sample.clone()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("inference-id") && response.headers().contains_key("ratelimit"));
    let denoised = response.bytes().await.unwrap();
    assert_eq!(denoised.len(), sample.len(), "as many samples come out as went in");
    assert!(noise(&denoised) < noise(&sample) / 5.0, "{} {}", noise(&denoised), noise(&sample));

    let logged = example.line_with("metered");
    for field in ["tier=free", "model=rnnoise", "compute_seconds=0.", "cost=$0.", "left=$0.09", "end=Complete"] {
        assert!(logged.contains(field), "{field}: {logged}");
    }
    // A client that sends half a sample gets the whole ones back, one that sends nothing nothing.
    for (odd, whole) in [(vec![0; 4801], 4800), (Vec::new(), 0)] {
        let response = client.post(format!("{}/models/rnnoise", example.url)).bearer_auth("demo-free").body(odd).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.bytes().await.unwrap().len()), (200, whole));
        example.line_with("metered");
    }

    let bill = async || -> Value {
        let response = client.get(format!("{}/billing.json", example.url)).bearer_auth("demo-free").send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    };
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    let bill = loop {
        let bill = bill().await;
        if bill["requests"] == 3 && bill["held_nano_usd"] == 0 {
            break bill;
        }
        assert!(std::time::Instant::now() < limit, "{bill}");
        tokio::task::yield_now().await;
    };
    let used = bill["used_nano_usd"].as_i64().unwrap();
    let micros = (bill["compute_seconds"].as_f64().unwrap() * 1e6).round() as i64;
    assert!(used > 0 && (used - micros * 120 / 1000).abs() <= 6, "{bill}");
    assert_eq!(bill["lines"].as_array().unwrap().iter().map(|line| line["cost_nano_usd"].as_i64().unwrap()).sum::<i64>(), used);
    assert_eq!(client.post(format!("{}/models/rnnoise", example.url)).send().await.unwrap().status(), 401);
    assert_eq!(client.get(format!("{}/health", example.url)).send().await.unwrap().text().await.unwrap(), "ok\n");

    example.terminate();
    let settled = example.line_with("shut down");
    assert!(settled.contains("unsettled=0") && !settled.contains("settled=$0.00 "), "{settled}");
}

#[tokio::test]
async fn in_memory() {
    denoises_and_bills(None).await;
}

#[tokio::test]
async fn on_redis() {
    let server = RedisServer::start();
    denoises_and_bills(Some(&server.url())).await;
}
