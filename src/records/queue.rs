//! The queues of records: one for each sink, with a maximum.

use std::{fmt, sync::Arc};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    delivery::Delivery,
    record::UsageRecord,
    settings::{RecordDelivery, RecordStats},
};

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
