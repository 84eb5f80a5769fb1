//! The background task that renews leases.
//!
//! At most one renewal of a lease is under way at a time, and of all leases as many as the [`Breaker`] allows; what is due beyond that waits its
//! turn in the order in which it came. Reports wait a little while requests wait for answers, which would come behind theirs. A cell is in the inbox, in the backlog and among the timers at most once each, so that memory is bounded by the
//! number of accounts.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    future::FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

use super::{
    breaker::Breaker,
    desk::{Beside, CLOSING, Cell, Desk, Inner, OPEN, ORPHANED, Shared, Verdict},
    herald::{Answered, Herald, Watch},
    lease::{Lease, Next, Served},
    rules::LeaseRules,
    seat::tell,
};
use crate::{
    Account, Credits, Period,
    clock::{Time, until},
    ledger::{Answer, LeaseId, Ledger, LedgerError, Outcome, Renewal},
    observe,
};

/// When to look again at an account that cannot be forgotten yet.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a shutdown tries to settle.
const GRACE: Duration = Duration::from_secs(5);

/// The handle of a [`Worker`]. When the last one is dropped, the worker settles what is left and ends.
pub(crate) struct Keeper<B: Beside> {
    shared: Arc<Shared<B>>,
}

/// The task that renews leases.
pub(crate) struct Worker<B: Beside> {
    shared: Arc<Shared<B>>,
    timers: BTreeMap<(Duration, u64), Arc<Cell<B>>>,
    backlog: VecDeque<Arc<Cell<B>>>,
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Landed<B>> + Send>>>,
    breaker: Breaker,
    /// How many of those under way somebody waits for.
    awaited: usize,
    /// While closing: the cells that still owe something.
    open: Option<HashSet<u64>>,
    /// Where the host wants to hear of thresholds.
    herald: Option<Herald<B>>,
}

struct Landed<B: Beside> {
    cell: Arc<Cell<B>>,
    lease: LeaseId,
    seq: u64,
    awaited: bool,
    answer: Result<Answer, LedgerError>,
    took: Duration,
}

/// What a shutdown settled, and what it could not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// All that this node settled in its life.
    pub settled: Credits,
    /// What the ledger did not acknowledge: it may or may not have been debited.
    pub unsettled: Vec<Unsettled>,
}

/// What one account could not be debited for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsettled {
    /// Whose.
    pub account: Account,
    /// Of which month.
    pub period: Period,
    /// How much.
    pub amount: Credits,
}

impl<B> Keeper<B>
where
    B: Beside + Send + Sync + 'static,
{
    /// A keeper, the desk it serves, and the task that does its work; nothing is spawned.
    pub(crate) fn pair(
        ledger: Arc<dyn Ledger>,
        time: Time,
        rules: LeaseRules,
        most_accounts: usize,
        watch: Option<Watch>,
    ) -> (Self, Desk<B>, Worker<B>) {
        let desk = Desk::new(ledger, time, rules, most_accounts);
        let shared = Arc::clone(&desk.0);
        let worker = Worker {
            shared: Arc::clone(&shared),
            timers: BTreeMap::new(),
            backlog: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            breaker: Breaker::new(),
            awaited: 0,
            open: None,
            herald: watch.map(Herald::new),
        };
        (Self { shared }, desk, worker)
    }

    /// Admits nobody any more, ends what runs at what it used so far, and waits until all is settled, five seconds at most.
    pub(crate) async fn shutdown(&self) -> Settlement {
        let mut done = self.shared.done.subscribe();
        self.shared.phase.store(CLOSING, Ordering::Release);
        self.shared.wake.notify_one();
        // Where the worker is not run, its part is missing below.
        let _ = timeout(GRACE + self.shared.rules.deadline, done.wait_for(|done| *done)).await;

        let mut unsettled = Vec::new();
        for cell in self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect::<Vec<_>>() {
            let mut inner = cell.lock();
            let settled = inner.leases_mut().flat_map(Lease::give_up).collect();
            let amount = inner.leases().fold(Credits::ZERO, |sum, lease| sum.saturating_add(lease.unreported()));
            if !amount.is_zero() {
                unsettled.push(Unsettled { account: cell.account.clone(), period: cell.period, amount });
            }
            drop(inner);
            tell(&self.shared, &cell, Served { settled, ..Served::nobody() });
        }
        Settlement { settled: Credits::clamped(self.shared.settled.load(Ordering::Acquire)), unsettled }
    }
}

impl<B: Beside> Drop for Keeper<B> {
    fn drop(&mut self) {
        let _ = self.shared.phase.compare_exchange(OPEN, ORPHANED, Ordering::AcqRel, Ordering::Acquire);
        self.shared.wake.notify_one();
    }
}

impl<B> Worker<B>
where
    B: Beside + Send + Sync + 'static,
{
    /// Works until the keeper is shut down or dropped, and everything is settled.
    pub(crate) async fn run(mut self) {
        let mut give_up = None;
        observe::ledger_expected();
        loop {
            self.begin_closing(&mut give_up);
            self.look_around();
            let told_by = self.tell_host();
            let all_told = self.herald.as_ref().is_none_or(Herald::is_done);
            if (self.open.as_ref().is_some_and(HashSet::is_empty) && all_told) || give_up.is_some_and(|at| Instant::now() >= at) {
                break;
            }
            let timer = self.timers.first_key_value().map(|((at, _), _)| at.saturating_add(self.patience()));
            let next_try = self.breaker.next_try().filter(|_| !self.backlog.is_empty() && self.in_flight.is_empty());
            let next = [timer, next_try, told_by].into_iter().flatten().min();
            let more = self.shared.looks_at(next);
            let next = next.and_then(|at| self.shared.instant(at)).into_iter().chain(give_up).min();
            tokio::select! {
                Some(landed) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.land(landed);
                    // What landed with it, and no more: others must have their turn.
                    for _ in 0..self.in_flight.len() {
                        let Some(landed) = self.in_flight.next().now_or_never().flatten() else { break };
                        self.land(landed);
                    }
                    // Those who were told go on before the next renewals are composed.
                    tokio::task::yield_now().await;
                }
                answered = answered(&mut self.herald) => {
                    let now = self.shared.now();
                    self.herald.iter_mut().zip(Some(answered)).for_each(|(herald, answered)| herald.land(answered, now));
                }
                () = std::future::ready(()), if more => {}
                () = self.shared.wake.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        observe::ledger_expected();
        self.shared.done.send_replace(true);
    }

    fn begin_closing(&mut self, give_up: &mut Option<Instant>) {
        let phase = self.shared.phase.load(Ordering::Acquire);
        if phase == OPEN {
            return;
        }
        if phase == CLOSING && give_up.is_none() {
            *give_up = Some(Instant::now() + GRACE);
            self.open = None;
        }
        if self.open.is_none() {
            let cells: Vec<_> = self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect();
            self.open = Some(cells.iter().map(|cell| cell.id).collect());
            for cell in &cells {
                if phase == CLOSING {
                    let now = self.shared.now();
                    let mut inner = cell.lock();
                    inner.lease.end_all(now);
                    drop(inner.lease.dismiss());
                }
                self.examine(cell);
            }
        }
    }

    /// Looks at every cell that asked for it, whose time has come, or whose turn it is.
    fn look_around(&mut self) {
        let inbox = std::mem::take(&mut *self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        for cell in inbox {
            cell.queued.store(false, Ordering::Release);
            self.examine(&cell);
        }
        let now = self.shared.now();
        let due = now.saturating_sub(self.patience());
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= due) {
            let cell = first.remove();
            cell.lock().timer = None;
            self.examine(&cell);
        }
        while self.breaker.allows(self.in_flight.len(), now)
            && let Some(cell) = self.backlog.pop_front()
        {
            cell.lock().backlogged = false;
            self.examine(&cell);
        }
    }

    /// Claims what thresholds were reached; answers when to come again.
    fn tell_host(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        self.herald.as_mut()?.claim(&self.shared.ledger, now)
    }

    /// How long what nobody waits for is put off.
    fn patience(&self) -> Duration {
        if self.awaited == 0 { Duration::ZERO } else { self.shared.rules.soon() }
    }

    /// Does what a cell's leases want to be done, and notes when to look again.
    fn examine(&mut self, cell: &Arc<Cell<B>>) {
        let shared = Arc::clone(&self.shared);
        let closing = self.open.is_some();
        let rules = if closing { LeaseRules { ahead: None, ..shared.rules } } else { shared.rules };
        let now = shared.now();
        let mut guard = cell.lock();
        let inner = &mut **guard;
        inner.lease.forget_waiting(oneshot::Sender::is_closed);

        let mut wake_at = Duration::MAX;
        let Inner { lease, retired, terms, said_at, backlogged, .. } = inner;
        for lease in std::iter::once(lease).chain(retired) {
            match lease.next(&rules, closing, now) {
                Next::Renew if !self.breaker.allows(self.in_flight.len(), now) => {
                    if self.breaker.is_open() {
                        // Nobody needs to wait for an answer to learn that.
                        lease.deny_due(now);
                    }
                    if !std::mem::replace(backlogged, true) {
                        self.backlog.push_back(Arc::clone(cell));
                    }
                    wake_at = Duration::MAX;
                    break;
                }
                Next::Renew => {
                    let awaited = lease.is_waited_for();
                    self.awaited += usize::from(awaited);
                    let said = Duration::from_secs(shared.time.unix_time().saturating_sub(now.saturating_sub(*said_at)).as_secs());
                    let renewal = Renewal { said, ..lease.renew(&rules, *terms, now) };
                    self.in_flight.push(send(Arc::clone(&shared.ledger), rules.deadline, Arc::clone(cell), renewal, awaited));
                }
                // A request whose stopwatch stands just before its refill must not keep the worker awake.
                Next::Wait(at) => wake_at = wake_at.min(at.max(now + rules.soon())),
                Next::Gone => {}
            }
        }
        inner.retired.retain(|lease| lease.next(&rules, closing, now) != Next::Gone);
        let mut gone = inner.retired.is_empty() && inner.lease.next(&rules, closing, now) == Next::Gone;
        if gone && !closing && !self.is_forgettable(cell, inner) {
            (gone, wake_at) = (false, now + LOOK_AGAIN);
        }
        if let Some(open) = &mut self.open
            && inner.leases().all(|lease| lease.is_settled() && !lease.is_running())
        {
            open.remove(&cell.id);
        }

        if let Some(timer) = inner.timer.take() {
            self.timers.remove(&(timer, cell.id));
        }
        if gone {
            cell.gone.store(true, Ordering::Release);
            drop(guard);
            shared.cells.remove_if(&(cell.account.clone(), cell.period), |_, known| known.id == cell.id);
        } else if wake_at < Duration::MAX {
            inner.timer = Some(wake_at);
            self.timers.insert((wake_at, cell.id), Arc::clone(cell));
        }
    }

    /// Whether nothing is lost with what a node remembers of an account: a request rate that is used up, an outage allowance that was taken.
    fn is_forgettable(&self, cell: &Cell<B>, inner: &Inner<B>) -> bool {
        let month_ended = self.shared.time.unix_time() >= cell.period.ends();
        cell.beside.is_spent(self.shared.now()) && (month_ended || !inner.lease.has_trusted())
    }

    /// Hands an answer to its lease, and what it brought to those who wait.
    fn land(&mut self, landed: Landed<B>) {
        let Landed { cell, lease: id, seq, awaited, answer, took } = landed;
        self.awaited -= usize::from(awaited);
        let (now, rules) = (self.shared.now(), self.shared.rules);
        observe::renewed(&answer, took);
        match &answer {
            Err(LedgerError::Deadline(_) | LedgerError::Unreachable { .. } | LedgerError::Unfit(_)) => self.breaker.failed(now),
            // It answers, if only that it refuses this one.
            Ok(_) | Err(_) => self.breaker.answered(),
        }
        if self.shared.ledger_is_away.swap(self.breaker.is_open(), Ordering::AcqRel) != self.breaker.is_open() {
            observe::ledger_away(self.breaker.is_open());
        }
        let mut guard = cell.lock();
        let Some(lease) = guard.leases_mut().find(|lease| lease.id() == id) else { return };
        let acknowledged = lease.acknowledged();
        let (mut served, mut elsewhere, mut seen) = (None, Vec::new(), None);
        match answer {
            Err(error) => {
                lease.unanswered(&rules, seq, now);
                tracing::warn!(target: "tower_credits", account = %cell.account, period = %cell.period, %error, "a lease could not be renewed; it is tried again");
            }
            Ok(answer) => {
                served = Some(lease.answered(&rules, seq, &answer, oneshot::Sender::is_closed, now));
                match answer.outcome {
                    Outcome::Renewed { standing, .. } => seen = Some(standing),
                    Outcome::Forgotten | Outcome::Late => {}
                    Outcome::Superseded => {
                        tracing::error!(target: "tower_credits", account = %cell.account, lease = %id, "a lease was superseded: its name was used twice; it goes on under a new one");
                        if let Ok(id) = LeaseId::random() {
                            lease.rename(id);
                        }
                    }
                    Outcome::NotBegun => {
                        tracing::warn!(target: "tower_credits", period = %cell.period, "this node's clock is ahead of the ledger's: the month has not begun there");
                        elsewhere = lease.dismiss();
                    }
                    Outcome::Closed => {
                        let lost = lease.unreported();
                        tracing::error!(target: "tower_credits", account = %cell.account, period = %cell.period, %lost, "the month ended too long ago to settle in");
                        elsewhere = lease.dismiss();
                    }
                }
                for waiter in elsewhere {
                    drop(waiter.send(Verdict::Elsewhere(Period::containing(answer.now))));
                }
            }
        }
        let settled = lease.acknowledged().saturating_sub(acknowledged);
        if let (Some(herald), Some(standing)) = (&mut self.herald, seen) {
            herald.look(&cell, &mut guard.told, &standing, now);
        }
        drop(guard);
        self.shared.settled.fetch_add(settled.as_nano_usd(), Ordering::AcqRel);
        if let Some(served) = served {
            tell(&self.shared, &cell, served);
        }
        self.examine(&cell);
    }
}

/// The next claim that was answered; never, where the host wants to hear nothing.
async fn answered<B>(herald: &mut Option<Herald<B>>) -> Answered<B>
where
    B: Beside + Send + Sync + 'static,
{
    match herald {
        Some(herald) => herald.answered().await,
        None => std::future::pending().await,
    }
}

fn send<B>(
    ledger: Arc<dyn Ledger>,
    deadline: Duration,
    cell: Arc<Cell<B>>,
    renewal: Renewal,
    awaited: bool,
) -> Pin<Box<dyn Future<Output = Landed<B>> + Send>>
where
    B: Beside + Send + Sync + 'static,
{
    Box::pin(async move {
        let sent_at = Instant::now();
        let renewing = until(sent_at + deadline, ledger.renew(&cell.account, cell.period, &renewal, deadline));
        let answer = renewing.await.unwrap_or(Err(LedgerError::Deadline(deadline)));
        Landed { cell, lease: renewal.lease, seq: renewal.seq, awaited, answer, took: sent_at.elapsed() }
    })
}

impl<B: Beside> fmt::Debug for Keeper<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("accounts", &self.shared.cells.len()).finish_non_exhaustive()
    }
}

impl<B: Beside> fmt::Debug for Worker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("timers", &self.timers.len()).field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}
