//! A node of the rig: a process of its own with a metered server.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tower_credits::{
    BearerTokens, ComputeClock, ComputeTime, CreditMeter, Journal, Plan, RedisLedger, RedisServer,
};

use super::load::{PLAN, USERS, tier_of, user};
use crate::support::identity;

/// The node: started by [`Node::start`], and ended by it.
#[test]
#[ignore = "it is the node that the rig starts"]
fn node() {
    let Ok(url) = std::env::var("NODE_REDIS_URL") else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let drops_runtime = runtime.block_on(serve(&url));
    if drops_runtime {
        // As a host does that knows nothing of the meter.
        drop(runtime);
    }
}

/// Serves until SIGTERM. Returns `true` if the runtime is to be dropped without a shutdown of the
/// meter, because of SIGUSR1.
async fn serve(url: &str) -> bool {
    let tokens = (0..USERS).fold(BearerTokens::new(), |tokens, number| {
        tokens.with(&user(number), identity(&user(number), tier_of(number)))
    });
    let mut server = RedisServer::from(url.to_owned());
    if let Ok(file) = std::env::var("NODE_PASSWORD_FILE") {
        server = server.password_file(file);
    }
    let ledger = RedisLedger::builder(server).connect_lazily().unwrap();
    let plan = Plan::from_toml(PLAN).unwrap();
    let mut builder = CreditMeter::builder(plan, ledger, tokens);
    if let Ok(path) = std::env::var("NODE_JOURNAL") {
        builder = builder.journal(Journal::open(path).unwrap());
    }
    let meter = builder.build().unwrap();
    let app = Router::new().route("/models/{model}", post(answer)).layer(meter.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listens on {}", listener.local_addr().unwrap());
    // What is beyond a limit on files fails, and does not end the process.
    let _beyond_limit = tokio::signal::unix::signal(SignalKind::from_raw(25)).unwrap();
    let mut terminated = tokio::signal::unix::signal(SignalKind::terminate()).unwrap();
    let mut user_defined = tokio::signal::unix::signal(SignalKind::user_defined1()).unwrap();
    let is_dropped = tokio::select! {
        served = async { axum::serve(listener, app).await } => panic!("{served:?}"),
        _ = terminated.recv() => false,
        _ = user_defined.recv() => true,
    };
    if !is_dropped {
        meter.shutdown().await;
    }
    is_dropped
}

fn millis(headers: &HeaderMap, name: &str) -> Option<Duration> {
    headers.get(name)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// Takes `x-wait` milliseconds and reports `x-compute` milliseconds of compute, or streams for
/// `x-stream` milliseconds, or reports each of `x-report` frames, or panics, as the request says.
async fn answer(clock: Extension<ComputeClock>, headers: HeaderMap, body: Body) -> Response {
    if headers.contains_key("x-read") && body.collect().await.is_err() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if let Some(wait) = millis(&headers, "x-wait") {
        tokio::time::sleep(wait).await;
    }
    match headers.get("x-do").map(http::HeaderValue::as_bytes) {
        Some(b"panic") => panic!("as the request says"),
        // As with `panic = "abort"`: nothing runs after the panic hook.
        Some(b"panic=abort") => {
            std::panic::set_hook(Box::new(|_| std::process::abort()));
            panic!("as the request says");
        }
        _ => {}
    }
    if let Some(length) = millis(&headers, "x-stream") {
        return frames(length, |_| {});
    }
    if let Some(tens) = millis(&headers, "x-report") {
        return frames(tens * 10, move |sent| clock.report(sent));
    }
    let compute = millis(&headers, "x-compute").unwrap_or_default();
    let mut response = StatusCode::OK.into_response();
    response.extensions_mut().insert(ComputeTime(compute));
    response
}

/// Returns a stream of one byte every ten milliseconds. Calls `report` before each, with the
/// compute time so far.
fn frames(length: Duration, report: impl Fn(Duration) + Send + 'static) -> Response {
    const BETWEEN: Duration = Duration::from_millis(10);
    let began = tokio::time::Instant::now();
    let frames =
        futures_util::stream::unfold((Duration::ZERO, report), move |(sent, report)| async move {
            if sent == length {
                return None;
            }
            let sent = sent + BETWEEN;
            tokio::time::sleep_until(began + sent).await;
            report(sent);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), (sent, report)))
        });
    Body::new(StreamBody::new(Box::pin(frames))).into_response()
}

/// A node's process.
pub struct Node {
    process: Child,
    pub address: SocketAddr,
    settings: Vec<(String, String)>,
}

impl Node {
    /// Starts a node. `settings` are environment variables.
    pub fn start(settings: Vec<(String, String)>) -> Self {
        Self::try_start(settings).expect("the node listens")
    }

    /// As [`start`](Self::start). `None` if it ends at once.
    pub fn try_start(settings: Vec<(String, String)>) -> Option<Self> {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node::node", "--ignored", "--nocapture"])
            .envs(settings.iter().cloned())
            // A panic that is printed with one takes a second.
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                process.wait().unwrap();
                return None;
            }
            if let Some((_, address)) = line.split_once("listens on ") {
                break address.trim().parse().unwrap();
            }
        };
        // What it prints later goes nowhere, but its pipe stays open.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        });
        Some(Self { process, address, settings })
    }

    pub fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args([signal, &id]).status();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) {
        let limit = Instant::now() + Duration::from_secs(120);
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < limit, "the node does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts another process with the same settings. `None` if it ends at once.
    pub fn again(&self) -> Option<Self> {
        Self::try_start(self.settings.clone())
    }

    /// Sets the size beyond which it can write no file.
    pub fn limit_files(&self, size: &str) {
        let size = format!("--fsize={size}:");
        let id = self.process.id().to_string();
        let set = Command::new("prlimit").args([&size, "--pid", &id]).status();
        assert!(set.is_ok_and(|set| set.success()), "prlimit (util-linux) sets it");
    }

    /// Returns the file of its journal.
    pub fn journal(&self) -> Option<&Path> {
        let (_, path) = self.settings.iter().find(|(name, _)| name == "NODE_JOURNAL")?;
        Some(Path::new(path))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
