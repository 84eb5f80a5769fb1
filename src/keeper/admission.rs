//! The way from a request to its slice: at once from the account's lease, after a wait for the
//! ledger, or without the ledger while that is away.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    entry::{AdmissionError, StatedAt, Verdict},
    handle::{AccountHandle, HeldSlice},
    phase::Phase,
    table::{AccountTable, new_lease_id},
};
use crate::{
    Credits, Period,
    lease::{PermitAnswer, SliceRequest},
    ledger::Standing,
    metering::{BillingContext, Origin, RunningRequest},
    terms::LeaseScope,
};

/// The answer to a request that asks for a slice.
pub(crate) enum Admission {
    /// It runs.
    Admitted(HeldSlice),
    /// It waits for the ledger.
    Waiting(Ticket, Arc<BillingContext>, Origin),
    /// The ledger would have to be asked, and has not answered for a while.
    LedgerAway(Box<RunningRequest>),
    /// It cannot ask.
    Refused(AdmissionError, Box<RunningRequest>),
}

/// A place in the queue of an account's requests. Dropping it leaves the queue.
pub(crate) struct Ticket {
    handle: AccountHandle,
    receiver: oneshot::Receiver<Verdict>,
}

/// The answer to a request that waited.
pub(crate) enum TicketAnswer {
    /// It runs.
    Admitted(HeldSlice),
    /// The account does not have enough.
    NotEnough(Standing),
    /// The ledger has no permit of the account's request rate for this time.
    BeyondRate(Duration),
    /// As many requests of the account run on all nodes as may.
    TooManyRunning,
    /// By the ledger's clock it is another month: ask for that one.
    OtherPeriod(Period),
    /// The ledger cannot say anything about this account.
    Unanswered,
    /// The account was erased.
    Erased,
    /// The worker ended with its runtime: ask again.
    WorkerGone,
    /// The node is shutting down.
    ShuttingDown,
}

/// Asks for a slice.
pub(crate) fn admit(
    mut handle: AccountHandle,
    mut request: RunningRequest,
    now: Duration,
) -> Admission {
    let want = request.context.plan.want;
    let refused = |error, request| Admission::Refused(error, Box::new(request));
    loop {
        let AccountHandle { table, entry } = &handle;
        let is_away = table.is_away(&entry.scope.account);
        let mut state = entry.lock();
        if table.phase.get() == Phase::Closing {
            return refused(AdmissionError::ShuttingDown, request);
        }
        if entry.is_removed() {
            drop(state);
            match AccountHandle::open(table, &entry.scope) {
                Ok(opened) => handle = opened,
                Err(error) => return refused(error, request),
            }
            continue;
        }
        state.state_terms(&request.context.stated, StatedAt::Here(now));
        // Of a part it counts first: two of different parts must not both find the last place.
        if entry.is_part() {
            request.count_in(entry.whole().running_in_parts());
        }
        if let Some(limit) = want.max_concurrent {
            let most = limit.get() as usize - usize::from(!entry.is_part());
            if entry.running_and_waiting(&state) > most {
                state.lease.remove_waiting(oneshot::Sender::is_closed);
                if entry.running_and_waiting(&state) > most {
                    return refused(AdmissionError::TooManyRunning(limit), request);
                }
            }
        }
        if state.lease.is_leaving() {
            match new_lease_id() {
                Ok(id) => state.replace_lease(id, now),
                Err(error) => return refused(error, request),
            }
        }
        if let Some(woke_at) = table.time.woke_at() {
            state.lease.mark_suspended(&table.rules, woke_at);
        }
        let permit = want.rate.map(|rate| state.lease.find_permit(rate, now));
        if let Some(PermitAnswer::None(wait)) = permit
            && !is_away
            && !state.lease.is_failing()
        {
            return refused(AdmissionError::BeyondRate(wait), request);
        }
        let admitted = if permit.is_none_or(|permit| permit == PermitAnswer::AtHand) {
            state.lease.admit(want, request, now)
        } else {
            Err(request)
        };
        return match admitted {
            Ok(id) => {
                table.note_in_journal(entry, &mut state);
                let due = if state.lease.is_low() {
                    Duration::ZERO
                } else {
                    state.lease.due_of(id, want, now)
                };
                let must_ask = state.must_ask_for(due);
                drop(state);
                if must_ask {
                    table.attend_by(entry, due);
                }
                Admission::Admitted(HeldSlice::new(handle, id))
            }
            Err(request) if is_away || state.lease.is_failing() => {
                // The ledger is asked all the same, so that the end of its outage is noticed.
                state.lease.probe();
                drop(state);
                table.attend(entry);
                Admission::LedgerAway(Box::new(request))
            }
            Err(request) => {
                let (sender, receiver) = oneshot::channel();
                let (context, origin) = (Arc::clone(&request.context), request.origin.clone());
                state.lease.enqueue(want, request, sender);
                drop(state);
                table.attend(entry);
                Admission::Waiting(Ticket { handle, receiver }, context, origin)
            }
        };
    }
}

/// Takes a slice that the ledger was not asked for, within the allowance of the tier for outages.
/// `None` if the allowance is used up, or nothing can be asked for.
pub(crate) fn admit_without_ledger(
    table: &Arc<AccountTable>,
    scope: &LeaseScope,
    want: SliceRequest,
    mut request: RunningRequest,
    mut allowance: Credits,
) -> Option<HeldSlice> {
    let mut handle = AccountHandle::open(table, scope).ok()?;
    if handle.entry.is_removed() {
        handle = AccountHandle::open(table, scope).ok()?;
    }
    let mut state = handle.entry.lock();
    if handle.entry.is_removed() || table.phase.get() == Phase::Closing {
        return None;
    }
    let now = table.now();
    if state.lease.is_leaving() {
        state.replace_lease(new_lease_id().ok()?, now);
    }
    if handle.entry.is_part() {
        // The account's allowance is for all its parts.
        let whole = handle.entry.whole();
        if !whole.lock().lease.take_allowance(want.hold, allowance) {
            return None;
        }
        allowance = Credits::MAX;
        request.count_in(whole.running_in_parts());
    }
    let id = state.lease.grant_unbacked(want, request, allowance, now).ok()?;
    table.note_in_journal(&handle.entry, &mut state);
    drop(state);
    table.attend(&handle.entry);
    Some(HeldSlice::new(handle, id))
}

impl Future for Ticket {
    type Output = TicketAnswer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TicketAnswer> {
        let verdict = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(match verdict {
            Ok(Verdict::Admitted(id)) => {
                TicketAnswer::Admitted(HeldSlice::new(self.handle.clone(), id))
            }
            Ok(Verdict::NotEnough(standing)) => TicketAnswer::NotEnough(standing),
            Ok(Verdict::BeyondRate(wait)) => TicketAnswer::BeyondRate(wait),
            Ok(Verdict::TooManyRunning) => TicketAnswer::TooManyRunning,
            Ok(Verdict::OtherPeriod(period)) => TicketAnswer::OtherPeriod(period),
            Ok(Verdict::Unanswered) => TicketAnswer::Unanswered,
            Ok(Verdict::Erased) => TicketAnswer::Erased,
            Ok(Verdict::WorkerGone) => TicketAnswer::WorkerGone,
            Err(_) => TicketAnswer::ShuttingDown,
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The slice that was sent and not received has no other owner.
        self.receiver.close();
        if let Ok(Verdict::Admitted(id)) = self.receiver.try_recv() {
            drop(HeldSlice::new(self.handle.clone(), id));
        }
    }
}
