//! The callers of a run, and the oracle: what each request costs is known before it is asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// A second costs 120 000 nano-dollars.
pub const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"

[models.echo]
hardware = "gpu-small"

[routes]
"/models/{model}" = { model = "{model}" }

[tiers.free]                   # more than a scenario uses, however long it waits
included = "10"
when_used_up = "block"

[tiers.tight]                  # thirty requests
included = "0.000036"
when_used_up = "block"
hold = "100ms"
"#;

/// Number of callers that send one request after another: the first users.
pub const CALLERS: usize = 6;
/// Number of the caller whose credits end.
pub const TIGHT: usize = CALLERS;
/// Number of the caller that reads one stream after another.
pub const READER: usize = CALLERS + 1;
/// Number of the caller whose credits end in a stream.
pub const TIGHT_READER: usize = CALLERS + 2;
/// Number of the first user of a scenario's own streams.
pub const FIRST_STREAM: usize = CALLERS + 3;
pub const STREAMS: usize = 4;
pub const USERS: usize = FIRST_STREAM + STREAMS;

/// The most that a machine is late with. What its timers are late with is measured and added.
pub const LATE: Duration = Duration::from_millis(400);

/// Cost of a request, and of a frame of a stream: ten milliseconds, by its service's own word.
pub const COST: i64 = 1_200;
const NANOS_PER_MILLI: i64 = 120;
pub const TIGHT_LIMIT: i64 = 36_000;

/// The users whose credits end.
pub fn is_tight(number: usize) -> bool {
    number == TIGHT || number == TIGHT_READER
}

pub fn user(number: usize) -> String {
    format!("user-{number}")
}

pub fn tier_of(number: usize) -> &'static str {
    if is_tight(number) { "tight" } else { "free" }
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
    /// The last requests that were served: when, by which node, and what they cost.
    recent: VecDeque<(Instant, usize, i64)>,
}

impl Account {
    /// Counts a served request and its cost.
    fn count_served(&mut self, node: usize, cost: i64) {
        self.served += 1;
        self.certain += cost;
        self.recent.push_back((Instant::now(), node, cost));
        if self.recent.len() > 200 {
            self.recent.pop_front();
        }
    }

    /// Notes that what ended on a node since then may not be billed.
    fn mark_uncertain(&mut self, node: usize, since: Instant) {
        let (certain, uncertain) = (&mut self.certain, &mut self.uncertain);
        self.recent.retain(|(at, by, cost)| {
            let is_late = *by == node && *at >= since;
            if is_late {
                *certain -= cost;
                *uncertain += cost;
            }
            !is_late
        });
    }
}

pub struct Oracle {
    accounts: Mutex<Vec<Account>>,
    /// Nodes that were killed, and when.
    killed: Mutex<Vec<(usize, Instant)>>,
    /// A node that was told to end, and when. What runs on it then is billed as far as it came.
    ending: Mutex<Option<(usize, Instant)>>,
    /// The most, in milliseconds, by which a timer of this process was late.
    max_lateness: Arc<AtomicU64>,
    timing: AbortHandle,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.timing.abort();
    }
}

/// Notes by how much timers are late, until it is aborted.
async fn measure_lateness(max_lateness: Arc<AtomicU64>) {
    const BETWEEN: Duration = Duration::from_millis(10);
    loop {
        let began = Instant::now();
        tokio::time::sleep(BETWEEN).await;
        let late = began.elapsed().saturating_sub(BETWEEN);
        max_lateness.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Oracle {
    pub fn new() -> Self {
        let accounts = (0..USERS).map(|_| Account::default()).collect();
        let max_lateness = Arc::new(AtomicU64::new(0));
        let timing = tokio::spawn(measure_lateness(Arc::clone(&max_lateness))).abort_handle();
        Self {
            accounts: Mutex::new(accounts),
            killed: Mutex::default(),
            ending: Mutex::default(),
            max_lateness,
            timing,
        }
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
        let within = within + self.late();
        self.with(|accounts| {
            // Under the accounts' lock: an answer that is counted later is seen to be late.
            self.killed.lock().unwrap().push((node, now));
            for account in accounts {
                account.mark_uncertain(node, now.checked_sub(within).expect("a time of this run"));
            }
        });
    }

    /// The most by which a timer was late.
    pub fn late(&self) -> Duration {
        Duration::from_millis(self.max_lateness.load(Ordering::Relaxed))
    }

    /// How many requests of each caller were served.
    pub fn served(&self) -> Vec<u64> {
        self.with(|accounts| accounts[..CALLERS].iter().map(|account| account.served).collect())
    }

    /// Notes that a stream ran for so long, at least and at most.
    pub fn expect(&self, number: usize, least: Duration, most: Duration) {
        let late = self.late();
        let nanos = |time: Duration| i64::try_from(time.as_millis()).unwrap() * NANOS_PER_MILLI;
        self.with(|accounts| {
            accounts[number].certain += nanos(least);
            accounts[number].uncertain += nanos(most + late) - nanos(least);
        });
    }

    /// Counts an answer of a node to a request that was sent at `began`.
    fn count(&self, number: usize, node: usize, began: Instant, answer: &Answer) {
        let (took, ended) = (began.elapsed(), self.ended_with(node, began));
        let cost = |tens: u32| COST * i64::from(tens);
        // No more can have been computed than there was time for.
        let tens = u32::try_from(took.as_millis() / 10).unwrap() + 2;
        let possible = answer.asked.min(tens);
        self.with(|accounts| {
            let account = &mut accounts[number];
            if number < READER {
                account.slowest = account.slowest.max(took);
            }
            let is_late = |(by, at): &(usize, Instant)| *by == node && began <= *at;
            let killed = self.killed.lock().unwrap().iter().any(is_late);
            match answer.status {
                // Its node was killed just after it answered.
                200 if killed => account.uncertain += cost(possible),
                // Its node shut down meanwhile: billed by the clock, so up to 20 ms more.
                _ if ended => account.uncertain += cost(answer.asked + 2),
                200 if answer.is_clean && answer.arrived < answer.asked => {
                    panic!("user {number}: a stream that was cut has a clean end");
                }
                200 => {
                    account.count_served(node, cost(answer.arrived));
                    // Of a stream that ends early, the rest may have been computed.
                    account.uncertain += cost(possible.saturating_sub(answer.arrived));
                }
                // It ran, and was cut because the ledger did not answer in time.
                503 if took > Duration::from_millis(600) => account.uncertain += cost(possible),
                402 | 429 | 503 => account.denied += 1,
                // Its node is gone: it was billed, or not.
                0 => account.uncertain += cost(possible),
                status => panic!("user {number}: status {status}"),
            }
        });
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
        let tasks = (0..=TIGHT_READER).map(|number| {
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
        let request = client.post(format!("http://{address}/models/echo"));
        let request = request.bearer_auth(user(number));
        let answer = if number < READER {
            ask(request.header("x-compute", "10").header("x-wait", rng.u64(0..20)), 1).await
        } else {
            // Long ones are refilled and settled while they run.
            let frames = rng.u32(5..120);
            ask(request.header("x-report", frames), frames).await
        };
        oracle.count(number, node, began, &answer);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Answer to a request, as far as it came.
struct Answer {
    /// 0 if there is none.
    status: u16,
    /// Tens of milliseconds of compute that were asked for, and those that arrived.
    asked: u32,
    arrived: u32,
    /// `true` if its end is that of a complete response.
    is_clean: bool,
}

/// Sends a request for some tens of milliseconds of compute, and reads what arrives.
async fn ask(request: reqwest::RequestBuilder, asked: u32) -> Answer {
    let nothing = Answer { status: 0, asked, arrived: 0, is_clean: false };
    let Ok(mut answer) = request.send().await else { return nothing };
    let (status, is_stream) = (answer.status().as_u16(), answer.content_length().is_none());
    let mut arrived = 0;
    loop {
        match answer.chunk().await {
            // A frame is a byte.
            Ok(Some(frames)) => arrived += u32::try_from(frames.len()).unwrap(),
            Ok(None) => {
                let arrived = if is_stream { arrived } else { asked };
                return Answer { status, asked, arrived, is_clean: true };
            }
            Err(_) if !is_stream => return nothing,
            Err(_) => return Answer { status, asked, arrived, is_clean: false },
        }
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
        let (number, node) = (FIRST_STREAM + stream, stream % addresses.lock().unwrap().len());
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
