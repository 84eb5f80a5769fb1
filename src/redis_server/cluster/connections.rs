//! [`Cluster`]: the connections to its servers, and the way of a call to the right one.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::{
    future::{BoxFuture, FutureExt, Shared, join_all},
    stream::{FuturesUnordered, StreamExt},
};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    super::{
        checks::{is_schema, stored_schema},
        connection::{Connection, Role},
        connector::Connector,
        fault::Fault,
        link::Link,
        node::Node,
    },
    topology::{Address, Ranges, SharedTopology, Topology, redirected, slot_of},
};
use crate::clock::until;

/// Time in which a server must say what the topology is.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which the next server is asked for the topology, too.
const NEXT_SERVER: Duration = Duration::from_millis(100);

/// Time between two reads of the topology.
const TOPOLOGY_PAUSE: Duration = Duration::from_millis(100);

/// Redirections that are followed at once. Then there is a pause before each.
const AT_ONCE: u32 = 2;

/// The first and the longest pause of a call that waits for a slot to have moved.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The most keys that are tried to find one that a server has.
const MAX_TRIED_KEYS: u32 = 100_000;

/// The shard of accounts whose slot no server has.
const NOWHERE: u64 = u64::MAX;

/// A Redis Cluster. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

struct Inner {
    seeds: Vec<Node>,
    schema_key: String,
    check_key: String,
    topology: ArcSwapOption<Topology<Server>>,
    /// The servers that the topology has, and those that redirections lead to.
    servers: Mutex<HashMap<Address, Server>>,
    next_id: AtomicU64,
    reading: Mutex<Reading>,
    /// Counts reads, so that each begins with another server.
    reads: AtomicUsize,
    schema: Mutex<Schema>,
}

/// A server of the cluster.
#[derive(Clone)]
pub(crate) struct Server(Arc<ServerInner>);

struct ServerInner {
    id: u64,
    address: Address,
    connection: Connection,
}

type Read = Shared<BoxFuture<'static, Result<(), Fault>>>;

/// The read of the topology that is under way, and the end of the last one.
#[derive(Default)]
struct Reading {
    under_way: Option<(Read, AbortHandle)>,
    ended_at: Option<Instant>,
}

/// The schema of the cluster's keys, as far as it is known.
#[derive(Clone)]
enum Schema {
    Unknown,
    Fit,
    Unfit(Fault),
}

/// What a server's error says about the way to a key.
enum Redirection {
    Moved(Address),
    Ask(Address),
    /// A slot is moving with some of an account's keys.
    TryAgain,
}

impl Cluster {
    pub(in crate::redis_server) fn new(
        seeds: Vec<Node>,
        schema_key: String,
        check_key: String,
    ) -> Self {
        Self(Arc::new(Inner {
            seeds,
            schema_key,
            check_key,
            topology: ArcSwapOption::empty(),
            servers: Mutex::default(),
            next_id: AtomicU64::new(1),
            reading: Mutex::default(),
            reads: AtomicUsize::new(0),
            schema: Mutex::new(Schema::Unknown),
        }))
    }

    /// Opens the connections to all servers. Servers that cannot be reached are logged, unless that
    /// is all of them.
    pub(crate) async fn open(&self, within: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + within;
        let topology = self.topology(deadline, within).await?;
        let opened = join_all(topology.masters().iter().map(async |server| {
            let left = deadline.saturating_duration_since(Instant::now());
            (server, server.0.connection.open(left).await)
        }));
        let (mut open, mut failed) = (0, Vec::new());
        for (server, opened) in opened.await {
            match opened {
                Ok(()) => open += 1,
                Err(fault @ Fault::Unfit(_)) => return Err(fault),
                Err(fault) => failed.push((server, fault)),
            }
        }
        if open == 0
            && let Some((_, fault)) = failed.pop()
        {
            return Err(fault);
        }
        for (server, fault) in failed {
            tracing::warn!(
                target: "tower_credits", %server, %fault,
                "a server of the Redis Cluster cannot be reached: its accounts are served once it \
                 can"
            );
        }
        Ok(())
    }

    /// Checks that all slots have a server, and that all servers answer.
    pub(crate) async fn check(&self, within: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + within;
        let topology = self.topology(deadline, within).await?;
        self.fit()?;
        let asked = join_all(topology.masters().iter().map(async |server| {
            let left = deadline.saturating_duration_since(Instant::now());
            // A key of one of its slots.
            let is_its = |key: &String| {
                topology.owner(slot_of(key)).is_some_and(|owner| owner.0.id == server.0.id)
            };
            let key = (0..MAX_TRIED_KEYS).map(|n| format!("{}:{n}", self.0.check_key)).find(is_its);
            (
                server,
                match key {
                    Some(key) => server.0.connection.check(&key, left).await,
                    None => server.0.connection.open(left).await,
                },
            )
        }));
        for (server, answer) in asked.await {
            if let Err(fault) = answer {
                self.read_soon();
                return Err(match fault {
                    Fault::Failed { reason, source } => {
                        Fault::Failed { reason: format!("{server}: {reason}"), source }
                    }
                    Fault::Unfit(reason) => Fault::Unfit(format!("{server}: {reason}")),
                    Fault::Deadline(_) => {
                        Fault::failed(format!("{server}: no answer within {within:?}"))
                    }
                });
            }
        }
        match topology.uncovered() {
            None => Ok(()),
            Some(slot) => Err(nobody_has(slot)),
        }
    }

    /// Returns the server that has a key: a number, the same for keys on the same server.
    pub(crate) fn shard(&self, key: &str) -> u64 {
        match &*self.0.topology.load() {
            Some(topology) => topology.owner(slot_of(key)).map_or(NOWHERE, |server| server.0.id),
            None => 0,
        }
    }

    /// Returns all servers that have slots, and the version of the topology that says so.
    pub(crate) async fn masters(&self, within: Duration) -> Result<(Vec<Server>, u64), Fault> {
        let topology = self.topology(Instant::now() + within, within).await?;
        Ok((topology.masters().to_vec(), topology.version()))
    }

    /// Reads the topology, and returns its version.
    pub(crate) async fn read_version(&self, within: Duration) -> Result<u64, Fault> {
        let deadline = Instant::now() + within;
        until(deadline, self.read()).await.ok_or(Fault::Deadline(within))??;
        Ok(self.topology(deadline, within).await?.version())
    }

    /// Runs `call` on the server that has `key`. It ends after `within`. `call` is run again if the
    /// server did nothing but name another one.
    pub(crate) async fn run<T, F>(
        &self,
        key: &str,
        within: Duration,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let slot = slot_of(key);
        let deadline = Instant::now() + within;
        let mut server = self.owner(slot, deadline, within).await?;
        self.fit()?;
        let (mut asks, mut redirections, mut pause) = (false, 0, PAUSES.0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let on = |link: Link| call(if asks { link.asking() } else { link });
            let fault = match server.0.connection.run(left, on).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let Some(redirection) = Redirection::of(&fault, &server.0.address) else {
                if fault.is_about_the_server() {
                    self.read_soon();
                }
                // The deadline is the caller's, not what redirections left of it.
                return Err(if let Fault::Deadline(_) = fault {
                    Fault::Deadline(within)
                } else {
                    fault
                });
            };
            redirections += 1;
            if redirections > AT_ONCE || matches!(redirection, Redirection::TryAgain) {
                let waited = until(deadline, sleep(pause)).await;
                pause = (pause * 2).min(PAUSES.1);
                if waited.is_none() || Instant::now() >= deadline {
                    return Err(fault);
                }
            }
            (server, asks) = match redirection {
                Redirection::Moved(address) => (self.moved(slot, &address), false),
                Redirection::Ask(address) => (self.server(&address), true),
                // It may have moved as a whole meanwhile.
                Redirection::TryAgain => (self.owner(slot, deadline, within).await?, false),
            };
        }
    }

    /// Returns the server that has a slot.
    async fn owner(&self, slot: u16, deadline: Instant, within: Duration) -> Result<Server, Fault> {
        let topology = self.topology(deadline, within).await?;
        topology.owner(slot).cloned().ok_or_else(|| {
            self.read_soon();
            nobody_has(slot)
        })
    }

    /// Returns the topology, and reads it if it is not known.
    async fn topology(
        &self,
        deadline: Instant,
        within: Duration,
    ) -> Result<SharedTopology<Server>, Fault> {
        if let Some(topology) = self.0.topology.load_full() {
            return Ok(topology);
        }
        until(deadline, self.read()).await.ok_or(Fault::Deadline(within))??;
        let none = || Fault::failed("the Redis Cluster has no servers".to_owned());
        self.0.topology.load_full().ok_or_else(none)
    }

    /// `Ok` unless the keys are known to have another schema. That is looked at again: somebody may
    /// have mended it.
    fn fit(&self) -> Result<(), Fault> {
        let known = self.0.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Schema::Unfit(fault) => {
                self.read_soon();
                Err(fault)
            }
            Schema::Unknown | Schema::Fit => Ok(()),
        }
    }

    /// Takes note that a slot has moved, and returns the server that has it now.
    fn moved(&self, slot: u16, address: &Address) -> Server {
        let server = self.server(address);
        self.0.topology.rcu(|topology| {
            topology.as_ref().map(|topology| {
                let is_it = |known: &Server| known.0.id == server.0.id;
                Arc::new(topology.moved(slot, is_it, &server))
            })
        });
        // Other slots have moved, too, if a failover is the reason.
        self.read_soon();
        server
    }

    /// Returns the server at an address.
    fn server(&self, address: &Address) -> Server {
        let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let is_it = |seed: &&Node| seed.address().as_ref() == Some(address);
            let listed = self.0.seeds.iter().find(is_it).cloned();
            let node = Box::new(listed.unwrap_or_else(|| self.0.seeds[0].at(address.clone())));
            Server(Arc::new(ServerInner {
                id: self.0.next_id.fetch_add(1, Ordering::Relaxed),
                address: address.clone(),
                connection: Connection::new(Connector::Own(node), Role::NodeOfCluster),
            }))
        };
        servers.entry(address.clone()).or_insert_with(make).clone()
    }

    /// Has the topology read, unless that was done a moment ago.
    fn read_soon(&self) {
        let reading = self.0.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = reading.ended_at.is_some_and(|at| at.elapsed() < TOPOLOGY_PAUSE);
        drop(reading);
        if !is_fresh {
            drop(self.read());
        }
    }

    /// Reads the topology: once for all who wait for it, on a task of its own, so that it goes on
    /// when they have given up.
    fn read(&self) -> Read {
        let mut reading = self.0.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, task)) = &reading.under_way
            // A runtime that ends drops the task.
            && !task.is_finished()
        {
            return read.clone();
        }
        let cluster = self.clone();
        let task = tokio::spawn(async move {
            let _end = EndOfRead(&cluster);
            cluster.read_topology().await
        });
        let handle = task.abort_handle();
        let read = async move {
            task.await.unwrap_or_else(|error| {
                Err(Fault::failed(format!("the topology was not read: {error}")))
            })
        };
        let read = read.boxed().shared();
        reading.under_way = Some((read.clone(), handle));
        read
    }

    async fn read_topology(&self) -> Result<(), Fault> {
        let ranges = self.ask_any().await?;
        let topology = Arc::new(Topology::new(ranges, |address| self.server(address)));
        self.0.topology.store(Some(Arc::clone(&topology)));
        self.keep_only(&topology);
        self.check_schema().await
    }

    /// Closes the connections to servers that have no slots.
    fn keep_only(&self, topology: &Topology<Server>) {
        let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers
            .retain(|_, server| topology.masters().iter().any(|master| master.0.id == server.0.id));
    }

    /// Asks the servers that are known, one after the other and without waiting for those that do
    /// not answer.
    async fn ask_any(&self) -> Result<Ranges, Fault> {
        let seeds = self.0.seeds.iter().filter_map(Node::address).map(|seed| self.server(&seed));
        let mut known: Vec<Server> = Vec::new();
        if let Some(topology) = &*self.0.topology.load() {
            known.extend_from_slice(topology.masters());
            known.extend(topology.replicas.iter().map(|address| self.server(address)));
        }
        for seed in seeds {
            if known.iter().all(|server| server.0.id != seed.0.id) {
                known.push(seed);
            }
        }
        let first = self.0.reads.fetch_add(1, Ordering::Relaxed) % known.len().max(1);
        known.rotate_left(first);
        let deadline = Instant::now() + TOPOLOGY_TIMEOUT;
        let mut asked = FuturesUnordered::new();
        let mut failure = Fault::Deadline(TOPOLOGY_TIMEOUT);
        let mut servers = known.into_iter();
        loop {
            let next = match servers.next() {
                Some(server) => {
                    asked.push(ask(server));
                    Instant::now() + NEXT_SERVER
                }
                None if asked.is_empty() => return Err(failure),
                None => deadline,
            };
            while let Ok(Some(answer)) = timeout_at(next.min(deadline), asked.next()).await {
                match answer {
                    Ok(ranges) => return Ok(ranges),
                    // Of several failures, the one that says what to do.
                    Err(fault) if !matches!(failure, Fault::Unfit(_)) => failure = fault,
                    Err(_) => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(failure);
            }
        }
    }

    /// Checks the schema of the keys, until it is known. A server that has other keys need not wait
    /// for the one that has this one.
    async fn check_schema(&self) -> Result<(), Fault> {
        let known = self.0.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if matches!(known, Schema::Fit) {
            return Ok(());
        }
        let key = &self.0.schema_key;
        let Some(topology) = self.0.topology.load_full() else { return Ok(()) };
        let Some(server) = topology.owner(slot_of(key)) else { return Ok(()) };
        let look = |mut link| async move { stored_schema(&mut link, key).await };
        let checked = match server.0.connection.run(TOPOLOGY_TIMEOUT, look).await {
            Ok(found) => is_schema(&found),
            // That server is unfit, or away: its own accounts learn that from itself.
            Err(fault) => {
                tracing::warn!(
                    target: "tower_credits", %server, %fault,
                    "the schema of the Redis Cluster's keys cannot be checked yet"
                );
                return Ok(());
            }
        };
        *self.0.schema.lock().unwrap_or_else(PoisonError::into_inner) = match &checked {
            Ok(()) => Schema::Fit,
            Err(fault) => Schema::Unfit(fault.clone()),
        };
        checked
    }
}

fn nobody_has(slot: u16) -> Fault {
    Fault::failed(format!("no server of the Redis Cluster has slot {slot}"))
}

/// Asks a server for the topology.
async fn ask(server: Server) -> Result<Ranges, Fault> {
    let slots = |mut link: Link| async move {
        redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut link).await
    };
    let answer = server.0.connection.run(TOPOLOGY_TIMEOUT, slots).await?;
    match Ranges::read(&answer, &server.0.address) {
        Some(ranges) if !ranges.masters.is_empty() => Ok(ranges),
        Some(_) => Err(Fault::failed(format!("the cluster of {server} has no slots"))),
        None => Err(Fault::failed(format!("the topology by {server} cannot be read"))),
    }
}

/// Notes the end of a read, also if its task is dropped.
struct EndOfRead<'a>(&'a Cluster);

impl Drop for EndOfRead<'_> {
    fn drop(&mut self) {
        let mut reading = self.0.0.reading.lock().unwrap_or_else(PoisonError::into_inner);
        *reading = Reading { under_way: None, ended_at: Some(Instant::now()) };
    }
}

impl Redirection {
    fn of(fault: &Fault, from: &Address) -> Option<Self> {
        let Fault::Failed { source: Some(error), .. } = fault else { return None };
        let to = || redirected(error.redirect_node()?.0, from);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(Self::Moved(to()?)),
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Self::Ask(to()?)),
            ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Self::TryAgain),
            _ => None,
        }
    }
}

impl Server {
    /// The connection to it.
    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = &self.0.address;
        write!(f, "{host}:{port}")
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds: Vec<_> = self.0.seeds.iter().map(ToString::to_string).collect();
        write!(f, "the Redis Cluster of {}", seeds.join(", "))
    }
}
