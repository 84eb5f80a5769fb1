//! The Redis servers of a run.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tower_credits::RedisLedger;

use super::proxy::Proxy;
use crate::support::{
    redis_cluster::{RedisCluster, until},
    redis_sentinel::Watched,
    redis_server::RedisServer,
};

/// The kinds of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server that has its log written to the disk so often, behind a proxy.
    One(&'static str),
    /// The same, with a clock that can be moved.
    Clocked,
    /// The same, with a replica that is to take its place behind the proxy.
    Pair,
    /// A master, its replica, and three Sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
}

pub enum Servers {
    One(RedisServer),
    Pair {
        servers: Vec<RedisServer>,
        link: Proxy,
    },
    /// Nodes, replica and Sentinels reach the first master through `link`.
    Sentinel {
        watched: Box<Watched>,
        link: Proxy,
    },
    Cluster(Box<RedisCluster>),
}

/// For how long servers may take to be as they are wanted.
pub const PATIENCE: Duration = Duration::from_secs(30);

impl Servers {
    pub async fn start(kind: Kind) -> Self {
        match kind {
            Kind::One(fsync) => {
                let start = move || RedisServer::start_with(&["--appendfsync", fsync]);
                Self::One(spawn_blocking(start).await.unwrap())
            }
            Kind::Clocked => {
                Self::One(spawn_blocking(RedisServer::start_with_movable_clock).await.unwrap())
            }
            Kind::Pair => {
                let master = {
                    let at_once = ["--repl-diskless-sync-delay", "0"];
                    spawn_blocking(move || RedisServer::start_with(&at_once)).await.unwrap()
                };
                let link = Proxy::before(master.port).await;
                let port = link.address.port();
                let start = move || {
                    let of = format!("127.0.0.1 {port}");
                    let replica = RedisServer::start_with(&["--replicaof", &of]);
                    until("the replica follows", || {
                        replica.command(&["INFO", "replication"]).contains("link_status:up")
                    });
                    replica
                };
                let replica = spawn_blocking(start).await.unwrap();
                Self::Pair { servers: vec![master, replica], link }
            }
            Kind::Sentinel => {
                let master = spawn_blocking(Watched::start_master).await.unwrap();
                let link = Proxy::before(master.port).await;
                let port = link.address.port();
                let start = move || Watched::start_behind(master, port);
                Self::Sentinel { watched: Box::new(spawn_blocking(start).await.unwrap()), link }
            }
            Kind::Cluster => {
                let start = || RedisCluster::start(3, true);
                Self::Cluster(Box::new(spawn_blocking(start).await.unwrap()))
            }
        }
    }

    /// Returns the proxies before the server, one for each node; none where nodes find servers on
    /// their own.
    pub async fn proxies(&self, nodes: usize) -> Vec<Proxy> {
        let port = match self {
            Self::One(server) => server.port,
            Self::Pair { servers, .. } => servers[0].port,
            Self::Sentinel { .. } | Self::Cluster(_) => return Vec::new(),
        };
        let mut proxies = Vec::new();
        for _ in 0..nodes {
            proxies.push(Proxy::before(port).await);
        }
        proxies
    }

    /// Returns the URL that nodes without a proxy are given.
    pub fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Pair { servers, .. } => servers.last().expect("one is there").url(),
            Self::Sentinel { watched, .. } => watched.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// Returns a ledger of the rig's own.
    pub async fn ledger(&self, password: Option<&str>) -> RedisLedger {
        let mut server = tower_credits::RedisServer::from(self.url());
        if let Some(password) = password {
            server = server.password(password);
        }
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            match RedisLedger::connect(server.clone()).await {
                Ok(ledger) => return ledger,
                Err(error) => assert!(tokio::time::Instant::now() < limit, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn server(&mut self) -> &mut RedisServer {
        let Self::One(server) = self else { panic!("the scenario has one server") };
        server
    }

    pub fn watched(&mut self) -> &mut Watched {
        let Self::Sentinel { watched, .. } = self else { panic!("the scenario has Sentinels") };
        watched
    }

    pub fn cluster(&mut self) -> &mut RedisCluster {
        let Self::Cluster(cluster) = self else { panic!("the scenario has a cluster") };
        cluster
    }
}
