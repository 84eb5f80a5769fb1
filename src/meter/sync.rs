//! The primitives by which a response's task and its reader share their queue. In `races.rs` those
//! of shuttle take their place.

pub(super) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
