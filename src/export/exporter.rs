//! [`Exporter`]: reads statements, and sends what they have more than was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, Refusal},
    report::ExportReport,
    state::{ExportState, Pending, StateError},
};
use crate::{
    Account, Accounts, Period,
    clock::{Clock, SystemClock, UnixTime},
    ledger::{Cursor, LedgerError, Statement},
};

/// Accounts of a page.
const PAGE_SIZE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(100).unwrap();

/// The first and the longest pause before a delivery is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The most time by which a receiver's memory is taken to be shorter than it says.
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
    /// One export at a time.
    turn: tokio::sync::Mutex<()>,
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
    /// The receiver did not take a delivery. The next export sends the same events again.
    #[error("cannot send to {receiver}: {error}{}", remedy(.error))]
    Receiver {
        /// Name of the receiver.
        receiver: String,
        /// Reason of its last answer.
        #[source]
        error: ReceiverError,
    },
}

fn remedy(error: &ReceiverError) -> &'static str {
    match error {
        ReceiverError::Unavailable { .. } => "; export again: the same events are sent",
        ReceiverError::Denied { .. } => "; correct the key or the URL, then export again",
    }
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
    /// [`StateError::Missing`] if there is no state in the file. [`StateError::Unusable`] if it is
    /// that of another receiver, is used by another process, is damaged, or cannot be read or
    /// written.
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
    /// [`StateError::Exists`] if there is a state in the file already. [`StateError::Unusable`] if
    /// the file cannot be written.
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
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Sets a text that goes into the ids of events, to tell ledgers that export to one receiver.
    /// Default: `tower-credits`. Do not change it for a state file that was used.
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

    /// Sends what the statements of months have more than was sent before: first the events that
    /// were not acknowledged, of whatever month, then new ones. It can be cancelled, killed and
    /// repeated at any time. Usage of a month can come in until the month is closed, or for 62 days.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the ledger, the state or the receiver could not be used. Events that the
    /// receiver refused are no error: they are in the report.
    pub async fn export(&self, months: &[Period]) -> Result<ExportReport, ExportError> {
        let _turn = self.turn.lock().await;
        let mut report = ExportReport::default();
        self.state.check_namespace(&self.namespace).await?;
        self.send_pending(&mut report).await?;
        for month in months {
            let mut pages = Pages::of(*month);
            while let Some(accounts) = pages.next(&self.accounts).await? {
                let statements = self.statements(accounts, *month, &mut report).await?;
                let intended = self.state.intend(&self.namespace, statements, self.now()).await?;
                self.send(intended, &mut report).await?;
                self.tell(&report);
            }
        }
        Ok(report)
    }

    /// Returns what [`export`](Self::export) would send, and calls `event` for each event. Sends
    /// and writes nothing.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the ledger or the state could not be read.
    pub async fn preview(
        &self,
        months: &[Period],
        mut event: impl FnMut(&UsageEvent),
    ) -> Result<ExportReport, ExportError> {
        let _turn = self.turn.lock().await;
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
        for month in months {
            let mut pages = Pages::of(*month);
            while let Some(accounts) = pages.next(&self.accounts).await? {
                let statements = self.statements(accounts, *month, &mut report).await?;
                let of = statements.iter().map(|of| (of.account.clone(), *month)).collect();
                let sent = self.state.totals(of).await?;
                for (statement, mut totals) in statements.iter().zip(sent) {
                    for found in totals.advance(&self.namespace, statement, self.now()) {
                        report.add_sent(&found);
                        event(&found);
                    }
                }
                self.tell(&report);
            }
        }
        Ok(report)
    }

    /// Drops the events that the receiver refused: it will never have them. Returns their number.
    /// For events that can never be taken, such as those that are too old for Stripe.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the state cannot be read or written.
    pub async fn drop_refused(&self) -> Result<u64, StateError> {
        let _turn = self.turn.lock().await;
        let pending = self.state.pending().await?;
        let refused = pending.iter().filter(|pending| pending.refused.is_some());
        let numbers: Vec<_> = refused.map(|pending| pending.number).collect();
        let number = numbers.len() as u64;
        self.state.settle(numbers, Vec::new()).await?;
        Ok(number)
    }

    /// Decides about the events that are in doubt and that `of` chooses: they have arrived, or they
    /// are sent again by the next export. Returns their number. Look into the receiver first.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the state cannot be read or written.
    pub async fn resolve(
        &self,
        doubt: Doubt,
        of: impl Fn(&UsageEvent) -> bool,
    ) -> Result<u64, StateError> {
        let _turn = self.turn.lock().await;
        let pending = self.state.pending().await?;
        let is_meant = |pending: &Pending| self.is_in_doubt(pending) && of(&pending.event);
        let doubts: Vec<_> = pending.into_iter().filter(is_meant).collect();
        let number = doubts.len() as u64;
        match doubt {
            Doubt::Arrived => {
                let numbers = doubts.iter().map(|pending| pending.number).collect();
                self.state.settle(numbers, Vec::new()).await?;
            }
            Doubt::Lost => {
                let lost = doubts.into_iter().map(|doubt| Pending { sent_at: None, ..doubt });
                self.state.update(lost.collect()).await?;
            }
        }
        Ok(number)
    }

    /// Sends the events that were not acknowledged by an export before.
    async fn send_pending(&self, report: &mut ExportReport) -> Result<(), ExportError> {
        let pending = self.state.pending().await?;
        let (doubts, pending): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| self.is_in_doubt(pending));
        doubts.into_iter().for_each(|doubt| report.add_doubt(doubt.event));
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
        // From now on they may have arrived: those that had no answer before, since then.
        let now = self.now();
        let new: BTreeSet<u64> = batch
            .iter()
            .filter(|pending| pending.sent_at.is_none())
            .map(|pending| pending.number)
            .collect();
        if self.receiver.remembers_for().is_some() && !new.is_empty() {
            batch.iter_mut().for_each(|pending| _ = pending.sent_at.get_or_insert(now));
            let marked = batch.iter().filter(|pending| new.contains(&pending.number));
            self.state.update(marked.cloned().collect()).await?;
        }
        let (mut begin, mut pause) = (Instant::now(), PAUSES.0);
        // A refusal or a denial that follows a delivery without an answer says nothing about that.
        let mut had_no_answer = false;
        while !batch.is_empty() {
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

    /// Reads the statements of accounts that the receiver takes.
    async fn statements(
        &self,
        accounts: Vec<Account>,
        month: Period,
        report: &mut ExportReport,
    ) -> Result<Vec<Statement>, ExportError> {
        // Each once: what a page has twice would be counted twice.
        let accounts: BTreeSet<_> = accounts.into_iter().collect();
        let (taken, skipped): (Vec<_>, Vec<_>) =
            accounts.into_iter().partition(|account| self.receiver.takes(account));
        report.skipped += skipped.len() as u64;
        report.accounts += taken.len() as u64;
        let reading = taken.iter().map(|account| self.accounts.statement(account, month));
        let mut statements = Vec::with_capacity(taken.len());
        for (account, read) in taken.iter().zip(join_all(reading).await) {
            match read {
                Ok(statement) => statements.push(statement),
                // Its own trouble.
                Err(error @ LedgerError::Malformed(_)) => {
                    report.add_unreadable(account.clone(), error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(statements)
    }

    fn is_in_doubt(&self, pending: &Pending) -> bool {
        let (Some(time), Some(sent_at)) = (self.receiver.remembers_for(), pending.sent_at) else {
            return false;
        };
        let margin = MEMORY_MARGIN.min(time / 4);
        self.now().saturating_since(sent_at) + margin >= time
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

/// Takes back that events may have arrived, of those that were sent for the first time.
fn forget(batch: &mut [Pending], new: &BTreeSet<u64>) {
    batch
        .iter_mut()
        .filter(|pending| new.contains(&pending.number))
        .for_each(|pending| pending.sent_at = None);
}

/// The accounts of a month, page by page.
struct Pages {
    month: Period,
    from: Option<Cursor>,
    is_last: bool,
}

impl Pages {
    const fn of(month: Period) -> Self {
        Self { month, from: None, is_last: false }
    }

    async fn next(&mut self, accounts: &Accounts) -> Result<Option<Vec<Account>>, LedgerError> {
        if self.is_last {
            return Ok(None);
        }
        let page = accounts.list(self.month, self.from.as_ref(), PAGE_SIZE).await?;
        (self.is_last, self.from) = (page.next.is_none(), page.next);
        Ok(Some(page.accounts.into_iter().map(|summary| summary.account).collect()))
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
