//! A real master, its replica and three Sentinels of a test's own, on the loopback interface.

use std::collections::HashMap;

use redis::{FromRedisValue, RedisResult};

use super::{redis_cluster::until, redis_server::RedisServer};

/// A master with a password, a replica of it, and three Sentinels with another password.
pub struct Watched {
    pub servers: [RedisServer; 2],
    pub sentinels: Vec<RedisServer>,
}

/// The password of the servers.
pub const PASSWORD: &str = "s3cret";

const LOGIN: [&str; 4] = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];

impl Watched {
    pub fn start() -> Self {
        let master = Self::start_master();
        let port = master.port;
        Self::start_behind(master, port)
    }

    pub fn start_master() -> RedisServer {
        // Its replication offset grows with writes only: replicas are not pinged.
        let quiet = ["--repl-ping-replica-period", "3600"];
        RedisServer::start_with(&[&LOGIN[..], &quiet].concat())
    }

    /// Starts a replica and Sentinels, to which the master is known by `port`: its own, or that of
    /// a proxy.
    pub fn start_behind(master: RedisServer, port: u16) -> Self {
        let of = ["--replicaof", &format!("127.0.0.1 {port}"), "--repl-diskless-sync-delay", "0"];
        let replica = RedisServer::start_with(&[&LOGIN[..], &of].concat());
        let lines = [
            format!("sentinel monitor mymaster 127.0.0.1 {port} 2"),
            format!("sentinel auth-pass mymaster {PASSWORD}"),
            "sentinel down-after-milliseconds mymaster 1000".to_owned(),
            "sentinel failover-timeout mymaster 3000".to_owned(),
            "requirepass watch".to_owned(),
            "sentinel sentinel-pass watch".to_owned(),
        ];
        let sentinels = (0..3).map(|_| RedisServer::start_sentinel_of(&lines)).collect();
        let watched = Self { servers: [master, replica], sentinels };
        until("the replica follows", || watched.role(1).contains("master_link_status:up"));
        until("the Sentinels know each other and the replica", || {
            (0..3).all(|at| {
                let state: HashMap<String, String> =
                    watched.ask_sentinel(at, &["MASTER", "mymaster"]).unwrap_or_default();
                state.get("num-other-sentinels").is_some_and(|number| number == "2")
                    && state.get("num-slaves").is_some_and(|number| number == "1")
            })
        });
        watched
    }

    /// Asks a Sentinel.
    pub fn ask_sentinel<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> RedisResult<T> {
        let url = format!("redis://:watch@127.0.0.1:{}/", self.sentinels[at].port);
        let mut sentinel = redis::Client::open(url)?.get_connection()?;
        redis::cmd("SENTINEL").arg(words).query(&mut sentinel)
    }

    /// What a server says of its role; nothing while it closes connections, since that changes.
    pub fn role(&self, at: usize) -> String {
        self.servers[at].try_command_as(PASSWORD, &["INFO", "replication"]).unwrap_or_default()
    }

    /// Waits until one server is the master and the other its replica, whichever: on a busy machine
    /// the Sentinels may change them once more.
    pub fn until_replicated(&self) {
        until("a server is the master, and the other its replica", || {
            let roles = [self.role(0), self.role(1)];
            let is_replica =
                |role: &String| role.contains("role:slave") && role.contains("link_status:up");
            roles.iter().any(|role| role.contains("role:master")) && roles.iter().any(is_replica)
        });
    }

    /// Number of the last failover, as a Sentinel knows it.
    pub fn failovers(&self, sentinel: usize) -> u64 {
        let mut number = None;
        until("a Sentinel says the number of the last failover", || {
            let words = ["MASTER", "mymaster"];
            let state = self.ask_sentinel::<HashMap<String, String>>(sentinel, &words);
            number = state.ok().and_then(|state| state.get("config-epoch")?.parse().ok());
            number.is_some()
        });
        number.unwrap_or_default()
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let hosts = hosts.join(",");
        format!("redis+sentinel://:{PASSWORD}@{hosts}/mymaster?sentinel_pass=watch")
    }
}
