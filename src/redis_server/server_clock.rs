//! A server's clock as this node knows it.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::clock::UnixTime;

/// A server's clock as it was last read, carried on by this node's monotonic clock.
#[derive(Debug)]
pub(crate) struct ServerClock(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    server: UnixTime,
    read_at: Instant,
}

impl ServerClock {
    /// A clock that a server just read.
    pub(super) fn new(server: UnixTime) -> Self {
        Self(Mutex::new(Reading { server, read_at: Instant::now() }))
    }

    /// The time by the server's clock.
    pub(crate) fn now(&self) -> UnixTime {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.server + reading.read_at.elapsed()
    }

    /// Sets the clock to what the server just answered.
    pub(crate) fn set(&self, server: UnixTime) {
        let reading = Reading { server, read_at: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }
}

/// Reads the answer to `TIME`: seconds, and microseconds of the second.
pub(crate) fn server_time((seconds, micros): (u64, u64)) -> UnixTime {
    UnixTime::from_millis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
}
