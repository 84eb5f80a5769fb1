//! A real Redis Cluster of a test's own: masters, each with a replica if wanted, all `redis-server`
//! processes on the loopback interface.

use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};

use redis::{Connection, FromRedisValue, Value};

use super::redis_server::RedisServer;

pub struct RedisCluster {
    /// The masters at the start, then their replicas in the same order.
    pub servers: Vec<RedisServer>,
    masters: usize,
    is_tls: bool,
}

impl RedisCluster {
    /// Starts `masters` masters that share the slots evenly, with a replica each if `replicas`.
    pub fn start(masters: usize, replicas: bool) -> Self {
        Self::start_by(masters, replicas, None)
    }

    /// Starts masters that speak TLS, with this certificate and key.
    pub fn start_tls(masters: usize, certificate: &str, key: &str) -> Self {
        Self::start_by(masters, false, Some((certificate, key)))
    }

    fn start_by(masters: usize, replicas: bool, tls: Option<(&str, &str)>) -> Self {
        let number = if replicas { 2 * masters } else { masters };
        let servers: Vec<_> = (0..number)
            .map(|_| {
                // The bus's default port is 10 000 higher, which may be none.
                let bus = RedisServer::free_port().to_string();
                let tls_port = RedisServer::free_port().to_string();
                let by_tls = tls.map_or(Vec::new(), |(certificate, key)| {
                    let files = ["--tls-cert-file", certificate, "--tls-key-file", key];
                    let trust = ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"];
                    let ports = ["--tls-port", &tls_port, "--tls-cluster", "yes"];
                    [files, trust, ports].concat()
                });
                let options = [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-require-full-coverage",
                    "no",
                    "--cluster-replica-validity-factor",
                    "0",
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                RedisServer::start_with(&[&options[..], &by_tls].concat())
            })
            .collect();
        let cluster = Self { servers, masters, is_tls: tls.is_some() };
        cluster.join();
        cluster
    }

    fn join(&self) {
        let number = self.servers.len();
        for (at, server) in self.servers.iter().enumerate() {
            let _: () = self.ask(at, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            if at < self.masters {
                let slot = |at: usize| at * 16_384 / self.masters;
                let (first, last) = (slot(at).to_string(), (slot(at + 1) - 1).to_string());
                let _: () = self.ask(at, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
            let bus = self.setting(at, "cluster-port");
            let port =
                if self.is_tls { self.setting(at, "tls-port") } else { server.port.to_string() };
            if at > 0 {
                let _: () = self.ask(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let count = |role: &str, nodes: &str| {
            let is_one = |line: &&str| line.contains(role) && !line.contains("fail");
            nodes.lines().filter(is_one).count()
        };
        until("all servers know each other", || {
            (0..number).all(|at| {
                let nodes: String = self.ask(at, &["CLUSTER", "NODES"]);
                count("master", &nodes) == number && !nodes.contains("handshake")
            })
        });
        for replica in self.masters..number {
            let of = self.id(replica - self.masters);
            let _: () = self.ask(replica, &["CLUSTER", "REPLICATE", &of]);
        }
        until("the cluster is well", || {
            (0..number).all(|at| {
                let info: String = self.ask(at, &["CLUSTER", "INFO"]);
                let nodes: String = self.ask(at, &["CLUSTER", "NODES"]);
                let role: String = self.ask(at, &["INFO", "replication"]);
                // A server is well before it has heard who has the other slots.
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_assigned:16384")
                    && count("slave", &nodes) == number - self.masters
                    && (at < self.masters || role.contains("master_link_status:up"))
            })
        });
        self.until_agreed();
    }

    /// A setting of a server.
    pub fn setting(&self, at: usize, name: &str) -> String {
        let answer: HashMap<String, String> = self.ask(at, &["CONFIG", "GET", name]);
        answer[name].clone()
    }

    /// The URL of all servers.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis+cluster://{}/", hosts.join(","))
    }

    fn connection(&self, at: usize) -> redis::RedisResult<Connection> {
        let client = redis::Client::open(self.servers[at].url())?;
        client.get_connection_with_timeout(Duration::from_secs(5))
    }

    /// Asks a server.
    pub fn ask<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> T {
        self.try_ask(at, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn try_ask<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection(at)?)
    }

    fn id(&self, at: usize) -> String {
        self.ask(at, &["CLUSTER", "MYID"])
    }

    /// The slot of an account's keys.
    pub fn slot_of(&self, account: &str) -> u16 {
        self.ask(0, &["CLUSTER", "KEYSLOT", &format!("tc:{{user:{account}}}")])
    }

    /// Which of the servers says that it has a slot.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        (0..self.servers.len()).find(|at| {
            let Ok(nodes) = self.try_ask::<String>(*at, &["CLUSTER", "NODES"]) else {
                return false;
            };
            let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
            own.contains("master")
                && own.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let number = |text: &str| text.parse::<u16>().expect("a slot");
                    (number(first)..=number(last)).contains(&slot)
                })
        })
    }

    /// Waits until all servers that answer tell the same of who has which slot, by which epoch.
    ///
    /// A server that takes a slot gets an epoch higher than all that it has heard of. If it has not
    /// heard of the highest yet, an older message of the slot's last owner takes the slot from it
    /// again, and then no server says that it has it.
    fn until_agreed(&self) {
        until("all servers agree on who has which slot", || {
            let views: Vec<Vec<String>> = (0..self.servers.len())
                .filter_map(|at| self.try_ask::<String>(at, &["CLUSTER", "NODES"]).ok())
                .map(|nodes| {
                    let view = nodes.lines().map(|line| {
                        let words: Vec<_> = line.split(' ').collect();
                        let slots = words.iter().skip(8).filter(|range| !range.starts_with('['));
                        let slots: Vec<_> = slots.copied().collect();
                        format!("{} {} {}", words[0], words[6], slots.join(" "))
                    });
                    let mut view: Vec<_> = view.collect();
                    view.sort();
                    view
                })
                .collect();
            views.windows(2).all(|views| views[0] == views[1])
        });
    }

    /// Moves a slot to another server as `redis-cli --cluster reshard` does, key by key, with
    /// `pause` after each.
    pub fn move_slot(&self, slot: u16, to: usize, pause: Duration) {
        self.until_agreed();
        let from = self.owner(slot).expect("a server has the slot");
        if from == to {
            return;
        }
        let text = slot.to_string();
        let (from_id, to_id) = (self.id(from), self.id(to));
        let _: () = self.ask(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &from_id]);
        let _: () = self.ask(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &to_id]);
        let port = self.servers[to].port.to_string();
        loop {
            let keys: Vec<String> = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &text, "1"]);
            let Some(key) = keys.first() else { break };
            let _: Value = self.ask(from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            sleep(pause);
        }
        for at in [to, from] {
            let _: () = self.ask(at, &["CLUSTER", "SETSLOT", &text, "NODE", &to_id]);
        }
        self.until_agreed();
    }
}

/// Waits until a condition holds. For long: a Sentinel whose timers were late does nothing for half
/// a minute, and on a busy machine they may be late again in it.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(300);
    while !condition() {
        assert!(Instant::now() < limit, "not in time: {what}");
        sleep(Duration::from_millis(20));
    }
}
