//! [`Node`]: one server that this crate connects to by itself: its address and its login.

use std::{fmt, path::PathBuf};

use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo};

use super::{fault::Fault, link::Socket};

/// The address of one server, and how to log in there.
#[derive(Clone)]
pub(super) struct Node {
    info: ConnectionInfo,
    password: Option<Password>,
}

/// A password, or the file that has it.
#[derive(Clone)]
pub(super) enum Password {
    Text(String),
    File(PathBuf),
}

impl Node {
    /// Returns the node with a user and a password that replace those of its address, if they are
    /// given.
    pub(super) fn new(
        info: ConnectionInfo,
        username: Option<&str>,
        password: Option<Password>,
    ) -> Result<Self, Fault> {
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
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. })
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // rustls panics if a build has two providers and none is chosen. If another thread
            // installs one first, that is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Self { info: info.set_redis_settings(login), password })
    }

    /// Returns the node without its login, with another one.
    pub(super) fn with_login(
        &self,
        username: Option<&str>,
        password: Option<Password>,
    ) -> Result<Self, Fault> {
        let info = self.info.clone().set_redis_settings(RedisConnectionInfo::default());
        Self::new(info, username, password)
    }

    /// Returns the node at another address, by the same protocol, with the same login.
    pub(super) fn at(&self, (host, port): (String, u16)) -> Self {
        let address = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Self { info: self.info.clone().set_addr(address), password: self.password.clone() }
    }

    /// Returns host and port; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<(String, u16)> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some((host.clone(), *port))
            }
            _ => None,
        }
    }

    /// Opens a connection.
    pub(super) async fn open(&self) -> Result<Socket, Fault> {
        let mut info = self.info.clone();
        if let Some(password) = &self.password {
            let login = info.redis_settings().clone().set_password(password.read().await?);
            info = info.set_redis_settings(login);
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let link =
            Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Socket::Own(link))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.addr().fmt(f)
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
