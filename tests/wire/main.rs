//! The layer on real wires: tonic, hyper and reqwest clients, HTTP/1.1 and HTTP/2, and every way in which a call ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]
#![cfg(all(feature = "grpc-details", feature = "axum"))]

#[path = "../support/mod.rs"]
mod support;

mod grpc;
mod http;
