//! [`Delivery`]: sends events that are in the state to the receiver, and takes note of what became
//! of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    error::ExportError,
    receiver::{Receiver, ReceiverError, Refusal},
    report::ExportReport,
    state::{ExportState, Pending},
};
use crate::clock::{Clock, SystemClock, UnixTime};

/// The first and the longest pause before a delivery is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The most time by which a receiver's memory is taken to be shorter than it says.
const MEMORY_MARGIN: Duration = Duration::from_secs(60 * 60);

/// Function that is told how far an export is.
type Progress = Box<dyn Fn(&ExportReport) + Send + Sync>;

/// A receiver, and the state of what it was sent.
pub(super) struct Delivery {
    pub(super) receiver: Arc<dyn Receiver>,
    pub(super) state: ExportState,
    pub(super) retry_for: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) progress: Option<Progress>,
}

impl Delivery {
    pub(super) fn new(receiver: Arc<dyn Receiver>, state: ExportState) -> Self {
        Self {
            receiver,
            state,
            retry_for: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
            progress: None,
        }
    }

    /// Sends the events that were not acknowledged by an export before.
    pub(super) async fn send_pending(&self, report: &mut ExportReport) -> Result<(), ExportError> {
        let pending = self.state.pending().await?;
        let (doubts, pending): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| self.is_in_doubt(pending));
        doubts.into_iter().for_each(|doubt| report.add_doubt(doubt.event));
        report.repeated += pending.len() as u64;
        self.send(pending, report).await
    }

    /// Sends events that are in the state, and takes note of what became of them.
    pub(super) async fn send(
        &self,
        pending: Vec<Pending>,
        report: &mut ExportReport,
    ) -> Result<(), ExportError> {
        for batch in pending.chunks(self.receiver.batch_size().max(1)) {
            self.send_batch(batch.to_vec(), report).await?;
        }
        Ok(())
    }

    /// Delivers events, again and again for a while.
    async fn send_batch(
        &self,
        mut batch: Vec<Pending>,
        report: &mut ExportReport,
    ) -> Result<(), ExportError> {
        // From now on they may have arrived: those that had no answer before, since then. And what
        // the receiver said of them before counts no more.
        let now = self.now();
        let new: BTreeSet<u64> = batch
            .iter()
            .filter(|pending| pending.sent_at.is_none())
            .map(|pending| pending.number)
            .collect();
        let is_marked = self.receiver.remembers_for().is_some();
        let mut changed = Vec::new();
        for pending in &mut batch {
            let was_refused = pending.refused.take().is_some();
            if is_marked {
                pending.sent_at.get_or_insert(now);
            }
            if was_refused || is_marked && new.contains(&pending.number) {
                changed.push(pending.clone());
            }
        }
        if !changed.is_empty() {
            self.state.update(changed).await?;
        }
        let (mut begin, mut pause) = (Instant::now(), PAUSES.0);
        // A refusal or a denial that follows a delivery without an answer says nothing about that.
        let mut had_no_answer = false;
        loop {
            // Pauses may have been long, or the machine has slept.
            let (doubts, rest): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|pending| self.is_in_doubt(pending));
            batch = rest;
            doubts.into_iter().for_each(|doubt| report.add_doubt(doubt.event));
            if batch.is_empty() {
                return Ok(());
            }
            let events: Vec<_> = batch.iter().map(|pending| pending.event.clone()).collect();
            let error = match self.receiver.deliver(&events).await {
                Ok(refusals) => {
                    if !had_no_answer {
                        forget(&mut batch, &new);
                    }
                    let all = (0..events.len()).collect();
                    return self.settle(batch, all, &refusals, report).await.map(drop);
                }
                Err(error) => error,
            };
            let (ReceiverError::Unavailable { safe, .. } | ReceiverError::Denied { safe, .. }) =
                &error;
            if !safe.is_empty() {
                (begin, pause) = (Instant::now(), PAUSES.0);
                batch = self.settle(batch, safe.iter().copied().collect(), &[], report).await?;
            }
            let receiver = self.receiver.name();
            let ReceiverError::Unavailable { retry_after, .. } = &error else {
                if !had_no_answer {
                    forget(&mut batch, &new);
                    self.state.update(batch).await?;
                }
                return Err(ExportError::Receiver { receiver, error });
            };
            had_no_answer = true;
            let wait = retry_after.unwrap_or_default().max(pause);
            if begin.elapsed().saturating_add(wait) > self.retry_for {
                return Err(ExportError::Receiver { receiver, error });
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Takes note of events of a batch that were acknowledged or refused. Returns the others.
    async fn settle(
        &self,
        batch: Vec<Pending>,
        done: BTreeSet<usize>,
        refusals: &[Refusal],
        report: &mut ExportReport,
    ) -> Result<Vec<Pending>, ExportError> {
        let reasons: BTreeMap<usize, &String> =
            refusals.iter().map(|refusal| (refusal.index, &refusal.reason)).collect();
        let (mut acknowledged, mut refused, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (index, pending) in batch.into_iter().enumerate() {
            match reasons.get(&index) {
                Some(reason) => {
                    report.add_refused(pending.event.clone(), (*reason).clone());
                    refused.push(Pending { refused: Some((*reason).clone()), ..pending });
                }
                None if done.contains(&index) => {
                    report.add_sent(&pending.event);
                    acknowledged.push(pending.number);
                }
                None => left.push(pending),
            }
        }
        self.state.settle(acknowledged, refused).await?;
        self.tell(report);
        Ok(left)
    }

    /// `true` if an event may have arrived so long ago that the receiver would not know it again.
    pub(super) fn is_in_doubt(&self, pending: &Pending) -> bool {
        let (Some(time), Some(sent_at)) = (self.receiver.remembers_for(), pending.sent_at) else {
            return false;
        };
        let (margin, now) = (MEMORY_MARGIN.min(time / 4), self.now());
        // After a clock was set back, nobody knows how long ago that was.
        now.saturating_since(sent_at) + margin >= time || sent_at > now + margin
    }

    pub(super) fn now(&self) -> UnixTime {
        self.clock.unix_time()
    }

    pub(super) fn tell(&self, report: &ExportReport) {
        if let Some(progress) = &self.progress {
            progress(report);
        }
    }
}

/// Takes back that events may have arrived, of those that were sent for the first time.
fn forget(batch: &mut [Pending], new: &BTreeSet<u64>) {
    batch
        .iter_mut()
        .filter(|pending| new.contains(&pending.number))
        .for_each(|pending| pending.sent_at = None);
}
