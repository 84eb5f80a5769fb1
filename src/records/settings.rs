//! The way in which records are delivered to a sink, and what became of them.

use std::time::Duration;

use super::sink::RecordSink;

/// The most records that wait for a sink, by default: about 16 MiB.
const QUEUE_SIZE: usize = 1 << 16;

/// The most records of a batch, by default.
const BATCH_SIZE: usize = 500;

/// The longest time that a record waits for others, by default.
const LINGER: Duration = Duration::from_secs(1);

/// The longest time that a record can be made to wait.
const MAX_LINGER: Duration = Duration::from_secs(24 * 60 * 60);

/// A sink, and how records are delivered to it. A [`RecordSink`] becomes one with the defaults.
#[derive(Debug)]
pub struct RecordDelivery {
    pub(super) sink: Box<dyn RecordSink>,
    pub(super) queue_size: usize,
    pub(super) batch_size: usize,
    pub(super) linger: Duration,
}

impl RecordDelivery {
    /// Returns a delivery to a sink, with default settings.
    pub fn to(sink: impl RecordSink) -> Self {
        let sink = Box::new(sink);
        Self { sink, queue_size: QUEUE_SIZE, batch_size: BATCH_SIZE, linger: LINGER }
    }

    /// Sets the most records that wait: 1 or more. Default 65 536, which take about 16 MiB. While
    /// so many wait, new ones are dropped.
    #[must_use]
    pub fn queue_size(self, records: usize) -> Self {
        Self { queue_size: records.clamp(1, tokio::sync::Semaphore::MAX_PERMITS), ..self }
    }

    /// Sets the most records of a batch: 1 or more. Default 500.
    #[must_use]
    pub fn batch_size(self, records: usize) -> Self {
        Self { batch_size: records.max(1), ..self }
    }

    /// Sets the longest time that a record waits until its batch is full, at most a day. Default 1
    /// s.
    #[must_use]
    pub fn linger(self, time: Duration) -> Self {
        Self { linger: time.min(MAX_LINGER), ..self }
    }
}

impl<S: RecordSink> From<S> for RecordDelivery {
    fn from(sink: S) -> Self {
        Self::to(sink)
    }
}

/// Numbers of records for one sink, by what became of them, since the meter was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordStats {
    /// Name of the [sink](RecordSink::name).
    pub sink: String,
    /// Records that the sink has taken.
    pub delivered: u64,
    /// Records that were dropped: the queue was full, the sink refused them, or the meter was shut
    /// down.
    pub dropped: u64,
    /// Records that wait, or are being delivered.
    pub waiting: u64,
    /// Deliveries that failed and were made again.
    pub retries: u64,
}
