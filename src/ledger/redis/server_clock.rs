//! The server's clock as nodes know it.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::clock::UnixTime;

/// The server's clock as it was last read, carried on by this node's monotonic clock.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Reading>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    server: UnixTime,
    read_at: Instant,
}

impl ServerClock {
    /// The time by the server's clock; `None` before it was read.
    pub(super) fn now(&self) -> Option<UnixTime> {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.map(|reading| reading.server + reading.read_at.elapsed())
    }

    /// Sets the clock to what the server just answered.
    pub(super) fn set(&self, server: UnixTime) {
        let reading = Reading { server, read_at: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }
}

/// Reads the answer to `TIME`: seconds, and microseconds of the second.
pub(super) fn server_time((seconds, micros): (u64, u64)) -> UnixTime {
    UnixTime::from_millis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
}
