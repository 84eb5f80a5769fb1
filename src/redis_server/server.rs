//! Where a server is, and how a connection to it is opened.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, aio::ConnectionLike,
};

use super::fault::Fault;

/// What every key begins with, unless it is set.
pub(crate) const PREFIX: &str = "tc";

/// How long the first connection may take.
pub(crate) const CONNECTING: Duration = Duration::from_secs(5);

/// A Redis server (6.0 or newer, or Valkey), and how to connect to it: a URL, a [`redis::Client`],
/// a [`redis::ConnectionInfo`], or a connection that the host has already.
///
/// URLs are `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS (feature `tls`)
/// and `unix:///path/to/socket`. A client that was built with certificates of its own keeps them.
/// Types are those of the `redis` crate, version 1.
///
/// ```
/// use tower_credits::{RedisLedger, RedisServer};
///
/// # fn settings() -> tower_credits::ledger::RedisLedgerBuilder {
/// // The password is read again at each new connection, so that it can be rotated.
/// let server = RedisServer::from("redis://redis.internal/").username("credits").password_file("/run/secrets/redis");
/// RedisLedger::builder(server).prefix("billing")
/// # }
/// ```
#[derive(Clone)]
pub struct RedisServer {
    at: Place,
    username: Option<String>,
    password: Option<Password>,
}

#[derive(Clone)]
enum Place {
    Url(String),
    Info(Box<ConnectionInfo>),
    Hosts(Box<dyn HostsConnection>),
}

#[derive(Clone)]
pub(super) enum Password {
    Text(String),
    File(PathBuf),
}

impl RedisServer {
    /// Uses a connection that the host has already and that opens itself again when it breaks: the
    /// `redis` crate's `ConnectionManager`, or one like it. A bare
    /// [`MultiplexedConnection`](redis::aio::MultiplexedConnection) ends with its socket, and with
    /// it all that was made of it: give its [`Client`] instead. Connections to a Redis Cluster are
    /// not supported.
    ///
    /// Callers still wait no longer than their deadline, and the server is checked as any other.
    /// Prefer a URL or a client where nothing speaks against it: the connection that is then opened
    /// is replaced when its other end has silently gone, which managers do not notice.
    pub fn from_connection(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::new(Place::Hosts(Box::new(connection)))
    }

    /// Logs in as this user (an ACL's; without it, `default`), whatever the URL or the client says.
    /// It needs a password.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Logs in with this password, whatever the URL or the client says.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::Text(password.into()));
        self
    }

    /// Logs in with what this file holds, less white space around it. It is read at each new
    /// connection: a password that was rotated needs no restart. A file that cannot be read is an
    /// error like a server that cannot be reached.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(file.into()));
        self
    }

    const fn new(at: Place) -> Self {
        Self { at, username: None, password: None }
    }

    /// Reads what can be read without connecting.
    pub(super) fn resolve(self) -> Result<Door, Fault> {
        let Self { at, username, password } = self;
        let info = match at {
            Place::Hosts(connection) if username.is_none() && password.is_none() => {
                return Ok(Door::Hosts(connection));
            }
            Place::Hosts(_) => {
                let remedy =
                    "the host's connection is logged in already: leave username and password out";
                return Err(Fault::Unfit(remedy.to_owned()));
            }
            Place::Info(info) => *info,
            Place::Url(url) => {
                url.into_connection_info().map_err(|error| Fault::from_url(&error))?
            }
        };
        let mut login = info.redis_settings().clone();
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if login.username().is_some() && login.password().is_none() && password.is_none() {
            // Without a password the client would log nobody in, and go on as `default`.
            return Err(Fault::Unfit(
                "a username logs nobody in without a password: give one".to_owned(),
            ));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. })
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // Two providers in one build and none of them chosen is a panic of rustls. Losing the
            // race against another is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Door::Own { info: Box::new(info.set_redis_settings(login)), password })
    }
}

impl From<&str> for RedisServer {
    fn from(url: &str) -> Self {
        Self::from(url.to_owned())
    }
}

impl From<String> for RedisServer {
    fn from(url: String) -> Self {
        Self::new(Place::Url(url))
    }
}

impl From<&String> for RedisServer {
    fn from(url: &String) -> Self {
        Self::from(url.clone())
    }
}

impl From<ConnectionInfo> for RedisServer {
    fn from(info: ConnectionInfo) -> Self {
        Self::new(Place::Info(Box::new(info)))
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
        // Each of the others may hold a password.
        f.debug_struct("RedisServer").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a connection comes from.
pub(super) enum Door {
    Own { info: Box<ConnectionInfo>, password: Option<Password> },
    Hosts(Box<dyn HostsConnection>),
}

impl Door {
    pub(super) async fn open(&self) -> Result<Link, Fault> {
        let (info, password) = match self {
            Self::Hosts(connection) => return Ok(Link::Hosts(connection.clone())),
            Self::Own { info, password } => (info, password),
        };
        let mut info = ConnectionInfo::clone(info);
        if let Some(password) = password {
            let login = info.redis_settings().clone().set_password(password.read().await?);
            info = info.set_redis_settings(login);
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let link =
            Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Link::Own(link))
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { info, .. } => fmt::Display::fmt(info.addr(), f),
            Self::Hosts(_) => f.write_str("the host's connection"),
        }
    }
}

impl Password {
    async fn read(&self) -> Result<String, Fault> {
        let file = match self {
            Self::Text(password) => return Ok(password.clone()),
            Self::File(file) => file.clone(),
        };
        let unreadable = |error: std::io::Error| {
            format!("the password file {} cannot be read: {error}", file.display())
        };
        // A pipe without a writer, or a server of files that hangs, must not stop a thread that
        // others run on.
        let read = tokio::task::spawn_blocking({
            let file = file.clone();
            move || crate::reload::read(&file)
        });
        let text = read.await.map_err(|error| Fault::failed(unreadable(error.into())))?;
        text.map(|text| text.trim().to_owned()).map_err(|error| Fault::failed(unreadable(error)))
    }
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(crate) enum Link {
    Own(redis::aio::MultiplexedConnection),
    Hosts(Box<dyn HostsConnection>),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(
        &'a mut self,
        command: &'a redis::Cmd,
    ) -> redis::RedisFuture<'a, redis::Value> {
        match self {
            Self::Own(link) => link.req_packed_command(command),
            Self::Hosts(link) => link.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        match self {
            Self::Own(link) => link.req_packed_commands(pipeline, offset, count),
            Self::Hosts(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Own(link) => link.get_db(),
            Self::Hosts(link) => link.get_db(),
        }
    }
}

/// A connection that can be boxed and still be cloned.
pub(crate) trait HostsConnection: ConnectionLike + Send + Sync {
    fn boxed(&self) -> Box<dyn HostsConnection>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> HostsConnection for C {
    fn boxed(&self) -> Box<dyn HostsConnection> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn HostsConnection> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}
