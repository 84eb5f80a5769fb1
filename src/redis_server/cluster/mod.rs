//! A Redis Cluster: each key on the server that has its slot.
//!
//! The `redis` crate has a client for clusters. Here the servers have connections of their own
//! instead, because a server that stands still must not keep calls of other servers waiting, which
//! they do in that client while it reconnects, and because each server has a breaker of its own.
//!
//! [`topology`] knows which server has which slot. [`Cluster`] sends a call there, and follows
//! redirections: a slot has moved (`MOVED`), is moving and this key has moved (`ASK`), or some of
//! an account's keys have (`TRYAGAIN`: until all have, or the deadline is over). Nothing is sent
//! again after a connection broke: that is for those to decide who know what a repetition does.
//!
//! * `state.rs`: [`Cluster`]; `topology.rs`: which server has which slot (pure).
//! * `calls.rs`: the way of a call; `reading.rs`: how the topology is read.
//!
//! The topology is read from any server that answers: at the first call, after a redirection, and
//! after a server did not answer.

mod calls;
mod reading;
mod state;
mod topology;

pub(crate) use self::state::Cluster;
