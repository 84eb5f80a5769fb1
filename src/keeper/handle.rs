//! Handles to an account's entry, and the slice that a request holds there.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{
    ended::{CutRequest, Ended, EndedRequest},
    entry::{AccountEntry, AdmissionError, Verdict, Waiter},
    phase::Phase,
    table::AccountTable,
};
use crate::{
    Credits, Period,
    clock::{Now, Time},
    lease::{Closing, RunId, Served},
    limit::{RateState, RequestRate},
    metering::RunningRequest,
    plan::RequestQuota,
    terms::LeaseScope,
};

/// Handle to an account's entry in the table.
#[derive(Clone)]
pub(crate) struct AccountHandle {
    pub(super) table: Arc<AccountTable>,
    pub(super) entry: Arc<AccountEntry>,
}

/// Weak handle to an account's entry.
#[derive(Clone)]
pub(crate) struct WeakAccountHandle(Weak<AccountEntry>);

/// A running request, by its account's entry and its id there.
#[derive(Clone, Debug)]
pub(crate) struct RunRef {
    handle: AccountHandle,
    id: RunId,
}

/// The slice of a running request. It ends when this is dropped.
pub(crate) struct HeldSlice(Option<RunRef>);

impl AccountHandle {
    /// Returns the handle of an account, whose entry is made if there is none.
    pub(crate) fn open(
        table: &Arc<AccountTable>,
        scope: &LeaseScope,
    ) -> Result<Self, AdmissionError> {
        let entry = table.entry(scope)?;
        Ok(Self { table: Arc::clone(table), entry })
    }

    pub(crate) fn downgrade(&self) -> WeakAccountHandle {
        WeakAccountHandle(Arc::downgrade(&self.entry))
    }

    /// Counts a request against the account's request rate. `Err` if it is one too many.
    pub(crate) fn count(&self, quota: RequestQuota, now: Duration) -> Result<RateState, RateState> {
        let rate: &RequestRate = &self.entry.whole().rate;
        rate.count(quota, now)
    }

    /// Returns the state of a request rate over all nodes, as of the ledger's last answer.
    pub(crate) fn permit_state(&self, quota: RequestQuota, now: Duration) -> RateState {
        let (remaining, reset) = self.entry.lock().lease.permit_state(now);
        RateState { quota, remaining, reset }
    }

    /// Returns the handle of an account's entry, if there is one.
    pub(crate) fn find(table: &Arc<AccountTable>, scope: &LeaseScope) -> Option<Self> {
        Some(Self { table: Arc::clone(table), entry: table.find(scope)? })
    }

    /// Has all that is spent on this lease reported, and waits until the ledger has answered or
    /// does not in time.
    pub(crate) async fn report(&self) {
        let reported = self.entry.lock().report_now();
        if let Some(reported) = reported {
            self.attend();
            drop(timeout(self.table.rules.deadline, reported).await);
        }
    }

    /// Has the worker examine the account's lease now.
    fn attend(&self) {
        self.table.attend(&self.entry);
    }
}

impl WeakAccountHandle {
    /// Returns the handle, if the entry is still in the table.
    pub(crate) fn upgrade(&self, table: &Arc<AccountTable>) -> Option<AccountHandle> {
        let entry = self.0.upgrade().filter(|entry| !entry.is_removed())?;
        Some(AccountHandle { table: Arc::clone(table), entry })
    }
}

impl RunRef {
    /// Returns what `look` makes of the request, if it still runs.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut RunningRequest) -> T) -> Option<T> {
        self.handle.entry.lock().lease.running_mut(self.id).map(look)
    }

    /// Reads the clocks.
    pub(crate) fn now(&self) -> Now {
        self.handle.table.time.now()
    }

    /// Has the worker examine the lease: the request may need more.
    pub(crate) fn attend(&self) {
        self.handle.attend();
    }
}

impl HeldSlice {
    pub(super) fn new(handle: AccountHandle, id: RunId) -> Self {
        Self(Some(RunRef { handle, id }))
    }

    /// Returns a reference to the running request.
    pub(crate) fn run_ref(&self) -> Option<RunRef> {
        self.0.clone()
    }

    /// Returns what `look` makes of the request.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut RunningRequest) -> T) -> Option<T> {
        let RunRef { handle, id } = self.0.as_ref()?;
        handle.entry.lock().lease.run_mut(*id).map(look)
    }

    /// Returns the state of its account's request rate over all nodes, as of the ledger's last
    /// answer.
    pub(crate) fn permit_state(&self, quota: RequestQuota) -> Option<RateState> {
        let RunRef { handle, .. } = self.0.as_ref()?;
        Some(handle.permit_state(quota, handle.table.now()))
    }

    /// Reads the clocks.
    pub(crate) fn now(&self) -> Option<Now> {
        self.0.as_ref().map(RunRef::now)
    }

    /// Returns the clocks.
    pub(crate) fn time(&self) -> Option<Time> {
        self.0.as_ref().map(|run| run.handle.table.time.clone())
    }

    /// Returns the credits that the account has left as far as this node knows. Usage of running
    /// requests is not subtracted yet.
    pub(crate) fn credits_left(&self) -> Option<Credits> {
        let state = self.0.as_ref()?.handle.entry.lock();
        Some(state.lease.standing().left(state.lease.unreported()))
    }

    /// Has the ledger asked at once for the credits that the request needs beyond its slice.
    pub(crate) fn request_refill(&self) {
        if let Some(RunRef { handle, id }) = &self.0 {
            handle.entry.lock().lease.refill_now(*id);
            handle.attend();
        }
    }

    /// Frees the credits that it holds: the request needs nothing more.
    pub(crate) fn release(&self) {
        if let Some(RunRef { handle, id }) = &self.0 {
            let now = handle.table.now();
            handle.entry.lock().lease.release(*id, now);
            handle.attend();
        }
    }

    /// Returns the time that the ledger has to answer.
    pub(crate) fn ledger_timeout(&self) -> Option<Duration> {
        self.0.as_ref().map(|run| run.handle.table.rules.deadline)
    }

    /// Returns the longest pause between two renewals that ask for the same.
    pub(crate) fn refill_pause(&self) -> Option<Duration> {
        self.0.as_ref().map(|run| run.handle.table.rules.retry_delay())
    }

    /// Ends the slice, after a last call of `look` with the request. With `ask`, a request that
    /// used more than its slice is billed only once the ledger has said how much can be paid. Until
    /// then, all of it is billed as far as this node knows.
    pub(crate) fn end(
        mut self,
        now: Now,
        ask: bool,
        look: impl FnOnce(&mut RunningRequest),
    ) -> Option<Ended> {
        self.close(now, ask, |request| {
            look(request);
            true
        })
    }

    /// The same, unless `look` returns `false`: the slice goes on then, and is given back.
    pub(crate) fn end_if(
        mut self,
        now: Now,
        ask: bool,
        look: impl FnOnce(&mut RunningRequest) -> bool,
    ) -> Result<Option<Ended>, Self> {
        let ended = self.close(now, ask, look);
        if self.0.is_none() { Ok(ended) } else { Err(self) }
    }

    fn close(
        &mut self,
        now: Now,
        ask: bool,
        look: impl FnOnce(&mut RunningRequest) -> bool,
    ) -> Option<Ended> {
        let RunRef { handle, id } = self.0.take()?;
        let AccountHandle { table, entry } = &handle;
        let (both, now) = (now, now.lease);
        let mut state = entry.lock();
        // It is not there if its lease is gone, with a month that ended long ago.
        if !look(state.lease.run_mut(id)?) {
            drop(state);
            self.0 = Some(RunRef { handle, id });
            return None;
        }
        let closing = state.lease.close(id, ask, now)?;
        let request = state.lease.take(id);
        let has_waiting = state.lease.has_waiting();
        if has_waiting && let Some(woke_at) = table.time.notice() {
            state.lease.mark_suspended(&table.rules, woke_at);
        }
        let served = has_waiting.then(|| state.lease.grant_spare(oneshot::Sender::is_closed, now));
        let is_pending = matches!(closing, Closing::Pending(_));
        let due = match (state.lease.report_at(&table.rules), table.phase.get()) {
            (Duration::MAX, _) => Duration::MAX,
            // Its turn comes.
            (_, Phase::Open) if state.is_in_backlog => Duration::MAX,
            (due, Phase::Open) => due,
            (_, Phase::Closing | Phase::Orphaned) => now,
        };
        let must_ask = !is_pending && state.must_ask_for(due);
        table.note_in_journal(entry, &mut state);
        let standing = state.lease.standing().with_unreported(state.lease.unreported());
        drop(state);
        // First, so that the worker is told whatever the host's code does below.
        if is_pending {
            table.attend(entry);
        } else if must_ask {
            table.attend_by(entry, due);
        }
        if let Some(served) = served {
            deliver(&handle, served, None);
        }
        let billed = match closing {
            Closing::Settled(billed) => billed,
            Closing::Pending(used) => return Some(Ended { billed: Some(used), cut: None }),
        };
        let Some(request) = request else { return Some(Ended { billed, cut: None }) };
        EndedRequest::new(&request, billed, standing.left(Credits::ZERO)).observe(table, both);
        let cut =
            CutRequest::is_said_of(&request).then(|| Box::new(CutRequest { request, standing }));
        Some(Ended { billed, cut })
    }
}

impl Drop for HeldSlice {
    fn drop(&mut self) {
        if let Some(now) = self.now() {
            self.close(now, false, |_| true);
        }
    }
}

/// Delivers their answers to requests that waited, and the events of requests that are billed now.
/// The caller has released the account's lock. `month` is the current month by the ledger's clock,
/// if that was asked.
pub(super) fn deliver(
    handle: &AccountHandle,
    served: Served<Waiter, RunningRequest>,
    month: Option<Period>,
) {
    let entry = &handle.entry;
    // First, so that each slice has an owner whatever the host's code does below.
    for (waiter, id) in served.admitted {
        if waiter.send(Verdict::Admitted(id)).is_err() {
            // The request went away meanwhile.
            drop(HeldSlice::new(handle.clone(), id));
        }
    }
    for (request, billed) in served.settled {
        let left = {
            let lease = &entry.lock().lease;
            lease.standing().left(lease.unreported())
        };
        EndedRequest::new(&request, billed, left).observe(&handle.table, handle.table.time.now());
    }
    if !served.beyond_rate.is_empty() {
        let wait = entry.lock().lease.no_permit_for(handle.table.now());
        for waiter in served.beyond_rate {
            drop(waiter.send(Verdict::BeyondRate(wait)));
        }
    }
    for waiter in served.too_many {
        drop(waiter.send(Verdict::TooManyRunning));
    }
    if served.refused.is_empty() {
        return;
    }
    let standing = entry.lock().lease.standing();
    let other_period = month.unwrap_or(entry.scope.period.next());
    for waiter in served.refused {
        let verdict = if standing.ended || standing.early {
            Verdict::OtherPeriod(other_period)
        } else {
            Verdict::NotEnough(standing)
        };
        drop(waiter.send(verdict));
    }
}

impl fmt::Debug for WeakAccountHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakAccountHandle")
    }
}

impl fmt::Debug for AccountHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountHandle")
            .field("account", &self.entry.scope.account)
            .field("period", &self.entry.scope.period)
            .finish_non_exhaustive()
    }
}
