//! [`ServerReport`]: whether a server is fit for balances, and how fast it is.

use std::{collections::HashMap, time::Duration};

use redis::RedisError;
use tokio::time::Instant;

use super::{super::LedgerError, ledger::RedisLedger};
use crate::{
    Account, Period,
    clock::UnixTime,
    redis_server::{Connection, Link, Servers, server_time},
};

/// Calls of which the median is the latency.
const CALLS: usize = 21;

/// The most names that are tried until one is on a server of a cluster.
const MAX_TRIED_NAMES: usize = 10_000;

/// Difference between a server's clock and this machine's from which on it is reported.
const CLOCK_TOLERANCE_MILLIS: i64 = 1_000;

/// Median latency of a script from which on it is reported: a fifth of the default deadline.
const SLOW_SCRIPT: Duration = Duration::from_millis(50);

/// Facts about one Redis server: it comes from [`RedisLedger::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerReport {
    /// Address of the server.
    pub address: String,
    /// Name and version, such as `redis 7.0.15`; `None` if the server does not say.
    pub version: Option<String>,
    /// Its `maxmemory-policy`; `None` if the server does not say.
    pub eviction: Option<String>,
    /// `true` if it writes a file of every change (`appendonly yes`).
    pub append_only: Option<bool>,
    /// Its `appendfsync`: the policy by which it flushes that file to the disk.
    pub append_fsync: Option<String>,
    /// Number of replicas that are connected.
    pub replicas: Option<u64>,
    /// Number of replicas that must be there for it to write: its `min-replicas-to-write`.
    pub min_replicas_to_write: Option<u64>,
    /// Bytes of memory in use, and the most that may be; 0 stands for no limit.
    pub memory: Option<(u64, u64)>,
    /// Version of the schema of its keys; `None` if there are none.
    pub schema: Option<String>,
    /// Milliseconds by which its clock is ahead of this machine's.
    pub clock_ahead_millis: i64,
    /// Median duration of a command that does nothing.
    pub round_trip: Duration,
    /// Median duration of a script that reads an account.
    pub script: Duration,
}

impl ServerReport {
    /// Returns what is wrong, or will be, with a remedy each. Empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.append_only {
            Some(false) => problems.push(
                "changes since the last snapshot are lost if the server is killed: set \
                 `appendonly yes`"
                    .to_owned(),
            ),
            None => problems.push(
                "the server does not say whether it stores what it acknowledges (CONFIG is \
                 denied): make sure that `appendonly yes` is set"
                    .to_owned(),
            ),
            Some(true) => {}
        }
        if self.append_only == Some(true) && self.append_fsync.as_deref() == Some("no") {
            problems.push(
                "the server leaves it to the system when its file is on the disk: set \
                 `appendfsync everysec`, or `always`"
                    .to_owned(),
            );
        }
        if self.eviction.is_none() {
            problems.push(
                "the server does not say whether it deletes keys when its memory is full: make \
                 sure that `maxmemory-policy noeviction` is set"
                    .to_owned(),
            );
        }
        if let Some((used, most)) = self.memory
            && most > 0
            && used > most / 10 * 9
        {
            problems.push(format!(
                "{used} of {most} bytes of memory are in use, and without memory it refuses to \
                 write: raise `maxmemory`"
            ));
        }
        if self.replicas.is_some_and(|replicas| replicas > 0)
            && self.min_replicas_to_write == Some(0)
        {
            problems.push(
                "a master that is cut off from its replicas goes on writing, and a failover \
                 forgets that: set `min-replicas-to-write 1`"
                    .to_owned(),
            );
        }
        if self.clock_ahead_millis.abs() > CLOCK_TOLERANCE_MILLIS {
            let (millis, side) = match self.clock_ahead_millis {
                ahead if ahead > 0 => (ahead, "ahead of"),
                behind => (-behind, "behind"),
            };
            problems.push(format!(
                "the server's clock is {millis} ms {side} this machine's, and months begin by it: \
                 run NTP on both"
            ));
        }
        if self.script > SLOW_SCRIPT {
            problems.push(format!(
                "a script takes {:?}, and by default a request waits 250 ms for the ledger: bring \
                 the server nearer, or give it a core of its own",
                self.script
            ));
        }
        problems
    }
}

impl RedisLedger {
    /// Inspects each server that has accounts: version, settings that decide whether it keeps what
    /// it acknowledges, clock, and latency. Writes nothing; connecting has written the schema's
    /// version, if there was none.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unfit`] if a server would lose balances, which is checked before all else;
    /// another [`LedgerError`] if one did not answer.
    pub async fn inspect(&self) -> Result<Vec<ServerReport>, LedgerError> {
        let servers = self.servers();
        match servers {
            Servers::One(one) => {
                let report = self.inspect_server(&one.connection, "0".to_owned()).await?;
                Ok(vec![ServerReport { address: one.connection.to_string(), ..report }])
            }
            Servers::Cluster(cluster) => {
                let (masters, _) = cluster.masters(self.timeout()).await?;
                let mut reports = Vec::new();
                for server in masters {
                    let is_its = |name: &String| {
                        Account::user(name).is_ok_and(|account| {
                            cluster.shard(&self.record_key(&account)) == server.id()
                        })
                    };
                    let name = (0..MAX_TRIED_NAMES).map(|n| n.to_string()).find(is_its);
                    let name = name.unwrap_or_else(|| "0".to_owned());
                    let report = self.inspect_server(server.connection(), name).await?;
                    reports.push(ServerReport { address: server.to_string(), ..report });
                }
                Ok(reports)
            }
        }
    }

    /// Inspects a server, which has the account of a user of this name.
    async fn inspect_server(
        &self,
        connection: &Connection,
        name: String,
    ) -> Result<ServerReport, LedgerError> {
        let timeout = self.timeout();
        // A part of the server may be hidden from this user: then it is not known.
        let info = |mut link: Link| async move {
            let info: Result<String, RedisError> = redis::cmd("INFO").query_async(&mut link).await;
            Ok(info.unwrap_or_default())
        };
        let info = facts(&connection.run(timeout, info).await?);
        let mut config = HashMap::new();
        for setting in
            ["maxmemory-policy", "appendonly", "appendfsync", "min-replicas-to-write", "maxmemory"]
        {
            let get = |mut link: Link| async move {
                let found: Result<HashMap<String, String>, RedisError> =
                    redis::cmd("CONFIG").arg("GET").arg(setting).query_async(&mut link).await;
                Ok(found.unwrap_or_default())
            };
            config.extend(connection.run(timeout, get).await?);
        }
        let (mut round_trips, mut ahead) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let begin = Instant::now();
            let ask =
                |mut link: Link| async move { redis::cmd("TIME").query_async(&mut link).await };
            let time: (u64, u64) = connection.run(timeout, ask).await?;
            let took = begin.elapsed();
            let here = UnixTime::now().saturating_sub(took / 2).as_millis();
            let there = server_time(time).as_millis();
            let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
            ahead.push(signed(there) - signed(here));
            round_trips.push(took);
        }
        let account =
            Account::user(&name).map_err(|error| LedgerError::Refused(error.to_string()))?;
        let mut scripts = Vec::new();
        for _ in 0..CALLS {
            let begin = Instant::now();
            self.read_account(&account, Period::containing(UnixTime::now())).await?;
            scripts.push(begin.elapsed());
        }
        let number = |facts: &HashMap<String, String>, name: &str| facts.get(name)?.parse().ok();
        let version = |name: &str, key: &str| Some(format!("{name} {}", info.get(key)?));
        Ok(ServerReport {
            address: String::new(),
            version: version("valkey", "valkey_version")
                .or_else(|| version("redis", "redis_version")),
            eviction: config
                .get("maxmemory-policy")
                .or_else(|| info.get("maxmemory_policy"))
                .cloned(),
            append_only: config
                .get("appendonly")
                .map(|value| value == "yes")
                .or_else(|| info.get("aof_enabled").map(|value| value == "1")),
            append_fsync: config.get("appendfsync").cloned(),
            replicas: number(&info, "connected_slaves"),
            min_replicas_to_write: number(&config, "min-replicas-to-write"),
            memory: number(&info, "used_memory")
                .zip(number(&config, "maxmemory").or_else(|| number(&info, "maxmemory"))),
            schema: self.stored_schema().await?,
            clock_ahead_millis: median(ahead),
            round_trip: median(round_trips),
            script: median(scripts),
        })
    }
}

fn median<T: Ord + Copy + Default>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Reads the answer to `INFO`: lines of a name, a colon and a value.
fn facts(info: &str) -> HashMap<String, String> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    info.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> ServerReport {
        ServerReport {
            address: "127.0.0.1:6379".to_owned(),
            version: Some("redis 7.0.15".to_owned()),
            eviction: Some("noeviction".to_owned()),
            append_only: Some(true),
            append_fsync: Some("everysec".to_owned()),
            replicas: Some(1),
            min_replicas_to_write: Some(1),
            memory: Some((1_000_000, 0)),
            schema: Some("5".to_owned()),
            clock_ahead_millis: -3,
            round_trip: Duration::from_micros(40),
            script: Duration::from_micros(90),
        }
    }

    #[test]
    fn each_problem_is_named_with_a_remedy() {
        assert_eq!(sound().problems(), Vec::<String>::new());
        let wrong = [
            (ServerReport { append_only: Some(false), ..sound() }, "set `appendonly yes`"),
            (ServerReport { append_only: None, ..sound() }, "`appendonly yes` is set"),
            (ServerReport { append_fsync: Some("no".to_owned()), ..sound() }, "everysec"),
            (ServerReport { eviction: None, ..sound() }, "noeviction"),
            (ServerReport { memory: Some((950, 1_000)), ..sound() }, "950 of 1000 bytes"),
            (ServerReport { min_replicas_to_write: Some(0), ..sound() }, "min-replicas-to-write 1"),
            (ServerReport { clock_ahead_millis: 5_000, ..sound() }, "5000 ms ahead of"),
            (ServerReport { clock_ahead_millis: -5_000, ..sound() }, "5000 ms behind"),
            (ServerReport { script: Duration::from_millis(80), ..sound() }, "a script takes 80ms"),
        ];
        for (report, remedy) in wrong {
            let problems = report.problems();
            assert!(problems.len() == 1 && problems[0].contains(remedy), "{problems:?}");
        }
    }
}
