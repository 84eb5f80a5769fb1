//! [`Exporter`]: reads statements, and sends what they have more than was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::time::sleep;

use super::{
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, Refusal},
    report::ExportReport,
    state::{Advanced, ExportState, Pending, StateError},
};
use crate::{
    Account, Accounts, Period,
    clock::{Clock, SystemClock, UnixTime},
    ledger::{LedgerError, Statement},
};

/// Accounts of a page.
const PAGE_SIZE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(100).unwrap();

/// The first and the longest pause before a delivery is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The time by which a receiver's memory is taken to be shorter than it says.
const MEMORY_MARGIN: Duration = Duration::from_secs(60 * 60);

/// Function that is told how far an export is.
type Progress = Box<dyn Fn(&ExportReport) + Send + Sync>;

/// Exporter of usage to one [`Receiver`].
///
/// The [module](super) has an example, and says what it guarantees.
pub struct Exporter {
    accounts: Accounts,
    receiver: Arc<dyn Receiver>,
    state: ExportState,
    namespace: String,
    retry_for: Duration,
    clock: Arc<dyn Clock>,
    progress: Option<Progress>,
}

/// Reason why an export ended before its end. What was sent until then is kept in mind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A statement or the list of accounts could not be read.
    #[error("cannot read the ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The state file cannot be used.
    #[error("cannot use the state of the export: {0}")]
    State(#[from] StateError),
    /// The receiver did not take a delivery.
    #[error("cannot send to {receiver}: {error}; the next export sends the same events again")]
    Receiver {
        /// Name of the receiver.
        receiver: String,
        /// Reason of its last answer.
        #[source]
        error: ReceiverError,
    },
}

/// What is done with events that are in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// They have arrived: they are taken for acknowledged.
    Arrived,
    /// They have not arrived: they are sent again.
    Lost,
}

impl Exporter {
    /// Opens the state of an export that was [created](Self::create) before.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the file is not there, is that of another receiver, is used by another
    /// process, is damaged, or cannot be read or written.
    pub fn open(
        accounts: Accounts,
        receiver: impl Receiver,
        state: impl AsRef<Path>,
    ) -> Result<Self, StateError> {
        Self::with_state(accounts, Arc::new(receiver), state.as_ref(), false)
    }

    /// Creates the state of an export: nothing was sent to this receiver before.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the file is there already, or cannot be written.
    pub fn create(
        accounts: Accounts,
        receiver: impl Receiver,
        state: impl AsRef<Path>,
    ) -> Result<Self, StateError> {
        Self::with_state(accounts, Arc::new(receiver), state.as_ref(), true)
    }

    fn with_state(
        accounts: Accounts,
        receiver: Arc<dyn Receiver>,
        path: &Path,
        create: bool,
    ) -> Result<Self, StateError> {
        let state = ExportState::open(path, &receiver.name(), create)?;
        Ok(Self {
            accounts,
            receiver,
            state,
            namespace: "tower-credits".to_owned(),
            retry_for: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
            progress: None,
        })
    }

    /// Sets a text that goes into the ids of events, to tell ledgers that export to one receiver.
    /// Default: `tower-credits`. Do not change it for a state that has sent something.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets for how long a delivery is tried again since something last arrived, with pauses that grow from 100 ms to 30 s.
    /// Default: 60 s.
    #[must_use]
    pub const fn retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }

    /// Sets the clock by which events get their time. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets a function that is called after each page of accounts and each delivery.
    #[must_use]
    pub fn on_progress(mut self, progress: impl Fn(&ExportReport) + Send + Sync + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Sends what the statements of a month have more than was sent before: first the events that
    /// were not acknowledged, then new ones. It can be cancelled, killed and repeated at any time.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the ledger, the state or the receiver could not be used. Events that the
    /// receiver refused are no error: they are in the report.
    pub async fn export(&self, period: Period) -> Result<ExportReport, ExportError> {
        let mut report = ExportReport::default();
        self.send_pending(&mut report).await?;
        let mut from = None;
        loop {
            let page = self.accounts.list(period, from.as_ref(), PAGE_SIZE).await?;
            let accounts = page.accounts.into_iter().map(|summary| summary.account).collect();
            let advanced = self.advance(accounts, period, &mut report).await?;
            if !advanced.is_empty() {
                let intended = self.state.intend(advanced, self.now()).await?;
                self.send(intended, &mut report).await?;
            }
            self.tell(&report);
            from = page.next;
            if from.is_none() {
                return Ok(report);
            }
        }
    }

    /// Returns what [`export`](Self::export) would send, and calls `event` for each event. Sends
    /// and writes nothing.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the ledger or the state could not be read.
    pub async fn preview(
        &self,
        period: Period,
        mut event: impl FnMut(&UsageEvent),
    ) -> Result<ExportReport, ExportError> {
        let mut report = ExportReport::default();
        for pending in self.state.pending().await? {
            if self.is_in_doubt(&pending) {
                report.add_doubt(pending.event);
            } else {
                report.repeated += 1;
                report.add_sent(&pending.event);
                event(&pending.event);
            }
        }
        let mut from = None;
        loop {
            let page = self.accounts.list(period, from.as_ref(), PAGE_SIZE).await?;
            let accounts = page.accounts.into_iter().map(|summary| summary.account).collect();
            for advanced in self.advance(accounts, period, &mut report).await? {
                for found in &advanced.events {
                    report.add_sent(found);
                    event(found);
                }
            }
            self.tell(&report);
            from = page.next;
            if from.is_none() {
                return Ok(report);
            }
        }
    }

    /// Decides about the events that are in doubt: they have arrived, or they are sent again by the
    /// next export. Returns their number. Look into the receiver first.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the state cannot be read or written.
    pub async fn resolve(&self, doubt: Doubt) -> Result<u64, StateError> {
        let pending = self.state.pending().await?;
        let doubts: Vec<_> =
            pending.into_iter().filter(|pending| self.is_in_doubt(pending)).collect();
        let number = doubts.len() as u64;
        match doubt {
            Doubt::Arrived => {
                let numbers = doubts.iter().map(|pending| pending.number).collect();
                self.state.settle(numbers, Vec::new()).await?;
            }
            Doubt::Lost => {
                let reason = Some("it had not arrived".to_owned());
                let lost =
                    doubts.into_iter().map(|doubt| Pending { refused: reason.clone(), ..doubt });
                self.state.update(lost.collect()).await?;
            }
        }
        Ok(number)
    }

    /// Sends the events that were not acknowledged by an export before.
    async fn send_pending(&self, report: &mut ExportReport) -> Result<(), ExportError> {
        let pending = self.state.pending().await?;
        let (doubts, mut pending): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| self.is_in_doubt(pending));
        doubts.into_iter().for_each(|doubt| report.add_doubt(doubt.event));
        // Those that were refused have not arrived before.
        let now = self.now();
        let mut again = Vec::new();
        for pending in pending.iter_mut().filter(|pending| pending.refused.is_some()) {
            (pending.refused, pending.sent_at) = (None, now);
            again.push(pending.clone());
        }
        if !again.is_empty() {
            self.state.update(again).await?;
        }
        report.repeated += pending.len() as u64;
        self.send(pending, report).await
    }

    /// Sends events that are in the state, and takes note of what became of them.
    async fn send(
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
        let (mut begin, mut pause) = (Instant::now(), PAUSES.0);
        while !batch.is_empty() {
            let events: Vec<_> = batch.iter().map(|pending| pending.event.clone()).collect();
            let error = match self.receiver.deliver(&events).await {
                Ok(refusals) => {
                    let all = (0..events.len()).collect();
                    return self.settle(batch, all, &refusals, report).await.map(drop);
                }
                Err(error) => error,
            };
            let denied = |error| ExportError::Receiver { receiver: self.receiver.name(), error };
            let ReceiverError::Unavailable { retry_after, safe, .. } = &error else {
                return Err(denied(error));
            };
            if !safe.is_empty() {
                (begin, pause) = (Instant::now(), PAUSES.0);
                batch = self.settle(batch, safe.iter().copied().collect(), &[], report).await?;
            }
            let wait = retry_after.unwrap_or_default().max(pause);
            if begin.elapsed() + wait > self.retry_for {
                return Err(denied(error));
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(())
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

    /// Reads statements, and returns the accounts of which something is to be sent.
    async fn advance(
        &self,
        accounts: Vec<Account>,
        period: Period,
        report: &mut ExportReport,
    ) -> Result<Vec<Advanced>, ExportError> {
        // Each once: what a page has twice would be sent twice.
        let accounts: BTreeSet<_> = accounts.into_iter().collect();
        let (taken, skipped): (Vec<_>, Vec<_>) =
            accounts.into_iter().partition(|account| self.receiver.takes(account));
        report.skipped += skipped.len() as u64;
        report.accounts += taken.len() as u64;
        let reading = taken.iter().map(|account| self.accounts.statement(account, period));
        let statements: Vec<Statement> = try_join_all(reading).await?;
        let of = taken.into_iter().map(|account| (account, period)).collect();
        let sent = self.state.totals(of).await?;
        let now = self.now();
        let advanced = statements.into_iter().zip(sent).map(|(statement, mut totals)| {
            let events = totals.advance(&self.namespace, &statement, now);
            Advanced { account: statement.account, period, totals, events }
        });
        Ok(advanced.filter(|advanced| !advanced.events.is_empty()).collect())
    }

    fn is_in_doubt(&self, pending: &Pending) -> bool {
        pending.refused.is_none()
            && self.receiver.remembers_for().is_some_and(|time| {
                self.now().saturating_since(pending.sent_at) + MEMORY_MARGIN >= time
            })
    }

    fn now(&self) -> UnixTime {
        self.clock.unix_time()
    }

    fn tell(&self, report: &ExportReport) {
        if let Some(progress) = &self.progress {
            progress(report);
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("receiver", &self.receiver.name())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
