//! Connections to Redis servers, for the ledger and for tokens.
//!
//! [`RedisServer`] says where the data is and how to log in. [`Servers`] runs a command on the
//! server that has its key.
//!
//! * `server.rs`: settings; `url.rs`: URLs.
//! * `node.rs`: one server's address and login; `connector.rs`: opens connections, to a server or
//!   to the master that Sentinels name; `link.rs`: an open connection.
//! * `connection.rs`: a connection that is replaced when it stops answering; `checks.rs`: what a
//!   server must be fit for; `server_clock.rs`: its clock.
//! * `cluster/`: which server has which slot, and the way there.
//! * `servers.rs`: one server or a cluster.
//! * `fault.rs`: why a call has no answer.

mod checks;
mod cluster;
mod connection;
mod connector;
mod fault;
mod link;
mod node;
mod server;
mod server_clock;
mod servers;
#[cfg(test)]
pub(crate) mod tests;
mod url;

pub use self::server::RedisServer;
pub(crate) use self::{
    cluster::Cluster,
    connection::Connection,
    fault::{Fault, concerns_one_account, says},
    link::Link,
    server::{CONNECT_TIMEOUT, DEFAULT_PREFIX},
    server_clock::server_time,
    servers::Servers,
};
