//! [`RedisServer`]: address and login of a server, and how a connection to it is opened.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, aio::ConnectionLike,
};

use super::fault::Fault;

/// Default prefix of all keys.
pub(crate) const DEFAULT_PREFIX: &str = "tc";

/// Time in which the first connection must be open.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Address and login of a Redis server (6.0 or newer) or a Valkey server.
///
/// It is made from a URL, a [`redis::Client`], a [`redis::ConnectionInfo`], or
/// [a connection](Self::from_connection) that the host provides. These types are those of version 1
/// of the `redis` crate.
///
/// | URL | connects by |
/// |---|---|
/// | `redis://[user:password@]host[:port][/database]` | TCP; default port 6379, database 0 |
/// | `rediss://...` | TLS, with the feature `tls` and the system's certificates |
/// | `unix:///path/to/socket[?db=..&user=..&pass=..]` | a Unix socket |
///
/// `valkey://` and `valkeys://` mean the same as `redis://` and `rediss://`. Special characters in
/// a user name or a password are percent-encoded. For certificates of your own, build a
/// [`redis::Client`] with them and pass that.
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
}

#[derive(Clone)]
pub(super) enum Password {
    Text(String),
    File(PathBuf),
}

impl RedisServer {
    /// Uses a connection that the host provides. It must reconnect by itself, as the `redis`
    /// crate's `ConnectionManager` does. A bare
    /// [`MultiplexedConnection`](redis::aio::MultiplexedConnection) cannot be used again once its
    /// socket is closed: pass its [`Client`] instead. Connections to a Redis Cluster are not
    /// supported.
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
    pub(super) fn resolve(self) -> Result<Connector, Fault> {
        let Self { address, username, password } = self;
        let info = match address {
            Address::Host(connection) if username.is_none() && password.is_none() => {
                return Ok(Connector::Host(connection));
            }
            Address::Host(_) => {
                return Err(Fault::Unfit(
                    "a connection that the host provides is logged in already: leave username \
                     and password out, or give a URL"
                        .to_owned(),
                ));
            }
            Address::Info(info) => *info,
            Address::Url(url) => connection_info(&url)?,
        };
        let mut login = info.redis_settings().clone();
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if login.username().is_some() && login.password().is_none() && password.is_none() {
            // Without a password the client would not log in, and go on as `default`.
            return Err(Fault::Unfit(
                "the Redis server has a username without a password: give `password` or \
                 `password_file`, or leave the username out"
                    .to_owned(),
            ));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. })
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // rustls panics if a build has two providers and none is chosen. If another thread
            // installs one first, that is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Connector::Own { info: Box::new(info.set_redis_settings(login)), password })
    }
}

/// Forms of a URL, for errors.
const URL_FORMS: &str = "`redis://[user:password@]host[:port][/database]`, `rediss://...` for TLS, \
    or `unix:///path/to/socket`";

/// Reads a URL. Errors do not show it: it may have a password.
fn connection_info(url: &str) -> Result<ConnectionInfo, Fault> {
    let unfit = |what: &str| Err(Fault::Unfit(format!("the Redis URL {what}: write {URL_FORMS}")));
    let url = url.trim();
    if url.is_empty() {
        return unfit("is empty");
    }
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme.to_ascii_lowercase().as_str() {
        "rediss" | "valkeys" if cfg!(not(feature = "tls")) => {
            let remedy = "enable the feature `tls` of tower-credits, or write `redis://`";
            return Err(Fault::Unfit(format!("the Redis URL asks for TLS: {remedy}")));
        }
        "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" => {}
        _ if url.contains("://") => return unfit("has a scheme that is not supported"),
        _ => return unfit("has no scheme"),
    }
    url.into_connection_info().or_else(|error| unfit(&format!("cannot be read ({error})")))
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

/// Opens connections.
pub(super) enum Connector {
    Own {
        info: Box<ConnectionInfo>,
        password: Option<Password>,
    },
    /// Returns clones of the connection that the host provides.
    Host(Box<dyn HostConnection>),
}

impl Connector {
    pub(super) async fn open(&self) -> Result<Link, Fault> {
        let (info, password) = match self {
            Self::Host(connection) => return Ok(Link::Host(connection.clone())),
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

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { info, .. } => fmt::Display::fmt(info.addr(), f),
            Self::Host(_) => f.write_str("the host's connection"),
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
            format!("the password file {} cannot be read ({error})", file.display())
        };
        // A pipe without a writer or a file server that hangs must not block a thread of the
        // runtime.
        let read = tokio::task::spawn_blocking({
            let file = file.clone();
            move || crate::reload::read(&file)
        });
        let text = read.await.map_err(|error| Fault::failed(unreadable(error.into())))?;
        let text = text.map_err(|error| Fault::failed(unreadable(error)))?;
        match text.trim() {
            "" => Err(Fault::failed(format!(
                "the password file {} is empty: write the password into it",
                file.display()
            ))),
            password => Ok(password.to_owned()),
        }
    }
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(crate) enum Link {
    Own(redis::aio::MultiplexedConnection),
    Host(Box<dyn HostConnection>),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(
        &'a mut self,
        command: &'a redis::Cmd,
    ) -> redis::RedisFuture<'a, redis::Value> {
        match self {
            Self::Own(link) => link.req_packed_command(command),
            Self::Host(link) => link.req_packed_command(command),
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
            Self::Host(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Own(link) => link.get_db(),
            Self::Host(link) => link.get_db(),
        }
    }
}

/// A connection that can be cloned in its box.
pub(crate) trait HostConnection: ConnectionLike + Send + Sync {
    fn boxed(&self) -> Box<dyn HostConnection>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> HostConnection for C {
    fn boxed(&self) -> Box<dyn HostConnection> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn HostConnection> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}
