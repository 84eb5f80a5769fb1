//! Where a Redis server is and how to talk to it: for the ledger, and for tokens kept beside it.
//!
//! A [`RedisServer`] describes; a [`Connection`] talks. The connection is this crate's own, or one
//! that the host has already.

mod connection;
mod fault;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::connection::Connection;
pub(crate) use self::fault::{Fault, is_of_some, says};
pub use self::server::RedisServer;
pub(crate) use self::server::{CONNECTING, Link, PREFIX};
