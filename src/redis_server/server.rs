//! [`RedisServer`]: where the data is, and how to log in there.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{Client, ConnectionInfo, aio::ConnectionLike};

use super::{
    connector::Connector,
    fault::Fault,
    link::HostConnection,
    node::{Node, Password},
    url::{self, Location},
};

/// Default prefix of all keys.
pub(crate) const DEFAULT_PREFIX: &str = "tc";

/// Time in which the first connection must be open.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Address and login of a Redis server (6.0 or newer) or a Valkey server, of a cluster of them, or
/// of the master that Sentinels watch.
///
/// It is made from a URL, a [`redis::Client`], a [`redis::ConnectionInfo`], or
/// [a connection](Self::from_connection) that the host provides. These types are those of version 1
/// of the `redis` crate.
///
/// | URL | connects to |
/// |---|---|
/// | `redis://[user:password@]host[:port][/database]` | one server; default port 6379, database 0 |
/// | `unix:///path/to/socket[?db=..&user=..&pass=..]` | one server, by a Unix socket |
/// | `redis+cluster://[user:password@]host[:port],host[:port]/` | a Redis Cluster, of which these are some nodes; default port 6379 |
/// | `redis+sentinel://[user:password@]host[:port],host[:port]/master[/database]` | the master that these Sentinels name; default port 26379. `?sentinel_user=..&sentinel_pass=..` is the Sentinels' login |
///
/// `rediss` instead of `redis` (also in `rediss+cluster`) connects by TLS, with the feature `tls`
/// and the system's certificates. `valkey` and `valkeys` mean the same as `redis` and `rediss`.
/// Special characters in a user name or a password are percent-encoded. For certificates of your
/// own, build a [`redis::Client`] with them and pass that, also to [`cluster`](Self::cluster) and
/// [`sentinel`](Self::sentinel).
///
/// A URL is read when the ledger or the tokens connect. One that cannot be used is an error that
/// says what to write; it never shows the password.
///
/// ```
/// use tower_credits::{RedisLedger, RedisServer};
///
/// # fn settings() -> tower_credits::ledger::RedisLedgerBuilder {
/// // The password is read again for each new connection, so that it can be rotated.
/// let server = RedisServer::from("redis://redis.internal/")
///     .username("credits")
///     .password_file("/run/secrets/redis");
/// RedisLedger::builder(server).prefix("billing")
/// # }
/// ```
#[derive(Clone)]
pub struct RedisServer {
    address: Address,
    username: Option<String>,
    password: Option<Password>,
}

#[derive(Clone)]
enum Address {
    Url(String),
    Info(Box<ConnectionInfo>),
    /// A connection that the host provides.
    Host(Box<dyn HostConnection>),
    Cluster(Vec<RedisServer>),
    Sentinel {
        sentinels: Vec<RedisServer>,
        master: String,
    },
}

/// Target of settings that have been checked.
pub(super) enum Target {
    One(Connector),
    /// Nodes of a cluster.
    Cluster(Vec<Node>),
}

impl RedisServer {
    /// Uses a Redis Cluster. These are some of its nodes, which are asked for the others.
    ///
    /// [`username`](Self::username), [`password`](Self::password) and
    /// [`password_file`](Self::password_file) of the cluster replace those of each node; the nodes
    /// that are not in the list get the login of the first one.
    ///
    /// ```
    /// use tower_credits::RedisServer;
    ///
    /// let cluster = RedisServer::cluster(["redis://10.0.0.1:7000/", "redis://10.0.0.2:7000/"])
    ///     .password_file("/run/secrets/redis");
    /// ```
    pub fn cluster(nodes: impl IntoIterator<Item = impl Into<Self>>) -> Self {
        Self::new(Address::Cluster(nodes.into_iter().map(Into::into).collect()))
    }

    /// Uses the master of this name, which these Sentinels watch. Each new connection asks them
    /// which server that is.
    ///
    /// [`username`](Self::username), [`password`](Self::password) and
    /// [`password_file`](Self::password_file) are for the master. Those of the Sentinels are set on
    /// each of them. The master is reached as the first Sentinel is: by TLS or not.
    ///
    /// ```
    /// use tower_credits::RedisServer;
    ///
    /// let master = RedisServer::sentinel(["redis://10.0.0.1:26379/"], "mymaster")
    ///     .password_file("/run/secrets/redis");
    /// ```
    pub fn sentinel(
        sentinels: impl IntoIterator<Item = impl Into<Self>>,
        master: impl Into<String>,
    ) -> Self {
        let sentinels = sentinels.into_iter().map(Into::into).collect();
        Self::new(Address::Sentinel { sentinels, master: master.into() })
    }

    /// Uses a connection that the host provides. It must reconnect by itself, as the `redis`
    /// crate's `ConnectionManager` does. A bare
    /// [`MultiplexedConnection`](redis::aio::MultiplexedConnection) cannot be used again once its
    /// socket is closed: pass its [`Client`] instead. A connection to a Redis Cluster cannot be
    /// used: write its nodes ([`cluster`](Self::cluster)).
    ///
    /// Calls still end by their deadline, and the server is checked like any other. Prefer a URL or
    /// a client if you can: their connection is replaced when the server has silently gone, which a
    /// `ConnectionManager` does not notice.
    pub fn from_connection(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::new(Address::Host(Box::new(connection)))
    }

    /// Sets the user name (of an ACL). It replaces the one of the URL or the client. A user needs a
    /// password. Default: the one of the URL or the client, otherwise Redis's user `default`.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password. It replaces the one of the URL or the client, and a
    /// [password file](Self::password_file).
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::Text(password.into()));
        self
    }

    /// Reads the password from a file, without the white space around it. It replaces the one of
    /// the URL or the client, and a [password](Self::password).
    ///
    /// The file is read for each new connection, so that a password can be rotated without a
    /// restart. If it is empty or cannot be read, the server counts as unreachable until it can.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(file.into()));
        self
    }

    const fn new(address: Address) -> Self {
        Self { address, username: None, password: None }
    }

    /// Checks the address and the login, as far as that needs no connection.
    pub(super) fn resolve(self) -> Result<Target, Fault> {
        let Self { address, username, password } = self;
        let node = |info| Node::new(info, username.as_deref(), password.clone());
        Ok(match address {
            Address::Host(connection) if username.is_none() && password.is_none() => {
                Target::One(Connector::Host(connection))
            }
            Address::Host(_) => {
                return Err(Fault::Unfit(
                    "a connection that the host provides is logged in already: leave username \
                     and password out, or give a URL"
                        .to_owned(),
                ));
            }
            Address::Info(info) => Target::One(Connector::Own(Box::new(node(*info)?))),
            Address::Url(url) => match url::read(&url)? {
                Location::One(info) => Target::One(Connector::Own(Box::new(node(*info)?))),
                Location::Cluster(nodes) => {
                    Target::Cluster(nodes.into_iter().map(node).collect::<Result<_, _>>()?)
                }
                Location::Sentinel { sentinels, master, server } => {
                    let login = |info| Node::new(info, None, None);
                    let sentinels = sentinels.into_iter().map(login).collect::<Result<_, _>>()?;
                    Target::One(Connector::sentinel(sentinels, master, node(*server)?))
                }
            },
            Address::Cluster(nodes) => {
                let own = |server: Self| {
                    let server = Self {
                        username: username.clone().or(server.username),
                        password: password.clone().or(server.password),
                        ..server
                    };
                    server.node("a node of a cluster")
                };
                let nodes = nodes.into_iter().map(own).collect::<Result<Vec<_>, _>>()?;
                if nodes.is_empty() {
                    return Err(Fault::Unfit("the cluster has no nodes: name one".to_owned()));
                }
                Target::Cluster(nodes)
            }
            Address::Sentinel { sentinels, master } => {
                let own = |server: Self| server.node("a sentinel");
                let sentinels: Vec<_> = sentinels.into_iter().map(own).collect::<Result<_, _>>()?;
                let Some(first) = sentinels.first() else {
                    return Err(Fault::Unfit("the master has no sentinels: name one".to_owned()));
                };
                let server = first.with_login(username.as_deref(), password)?;
                Target::One(Connector::sentinel(sentinels, master, server))
            }
        })
    }

    /// Reads the settings of one server in a list.
    fn node(self, what: &str) -> Result<Node, Fault> {
        match self.resolve()? {
            Target::One(Connector::Own(node)) if node.address().is_some() => Ok(*node),
            _ => Err(Fault::Unfit(format!(
                "{what} is not the address of one server: write `redis://host:port/`"
            ))),
        }
    }
}

impl From<&str> for RedisServer {
    fn from(url: &str) -> Self {
        Self::from(url.to_owned())
    }
}

impl From<String> for RedisServer {
    fn from(url: String) -> Self {
        Self::new(Address::Url(url))
    }
}

impl From<&String> for RedisServer {
    fn from(url: &String) -> Self {
        Self::from(url.clone())
    }
}

impl From<ConnectionInfo> for RedisServer {
    fn from(info: ConnectionInfo) -> Self {
        Self::new(Address::Info(Box::new(info)))
    }
}

impl From<Client> for RedisServer {
    fn from(client: Client) -> Self {
        Self::from(client.get_connection_info().clone())
    }
}

impl From<&Client> for RedisServer {
    fn from(client: &Client) -> Self {
        Self::from(client.get_connection_info().clone())
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each of the other fields may have a password.
        f.debug_struct("RedisServer").field("username", &self.username).finish_non_exhaustive()
    }
}
