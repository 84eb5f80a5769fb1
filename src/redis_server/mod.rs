//! Connections to a Redis server, for the ledger and for tokens.
//!
//! [`RedisServer`] says which server it is and how to log in. [`Connection`] runs commands: on a
//! connection of this crate's own, or on one that the host provides.

mod connection;
mod fault;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::connection::Connection;
pub(crate) use self::fault::{Fault, concerns_one_account, says};
pub use self::server::RedisServer;
pub(crate) use self::server::{CONNECT_TIMEOUT, DEFAULT_PREFIX, Link};
