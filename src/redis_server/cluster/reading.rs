//! Reading of a cluster's topology: from any server that answers, once for all who wait for it.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    future::FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use redis::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{
        checks::{is_schema, stored_schema},
        fault::Fault,
        link::Link,
        node::Node,
    },
    state::{Cluster, Read, Reading, Schema, Server},
    topology::{Ranges, Topology, slot_of},
};

/// Time in which a server must say what the topology is.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which the next server is asked for the topology, too.
const NEXT_SERVER: Duration = Duration::from_millis(100);

/// Time between two reads of the topology.
const TOPOLOGY_PAUSE: Duration = Duration::from_millis(100);

impl Cluster {
    /// Has the topology read, unless that was done a moment ago.
    pub(super) fn read_soon(&self) {
        let reading = self.0.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = reading.ended_at.is_some_and(|at| at.elapsed() < TOPOLOGY_PAUSE);
        drop(reading);
        if !is_fresh {
            drop(self.read());
        }
    }

    /// Reads the topology: once for all who wait for it, on a task of its own, so that it goes on
    /// when they have given up.
    pub(super) fn read(&self) -> Read {
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
