//! The callers of a run, and the oracle: what each request costs is known before it is asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};

/// A second costs 120 000 nano-dollars.
pub const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"

[models.echo]
hardware = "gpu-small"

[routes]
"/models/{model}" = { model = "{model}" }

[tiers.free]
included = "0.10"
when_used_up = "block"

[tiers.tight]                  # thirty requests
included = "0.000036"
when_used_up = "block"
hold = "100ms"
"#;

/// Callers that ask all the time, one whose credits end, and those that open streams.
pub const CALLERS: usize = 6;
pub const TIGHT: usize = CALLERS;
pub const STREAMS: usize = 4;
pub const USERS: usize = CALLERS + 1 + STREAMS;

/// Cost of a request: ten milliseconds, by its service's own word.
pub const COST: i64 = 1_200;
pub const NANOS_PER_MILLI: i64 = 120;
pub const TIGHT_LIMIT: i64 = 36_000;

pub fn user(number: usize) -> String {
    format!("user-{number}")
}

pub fn tier_of(number: usize) -> &'static str {
    if number == TIGHT { "tight" } else { "free" }
}

/// What one user is to be billed.
#[derive(Default)]
pub struct Account {
    pub served: u64,
    pub denied: u64,
    /// It is billed this much at least, and at most so much more.
    pub certain: i64,
    pub uncertain: i64,
    pub slowest: Duration,
    /// The last requests that were served: when, and by which node.
    recent: VecDeque<(Instant, usize)>,
}

pub struct Oracle {
    accounts: Mutex<Vec<Account>>,
    /// Nodes that were killed, and when.
    killed: Mutex<Vec<(usize, Instant)>>,
    /// A node that was told to end, and when. What runs on it then is billed as far as it came.
    ending: Mutex<Option<(usize, Instant)>>,
}

impl Oracle {
    pub fn new() -> Self {
        let accounts = (0..USERS).map(|_| Account::default()).collect();
        Self { accounts: Mutex::new(accounts), killed: Mutex::default(), ending: Mutex::default() }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Vec<Account>) -> T) -> T {
        look(&mut self.accounts.lock().unwrap())
    }

    /// A node is told to end now.
    pub fn node_ends(&self, node: usize) {
        *self.ending.lock().unwrap() = Some((node, Instant::now()));
    }

    /// Returns `true` if a request that began then ran when its node was told to end.
    fn ended_with(&self, node: usize, began: Instant) -> bool {
        let is_of = |(ending, at): &(usize, Instant)| *ending == node && began <= *at;
        self.ending.lock().unwrap().filter(is_of).is_some_and(|(_, at)| Instant::now() >= at)
    }

    /// A node was killed: what ended on it in this time may not have been reported, or written.
    pub fn node_killed(&self, node: usize, within: Duration) {
        let now = Instant::now();
        self.with(|accounts| {
            // Under the accounts' lock: an answer that is counted later is seen to be late.
            self.killed.lock().unwrap().push((node, now));
            for account in accounts {
                let before = account.recent.len();
                account.recent.retain(|(at, by)| *by != node || now - *at > within);
                let late = COST * i64::try_from(before - account.recent.len()).unwrap();
                account.certain -= late;
                account.uncertain += late;
            }
        });
    }

    /// How many requests of each caller were served.
    pub fn served(&self) -> Vec<u64> {
        self.with(|accounts| accounts[..CALLERS].iter().map(|account| account.served).collect())
    }
}

/// The nodes that callers know of. `None` while a node is down.
pub type Addresses = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// Callers that ask until they are stopped.
pub struct Callers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    pub fn start(addresses: &Addresses, oracle: &Arc<Oracle>, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tasks = (0..=CALLERS).map(|number| {
            let (addresses, oracle) = (Arc::clone(addresses), Arc::clone(oracle));
            let rng = fastrand::Rng::with_seed(seed ^ (number as u64) << 32);
            tokio::spawn(call(number, addresses, oracle, rng, stopped.clone()))
        });
        Self { stop, tasks: tasks.collect() }
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.expect("a caller does not panic");
        }
    }
}

async fn call(
    number: usize,
    addresses: Addresses,
    oracle: Arc<Oracle>,
    mut rng: fastrand::Rng,
    stopped: watch::Receiver<bool>,
) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(40)).build().unwrap();
    while !*stopped.borrow() {
        let (node, address) = {
            let addresses = addresses.lock().unwrap();
            let node = rng.usize(..addresses.len());
            (node, addresses[node])
        };
        let Some(address) = address else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let began = Instant::now();
        let answer = client
            .post(format!("http://{address}/models/echo"))
            .bearer_auth(user(number))
            .header("x-compute", "10")
            .header("x-wait", rng.u64(0..20))
            .send()
            .await;
        let took = began.elapsed();
        let status = match answer {
            Ok(answer) => {
                let status = answer.status().as_u16();
                answer.bytes().await.map_or(0, |_| status)
            }
            Err(_) => 0,
        };
        let ended = oracle.ended_with(node, began);
        oracle.with(|accounts| {
            let account = &mut accounts[number];
            account.slowest = account.slowest.max(took);
            let is_late = |(by, at): &(usize, Instant)| *by == node && began <= *at;
            let killed = oracle.killed.lock().unwrap().iter().any(is_late);
            match status {
                // Its node was killed just after it answered.
                200 if killed => account.uncertain += COST,
                // By the clock, as long as it ran until then: twenty milliseconds at most.
                _ if ended => account.uncertain += 3 * COST,
                200 => {
                    account.served += 1;
                    account.certain += COST;
                    account.recent.push_back((Instant::now(), node));
                    if account.recent.len() > 200 {
                        account.recent.pop_front();
                    }
                }
                // It ran for a while, and its node was not told in time how long it may.
                503 if took > Duration::from_millis(600) => account.uncertain += COST,
                402 | 429 | 503 => account.denied += 1,
                // Its node is gone: it was billed, or not.
                0 => account.uncertain += COST,
                status => panic!("user {number}: status {status}"),
            }
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Opens the streams, each of another user. Returns when each began.
pub async fn open_streams(
    addresses: &Addresses,
    length: Duration,
) -> Vec<(usize, usize, Instant, reqwest::Response)> {
    let client = reqwest::Client::new();
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let (number, node) = (TIGHT + 1 + stream, stream % addresses.lock().unwrap().len());
        let address = addresses.lock().unwrap()[node].unwrap();
        // A busy machine may deny one.
        for attempt in 0..5 {
            let began = Instant::now();
            let answer = client
                .post(format!("http://{address}/models/echo"))
                .bearer_auth(user(number))
                .header("x-stream", length.as_millis().to_string())
                .send()
                .await
                .unwrap();
            if answer.status() == 200 {
                streams.push((number, node, began, answer));
                break;
            }
            assert!(attempt < 4, "user {number}: {}", answer.status());
        }
    }
    streams
}

/// Reads a stream to its end, clean or not. Returns when that was.
pub async fn read_to_end(mut answer: reqwest::Response) -> Instant {
    while let Ok(Some(_)) = answer.chunk().await {}
    Instant::now()
}
