//! [`Connector`]: opens connections to the one server that has the data, or to the one that
//! Sentinels name.

use std::{fmt, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::ConnectionLike;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    fault::{Fault, says},
    link::{HostConnection, Socket},
    node::Node,
};

/// Time in which a sentinel must answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which the next sentinel is asked, too.
const NEXT_SENTINEL: Duration = Duration::from_millis(100);

/// Opens connections.
pub(super) enum Connector {
    Own(Box<Node>),
    Sentinel(Box<Sentinels>),
    /// Returns clones of the connection that the host provides.
    Host(Box<dyn HostConnection>),
}

/// Sentinels, and the master that they watch.
pub(super) struct Sentinels {
    sentinels: Vec<Node>,
    master: String,
    /// The master's protocol and login, without its address.
    server: Node,
}

impl Connector {
    pub(super) fn sentinel(sentinels: Vec<Node>, master: String, server: Node) -> Self {
        Self::Sentinel(Box::new(Sentinels { sentinels, master, server }))
    }

    pub(super) async fn open(&self) -> Result<Socket, Fault> {
        match self {
            Self::Own(node) => node.open().await,
            Self::Sentinel(sentinels) => sentinels.open().await,
            Self::Host(connection) => Ok(Socket::Host(connection.clone())),
        }
    }
}

impl Sentinels {
    /// Opens a connection to the master. It is what a sentinel names, and says so itself: a
    /// sentinel may not know yet of a failover.
    async fn open(&self) -> Result<Socket, Fault> {
        let mut asked = FuturesUnordered::new();
        let mut failure = None;
        for sentinel in &self.sentinels {
            asked.push(timeout(SENTINEL_TIMEOUT, self.open_by(sentinel)));
            let next = Instant::now() + NEXT_SENTINEL;
            while let Ok(Some(answer)) = timeout_at(next, asked.next()).await {
                match answer.unwrap_or(Err(Fault::Deadline(SENTINEL_TIMEOUT))) {
                    Ok(socket) => return Ok(socket),
                    Err(fault) => failure = Some(fault),
                }
            }
        }
        while let Some(answer) = asked.next().await {
            match answer.unwrap_or(Err(Fault::Deadline(SENTINEL_TIMEOUT))) {
                Ok(socket) => return Ok(socket),
                Err(fault) => failure = Some(fault),
            }
        }
        Err(failure.unwrap_or(Fault::Deadline(SENTINEL_TIMEOUT)))
    }

    async fn open_by(&self, sentinel: &Node) -> Result<Socket, Fault> {
        let of_sentinel = |fault: Fault| Fault::failed(format!("the sentinel {sentinel}: {fault}"));
        let mut socket = sentinel.open().await.map_err(of_sentinel)?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let address: Option<(String, u16)> = match ask.query_async(&mut socket).await {
            Ok(address) => address,
            Err(error) if says(&error, "unknown") => {
                return Err(Fault::Unfit(format!(
                    "the server {sentinel} is no Sentinel: name Sentinels, or write \
                     `redis://{sentinel}/`"
                )));
            }
            Err(error) => return Err(of_sentinel(error.into())),
        };
        let Some(address) = address else {
            return Err(Fault::failed(format!(
                "the sentinel {sentinel} does not know a master `{}`: check its name",
                self.master
            )));
        };
        let server = self.server.at(address);
        let of_server =
            |fault: Fault| Fault::failed(format!("the master {server}, by a sentinel: {fault}"));
        let mut socket = server.open().await.map_err(of_server)?;
        match is_master(&mut socket).await {
            Ok(true) => Ok(socket),
            Ok(false) => Err(Fault::failed(format!(
                "the sentinel {sentinel} names {server}, which is a replica now"
            ))),
            Err(fault) => Err(of_server(fault)),
        }
    }
}

/// Returns what a server says of itself; `true` if it may not be asked.
async fn is_master(socket: &mut (impl ConnectionLike + Send)) -> Result<bool, Fault> {
    let role: Result<redis::Value, _> = redis::cmd("ROLE").query_async(socket).await;
    match role {
        Ok(redis::Value::Array(role)) => Ok(role.first().is_none_or(|role| {
            redis::from_redis_value_ref::<String>(role).is_ok_and(|role| role == "master")
        })),
        Ok(_) => Ok(true),
        Err(error) if says(&error, "NOPERM") || says(&error, "unknown") => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Says in a few words which server it is.
impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(node) => write!(f, "Redis at {node}"),
            Self::Sentinel(watched) => {
                write!(f, "the Redis master `{}` by Sentinels", watched.master)
            }
            Self::Host(_) => f.write_str("Redis by a connection of the host"),
        }
    }
}
