//! The layer over real Redis servers: crowds, round trips, outages. Needs `redis-server`.
#![cfg(feature = "redis")]

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod crowd;
mod outages;
mod round_trips;
