//! An account's seat at the desk, and a running request's place there.

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    desk::{Beside, Cell, OPEN, Shared, Verdict, Waiter},
    lease::{Closing, Lease, Run, RunId, Served},
};
use crate::{
    Credits, Period,
    clock::{Now, Time},
    ledger::{Standing, Usage},
};

/// An account at the desk.
pub(crate) struct Seat<B: Beside> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) cell: Arc<Cell<B>>,
}

/// Where an account sat, as long as it sits there.
pub(crate) struct SeatTaken<B: Beside>(pub(super) Weak<Cell<B>>);

/// A running request's slice, which ends when this is dropped.
pub(crate) struct Place<B: Beside> {
    pub(super) seat: Option<Seat<B>>,
    pub(super) id: RunId,
}

/// What is known when a request ended.
#[derive(Debug)]
pub(crate) struct Ended<R> {
    /// The request.
    pub(crate) run: R,
    /// What it was billed; `None` where it never began.
    pub(crate) billed: Option<Usage>,
    /// How the account stood when the ledger last answered.
    pub(crate) standing: Standing,
    /// What was spent here and is not in `standing`.
    pub(crate) unreported: Credits,
}

impl<B: Beside> Seat<B> {
    /// Has the lease looked at: a running request may need more.
    pub(crate) fn attend(&self) {
        self.shared.attend(&self.cell);
    }

    /// Has the ledger asked at once for what a request needs beyond its slice.
    pub(crate) fn ask_now(&self, id: RunId) {
        self.cell.lock().lease.ask_now(id);
        self.attend();
    }

    /// What the host keeps beside the account's lease.
    pub(crate) fn beside(&self) -> &B {
        &self.cell.beside
    }

    /// Where it is, without keeping it.
    pub(crate) fn taken(&self) -> SeatTaken<B> {
        SeatTaken(Arc::downgrade(&self.cell))
    }

    /// What the clocks say.
    pub(crate) fn now(&self) -> Now {
        self.shared.time.now()
    }

    /// A request that runs here, if it still does.
    pub(crate) fn with<T>(&self, id: RunId, look: impl FnOnce(&mut B::Run) -> T) -> Option<T> {
        self.cell.lock().lease.live_mut(id).map(look)
    }
}

impl<B: Beside> Clone for Seat<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), cell: Arc::clone(&self.cell) }
    }
}

impl<B: Beside> Clone for SeatTaken<B> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<B: Beside> fmt::Debug for SeatTaken<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeatTaken")
    }
}

impl<B: Beside> fmt::Debug for Seat<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("account", &self.cell.account)
            .field("period", &self.cell.period)
            .finish_non_exhaustive()
    }
}

impl<B: Beside> Place<B> {
    /// The account's seat while the slice has not ended, and the request's name there.
    pub(crate) fn whereabouts(&self) -> Option<(Seat<B>, RunId)> {
        Some((self.seat.clone()?, self.id))
    }

    /// The request, while the slice has not ended.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut B::Run) -> T) -> Option<T> {
        self.seat.as_ref()?.cell.lock().lease.run_mut(self.id).map(look)
    }

    /// What the clocks say.
    pub(crate) fn now(&self) -> Option<Now> {
        self.seat.as_ref().map(|seat| seat.shared.time.now())
    }

    /// The clocks.
    pub(crate) fn time(&self) -> Option<Time> {
        self.seat.as_ref().map(|seat| seat.shared.time.clone())
    }

    /// What the account has left as far as this node knows: what running requests use is not off it
    /// yet.
    pub(crate) fn left(&self) -> Option<Credits> {
        let inner = self.seat.as_ref()?.cell.lock();
        Some(inner.lease.standing().left(inner.lease.unreported()))
    }

    /// Has the ledger asked at once for what the request needs beyond its slice.
    pub(crate) fn ask_now(&self) {
        if let Some(seat) = &self.seat {
            seat.ask_now(self.id);
        }
    }

    /// It needs nothing more, and what it holds is free.
    pub(crate) fn release(&self) {
        if let Some(seat) = &self.seat {
            let now = seat.shared.now();
            seat.cell.lock().lease.release(self.id, now);
            seat.attend();
        }
    }

    /// How long the ledger may take to answer, and how long may pass between a question and the
    /// next.
    pub(crate) fn patience(&self) -> Option<(Duration, Duration)> {
        self.seat.as_ref().map(|seat| (seat.shared.rules.deadline, seat.shared.rules.pause()))
    }

    /// Ends the slice, after a last look at the request. `None` if the ledger is to say first how
    /// much of it can be paid: only with `ask`.
    pub(crate) fn end(
        mut self,
        now: Now,
        ask: bool,
        look: impl FnOnce(&mut B::Run),
    ) -> Option<Ended<B::Run>> {
        self.close(now, ask, look)
    }

    fn close(
        &mut self,
        now: Now,
        ask: bool,
        look: impl FnOnce(&mut B::Run),
    ) -> Option<Ended<B::Run>> {
        let Seat { shared, cell } = self.seat.take()?;
        let now = now.lease;
        let mut inner = cell.lock();
        // Not there where its lease is gone, with a month that ended long ago.
        inner.lease.run_mut(self.id).map(look)?;
        let closing = inner.lease.end(self.id, ask, now);
        let waited_for = inner.lease.is_waited_for();
        if waited_for && let Some(woke_at) = shared.time.notice() {
            inner.lease.distrust(&shared.rules, woke_at);
        }
        let served = waited_for.then(|| inner.lease.share_out(oneshot::Sender::is_closed, now));
        let news = inner.lease.is_newly_dirty(now);
        let is_pending = matches!(closing, Some(Closing::Pending));
        let ended = match closing {
            Some(Closing::Settled(run, billed)) => Some(Ended::of(run, billed, &inner.lease)),
            Some(Closing::Pending) | None => None,
        };
        drop(inner);
        if let Some(served) = served {
            tell(&shared, &cell, served, None);
        }
        if is_pending {
            shared.attend(&cell);
        } else if news {
            let open = shared.phase.load(Ordering::Acquire) == OPEN;
            shared.attend_by(&cell, if open { now + shared.rules.flush } else { now });
        }
        ended
    }
}

impl<R: Run> Ended<R> {
    fn of<W>(run: R, billed: Option<Usage>, lease: &Lease<W, R>) -> Self {
        Self { run, billed, standing: lease.standing(), unreported: lease.unreported() }
    }
}

impl<B: Beside> Drop for Place<B> {
    fn drop(&mut self) {
        if let Some(now) = self.now() {
            self.close(now, false, |_| ());
        }
    }
}

/// Tells those who waited, outside of the account's lock: one who has gone meanwhile hands its
/// place back through it. `month` is what it is by the ledger's clock, where it was asked.
pub(super) fn tell<B: Beside>(
    shared: &Arc<Shared<B>>,
    cell: &Arc<Cell<B>>,
    served: Served<Waiter<B>, B::Run>,
    month: Option<Period>,
) {
    // First, so that each has an owner whatever the host's code does below.
    for (waiter, id) in served.admitted {
        let seat = Seat { shared: Arc::clone(shared), cell: Arc::clone(cell) };
        drop(waiter.send(Verdict::Admitted(Place { seat: Some(seat), id })));
    }
    for (run, billed) in served.settled {
        let ended = Ended::of(run, billed, &cell.lock().lease);
        cell.beside.settled(ended);
    }
    if served.refused.is_empty() {
        return;
    }
    let standing = cell.lock().lease.standing();
    for waiter in served.refused {
        let elsewhere = month.unwrap_or(cell.period.next());
        let verdict = if standing.ended || standing.early {
            Verdict::Elsewhere(elsewhere)
        } else {
            Verdict::Refused(standing)
        };
        drop(waiter.send(verdict));
    }
}
