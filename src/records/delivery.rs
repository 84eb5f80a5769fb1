//! The delivery of a queue's records to its sink: in batches, again and again until they are taken.
//!
//! The state of it is behind a lock that the task holds. If the task ends with its runtime, another
//! one goes on with the same batch.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Mutex as TaskLock, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    record::UsageRecord,
    settings::{RecordDelivery, RecordStats},
    sink::SinkError,
};
use crate::{contained::Panicked, observe};

/// The pause after the first failure. It doubles with each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The most records that are refused one after the other without a pause.
const MAX_REFUSED: u64 = 20;

/// The time for what waits when the meter is shut down.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two log lines that say the same.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Records on their way to one sink.
pub(super) struct Delivery {
    to: RecordDelivery,
    name: String,
    counts: Counts,
    drops: RareLine,
    failures: RareLine,
    phase: watch::Sender<Phase>,
    state: TaskLock<State>,
}

/// The number of records by what became of them.
#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
}

/// A line of the log that is written once in a while, with the number of what happened since.
#[derive(Default)]
struct RareLine(Mutex<(Option<Instant>, u64)>);

impl RareLine {
    /// Returns the number to write, if it is time for another line.
    fn count(&self, number: u64) -> Option<u64> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, sum) = &mut *line;
        *sum += number;
        let now = Instant::now();
        if at.is_some_and(|at| now < at + LOG_INTERVAL) {
            return None;
        }
        *at = Some(now);
        Some(std::mem::take(sum))
    }

    /// Returns what was counted and not written.
    fn rest(&self) -> u64 {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut line.1)
    }
}

#[derive(Clone, Copy)]
enum Phase {
    Open,
    /// It ends when everything is delivered, and at this moment in any case.
    Closing(Instant),
    Ended,
}

struct State {
    receiver: mpsc::Receiver<Arc<UsageRecord>>,
    batch: Vec<Arc<UsageRecord>>,
    /// The most records of the batch that are delivered at once: fewer after a refusal.
    at_once: usize,
    pause: Duration,
    /// The number of records that were refused one after the other.
    refused: u64,
}

impl Delivery {
    pub(super) fn new(to: RecordDelivery, receiver: mpsc::Receiver<Arc<UsageRecord>>) -> Self {
        let state = State {
            receiver,
            batch: Vec::new(),
            at_once: usize::MAX,
            pause: FIRST_PAUSE,
            refused: 0,
        };
        Self {
            name: to.sink.name(),
            to,
            counts: Counts::default(),
            drops: RareLine::default(),
            failures: RareLine::default(),
            phase: watch::Sender::new(Phase::Open),
            state: TaskLock::new(state),
        }
    }

    /// Notes that a record is going to be queued.
    pub(super) fn accepted(&self) {
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts records that are lost, and says so.
    pub(super) fn dropped(&self, number: u64, reason: &dyn fmt::Display) {
        self.counts.dropped.fetch_add(number, Ordering::Relaxed);
        observe::records(&self.name, "dropped", number);
        if let Some(number) = self.drops.count(number) {
            tracing::error!(
                target: "tower_credits", sink = %self.name, number, %reason,
                "usage records were dropped; debits are not concerned"
            );
        }
    }

    pub(super) fn stats(&self) -> RecordStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { accepted, delivered, dropped, retries } = &self.counts;
        // What is accepted is read last, so that the difference is not below zero.
        let (delivered, dropped, retries) = (read(delivered), read(dropped), read(retries));
        let waiting = read(accepted).saturating_sub(delivered + dropped);
        RecordStats { sink: self.name.clone(), delivered, dropped, waiting, retries }
    }

    /// Delivers until it is closed, or nobody can send any more. While another task delivers, it
    /// waits.
    pub(super) async fn run(self: Arc<Self>) {
        // The task before may be about to end with its runtime: this one takes over then.
        let mut state = self.state.lock().await;
        let mut phase = self.phase.subscribe();
        if matches!(*phase.borrow(), Phase::Ended) {
            return;
        }
        loop {
            match AssertUnwindSafe(self.step(&mut state, &mut phase)).catch_unwind().await {
                Ok(true) => {}
                Ok(false) => break,
                // For instance of the host's recorder of metrics.
                Err(_) => drop(Panicked::of("the host's code around records")),
            }
        }
        // What is left was accepted, and is lost.
        state.receiver.close();
        let mut left = std::mem::take(&mut state.batch).len() as u64;
        while state.receiver.try_recv().is_ok() {
            left += 1;
        }
        self.counts.dropped.fetch_add(left, Ordering::Relaxed);
        observe::records(&self.name, "dropped", left);
        let unsaid = self.drops.rest() + left;
        if unsaid > 0 {
            tracing::error!(
                target: "tower_credits", sink = %self.name, number = unsaid,
                "usage records were dropped; debits are not concerned: they were not delivered \
                 before the meter was shut down"
            );
        }
        self.phase.send_replace(Phase::Ended);
    }

    /// Makes one delivery. Returns `false` if it was the last.
    async fn step(&self, state: &mut State, phase: &mut watch::Receiver<Phase>) -> bool {
        if state.batch.is_empty() && !self.fill(state, phase).await {
            return false;
        }
        let Some(delivered) = self.deliver(state, phase).await else { return false };
        match delivered {
            Ok(()) => {
                let number = state.batch.drain(..state.next()).len() as u64;
                state.at_once = state.at_once.saturating_mul(2);
                (state.pause, state.refused) = (FIRST_PAUSE, 0);
                self.counts.delivered.fetch_add(number, Ordering::Relaxed);
                observe::records(&self.name, "delivered", number);
            }
            Err(SinkError::Refused(reason)) => match state.next() {
                0 | 1 => {
                    drop(state.batch.drain(..state.next()));
                    self.dropped(1, &format_args!("the sink refused them: {reason}"));
                    state.refused += 1;
                    // It may refuse all of them.
                    if state.refused > MAX_REFUSED {
                        return self.wait(state, phase).await;
                    }
                }
                // Most of them may be well.
                several => state.at_once = several / 2,
            },
            Err(SinkError::Unavailable(reason)) => {
                self.counts.retries.fetch_add(1, Ordering::Relaxed);
                if self.failures.count(1).is_some() {
                    tracing::warn!(
                        target: "tower_credits", sink = %self.name, %reason,
                        "usage records were not delivered; it is tried again"
                    );
                }
                return self.wait(state, phase).await;
            }
        }
        true
    }

    /// Waits for records. Returns `false` if there will be no more.
    async fn fill(&self, state: &mut State, phase: &mut watch::Receiver<Phase>) -> bool {
        let most = self.to.batch_size;
        let State { receiver, batch, .. } = state;
        let number = tokio::select! {
            number = receiver.recv_many(batch, most) => number,
            _ = closing(phase) => {
                receiver.close();
                receiver.recv_many(batch, most).await
            }
        };
        if number == 0 {
            return false;
        }
        let until = Instant::now() + self.to.linger;
        while batch.len() < most {
            let left = most - batch.len();
            let more = timeout_at(until, receiver.recv_many(batch, left));
            let is_over = tokio::select! {
                more = more => more.is_ok_and(|more| more == 0) || Instant::now() >= until,
                _ = closing(phase) => true,
            };
            if is_over {
                break;
            }
        }
        true
    }

    /// Calls the sink. `None` if it took so long that the meter's time is up.
    async fn deliver(
        &self,
        state: &State,
        phase: &mut watch::Receiver<Phase>,
    ) -> Option<Result<(), SinkError>> {
        let records = &state.batch[..state.next()];
        let delivering = async { self.to.sink.deliver(records).await };
        let delivering = AssertUnwindSafe(delivering).catch_unwind();
        let delivered = tokio::select! {
            delivered = delivering => delivered,
            () = too_late(phase) => return None,
        };
        Some(delivered.unwrap_or_else(|_| {
            Err(SinkError::Unavailable(Panicked::of("RecordSink").to_string()))
        }))
    }

    /// Waits until the next try. Returns `false` if there is none.
    async fn wait(&self, state: &mut State, phase: &mut watch::Receiver<Phase>) -> bool {
        let pause = state.pause;
        state.pause = (pause * 2).min(LONGEST_PAUSE);
        let is_closing = matches!(*phase.borrow(), Phase::Closing(_));
        let waiting = async {
            if is_closing {
                tokio::time::sleep(pause.min(FIRST_PAUSE)).await;
            } else {
                // The last tries come soon after one another.
                let _ = timeout(pause, closing(phase)).await;
            }
        };
        waiting.await;
        !matches!(*phase.borrow(), Phase::Closing(until) if Instant::now() >= until)
    }

    /// Has the task deliver what waits, for some seconds at most, and end.
    pub(super) fn close(&self) {
        self.phase.send_if_modified(|phase| {
            let is_open = matches!(phase, Phase::Open);
            if is_open {
                *phase = Phase::Closing(Instant::now() + CLOSING_TIMEOUT);
            }
            is_open
        });
    }

    /// Waits until the task has ended, once it is to be closed. Returns how many records were not
    /// delivered.
    pub(super) async fn ended(&self) -> u64 {
        let mut phase = self.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Ended));
        // Without a task, for which there was no runtime, nothing is delivered.
        let _ = timeout(CLOSING_TIMEOUT + FIRST_PAUSE, ended).await;
        let RecordStats { dropped, waiting, .. } = self.stats();
        dropped + waiting
    }
}

impl State {
    /// Returns the number of records that are delivered next.
    fn next(&self) -> usize {
        self.batch.len().min(self.at_once)
    }
}

/// Waits until it is to be closed.
async fn closing(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| !matches!(phase, Phase::Open)).await;
}

/// Waits until there is no more time.
async fn too_late(phase: &mut watch::Receiver<Phase>) {
    closing(phase).await;
    let until = match *phase.borrow() {
        Phase::Closing(until) => until,
        Phase::Open | Phase::Ended => return,
    };
    tokio::time::sleep_until(until).await;
}
