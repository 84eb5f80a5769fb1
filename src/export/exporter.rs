//! [`Exporter`]: reads statements, and sends what they have more than was sent.

use std::{collections::BTreeSet, fmt, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{
    delivery::Delivery,
    error::ExportError,
    event::UsageEvent,
    receiver::Receiver,
    report::ExportReport,
    state::{ExportState, Pending, StateError},
};
use crate::{
    Account, Accounts, Period,
    clock::Clock,
    ledger::{Cursor, LedgerError, Statement},
};

/// Accounts of a page.
const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// Exporter of usage to one [`Receiver`].
///
/// The [module](super) has an example, and says what it guarantees.
pub struct Exporter {
    accounts: Accounts,
    delivery: Delivery,
    namespace: String,
    /// One export at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Decision about events that are in doubt.
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
            delivery: Delivery::new(receiver, state),
            namespace: "tower-credits".to_owned(),
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

    /// Sets for how long a delivery is tried again since something last arrived, with pauses that
    /// grow from 100 ms to 30 s.
    /// Default: 60 s.
    #[must_use]
    pub const fn retry_for(mut self, time: Duration) -> Self {
        self.delivery.retry_for = time;
        self
    }

    /// Sets the clock by which events get their time. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.delivery.clock = Arc::new(clock);
        self
    }

    /// Sets a function that is called after each page of accounts and each delivery.
    #[must_use]
    pub fn on_progress(mut self, progress: impl Fn(&ExportReport) + Send + Sync + 'static) -> Self {
        self.delivery.progress = Some(Box::new(progress));
        self
    }

    /// Sends what the statements of months have more than was sent before: first the events that
    /// were not acknowledged, of whatever month, then new ones. It can be cancelled, killed and
    /// repeated at any time. Usage of a month can come in until the month is closed, or for 62
    /// days.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the ledger, the state or the receiver could not be used. Events that the
    /// receiver refused are no error: they are in the report.
    pub async fn export(&self, months: &[Period]) -> Result<ExportReport, ExportError> {
        let _turn = self.turn.lock().await;
        let mut report = ExportReport::default();
        self.delivery.state.check_namespace(&self.namespace).await?;
        self.delivery.send_pending(&mut report).await?;
        for month in months {
            let mut pages = Pages::of(*month);
            while let Some(accounts) = pages.next(&self.accounts).await? {
                let statements = self.statements(accounts, *month, &mut report).await?;
                let intended = self
                    .delivery
                    .state
                    .intend(&self.namespace, statements, self.delivery.now())
                    .await?;
                self.delivery.send(intended, &mut report).await?;
                self.delivery.tell(&report);
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
        for pending in self.delivery.state.pending().await? {
            if self.delivery.is_in_doubt(&pending) {
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
                let sent = self.delivery.state.totals(of).await?;
                for (statement, mut totals) in statements.iter().zip(sent) {
                    for found in totals.advance(&self.namespace, statement, self.delivery.now()) {
                        report.add_sent(&found);
                        event(&found);
                    }
                }
                self.delivery.tell(&report);
            }
        }
        Ok(report)
    }

    /// Drops the events that the receiver refused and that are not in doubt: it will never have
    /// them. Returns their number. For events that can never be taken, such as those that are too
    /// old for Stripe.
    ///
    /// # Errors
    ///
    /// [`StateError`] if the state cannot be read or written.
    pub async fn drop_refused(&self) -> Result<u64, StateError> {
        let _turn = self.turn.lock().await;
        let pending = self.delivery.state.pending().await?;
        let refused = pending
            .iter()
            .filter(|pending| pending.refused.is_some() && !self.delivery.is_in_doubt(pending));
        let numbers: Vec<_> = refused.map(|pending| pending.number).collect();
        let number = numbers.len() as u64;
        self.delivery.state.settle(numbers, Vec::new()).await?;
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
        let pending = self.delivery.state.pending().await?;
        let is_meant = |pending: &Pending| self.delivery.is_in_doubt(pending) && of(&pending.event);
        let doubts: Vec<_> = pending.into_iter().filter(is_meant).collect();
        let number = doubts.len() as u64;
        match doubt {
            Doubt::Arrived => {
                let numbers = doubts.iter().map(|pending| pending.number).collect();
                self.delivery.state.settle(numbers, Vec::new()).await?;
            }
            Doubt::Lost => {
                let lost = doubts.into_iter().map(|doubt| Pending {
                    sent_at: None,
                    refused: None,
                    ..doubt
                });
                self.delivery.state.update(lost.collect()).await?;
            }
        }
        Ok(number)
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
            accounts.into_iter().partition(|account| self.delivery.receiver.takes(account));
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
            .field("receiver", &self.delivery.receiver.name())
            .field("state", &self.delivery.state)
            .finish_non_exhaustive()
    }
}
