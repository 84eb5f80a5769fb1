//! Where requests ask for credits, wait for them, and hand back what they did not use.
//!
//! Everything here is short work under an account's mutex: nothing awaits, nothing blocks on the
//! ledger. What the ledger must hear is left for the [`Worker`](super::Worker), which is woken only
//! where it would otherwise sleep too long.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    herald::Watch,
    lease::{Lease, Run, Want},
    rules::LeaseRules,
    seat::{Ended, Place, Seat, SeatTaken},
};
use crate::{
    Account, Credits, Period,
    clock::Time,
    ledger::{LeaseId, Ledger, Standing, Terms},
};

/// Where requests ask for credits. `B` is what the host keeps beside each account's lease.
pub(crate) struct Desk<B: Beside>(pub(super) Arc<Shared<B>>);

/// What the desk and the worker share.
pub(super) struct Shared<B: Beside> {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) time: Time,
    pub(super) rules: LeaseRules,
    pub(super) cells: DashMap<(Account, Period), Arc<Cell<B>>>,
    most_accounts: usize,
    next_cell: AtomicU64,
    /// Cells that want the worker's attention; each is in it at most once.
    pub(super) inbox: Mutex<Vec<Arc<Cell<B>>>>,
    pub(super) wake: Notify,
    /// When the worker looks into the inbox by itself, in nanoseconds of the leases' time.
    looks_at: AtomicU64,
    pub(super) phase: AtomicU8,
    /// Nobody needs to wait for it to learn that.
    pub(super) ledger_is_away: AtomicBool,
    pub(super) settled: AtomicI64,
    pub(super) done: watch::Sender<bool>,
    /// What the host wants to hear of.
    pub(super) watch: Option<Watch>,
    /// Cells that are there only for what a node remembers of an account, the oldest first: they
    /// make room for others.
    remembered: Mutex<VecDeque<Weak<Cell<B>>>>,
    duty: AtomicU8,
}

/// Nobody does the worker's work.
const VACANT: u8 = 0;
/// Somebody does.
const TAKEN: u8 = 1;
/// It is done.
const DONE: u8 = 2;

/// The worker's duty: one has it at a time. It is vacant again when whoever has it is dropped, with
/// a runtime that ends, say.
pub(super) struct Duty<B: Beside>(Arc<Shared<B>>);

impl<B: Beside> Duty<B> {
    pub(super) fn take(shared: Arc<Shared<B>>) -> Option<Self> {
        let taken =
            shared.duty.compare_exchange(VACANT, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        taken.ok().map(|_| Self(shared))
    }

    /// There is nothing more to do.
    pub(super) fn done(&self) {
        self.0.duty.store(DONE, Ordering::Release);
    }
}

impl<B: Beside> Drop for Duty<B> {
    fn drop(&mut self) {
        if self.0.duty.compare_exchange(TAKEN, VACANT, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        // Those who wait see to it that somebody else takes it up.
        for cell in self.0.cells.iter().map(|entry| Arc::clone(entry.value())).collect::<Vec<_>>() {
            let waiting: Vec<_> = cell.lock().leases_mut().flat_map(Lease::dismiss).collect();
            for waiter in waiting {
                drop(waiter.send(Verdict::Orphaned));
            }
        }
    }
}

/// How many cells are looked at to make room for one.
const MOST_LOOKED_AT: usize = 16;

/// How long a shutdown tries to settle.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Requests are admitted.
pub(super) const OPEN: u8 = 0;
/// Nobody can ask any more; what runs goes on.
pub(super) const ORPHANED: u8 = 1;
/// Shutting down: everything ends now.
pub(super) const CLOSING: u8 = 2;

/// One account in one period.
pub(super) struct Cell<B: Beside> {
    pub(super) id: u64,
    pub(super) account: Account,
    pub(super) period: Period,
    pub(super) beside: B,
    pub(super) queued: AtomicBool,
    /// Out of the map: look it up anew. Set under the lock.
    pub(super) gone: AtomicBool,
    /// In a box, so that little is left of a cell that somebody only remembers.
    inner: Mutex<Box<Inner<B>>>,
}

pub(super) struct Inner<B: Beside> {
    pub(super) lease: RunningLease<B>,
    /// Leases that say goodbye while a newer one is in use.
    pub(super) retired: Vec<RunningLease<B>>,
    pub(super) terms: Terms,
    /// When a request last said so.
    pub(super) said_at: Duration,
    /// When the worker comes by on its own.
    pub(super) timer: Option<Duration>,
    /// Waits in the worker's backlog.
    pub(super) backlogged: bool,
    /// The thresholds that were seen to be reached, by their bits.
    pub(super) told: u32,
    /// It is there only for what the node remembers of it, and may make room for others.
    pub(super) remembered: bool,
    /// When it was last said that it cannot be renewed.
    pub(super) logged: Option<Duration>,
    /// It was said that its month can take no more.
    pub(super) full: bool,
}

/// What the host keeps beside an account's lease.
pub(crate) trait Beside: Default {
    /// A request that runs on the lease.
    type Run: Run + Send;
    /// `true` if nothing is lost when it is thrown away and made anew.
    fn is_spent(&self, now: Duration) -> bool;
    /// A request was billed that had ended before, with more used than was on hold for it.
    fn settled(&self, ended: Ended<Self::Run>);
}

pub(super) type Waiter<B> = oneshot::Sender<Verdict<B>>;

/// An account's lease.
pub(super) type RunningLease<B> = Lease<Waiter<B>, <B as Beside>::Run>;

/// What came of waiting.
pub(crate) enum Verdict<B: Beside> {
    /// Go ahead.
    Admitted(Place<B>),
    /// The ledger has not enough.
    Refused(Standing),
    /// By the ledger's clock it is another month.
    Elsewhere(Period),
    /// The ledger cannot say anything about this account.
    Unanswered,
    /// The account was erased.
    Erased,
    /// Whoever would have asked the ledger has ended with its runtime: ask anew.
    Orphaned,
}

/// Why nothing can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many accounts at once.
    Full,
    /// Shutting down.
    Closing,
    /// As many of the account's requests run or wait as may.
    Crowded(NonZeroU32),
}

/// What came of asking.
pub(crate) enum Admission<B: Beside> {
    /// Go ahead.
    Admitted(Place<B>),
    /// The ledger is asked.
    Waiting(Ticket<B>),
    /// The ledger would have to be asked, and has not answered for a while.
    LedgerAway,
}

/// A place in the queue.
pub(crate) type Ticket<B> = oneshot::Receiver<Verdict<B>>;

impl<B: Beside> Desk<B> {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        time: Time,
        rules: LeaseRules,
        most_accounts: usize,
        watch: Option<Watch>,
    ) -> Self {
        Self(Arc::new(Shared {
            ledger,
            time,
            rules,
            cells: DashMap::new(),
            most_accounts,
            next_cell: AtomicU64::new(0),
            inbox: Mutex::default(),
            wake: Notify::new(),
            looks_at: AtomicU64::new(u64::MAX),
            phase: AtomicU8::new(OPEN),
            ledger_is_away: AtomicBool::new(false),
            settled: AtomicI64::new(0),
            done: watch::Sender::new(false),
            watch,
            remembered: Mutex::default(),
            duty: AtomicU8::new(VACANT),
        }))
    }

    /// The seat that an account had, if it still sits there.
    pub(crate) fn seat_again(&self, taken: &SeatTaken<B>) -> Option<Seat<B>> {
        let cell = taken.0.upgrade().filter(|cell| !cell.is_gone())?;
        Some(Seat { shared: Arc::clone(&self.0), cell })
    }

    /// The account's seat, made where there is none.
    pub(crate) fn seat(&self, account: &Account, period: Period) -> Result<Seat<B>, Refusal> {
        let shared = &self.0;
        if shared.phase.load(Ordering::Acquire) == CLOSING {
            return Err(Refusal::Closing);
        }
        let key = (account.clone(), period);
        if let Some(cell) = shared.cells.get(&key) {
            return Ok(Seat { shared: Arc::clone(shared), cell: Arc::clone(&cell) });
        }
        if shared.cells.len() >= shared.most_accounts && !shared.make_room() {
            return Err(Refusal::Full);
        }
        let lease = Lease::new(LeaseId::random().map_err(|_| Refusal::Full)?, shared.now());
        let entry = shared.cells.entry(key).or_insert_with(|| {
            Arc::new(Cell {
                id: shared.next_cell.fetch_add(1, Ordering::Relaxed),
                account: account.clone(),
                period,
                beside: B::default(),
                queued: AtomicBool::new(false),
                gone: AtomicBool::new(false),
                inner: Mutex::new(Box::new(Inner {
                    lease,
                    retired: Vec::new(),
                    terms: Terms::nothing(),
                    said_at: Duration::ZERO,
                    timer: None,
                    backlogged: false,
                    told: 0,
                    remembered: false,
                    logged: None,
                    full: false,
                })),
            })
        });
        let cell = Arc::clone(&entry);
        drop(entry);
        // So that a cell of which nothing comes is cleared away in time.
        shared.attend_by(&cell, shared.now() + shared.rules.idle());
        Ok(Seat { shared: Arc::clone(shared), cell })
    }

    /// Asks for a slice.
    pub(crate) fn admit(
        &self,
        mut seat: Seat<B>,
        terms: Terms,
        want: Want,
        run: B::Run,
        now: Duration,
    ) -> Result<Admission<B>, Refusal> {
        loop {
            let mut inner = seat.cell.lock();
            if self.0.phase.load(Ordering::Acquire) == CLOSING {
                return Err(Refusal::Closing);
            }
            if seat.cell.is_gone() {
                drop(inner);
                seat = self.seat(&seat.cell.account, seat.cell.period)?;
                continue;
            }
            (inner.terms, inner.said_at) = (terms, now);
            if let Some(most) = want.most_running
                && inner.lease.engaged() >= most.get() as usize
            {
                inner.lease.forget_waiting(oneshot::Sender::is_closed);
                if inner.lease.engaged() >= most.get() as usize {
                    return Err(Refusal::Crowded(most));
                }
            }
            if inner.lease.is_leaving() {
                inner.replace_lease(LeaseId::random().map_err(|_| Refusal::Full)?, now);
            }
            if let Some(woke_at) = self.0.time.woke_at() {
                inner.lease.distrust(&self.0.rules, woke_at);
            }
            let admission = match inner.lease.admit(want, run, now) {
                Ok(id) => {
                    let due = if inner.lease.is_low() {
                        Duration::ZERO
                    } else {
                        inner.lease.due_of(id, want, now)
                    };
                    let asleep = inner.timer.is_none_or(|timer| timer > due);
                    drop(inner);
                    if asleep {
                        self.0.attend_by(&seat.cell, due);
                    }
                    Admission::Admitted(Place { seat: Some(seat), id })
                }
                Err(_)
                    if self.0.ledger_is_away.load(Ordering::Acquire)
                        || inner.lease.is_failing() =>
                {
                    // Whoever is denied has the ledger asked, so that it is known when it is back.
                    inner.lease.inquire();
                    drop(inner);
                    self.0.attend(&seat.cell);
                    Admission::LedgerAway
                }
                Err(run) => {
                    let (tell, ticket) = oneshot::channel();
                    inner.lease.wait(want, run, tell);
                    drop(inner);
                    self.0.attend(&seat.cell);
                    Admission::Waiting(ticket)
                }
            };
            return Ok(admission);
        }
    }

    /// Asks for a slice that the ledger did not answer for, within what the tier allows for such
    /// times.
    pub(crate) fn trust(
        &self,
        account: &Account,
        period: Period,
        want: Want,
        run: B::Run,
        allowance: Credits,
    ) -> Option<Place<B>> {
        let mut seat = self.seat(account, period).ok()?;
        if seat.cell.is_gone() {
            seat = self.seat(account, period).ok()?;
        }
        let mut inner = seat.cell.lock();
        if seat.cell.is_gone() || self.0.phase.load(Ordering::Acquire) == CLOSING {
            return None;
        }
        let now = self.0.now();
        if inner.lease.is_leaving() {
            inner.replace_lease(LeaseId::random().ok()?, now);
        }
        let id = inner.lease.trust(want, run, allowance, now).ok()?;
        drop(inner);
        self.0.attend(&seat.cell);
        Some(Place { seat: Some(seat), id })
    }
}

impl<B: Beside> Clone for Desk<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Beside> Shared<B> {
    /// The time that leases count in.
    pub(super) fn now(&self) -> Duration {
        self.time.now().lease
    }

    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        Instant::now().checked_add(at.saturating_sub(self.now()))
    }

    pub(super) fn has_worker(&self) -> bool {
        self.duty.load(Ordering::Acquire) != VACANT
    }

    /// Notes that a cell is there only for what the node remembers of it.
    pub(super) fn remember(&self, cell: &Arc<Cell<B>>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() > 2 * self.cells.len() + MOST_LOOKED_AT {
            remembered.retain(|cell| cell.strong_count() > 0);
        }
        remembered.push_back(Arc::downgrade(cell));
    }

    /// Nothing is in the inbox, and whoever wants to be looked at may be put there.
    pub(super) fn empty_inbox(&self) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Without the lock: whoever makes a cell holds its shard of the map, and may wait for the
        // inbox. All of them are attended to after this.
        for cell in self.cells.iter().map(|entry| Arc::clone(entry.value())).collect::<Vec<_>>() {
            cell.queued.store(false, Ordering::Release);
        }
    }

    /// Forgets an account of which nothing but an outage allowance is remembered, the one that has
    /// been so for longest.
    fn make_room(&self) -> bool {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked_at = 0;
        while looked_at < MOST_LOOKED_AT
            && let Some(cell) = remembered.pop_front()
        {
            let Some(cell) = cell.upgrade().filter(|cell| !cell.is_gone()) else { continue };
            looked_at += 1;
            let mut inner = cell.lock();
            if !inner.lease.is_leaving() || !inner.retired.is_empty() {
                // It is in use again; once it is not, it comes back.
                inner.remembered = false;
                continue;
            }
            if !cell.beside.is_spent(self.now()) {
                remembered.push_back(Arc::downgrade(&cell));
                continue;
            }
            cell.gone.store(true, Ordering::Release);
            drop(inner);
            self.cells
                .remove_if(&(cell.account.clone(), cell.period), |_, known| known.id == cell.id);
            return true;
        }
        false
    }

    /// Has the worker look at a cell now.
    pub(super) fn attend(&self, cell: &Arc<Cell<B>>) {
        self.attend_by(cell, Duration::ZERO);
    }

    /// Has the worker look at a cell by then. To wake it costs a request more than all else, so it
    /// is not woken where it wakes in time.
    pub(super) fn attend_by(&self, cell: &Arc<Cell<B>>, due: Duration) {
        // Under the lock, so that whoever finds a cell queued finds it in the inbox.
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if !cell.queued.swap(true, Ordering::AcqRel) {
            inbox.push(Arc::clone(cell));
        }
        drop(inbox);
        if whole_nanos(due) < self.looks_at.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// The worker looks into the inbox at `at` again. Answers whether something is there that came
    /// before this was known.
    pub(super) fn looks_at(&self, at: Option<Duration>) -> bool {
        self.looks_at.store(at.map_or(u64::MAX, whole_nanos), Ordering::SeqCst);
        // Whoever put something in after this saw the time; what was put in before is seen here.
        !self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn whole_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl<B: Beside> Cell<B> {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<Inner<B>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Beside> Inner<B> {
    /// Goes on with a new lease while the old one says goodbye.
    fn replace_lease(&mut self, id: LeaseId, now: Duration) {
        let old = std::mem::replace(&mut self.lease, Lease::new(id, now));
        self.lease.inherit(&old);
        self.retired.push(old);
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &RunningLease<B>> {
        std::iter::once(&self.lease).chain(&self.retired)
    }

    pub(super) fn leases_mut(&mut self) -> impl Iterator<Item = &mut RunningLease<B>> {
        std::iter::once(&mut self.lease).chain(&mut self.retired)
    }
}

impl<B: Beside> fmt::Debug for Desk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("ledger", &self.0.ledger)
            .field("accounts", &self.0.cells.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryLedger;

    #[derive(Default)]
    struct Nothing;

    impl Beside for Nothing {
        type Run = NoRun;

        fn is_spent(&self, _: Duration) -> bool {
            true
        }

        fn settled(&self, _: Ended<NoRun>) {}
    }

    struct NoRun;

    impl Run for NoRun {
        fn accrued(&self, _: Duration) -> Credits {
            Credits::ZERO
        }

        fn runway(&self, _: Credits, _: Duration) -> Duration {
            Duration::MAX
        }

        fn granted(&mut self, _: Credits, _: Duration) {}

        fn denied(&mut self, _: super::super::lease::Denial) {}

        fn stops(&self) -> bool {
            true
        }

        fn settleable(&self, _: Duration) -> Option<crate::ledger::Usage> {
            None
        }

        fn end(&mut self, _: Duration) -> Option<crate::ledger::Usage> {
            None
        }

        fn line(&self) -> crate::ledger::LineKey {
            crate::ledger::LineKey::Other
        }

        fn line_number(&self) -> u64 {
            0
        }
    }

    /// A worker that panicked had taken it out of the inbox, and not looked at it.
    #[test]
    fn whom_a_worker_took_and_did_not_look_at_finds_its_way_back() {
        let rules = LeaseRules::default();
        let desk =
            Desk::<Nothing>::new(Arc::new(MemoryLedger::new()), Time::system(), rules, 10, None);
        let seat = desk.seat(&Account::user("alice").unwrap(), "2026-11".parse().unwrap()).unwrap();
        let inbox = || desk.0.inbox.lock().unwrap().len();
        assert_eq!(inbox(), 1);
        drop(std::mem::take(&mut *desk.0.inbox.lock().unwrap()));
        desk.0.attend(&seat.cell);
        assert_eq!(inbox(), 0, "it is believed to be there");
        desk.0.empty_inbox();
        desk.0.attend(&seat.cell);
        assert_eq!(inbox(), 1);
    }
}
