//! The layer over real Redis servers: crowds, round trips, outages. Needs `redis-server`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(feature = "redis")]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod cluster;
mod connections;
mod contract;
mod crowd;
mod damage;
mod forgotten;
#[cfg(feature = "embedded")]
mod measured;
#[cfg(feature = "axum")]
mod nodes;
mod outages;
mod parts;
mod round_trips;
mod schema;
mod sentinel;
mod thresholds;
mod together;
mod tokens;
