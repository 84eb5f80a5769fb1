//! The background task that renews leases.
//!
//! At most one renewal of a lease is under way at a time, and of all leases as many as the
//! [`Breaker`] allows; what is due beyond that waits its turn in the order in which it came.
//! Reports wait a little while requests wait for answers, which would come behind theirs. A cell is
//! in the inbox, in the backlog and among the timers at most once each, so that memory is bounded
//! by the number of accounts.
//!
//! All that matters is in the cells: where the task ends with its runtime, or panics, another takes
//! up the work from there.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
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
    time::{Instant, sleep, sleep_until},
};

use super::{
    breaker::Breaker,
    desk::{Beside, CLOSING, Cell, Duty, GRACE, Inner, OPEN, Shared, Verdict},
    herald::{Answered, Herald},
    lease::Next,
    rules::{A_LITTLE, LeaseRules},
    seat::tell,
};
use crate::{
    Credits, Period,
    clock::until,
    ledger::{Answer, LeaseId, Ledger, LedgerError, Outcome, Renewal},
    observe,
};

/// When to look again at an account that cannot be forgotten yet.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long goodbyes may take at a shutdown, at least: a call's time is needed before them and for
/// them.
const FAREWELL: Duration = Duration::from_secs(1);

/// After a panic, the next try.
const RESTING: Duration = Duration::from_millis(100);

/// How often it is said that an account cannot be renewed, or that the ledger is away.
const LOGGED_AGAIN: Duration = Duration::from_secs(60);

/// The task that renews leases.
pub(crate) struct Worker<B: Beside> {
    shared: Arc<Shared<B>>,
    timers: BTreeMap<(Duration, u64), Arc<Cell<B>>>,
    backlog: VecDeque<Arc<Cell<B>>>,
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Landed<B>> + Send>>>,
    breaker: Breaker,
    is_silent: bool,
    /// How many of those under way somebody waits for.
    awaited: usize,
    /// While closing: the cells that still owe something.
    open: Option<HashSet<u64>>,
    /// Where the host wants to hear of thresholds.
    herald: Option<Herald<B>>,
    /// When it was last said that the ledger is away.
    logged: Option<Duration>,
    /// While closing: nothing is owed, and leases say goodbye.
    farewell: bool,
    /// Nobody else does the work.
    duty: Duty<B>,
}

struct Landed<B: Beside> {
    cell: Arc<Cell<B>>,
    lease: LeaseId,
    seq: u64,
    awaited: bool,
    answer: Result<Answer, LedgerError>,
    took: Duration,
}

impl<B> Worker<B>
where
    B: Beside + Send + Sync + 'static,
{
    /// Takes up the work of a desk, if nobody has it.
    pub(super) fn take_up(shared: Arc<Shared<B>>) -> Option<Self> {
        let duty = Duty::take(Arc::clone(&shared))?;
        let herald = shared.watch.clone().map(Herald::new);
        Some(Self {
            shared,
            timers: BTreeMap::new(),
            backlog: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            breaker: Breaker::new(),
            is_silent: false,
            awaited: 0,
            open: None,
            herald,
            logged: None,
            farewell: false,
            duty,
        })
    }

    /// Works until the keeper is shut down or dropped, and everything is settled. A panic, of a
    /// clock of the host's, say, does not end it.
    pub(crate) async fn run(mut self) {
        let mut give_up = None;
        loop {
            let works = AssertUnwindSafe(async {
                self.begin_anew();
                self.work(&mut give_up).await;
            });
            if works.catch_unwind().await.is_ok() {
                break;
            }
            tracing::error!(target: "tower_credits", "the task that settles panicked: it begins anew");
            sleep(RESTING).await;
        }
        observe::ledger_expected();
        self.shared.done.send_replace(true);
        self.duty.done();
    }

    /// Forgets what was under way, and looks at every account.
    fn begin_anew(&mut self) {
        observe::ledger_expected();
        self.timers.clear();
        self.backlog.clear();
        self.in_flight = FuturesUnordered::new();
        self.awaited = 0;
        // What was taken out of the inbox and not looked at yet must find its way back.
        self.shared.empty_inbox();
        let now = self.shared.now();
        for cell in
            self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect::<Vec<_>>()
        {
            let mut inner = cell.lock();
            (inner.timer, inner.backlogged, inner.told) = (None, false, 0);
            inner.leases_mut().for_each(|lease| lease.abandon(&self.shared.rules, now));
            drop(inner);
            self.shared.attend(&cell);
        }
    }

    async fn work(&mut self, give_up: &mut Option<Instant>) {
        loop {
            self.begin_closing(give_up);
            self.look_around();
            let told_by = self.tell_host();
            let all_told = self.herald.as_ref().is_none_or(Herald::is_done);
            if self.open.as_ref().is_some_and(HashSet::is_empty) && !self.farewell {
                self.begin_farewell(give_up);
                continue;
            }
            if (self.open.as_ref().is_some_and(HashSet::is_empty) && all_told)
                || give_up.is_some_and(|at| Instant::now() >= at)
            {
                return;
            }
            let timer = self
                .timers
                .first_key_value()
                .map(|((at, _), _)| at.saturating_add(self.patience()));
            let next_try = self
                .breaker
                .next_try()
                .filter(|_| !self.backlog.is_empty() && self.in_flight.is_empty());
            let next = [timer, next_try, told_by].into_iter().flatten().min();
            let more = self.shared.looks_at(next);
            let next =
                next.and_then(|at| self.shared.instant(at)).into_iter().chain(*give_up).min();
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
            let cells: Vec<_> =
                self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect();
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

    /// Nobody owes anything any more: the leases say goodbye, which takes no time from those that
    /// owe.
    fn begin_farewell(&mut self, give_up: &mut Option<Instant>) {
        self.farewell = true;
        let at = Instant::now() + FAREWELL.max(2 * self.shared.rules.deadline + 2 * A_LITTLE);
        *give_up = Some(give_up.map_or(at, |give_up| give_up.min(at)));
        let cells: Vec<_> =
            self.shared.cells.iter().map(|entry| Arc::clone(entry.value())).collect();
        self.open = Some(cells.iter().map(|cell| cell.id).collect());
        for cell in &cells {
            self.examine(cell);
        }
    }

    /// Looks at every cell that asked for it, whose time has come, or whose turn it is.
    fn look_around(&mut self) {
        let inbox =
            std::mem::take(&mut *self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner));
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
            self.examine_in_turn(&cell, true);
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

    fn examine(&mut self, cell: &Arc<Cell<B>>) {
        self.examine_in_turn(cell, false);
    }

    /// Does what a cell's leases want to be done, and notes when to look again. While others wait
    /// for their turn, it is this one's only if it was `called`: so that everyone is tried in turn
    /// while the ledger is away.
    fn examine_in_turn(&mut self, cell: &Arc<Cell<B>>, called: bool) {
        let shared = Arc::clone(&self.shared);
        let closing = self.open.is_some();
        let rules = if closing {
            LeaseRules { ahead: None, farewell: self.farewell, ..shared.rules }
        } else {
            shared.rules
        };
        let now = shared.now();
        let mut guard = cell.lock();
        let inner = &mut **guard;
        inner.lease.forget_waiting(oneshot::Sender::is_closed);

        let mut wake_at = Duration::MAX;
        let Inner { lease, retired, terms, said_at, backlogged, .. } = inner;
        if lease.only_inquires() && !self.breaker.is_open() {
            lease.forget_inquiry();
        }
        for lease in std::iter::once(lease).chain(retired) {
            match lease.next(&rules, closing, now) {
                Next::Renew
                    if !(called || self.backlog.is_empty())
                        || !self.breaker.allows(self.in_flight.len(), now) =>
                {
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
                    let terms_at = shared.time.unix_time() - now.saturating_sub(*said_at);
                    let renewal = Renewal { terms_at, ..lease.renew(&rules, *terms, closing, now) };
                    self.in_flight.push(send(
                        Arc::clone(&shared.ledger),
                        rules.deadline,
                        Arc::clone(cell),
                        renewal,
                        awaited,
                    ));
                }
                // A request whose stopwatch stands just before its refill must not keep the worker
                // awake.
                Next::Wait(at) => wake_at = wake_at.min(at.max(now + rules.soon())),
                Next::Gone => {}
            }
        }
        inner.retired.retain(|lease| lease.next(&rules, closing, now) != Next::Gone);
        let mut becomes_remembered = false;
        let mut gone =
            inner.retired.is_empty() && inner.lease.next(&rules, closing, now) == Next::Gone;
        if gone && !closing && !self.is_forgettable(cell, inner) {
            (gone, wake_at) = (false, now + LOOK_AGAIN);
            becomes_remembered = !std::mem::replace(&mut inner.remembered, true);
        }
        if let Some(open) = &mut self.open
            && inner.leases().all(|lease| {
                if self.farewell {
                    lease.has_left()
                } else {
                    lease.owes_nothing() && !lease.is_running()
                }
            })
        {
            open.remove(&cell.id);
        }

        if let Some(timer) = inner.timer.take() {
            self.timers.remove(&(timer, cell.id));
        }
        if gone {
            cell.gone.store(true, Ordering::Release);
            drop(guard);
            shared
                .cells
                .remove_if(&(cell.account.clone(), cell.period), |_, known| known.id == cell.id);
        } else if wake_at < Duration::MAX {
            inner.timer = Some(wake_at);
            drop(guard);
            self.timers.insert((wake_at, cell.id), Arc::clone(cell));
        }
        // Outside of the account's lock, which whoever makes room takes under theirs.
        if becomes_remembered {
            shared.remember(cell);
        }
    }

    /// `true` if nothing is lost with what a node remembers of an account: a request rate that is
    /// used up, an outage allowance that was taken.
    fn is_forgettable(&self, cell: &Cell<B>, inner: &Inner<B>) -> bool {
        if cell.is_gone() {
            return true;
        }
        let month_ended = self.shared.time.unix_time() >= cell.period.ends();
        cell.beside.is_spent(self.shared.now()) && (month_ended || !inner.lease.has_trusted())
    }

    /// Hands an answer to its lease, and what it brought to those who wait.
    fn land(&mut self, landed: Landed<B>) {
        let Landed { cell, lease: id, seq, awaited, answer, took } = landed;
        self.awaited -= usize::from(awaited);
        let (now, rules) = (self.shared.now(), self.shared.rules);
        let outcome =
            answer.as_ref().map_or_else(LedgerError::label, |answer| answer.outcome.label());
        observe::renewed(outcome, took);
        let is_away = matches!(&answer, Err(error) if error.is_outage());
        if is_away {
            self.breaker.failed(cell.id, now);
        } else {
            // It answers, if only that it cannot serve this one.
            self.breaker.answered();
        }
        self.shared.ledger_is_away.store(self.breaker.is_open(), Ordering::Release);
        if std::mem::replace(&mut self.is_silent, self.breaker.is_silent())
            != self.breaker.is_silent()
        {
            observe::ledger_away(self.breaker.is_silent());
        }
        let mut guard = cell.lock();
        let mut logged_of_account = guard.logged;
        let Some(lease) = guard.leases_mut().find(|lease| lease.id() == id) else { return };
        let acknowledged = lease.acknowledged();
        if let Some(woke_at) = self.shared.time.notice() {
            lease.distrust(&rules, woke_at);
        }
        let month = answer.as_ref().ok().map(|answer| Period::containing(answer.now));
        let (mut served, mut elsewhere, mut seen, mut is_full) = (None, Vec::new(), None, false);
        match answer {
            Err(error) => {
                lease.unanswered(&rules, seq, now);
                let waiting = if is_away { Vec::new() } else { lease.dismiss() };
                let logged = if is_away { &mut self.logged } else { &mut logged_of_account };
                if logged.is_none_or(|logged| now >= logged + LOGGED_AGAIN) {
                    *logged = Some(now);
                    tracing::warn!(target: "tower_credits", account = %cell.account, period = %cell.period, %error, "a lease could not be renewed; it is tried again");
                }
                // Nobody needs to wait for what the ledger has said.
                for waiter in waiting {
                    drop(waiter.send(Verdict::Unanswered));
                }
            }
            Ok(answer) => {
                served =
                    Some(lease.answered(&rules, seq, &answer, oneshot::Sender::is_closed, now));
                match answer.outcome {
                    Outcome::Renewed { standing, .. } => {
                        seen = Some(standing);
                        is_full = standing.used == Credits::MAX;
                    }
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
                    Outcome::Erased => {
                        let lost = lease.unreported();
                        tracing::info!(target: "tower_credits", account = %cell.account, period = %cell.period, %lost, "the account was erased: what this node has of it is dropped");
                        for waiter in lease.dismiss() {
                            drop(waiter.send(Verdict::Erased));
                        }
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
        guard.logged = logged_of_account;
        is_full &= !std::mem::replace(&mut guard.full, is_full);
        drop(guard);
        self.shared.settled.fetch_add(settled.as_nano_usd(), Ordering::AcqRel);
        if let Some(served) = served {
            tell(&self.shared, &cell, served, month);
        }
        if is_full {
            tracing::error!(target: "tower_credits", account = %cell.account, period = %cell.period, most = %Credits::MAX,
                "the account's month has reached the largest amount that can be kept: what is used beyond it is not billed");
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
        let renewing = AssertUnwindSafe(async {
            ledger.renew(&cell.account, cell.period, &renewal, deadline).await
        })
        .catch_unwind();
        let answer = match until(sent_at + deadline, renewing).await {
            None => Err(LedgerError::Deadline(deadline)),
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(LedgerError::Unreachable {
                reason: "the ledger's code panicked".into(),
                source: None,
            }),
        };
        Landed {
            cell,
            lease: renewal.lease,
            seq: renewal.seq,
            awaited,
            answer,
            took: sent_at.elapsed(),
        }
    })
}

impl<B: Beside> fmt::Debug for Worker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("timers", &self.timers.len())
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}
