//! The queues of records: one for each sink, with a maximum.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{delivery::Delivery, record::UsageRecord, sink::RecordSink};

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
    queue_size: usize,
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

/// What became of the records for one sink since the meter was built.
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

/// The queues of all sinks of a meter.
#[derive(Default)]
pub(crate) struct Records(Vec<Queue>);

struct Queue {
    sender: mpsc::Sender<Arc<UsageRecord>>,
    delivery: Arc<Delivery>,
}

impl Records {
    pub(crate) fn new(deliveries: Vec<RecordDelivery>) -> Self {
        let queue = |delivery: RecordDelivery| {
            let (sender, receiver) = mpsc::channel(delivery.queue_size);
            Queue { sender, delivery: Arc::new(Delivery::new(delivery, receiver)) }
        };
        Self(deliveries.into_iter().map(queue).collect())
    }

    /// `true` if nobody wants records.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Queues a record for each sink. Does not wait.
    pub(crate) fn push(&self, record: UsageRecord) {
        let record = Arc::new(record);
        for Queue { sender, delivery } in &self.0 {
            // First, so that no more are seen to be delivered than to be accepted.
            delivery.accepted();
            match sender.try_send(Arc::clone(&record)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => delivery.dropped(1, &"the queue is full"),
                Err(TrySendError::Closed(_)) => delivery.dropped(1, &"the meter was shut down"),
            }
        }
    }

    /// Spawns the tasks that deliver, unless they run. It has to be called on a runtime.
    pub(crate) fn spawn(&self) {
        for Queue { delivery, .. } in &self.0 {
            tokio::spawn(Arc::clone(delivery).run());
        }
    }

    /// Has the tasks deliver what waits, for some seconds at most, and end.
    pub(crate) fn close(&self) {
        for Queue { delivery, .. } in &self.0 {
            delivery.close();
        }
    }

    /// Waits until the tasks have ended, after [`close`](Self::close), and returns how many records
    /// were not delivered.
    pub(crate) async fn closed(&self) -> u64 {
        let mut lost = 0;
        for Queue { delivery, .. } in &self.0 {
            lost += delivery.ended().await;
        }
        lost
    }

    pub(crate) fn stats(&self) -> Vec<RecordStats> {
        self.0.iter().map(|queue| queue.delivery.stats()).collect()
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stats()).finish()
    }
}
