//! [`Servers`]: one server, or a cluster of them.

use std::{fmt, time::Duration};

use redis::RedisError;

use super::{
    cluster::Cluster,
    connection::{Connection, Role},
    fault::Fault,
    link::Link,
    server::{RedisServer, Target},
};

/// The servers that have the data.
pub(crate) enum Servers {
    One(Box<One>),
    Cluster(Cluster),
}

/// The one server, and the key by which is checked that it writes.
pub(crate) struct One {
    pub(crate) connection: Connection,
    check_key: String,
}

impl Servers {
    /// Returns servers for keys that begin with `prefix`. The first call opens connections.
    pub(crate) fn new(server: RedisServer, prefix: &str) -> Result<Self, Fault> {
        if prefix.contains(['{', '}']) {
            return Err(Fault::Unfit(
                "the key prefix has a brace, which would move keys to other slots: leave it out"
                    .to_owned(),
            ));
        }
        let (schema_key, check_key) = (format!("{prefix}:schema"), format!("{prefix}:check"));
        Ok(match server.resolve()? {
            Target::One(connector) => {
                let connection = Connection::new(connector, Role::Whole { schema_key });
                Self::One(Box::new(One { connection, check_key }))
            }
            Target::Cluster(seeds) => Self::Cluster(Cluster::new(seeds, schema_key, check_key)),
        })
    }

    /// `true` if one server is known to have all keys, so that a call may have those of several
    /// accounts.
    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Self::One(one) if one.connection.is_to_standalone())
    }

    /// Opens the connections.
    pub(crate) async fn open(&self, within: Duration) -> Result<(), Fault> {
        match self {
            Self::One(one) => one.connection.open(within).await,
            Self::Cluster(cluster) => cluster.open(within).await,
        }
    }

    /// Checks that all servers answer and write.
    pub(crate) async fn check(&self, within: Duration) -> Result<(), Fault> {
        match self {
            Self::One(one) => one.connection.check(&one.check_key, within).await,
            Self::Cluster(cluster) => cluster.check(within).await,
        }
    }

    /// Runs `call` on the server that has `key`, and opens a connection if there is none. It ends
    /// after `within`. `call` is run again only if the server did nothing but name another one.
    pub(crate) async fn run<T, F>(
        &self,
        key: &str,
        within: Duration,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        match self {
            Self::One(one) => one.connection.run(within, call).await,
            Self::Cluster(cluster) => cluster.run(key, within, call).await,
        }
    }

    /// Returns the server that has a key: a number, the same for keys on the same server. The key
    /// is only made if there are several.
    pub(crate) fn shard(&self, key: impl FnOnce() -> String) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Cluster(cluster) => cluster.shard(&key()),
        }
    }
}

/// Says in a few words where the data is.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => one.connection.fmt(f),
            Self::Cluster(cluster) => cluster.fmt(f),
        }
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
