//! [`Cluster`]: its servers, and what is known of their slots.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use futures_util::future::{BoxFuture, Shared};
use tokio::{task::AbortHandle, time::Instant};

use super::{
    super::{
        connection::{Connection, Role},
        connector::Connector,
        fault::Fault,
        node::Node,
    },
    topology::{Address, Topology},
};

/// A Redis Cluster. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Cluster(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) seeds: Vec<Node>,
    pub(super) schema_key: String,
    pub(super) check_key: String,
    pub(super) topology: ArcSwapOption<Topology<Server>>,
    /// The servers that the topology has, and those that redirections lead to.
    pub(super) servers: Mutex<HashMap<Address, Server>>,
    pub(super) next_id: AtomicU64,
    pub(super) reading: Mutex<Reading>,
    /// Counts reads, so that each begins with another server.
    pub(super) reads: AtomicUsize,
    pub(super) schema: Mutex<Schema>,
}

/// A server of the cluster.
#[derive(Clone)]
pub(crate) struct Server(pub(super) Arc<ServerInner>);

pub(super) struct ServerInner {
    pub(super) id: u64,
    pub(super) address: Address,
    pub(super) connection: Connection,
}

pub(super) type Read = Shared<BoxFuture<'static, Result<(), Fault>>>;

/// The read of the topology that is under way, and the end of the last one.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) under_way: Option<(Read, AbortHandle)>,
    pub(super) ended_at: Option<Instant>,
}

/// The schema of the cluster's keys, as far as it is known.
#[derive(Clone)]
pub(super) enum Schema {
    Unknown,
    Fit,
    Unfit(Fault),
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

    /// Returns the server at an address.
    pub(super) fn server(&self, address: &Address) -> Server {
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
}

impl Server {
    /// Its number, which no other server of the cluster has.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

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
