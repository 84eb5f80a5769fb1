//! The background task that renews leases.
//!
//! Of each lease at most one renewal is under way at a time, and of all leases of a server as many
//! as its breaker allows; what is due beyond that waits for its turn in the order in which it came.
//! Reports wait a little while requests wait for answers, which would come behind theirs.
//!
//! All state that matters is in the account entries: if the task ends with its runtime, or panics,
//! another one goes on from there.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::FutureExt;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

use super::{
    answer::{Effect, apply},
    calls::{Calls, Landed},
    ended::record_running,
    entry::{AccountEntry, EntryState},
    handle::{AccountHandle, deliver},
    notifier::{Answered, ThresholdNotifier},
    phase::{Phase, SHUTDOWN_TIMEOUT},
    schedule::Schedule,
    shards::Shards,
    table::{AccountTable, WorkerPermit},
};
use crate::{
    lease::{Lease, LeaseRules, MAX_RENEWAL_DELAY, Next},
    ledger::Renewal,
};

/// Interval at which an entry that cannot be removed yet is examined.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(60);

/// The least time limit for closing all leases at a shutdown. It fits two calls, the total once
/// more and the goodbye, and the time between them in which an older renewal may still act.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which closing gives up a lease that the ledger does not answer.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

/// Time between a panic and the next try.
const PAUSE_AFTER_PANIC: Duration = Duration::from_millis(100);

/// The most entries of each kind (asked for, due, deferred) that are examined before others have
/// their turn: a hundred thousand that are due at once would keep a thread from requests for a
/// tenth of a second.
const MAX_EXAMINED: usize = 128;

/// The task that renews leases.
pub(crate) struct Worker {
    table: Arc<AccountTable>,
    /// Entries that were in the inbox and have yet to be examined.
    mail: VecDeque<Arc<AccountEntry>>,
    schedule: Schedule,
    shards: Shards,
    calls: Calls,
    /// If the host has a hook for thresholds.
    notifier: Option<ThresholdNotifier>,
    ending: Option<Ending>,
    permit: WorkerPermit,
}

/// The worker's last steps, once nobody can ask for credits any more.
struct Ending {
    /// Entries that have yet to finish this step.
    open: HashSet<u64>,
    step: Step,
    began_at: Instant,
    /// Moment at which it stops, whatever is open.
    gives_up_at: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Requests end on their own, and everything is settled.
    Drain,
    /// Requests were ended, and everything is settled.
    Settle,
    /// Leases are closed.
    CloseLeases,
}

impl Worker {
    /// Takes the work of a table up, unless another worker has it or it is done.
    pub(super) fn take_up(table: Arc<AccountTable>) -> Option<Self> {
        let permit = WorkerPermit::take(Arc::clone(&table))?;
        let notifier = table.hook.clone().map(ThresholdNotifier::new);
        Some(Self {
            table,
            mail: VecDeque::new(),
            schedule: Schedule::default(),
            shards: Shards::default(),
            calls: Calls::new(),
            notifier,
            ending: None,
            permit,
        })
    }

    /// Works until the keeper is shut down or dropped, and everything is settled. A panic, for
    /// instance of the host's clock, does not end it.
    pub(crate) async fn run(mut self) {
        self.table.records.spawn();
        loop {
            let works = AssertUnwindSafe(async {
                self.start();
                self.work().await;
            });
            if works.catch_unwind().await.is_ok() {
                break;
            }
            tracing::error!(
                target: "tower_credits",
                "the task that settles panicked: it starts again"
            );
            sleep(PAUSE_AFTER_PANIC).await;
        }
        self.calls.abandon();
        self.table.away.clear();
        if self.table.phase.get() == Phase::Orphaned {
            // Nobody else does.
            self.table.records.close();
        }
        self.table.done.send_replace(true);
        self.permit.done();
    }

    /// Forgets what was under way, and has every account examined.
    fn start(&mut self) {
        self.schedule.clear();
        self.shards.clear_backlogs();
        self.shards.abandon();
        self.calls.abandon();
        // What a panic left there, or in hand, is attended to below.
        drop(self.table.inbox.take());
        self.mail.clear();
        let now = self.table.now();
        for entry in self.table.entries() {
            let mut state = entry.lock();
            (state.timer, state.is_in_backlog) = (None, false);
            state.examined();
            state.forget_thresholds();
            state.leases_mut().for_each(|lease| lease.abandon_in_flight(&self.table.rules, now));
            drop(state);
            self.table.attend(&entry);
        }
    }

    async fn work(&mut self) {
        loop {
            self.follow_phase();
            let is_more_due = self.examine_due();
            let now = self.table.now();
            let next_claim =
                self.notifier.as_mut().and_then(|notifier| notifier.claim(&self.table.ledger, now));
            if let Some(ending) = &self.ending {
                let is_finished = ending.open.is_empty();
                if is_finished && ending.step != Step::CloseLeases {
                    self.close_leases();
                    continue;
                }
                let is_notified = self.notifier.as_ref().is_none_or(ThresholdNotifier::is_done);
                if (is_finished && is_notified)
                    || ending.gives_up_at.is_some_and(|at| Instant::now() >= at)
                {
                    return;
                }
            }
            if is_more_due {
                self.land_come();
                if let Some(answered) = claim_answered(&mut self.notifier).now_or_never() {
                    self.land_claim(answered);
                }
                tokio::task::yield_now().await;
            } else {
                self.wait(next_claim).await;
            }
        }
    }

    /// Waits until there is something to do, and takes note of answers that have come.
    async fn wait(&mut self, next_claim: Option<Duration>) {
        let timer = self.schedule.next_timer().map(|at| at.saturating_add(self.report_delay()));
        let next = [timer, self.shards.next_try(), next_claim].into_iter().flatten().min();
        let has_mail = self.table.inbox.set_next_read(next);
        let gives_up_at = self.ending.as_ref().and_then(|ending| ending.gives_up_at);
        let next = next.and_then(|at| self.table.instant(at)).into_iter().chain(gives_up_at).min();
        tokio::select! {
            Some(landed) = self.calls.next() => {
                self.land(landed);
                self.land_come();
                // Requests that have their answers go on before the next renewals are composed.
                tokio::task::yield_now().await;
            }
            answered = claim_answered(&mut self.notifier) => self.land_claim(answered),
            () = std::future::ready(()), if has_mail => {}
            () = self.table.inbox.woken() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }

    /// Takes note of the answer to a claim of a threshold.
    fn land_claim(&mut self, answered: Answered) {
        let now = self.table.now();
        if let Some(notifier) = &mut self.notifier {
            notifier.land(answered, now);
        }
    }

    /// Takes note of the answers that have come, and no more: others must have their turn.
    fn land_come(&mut self) {
        for _ in 0..self.calls.len() {
            let Some(landed) = self.calls.next_now() else { break };
            self.land(landed);
        }
    }

    /// Begins to end once the keeper is shut down or dropped.
    fn follow_phase(&mut self) {
        let step = match self.table.phase.get() {
            Phase::Open => return,
            Phase::Orphaned => Step::Drain,
            Phase::Closing => Step::Settle,
        };
        let is_bounded = |ending: &Ending| ending.gives_up_at.is_some();
        if self.ending.as_ref().is_some_and(|ending| step == Step::Drain || is_bounded(ending)) {
            return;
        }
        let entries = self.table.entries();
        self.ending = Some(Ending {
            open: entries.iter().map(|entry| entry.id).collect(),
            step,
            began_at: Instant::now(),
            gives_up_at: (step == Step::Settle).then(|| Instant::now() + SHUTDOWN_TIMEOUT),
        });
        for entry in &entries {
            if step == Step::Settle {
                let now = self.table.now();
                let mut state = entry.lock();
                state.lease.end_all(now);
                drop(state.lease.drain_queue());
            }
            self.examine(entry);
        }
    }

    /// Closes all leases, now that nothing is owed: that takes no time from those that owe.
    fn close_leases(&mut self) {
        let timeout = CLOSING_TIMEOUT.max(3 * self.table.rules.deadline + 2 * MAX_RENEWAL_DELAY);
        let began_at = Instant::now();
        let at = began_at + timeout;
        let entries = self.table.entries();
        let before = self.ending.as_ref().and_then(|ending| ending.gives_up_at);
        self.ending = Some(Ending {
            open: entries.iter().map(|entry| entry.id).collect(),
            step: Step::CloseLeases,
            began_at,
            gives_up_at: Some(before.map_or(at, |before| before.min(at))),
        });
        for entry in &entries {
            // The ledger may be there again, and holds can only be given back now.
            entry.lock().leases_mut().for_each(Lease::forget_failures);
            self.examine(entry);
        }
    }

    /// Examines entries that asked for it, whose time has come, or whose turn it is. Returns `true`
    /// if there are more than others should wait for.
    fn examine_due(&mut self) -> bool {
        if self.mail.is_empty() {
            // Only then: what is in the inbox is there once, however often it is asked for.
            self.mail.extend(self.table.inbox.take());
        }
        let now = self.table.now();
        let due = now.saturating_sub(self.report_delay());
        // One of each, so that none of them waits until the others are empty.
        for _ in 0..MAX_EXAMINED {
            let (asked, due) = (self.mail.pop_front(), self.schedule.pop_due(due));
            let is_last = asked.is_none() && due.is_none();
            asked.into_iter().chain(due).for_each(|entry| self.examine(&entry));
            let turn = self.shards.pop_backlog(now);
            if is_last && turn.is_none() {
                return false;
            }
            turn.into_iter().for_each(|entry| self.examine_in_turn(&entry, true));
        }
        true
    }

    /// Returns by how much renewals that no request waits for are delayed.
    fn report_delay(&self) -> Duration {
        if self.calls.are_awaited() { self.table.rules.batching_delay() } else { Duration::ZERO }
    }

    fn examine(&mut self, entry: &Arc<AccountEntry>) {
        self.examine_in_turn(entry, false);
    }

    /// Renews an entry's leases if they are due, and notes when to examine it again. While others
    /// wait for their turn to call its server, this one calls only if `is_its_turn`: so all are
    /// tried in turn while the server is away.
    fn examine_in_turn(&mut self, entry: &Arc<AccountEntry>, is_its_turn: bool) {
        let table = Arc::clone(&self.table);
        let step = self.ending.as_ref().map(|ending| ending.step);
        let is_ending = step.is_some();
        if is_ending {
            record_running(&table, entry);
        }
        let rules = if is_ending {
            let farewell = step == Some(Step::CloseLeases);
            LeaseRules { ahead: None, farewell, ..table.rules }
        } else {
            table.rules
        };
        let now = table.now();
        let shard = table.ledger.shard(&entry.scope.account);
        let mut guard = entry.lock();
        let state = &mut **guard;
        // Who asked for an examination later than now need not ask again.
        let asked_by = state.examined().filter(|at| *at > now);
        state.lease.remove_waiting(oneshot::Sender::is_closed);
        if state.lease.only_probes() && !self.shards.get(shard).is_open() {
            state.lease.cancel_probe();
        }
        let mut next = self.renew_due((entry, shard), state, &rules, is_its_turn, now);
        next = asked_by.map_or(next, |at| at.min(next));

        state.retain_retired(|lease| lease.next(&rules, is_ending, now) != Next::Gone);
        let mut becomes_dormant = false;
        let mut is_gone =
            !state.has_retired() && state.lease.next(&rules, is_ending, now) == Next::Gone;
        if is_gone && !is_ending && !table.is_removable(entry, state) {
            (is_gone, next) = (false, now + REMOVAL_INTERVAL);
            becomes_dormant = !std::mem::replace(&mut state.is_dormant, true);
        }
        if let Some(ending) = &mut self.ending
            && state.leases().all(|lease| match ending.step {
                Step::Drain | Step::Settle => lease.owes_nothing() && !lease.is_running(),
                Step::CloseLeases => {
                    let is_late = ending.began_at.elapsed() >= CLOSING_PATIENCE;
                    lease.is_closed() || (is_late && lease.has_failed())
                }
            })
        {
            ending.open.remove(&entry.id);
        }

        self.schedule.cancel(entry, state);
        if is_gone {
            entry.set_removed(state);
            table.note_in_journal(entry, state);
            drop(guard);
            table.remove(entry);
        } else if next < Duration::MAX {
            state.timer = Some(next.into());
            drop(guard);
            self.schedule.set(entry, next);
        } else {
            drop(guard);
        }
        // Without the account's lock: a thread that makes room takes that while it holds the list.
        if becomes_dormant {
            table.add_dormant(entry);
        }
    }

    /// Sends the renewals that an entry's leases want to send, or puts the entry into the backlog.
    /// Returns when to examine it again.
    fn renew_due(
        &mut self,
        (entry, shard): (&Arc<AccountEntry>, u64),
        state: &mut EntryState,
        rules: &LeaseRules,
        is_its_turn: bool,
        now: Duration,
    ) -> Duration {
        let is_ending = self.ending.is_some();
        let terms_at = state.terms_at;
        let (leases, stated) = state.leases_and_terms();
        let (mut next, mut leaves_journal, mut is_deferred) = (Duration::MAX, false, false);
        for lease in leases {
            match lease.next(rules, is_ending, now) {
                Next::Renew
                    if (!is_its_turn && self.shards.get(shard).has_backlog())
                        || !self.shards.get(shard).allows(now) =>
                {
                    if self.shards.get(shard).is_open() {
                        // No request needs to wait to learn that its server is away.
                        lease.deny_unanswered(now);
                    }
                    (next, is_deferred) = (Duration::MAX, true);
                    break;
                }
                Next::Renew => {
                    let is_awaited = lease.has_waiting();
                    let terms_at = terms_at.unix(now, self.table.time.unix_time());
                    let renewal = Renewal {
                        terms_at,
                        most_per_day: stated.most_per_day,
                        parts: Arc::clone(&stated.parts),
                        ..lease.renew(rules, stated.terms, is_ending, now)
                    };
                    self.shards.get(shard).sent();
                    self.calls.send(
                        Arc::clone(&self.table.ledger),
                        rules.deadline,
                        (Arc::clone(entry), shard),
                        renewal,
                        is_awaited,
                    );
                }
                Next::LeaveJournal => {
                    lease.leave_journal();
                    leaves_journal = true;
                }
                // A request whose stopwatch stands just before its refill must not keep the worker
                // awake.
                Next::Wait(at) => next = next.min(at.max(now + rules.batching_delay())),
                Next::Gone => {}
            }
        }
        if is_deferred {
            self.shards.get(shard).defer(entry, &mut state.is_in_backlog);
        }
        if leaves_journal {
            self.table.note_in_journal(entry, state);
        }
        next
    }

    /// Hands an answer to its lease, and to the requests that wait for it.
    fn land(&mut self, landed: Landed) {
        let now = self.table.now();
        for replaced in self.shards.remove_replaced(now) {
            self.table.away.set(replaced, false);
        }
        self.calls.count(&landed, &mut self.shards, now);
        if !landed.is_outage() {
            let answered_at = self.table.time.unix_time().as_millis();
            self.table.last_answer.store(answered_at, Ordering::Release);
        }
        let shard = self.shards.get(landed.shard);
        self.table.away.set(landed.shard, shard.is_open());
        let Some(effect) = apply(&self.table, &landed, &mut shard.outage_logged_at, now) else {
            return;
        };
        effect.log_full(&landed.entry);
        let Effect { served, month, settled, standing, .. } = effect;
        let entry = landed.entry;
        if let (Some(notifier), Some((standing, months))) = (&mut self.notifier, standing) {
            let mut state = entry.lock();
            let parts = Arc::clone(&state.stated.parts);
            let (lease, seen) = state.lease_and_thresholds();
            let next = notifier.check(&entry, seen, (&standing, &months), &parts, now);
            lease.note_threshold(next);
        }
        self.table.settled.fetch_add(settled.as_nano_usd(), Ordering::AcqRel);
        let handle = AccountHandle { table: Arc::clone(&self.table), entry };
        deliver(&handle, served, month);
        self.examine(&handle.entry);
    }
}

/// Returns the next claim that was answered; never, if there is no notifier.
async fn claim_answered(notifier: &mut Option<ThresholdNotifier>) -> Answered {
    match notifier {
        Some(notifier) => notifier.answered().await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("timers", &self.schedule.timers())
            .field("in_flight", &self.calls.len())
            .finish_non_exhaustive()
    }
}
