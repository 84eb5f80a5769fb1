//! A run: servers, nodes, callers, the fault, and what the bills say in the end.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::task::block_in_place;
use tower_credits::{
    Period,
    clock::UnixTime,
    ledger::{Ledger, Statement},
};

use super::{
    clients,
    load::{
        Addresses, CALLERS, COST, Callers, FIRST_STREAM, LATE, Oracle, READER, STREAMS,
        TIGHT_LIMIT, USERS, is_tight, open_streams, read_to_end, tier_of, user,
    },
    node::Node,
    proxy::{Network, Proxy},
    scenarios::{Fault, Scenario},
    servers::{PATIENCE, Servers},
};
use crate::support::{folder::Folder, identity, redis_cluster::until, redis_sentinel::Watched};

const NODES: usize = 2;

/// What a node that is killed had not reported of requests that ended: `report_within`, and a call.
const UNREPORTED: Duration = Duration::from_millis(1_250);

/// The same of one with a journal: 20 ms, and what a busy machine is late with.
const UNWRITTEN: Duration = Duration::from_millis(150);

/// What it loses of a stream: half of its hold, and the time to report it.
const LOST_OF_STREAM: Duration = Duration::from_millis(850);

const STREAM: Duration = Duration::from_secs(3);

/// How a run ended.
pub struct Row {
    scenario: &'static Scenario,
    seed: u64,
    requests: u64,
    denied: u64,
    lost: i64,
    double: i64,
    overspent: i64,
    held: i64,
    longest: Duration,
    /// How long after the fault all callers were served again; `None` if they never were.
    well: Option<Duration>,
    /// The most by which a timer of the rig was late.
    timers: Duration,
    unlike: Vec<String>,
}

/// A run in which the machine stood still for longer says nothing.
const MAX_LATENESS: Duration = Duration::from_secs(2);

pub const HEAD: &str = "\
| scenario | seed | requests | denied | lost | double | overspent | held | longest | well after | \
timers |
|---|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, seed, requests, denied, lost, double, overspent, held, .. } = self;
        let well = self.well.map_or("never".to_owned(), |well| format!("{} ms", well.as_millis()));
        write!(
            f,
            "| {} | {seed} | {requests} | {denied} | {lost} | {double} | {overspent} | {held} | \
             {} ms | {well} | {} ms |",
            scenario.name,
            self.longest.as_millis(),
            self.timers.as_millis()
        )
    }
}

impl Row {
    /// Returns what is wrong with the run, and the command that repeats it.
    pub fn wrong(&self) -> Option<String> {
        let Self { scenario, seed, .. } = self;
        // The ledger may forget all that is on hold: at most the whole limit.
        let may_overspend = if scenario.may_overspend { TIGHT_LIMIT } else { 0 };
        let is_right = self.lost == 0
            && self.double == 0
            && self.overspent <= may_overspend
            && self.held <= scenario.max_held
            && self.well.is_some()
            && self.timers <= MAX_LATENESS
            && self.unlike.is_empty();
        (!is_right).then(|| {
            format!(
                "{self}\n{}\nSCENARIO='{}' FAULT_SEED={seed} cargo test --all-features --test \
                 faults a_run",
                self.unlike.join("\n"),
                scenario.name
            )
        })
    }
}

struct Rig {
    scenario: &'static Scenario,
    rng: fastrand::Rng,
    servers: Servers,
    proxies: Vec<Proxy>,
    nodes: Vec<Node>,
    addresses: Addresses,
    oracle: Arc<Oracle>,
    folder: Folder,
    password: Option<&'static str>,
    unlike: Vec<String>,
}

/// Makes a run.
pub async fn run(scenario: &'static Scenario, seed: u64) -> Row {
    let mut rig = Rig::start(scenario, seed).await;
    let callers = Callers::start(&rig.addresses, &rig.oracle, seed);
    rig.until_served(3).await;
    let pause = Duration::from_millis(rig.rng.u64(50..400));
    tokio::time::sleep(pause).await;
    rig.harm().await;
    let over = Instant::now();
    let well = rig.until_served(5).await.then(|| over.elapsed());
    callers.stop().await;
    rig.end(seed, well).await
}

impl Rig {
    async fn start(scenario: &'static Scenario, seed: u64) -> Self {
        let mut servers = Servers::start(scenario.servers).await;
        let folder = Folder::new(&format!("rig-{}-{seed}", fastrand::u32(..)));
        let proxies = servers.proxies(NODES).await;
        let mut password = None;
        if scenario.fault == Fault::PasswordRotated {
            servers.server().command(&["CONFIG", "SET", "requirepass", "first"]);
            folder.write("password", "first");
            password = Some("first");
        }
        let settings = |node: usize| {
            let url = proxies
                .get(node)
                .map_or_else(|| servers.url(), |proxy| format!("redis://{}/", proxy.address));
            let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
            let mut settings = vec![("NODE_REDIS_URL".to_owned(), url)];
            if scenario.journal {
                settings.push(("NODE_JOURNAL".to_owned(), path(&format!("journal-{node}"))));
            }
            if password.is_some() {
                settings.push(("NODE_PASSWORD_FILE".to_owned(), path("password")));
            }
            settings
        };
        let nodes: Vec<_> =
            block_in_place(|| (0..NODES).map(|node| Node::start(settings(node))).collect());
        let addresses = nodes.iter().map(|node: &Node| Some(node.address)).collect();
        Self {
            scenario,
            rng: fastrand::Rng::with_seed(seed),
            servers,
            proxies,
            addresses: Arc::new(Mutex::new(addresses)),
            nodes,
            oracle: Arc::new(Oracle::new()),
            folder,
            password,
            unlike: Vec::new(),
        }
    }

    /// Waits until each caller was served so often. Returns `false` if that takes too long.
    async fn until_served(&self, more: u64) -> bool {
        let (before, limit) = (self.oracle.served(), Instant::now() + PATIENCE);
        while Instant::now() < limit {
            let served = self.oracle.served();
            if served.iter().zip(&before).all(|(now, before)| *now >= before + more) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// Waits as long as the fault lasts.
    async fn lasts(&mut self) {
        let (from, to) = self.scenario.lasts;
        tokio::time::sleep(Duration::from_millis(self.rng.u64(from..=to))).await;
    }

    async fn harm(&mut self) {
        match self.scenario.fault {
            Fault::None => self.lasts().await,
            Fault::Network(network) => {
                self.proxies.iter().for_each(|proxy| proxy.set(network));
                self.lasts().await;
                self.proxies.iter().for_each(|proxy| proxy.set(Network::Well));
            }
            Fault::Killed | Fault::TailLost(_) | Fault::RestartedEmpty | Fault::Stopped => {
                self.harm_server().await;
            }
            Fault::ClockMoved(by) => {
                self.servers.server().move_clock(by);
                self.lasts().await;
                self.servers.server().move_clock(0);
            }
            Fault::ClientPause
            | Fault::ClientKill
            | Fault::ScriptFlush
            | Fault::Hog
            | Fault::FullMemory
            | Fault::EvictionChanged
            | Fault::WrongType
            | Fault::Malformed
            | Fault::PasswordRotated => self.command_server().await,
            Fault::LaggingReplica
            | Fault::SentinelFailover
            | Fault::MinorityPartition
            | Fault::OldMasterAlive
            | Fault::ClusterFailover(_)
            | Fault::ClusterMasterKilled
            | Fault::SlotsMove
            | Fault::ShardStopped => self.fail_over().await,
            Fault::NodeKilled(times) | Fault::NodeKilledInCall(times) => {
                for _ in 0..times {
                    self.kill_node().await;
                    self.until_served(2).await;
                }
            }
            Fault::NodeTerminated | Fault::NodeRuntimeDropped => self.end_node().await,
            Fault::NodeStopped => {
                self.nodes[0].signal("-STOP");
                self.lasts().await;
                self.nodes[0].signal("-CONT");
            }
            Fault::HandlerPanics | Fault::HandlerPanicAborts => self.ask_for_panic().await,
            Fault::JournalTorn
            | Fault::JournalBitFlipped
            | Fault::JournalDiskFull
            | Fault::JournalTwice => self.harm_journal().await,
            Fault::Client(fault) => {
                let address = self.nodes[0].address;
                let served = clients::harm(fault, address, &mut self.rng, &self.oracle).await;
                // A busy machine may deny one.
                if served + 1 < STREAMS {
                    self.unlike.push(format!("{served} of {STREAMS} clients were served"));
                }
            }
        }
    }

    async fn harm_server(&mut self) {
        let fault = self.scenario.fault;
        if fault == Fault::Stopped {
            self.servers.server().stop();
            self.lasts().await;
            self.servers.server().go_on();
            return;
        }
        self.servers.server().kill();
        self.lasts().await;
        block_in_place(|| match fault {
            Fault::TailLost(commands) => {
                self.servers.server().tear_log(commands);
                self.servers.server().restart();
            }
            Fault::RestartedEmpty => self.servers.server().restart_empty(),
            _ => self.servers.server().restart(),
        });
    }

    /// Gives the server a command, and another one when it is over.
    async fn command_server(&mut self) {
        let month = Period::containing(UnixTime::now());
        let record = format!("tc:{{user:{}}}", user(0));
        let holds = format!("{record}:{month}:h");
        let fault = self.scenario.fault;
        let (from, to) = self.scenario.lasts;
        let lasts = Duration::from_millis(self.rng.u64(from..=to));
        let until = Instant::now() + lasts;
        let server = self.servers.server();
        let millis = lasts.as_millis().to_string();
        block_in_place(|| match fault {
            Fault::ClientPause => drop(server.command(&["CLIENT", "PAUSE", &millis, "ALL"])),
            Fault::ClientKill => {
                while Instant::now() < until {
                    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            Fault::ScriptFlush => {
                while Instant::now() < until {
                    server.command(&["SCRIPT", "FLUSH"]);
                }
            }
            Fault::Hog => {
                // The server's own time stands still in a script.
                let hog = "local till = os.clock() + ARGV[1] / 1000 \
                           while os.clock() < till do end";
                server.command(&["EVAL", hog, "0", &millis]);
            }
            Fault::FullMemory => drop(server.command(&["CONFIG", "SET", "maxmemory", "1"])),
            Fault::EvictionChanged => {
                server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
            }
            Fault::WrongType => drop(server.command(&["SET", &holds, "no hash"])),
            Fault::Malformed => drop(server.command(&["HSET", &record, "seats", "many"])),
            Fault::PasswordRotated => {
                server.command_as("first", &["CONFIG", "SET", "requirepass", "second"]);
                server.command_as("second", &["CLIENT", "KILL", "TYPE", "normal"]);
            }
            _ => unreachable!("it is no command"),
        });
        if let Some(rest) = until.checked_duration_since(Instant::now()) {
            tokio::time::sleep(rest).await;
        }
        let server = self.servers.server();
        block_in_place(|| match fault {
            Fault::FullMemory => drop(server.command(&["CONFIG", "SET", "maxmemory", "0"])),
            Fault::EvictionChanged => {
                server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
            }
            Fault::WrongType => drop(server.command(&["DEL", &holds])),
            Fault::Malformed => drop(server.command(&["HDEL", &record, "seats"])),
            Fault::PasswordRotated => {
                self.folder.write("password", "second");
                self.password = Some("second");
            }
            _ => {}
        });
    }

    async fn fail_over(&mut self) {
        let (fault, user) = (self.scenario.fault, user(self.rng.usize(..CALLERS)));
        if let Servers::Pair { link, .. } = &self.servers {
            link.set(Network::BlackHole);
            self.lasts().await;
            let Servers::Pair { servers, .. } = &mut self.servers else { return };
            servers.remove(0).kill();
            let port = servers[0].port;
            block_in_place(|| servers[0].command(&["REPLICAOF", "NO", "ONE"]));
            self.proxies.iter().for_each(|proxy| proxy.lead_to(port));
            return;
        }
        match fault {
            Fault::SentinelFailover => {
                let watched = self.servers.watched();
                watched.servers[0].kill();
                block_in_place(|| {
                    until("the replica took over", || watched.role(1).contains("role:master"));
                });
            }
            Fault::MinorityPartition => {
                let Servers::Sentinel { watched, link } = &self.servers else { return };
                link.set(Network::OnlyRedisClients);
                block_in_place(|| {
                    until("the replica took over", || watched.role(1).contains("role:master"));
                });
                let before = replication_offset(watched);
                self.lasts().await;
                let Servers::Sentinel { watched, link } = &self.servers else { return };
                if replication_offset(watched) == before {
                    self.unlike
                        .push("no node wrote to the old master during the partition".to_owned());
                }
                link.set(Network::Well);
                block_in_place(|| watched.until_replicated());
            }
            Fault::OldMasterAlive => {
                self.servers.watched().servers[0].stop();
                self.lasts().await;
                let watched = self.servers.watched();
                block_in_place(|| {
                    until("the replica took over", || watched.role(1).contains("role:master"));
                });
                watched.servers[0].go_on();
                // What it acknowledges until then, nodes report again, if they go on.
                block_in_place(|| watched.until_replicated());
            }
            _ => self.harm_cluster(&user).await,
        }
    }

    async fn harm_cluster(&mut self, user: &str) {
        let (from, to) = self.scenario.lasts;
        let lasts = Duration::from_millis(self.rng.u64(from..=to));
        let fault = self.scenario.fault;
        let cluster = self.servers.cluster();
        block_in_place(|| {
            let slot = cluster.slot_of(user);
            let master = cluster.owner(slot).expect("a server has the slot");
            match fault {
                Fault::ClusterFailover(how) => {
                    let words = ["CLUSTER", "FAILOVER", how];
                    let words = &words[..if how.is_empty() { 2 } else { 3 }];
                    let _: () = cluster.ask(master + 3, words);
                    until("the replica took over", || cluster.owner(slot) == Some(master + 3));
                }
                Fault::ClusterMasterKilled => {
                    cluster.servers[master].kill();
                    let other = |owner| owner != master;
                    until("a replica took over", || cluster.owner(slot).is_some_and(other));
                }
                Fault::SlotsMove => {
                    for number in 0..CALLERS {
                        let slot = cluster.slot_of(&super::load::user(number));
                        let to = (cluster.owner(slot).expect("an owner") + 1) % 3;
                        cluster.move_slot(slot, to, Duration::ZERO);
                    }
                }
                _ => {
                    cluster.servers[master].stop();
                    std::thread::sleep(lasts);
                    cluster.servers[master].go_on();
                }
            }
        });
    }

    /// Kills a node, and starts another in its place.
    async fn kill_node(&mut self) {
        if matches!(self.scenario.fault, Fault::NodeKilledInCall(_)) {
            let proxy = self.proxies[0].clone();
            proxy.stop_after(self.rng.u64(1..30));
            let reached = proxy.reached.notified();
            let _ = tokio::time::timeout(Duration::from_secs(5), reached).await;
        } else {
            self.lasts().await;
        }
        self.take_down(0);
        self.bring_up(0);
        if let Some(proxy) = self.proxies.first() {
            proxy.stop_after(u64::MAX / 2);
        }
    }

    fn take_down(&mut self, node: usize) {
        self.addresses.lock().unwrap()[node] = None;
        let killed = Instant::now();
        block_in_place(|| self.nodes[node].kill());
        let within = if self.scenario.journal { UNWRITTEN } else { UNREPORTED };
        self.oracle.node_killed(node, within + killed.elapsed());
    }

    /// Starts another process in the place of one that ended. Returns `false` if it cannot be
    /// without the removal of its journal.
    fn bring_up(&mut self, node: usize) -> bool {
        let again = block_in_place(|| self.nodes[node].again());
        let is_whole = again.is_some();
        let again = again.or_else(|| {
            let _ = std::fs::remove_file(self.nodes[node].journal()?);
            block_in_place(|| self.nodes[node].again())
        });
        self.nodes[node] = again.expect("the node starts");
        self.addresses.lock().unwrap()[node] = Some(self.nodes[node].address);
        is_whole
    }

    /// Ends a node while streams run on both.
    async fn end_node(&mut self) {
        let streams = open_streams(&self.addresses, STREAM).await;
        self.lasts().await;
        let is_terminated = self.scenario.fault == Fault::NodeTerminated;
        self.addresses.lock().unwrap()[0] = None;
        self.oracle.node_ends(0);
        let ended = Instant::now();
        self.nodes[0].signal(if is_terminated { "-TERM" } else { "-USR1" });
        block_in_place(|| self.nodes[0].wait());
        if !is_terminated {
            self.oracle.node_killed(0, UNREPORTED + ended.elapsed());
        }
        for (number, node, began, answer) in streams {
            let read = read_to_end(answer).await;
            let at = if node == 0 { ended } else { read };
            let lost = if node == 0 && !is_terminated { LOST_OF_STREAM } else { LATE };
            // It ran until the process ended, or a little less.
            let more = if node == 0 { read - ended + LATE } else { LATE };
            self.oracle.expect(number, (at - began).saturating_sub(lost), at - began + more);
        }
        self.bring_up(0);
    }

    async fn ask_for_panic(&mut self) {
        let is_panic = self.scenario.fault == Fault::HandlerPanics;
        let client = reqwest::Client::new();
        for number in FIRST_STREAM..USERS {
            let address = self.nodes[0].address;
            let asked = client
                .post(format!("http://{address}/models/echo"))
                .bearer_auth(user(number))
                .header("x-wait", "100")
                .header("x-do", if is_panic { "panic" } else { "panic=abort" });
            if !is_panic {
                self.oracle.with(|accounts| accounts[number].served = 0);
            }
            let mut began = Instant::now();
            // A node that is late with the ledger's answer denies it, and asks for another try.
            while let Ok(answer) = asked.try_clone().expect("it has no body").send().await {
                if answer.status() != 503 {
                    self.unlike.push("a handler that panics has no answer".to_owned());
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                began = Instant::now();
            }
            let least = if is_panic { Duration::from_millis(100) } else { Duration::ZERO };
            self.oracle.expect(number, least, began.elapsed() + LATE);
            if !is_panic {
                self.addresses.lock().unwrap()[0] = None;
                block_in_place(|| self.nodes[0].wait());
                self.oracle.node_killed(0, UNREPORTED + began.elapsed());
                self.bring_up(0);
            }
        }
    }

    async fn harm_journal(&mut self) {
        let path = self.nodes[0].journal().expect("it has a journal").to_owned();
        match self.scenario.fault {
            Fault::JournalTwice => {
                if block_in_place(|| self.nodes[0].again()).is_some() {
                    self.unlike.push("a journal that is in use was opened".to_owned());
                }
                return;
            }
            Fault::JournalDiskFull => {
                self.nodes[0].limit_files("4096");
                self.lasts().await;
                self.nodes[0].limit_files("unlimited");
                return;
            }
            _ => {}
        }
        self.lasts().await;
        self.take_down(0);
        // What is damaged may be lost, as without a journal.
        self.oracle.node_killed(0, UNREPORTED);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = self.rng.usize(..bytes.len());
        if self.scenario.fault == Fault::JournalTorn {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << self.rng.u8(..8);
        }
        std::fs::write(&path, bytes).unwrap();
        self.bring_up(0);
    }

    /// Streams are served, and no longer than credits last, apart from the time until a node knows.
    fn look_at_streams(&mut self) {
        let (served, most) = self.oracle.with(|accounts| {
            let most = (0..USERS).filter(|user| is_tight(*user)).map(|user| accounts[user].certain);
            (accounts[READER].served, most.max().unwrap_or_default())
        });
        if served == 0 {
            self.unlike.push("no stream was served".to_owned());
        }
        let allowed = TIGHT_LIMIT + COST * i64::try_from(LATE.as_millis() / 10).unwrap();
        if most > allowed && !self.scenario.may_overspend {
            self.unlike.push(format!("{most} were served of a limit of {TIGHT_LIMIT}"));
        }
    }

    /// Ends the nodes in order, and compares the bills.
    async fn end(mut self, seed: u64, well: Option<Duration>) -> Row {
        self.nodes.iter().for_each(|node| node.signal("-TERM"));
        block_in_place(|| self.nodes.iter_mut().for_each(Node::wait));
        let ledger = self.servers.ledger(self.password).await;
        self.look_at_streams();
        let period = Period::containing(UnixTime::now());
        let mut row = Row {
            scenario: self.scenario,
            seed,
            requests: 0,
            denied: 0,
            lost: 0,
            double: 0,
            overspent: 0,
            held: 0,
            longest: Duration::ZERO,
            well,
            timers: self.oracle.late(),
            unlike: std::mem::take(&mut self.unlike),
        };
        for number in 0..USERS {
            let account = identity(&user(number), tier_of(number)).account;
            let statement: Statement = ledger.statement(&account, period, None).await.unwrap();
            let used = statement.used.as_nano_usd();
            let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
            if lines != used {
                row.unlike.push(format!("user {number}: lines cost {lines}, used is {used}"));
            }
            self.oracle.with(|accounts| {
                let account = &accounts[number];
                row.requests += account.served + account.denied;
                row.denied += account.denied;
                row.longest = row.longest.max(account.slowest);
                // One whose credits end is billed as far as they go.
                let certain = if is_tight(number) {
                    account.certain.min(TIGHT_LIMIT - COST)
                } else {
                    account.certain
                };
                let (lost, double) = (certain - used, used - account.certain - account.uncertain);
                row.lost += lost.max(0);
                row.double += double.max(0);
                if lost > 0 || double > 0 {
                    row.unlike.push(format!(
                        "user {number}: used {used}, expected {certain} to {}",
                        account.certain + account.uncertain
                    ));
                }
            });
            if is_tight(number) {
                row.overspent = row.overspent.max(used - TIGHT_LIMIT);
            }
            row.held += statement.held.as_nano_usd();
        }
        row
    }
}

/// Returns the line with the old master's replication offset, which grows with each write.
fn replication_offset(watched: &Watched) -> Option<String> {
    let role = watched.role(0);
    role.lines().find(|line| line.starts_with("master_repl_offset:")).map(str::to_owned)
}
