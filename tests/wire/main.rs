//! The layer on real wires: tonic, hyper, h2 and reqwest clients, HTTP/1.1 and HTTP/2, and every
//! way in which a call ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(all(feature = "grpc-details", feature = "axum", feature = "redis"))]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod denials;
mod echo;
mod ends;
mod grpc;
mod http;
mod one_port;
mod other_servers;
mod readers;
mod same;
mod stacks;
mod web;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod proto {
    include!("../../examples/denoise/denoise.v1.rs");
}
