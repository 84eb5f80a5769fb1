//! The layer over the memory ledger: every end, every denial, tower's contract, and real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
#[cfg(feature = "axum")]
mod agreement;
#[cfg(feature = "axum")]
mod bill;
#[cfg(feature = "axum")]
mod billing;
mod bodies;
#[cfg(all(feature = "cloud-events", feature = "axum"))]
mod cloud_events;
mod compute;
mod concurrency;
mod context_cache;
mod contract;
mod cut_offs;
mod days;
mod denials;
mod denied_clients;
mod ends;
mod health;
mod hostile;
mod idle;
mod in_time;
#[cfg(feature = "journal")]
mod journal;
mod killed;
mod ledgers;
mod midway;
mod neighbours;
mod node_model;
mod order;
#[cfg(feature = "axum")]
mod pages;
mod parts;
#[cfg(feature = "axum")]
mod paths;
mod prices;
mod read_ahead;
mod records;
mod reload;
mod shared_hardware;
mod shutdown;
#[cfg(feature = "axum")]
mod sockets;
mod superseded;
mod thresholds;
mod upstream_time;
mod usage_fields;
