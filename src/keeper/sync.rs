//! The primitives by which threads share what the inbox and the phase have. In `races.rs` those of
//! shuttle take their place.

pub(super) use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};
