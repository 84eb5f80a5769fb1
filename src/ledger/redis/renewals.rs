//! [`Renewals`]: the calls that renew leases.
//!
//! A renewal is a call of its own, sent at once, while few are under way. Beyond that, renewals
//! wait until one of those calls ends, there are enough of them, or a millisecond has passed. Those
//! that wait go together in one call, which takes the server less time for each: a group commit. A
//! task sends it, so no renewal depends on the caller of another. Each has its own deadline and its
//! own error.
//!
//! Only a call to one server that has all accounts can be for several. A cluster has none, a proxy
//! may stand before several servers, and a connection of the host may lead anywhere: there each
//! renewal is a call of its own.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::{RedisResult, Value};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    super::{Answer, LedgerError, Renewal},
    call::{self, ToSend},
    schema::Keys,
    script::LoadedScript,
};
use crate::{
    clock::{UnixTime, until},
    redis_server::{Fault, Link, Servers, concerns_one_account, says},
};

/// The error that a node's copy of the server's clock may have, beyond a renewal's own deadline.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// Calls under way from which further renewals wait.
const MAX_CALLS: usize = 4;

/// The time after which a renewal that waits is sent; timers are up to a millisecond late.
const MAX_WAIT: Duration = Duration::from_millis(1);

/// The most that renewals of one call weigh, as so many plain ones. Plain ones take the server
/// about half a millisecond, for which its other clients wait. Others take some times that: only
/// the script sees whether an account has purchased credits.
const MAX_WEIGHT: usize = 32;

/// The weight of a renewal that is not plain.
const WHOLE_WEIGHT: usize = 4;

/// Calls in a row that were refused, after which none is for several.
const MAX_REFUSED: u32 = 3;

/// The lines that weigh as much as a plain renewal.
const LINES_OF_ONE: usize = 4;

/// The calls that renew leases. Clones share them.
#[derive(Clone)]
pub(super) struct Renewals {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Arc<Servers>,
    one: LoadedScript,
    several: LoadedScript,
    max_lines: usize,
    queue: Mutex<Queue>,
    /// Calls for several in a row that the server refused as a whole.
    refused: AtomicU32,
}

/// The renewals that wait for the next call.
#[derive(Default)]
struct Queue {
    /// Calls under way.
    calls: usize,
    waiting: Vec<Waiting>,
    weight: usize,
    /// The number of the call that they wait for.
    number: u64,
}

/// A renewal that is to be sent.
struct Job {
    keys: Keys,
    renewal: Renewal,
    within: Duration,
    deadline: Instant,
}

/// A renewal that waits, and the way to its caller. If no answer comes, the caller sends it.
struct Waiting {
    job: Arc<Job>,
    answer: oneshot::Sender<Result<Answer, LedgerError>>,
}

/// A call that counts as being under way. Once it has ended, those that wait have their turn.
struct Turn {
    renewals: Renewals,
}

/// The place of a renewal in the queue.
enum Place {
    /// It goes at once.
    First(Turn),
    /// It waits for the call of this number.
    Behind(u64, oneshot::Receiver<Result<Answer, LedgerError>>),
}

impl Renewals {
    pub(super) fn new(servers: Arc<Servers>, max_lines: usize) -> Self {
        let inner = Inner {
            servers,
            one: LoadedScript::renew(),
            several: LoadedScript::renew_several(),
            max_lines,
            queue: Mutex::default(),
            refused: AtomicU32::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sends a renewal, and returns the answer to it.
    pub(super) async fn send(
        &self,
        keys: Keys,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answer, LedgerError> {
        let deadline = Instant::now() + within;
        let job = Arc::new(Job { keys, renewal: renewal.clone(), within, deadline });
        if !self.sends_several() || job.weight() >= MAX_WEIGHT {
            return self.send_alone(&job).await;
        }
        let (number, mut answer) = match self.enter(&job) {
            Place::First(_turn) => return self.send_alone(&job).await,
            Place::Behind(number, answer) => (number, answer),
        };
        let sent_by = deadline.min(Instant::now() + MAX_WAIT);
        let answered = match timeout_at(sent_by, &mut answer).await {
            Ok(answered) => Some(answered),
            Err(_) => {
                self.send_waiting(number);
                until(deadline, answer).await
            }
        };
        match answered {
            Some(Ok(answered)) => answered,
            Some(Err(_)) if !job.left().is_zero() => self.send_alone(&job).await,
            Some(Err(_)) | None => Err(LedgerError::Deadline(within)),
        }
    }

    fn sends_several(&self) -> bool {
        self.inner.servers.is_one() && self.inner.refused.load(Ordering::Relaxed) < MAX_REFUSED
    }

    async fn send_alone(&self, job: &Job) -> Result<Answer, LedgerError> {
        let Inner { servers, one, max_lines, .. } = &*self.inner;
        let invoke = |link: Link| async move {
            let clock = Arc::clone(link.clock());
            let now = clock.now();
            let ToSend { keys, renewal, not_after } = job.to_send(now);
            let call =
                |how: (&str, &str)| call::renewal(how, keys, renewal, *max_lines, now, not_after);
            let answer: String = one.call(link, call).await?;
            let answer = call::read_answer(&answer);
            if let Ok(answer) = &answer {
                clock.set(answer.now);
            }
            Ok(answer)
        };
        match servers.run(&job.keys.record, job.left(), invoke).await {
            Ok(answer) => answer,
            Err(fault) => Err(job.failed(fault)),
        }
    }

    /// Sends renewals in one call, and hands their callers the answers.
    async fn send_together(&self, waiting: Vec<Waiting>) {
        let Some(last) = waiting.iter().max_by_key(|waiting| waiting.job.deadline) else { return };
        let (key, left) = (&last.job.keys.record, last.job.left());
        let invoke = |link| self.call_several(link, &waiting);
        match self.inner.servers.run(key, left, invoke).await {
            Ok(answers) => {
                // Once none goes together any more, it stays so: this one was under way before.
                let _ = self.inner.refused.fetch_update(
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                    |refused| (refused < MAX_REFUSED).then_some(0),
                );
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    if let Some(answer) = answer {
                        let _ = waiting.answer.send(answer);
                    }
                }
            }
            // It may be the fault of one of them, or of sending several.
            Err(Fault::Failed { reason, source: Some(error) })
                if concerns_one_account(&error) || says(&error, "NOPERM") =>
            {
                let by = if says(&error, "CROSSSLOT") {
                    MAX_REFUSED
                } else {
                    // A right that is missing for an account says nothing of groups.
                    u32::from(!says(&error, "NOPERM"))
                };
                let before = self.inner.refused.fetch_add(by, Ordering::Relaxed);
                if before < MAX_REFUSED && before + by >= MAX_REFUSED {
                    tracing::warn!(
                        target: "tower_credits",
                        reason,
                        "the server takes no call for several accounts: each renewal is a call of \
                         its own"
                    );
                }
            }
            Err(fault) => {
                for Waiting { job, answer } in waiting {
                    let _ = answer.send(Err(job.failed(fault.clone())));
                }
            }
        }
    }

    /// Calls the script with the renewals that somebody still waits for. Returns their answers, and
    /// none of the others.
    async fn call_several(
        &self,
        link: Link,
        waiting: &[Waiting],
    ) -> RedisResult<Vec<Option<Result<Answer, LedgerError>>>> {
        let Inner { several, max_lines, .. } = &*self.inner;
        if !link.is_to_standalone() {
            return Ok(Vec::new());
        }
        let clock = Arc::clone(link.clock());
        let now = clock.now();
        let are_sent: Vec<bool> = waiting.iter().map(Waiting::is_waited_for).collect();
        let sent = waiting.iter().zip(&are_sent).filter(|(_, is_sent)| **is_sent);
        let renewals: Vec<_> = sent.map(|(waiting, _)| waiting.job.to_send(now)).collect();
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        let call = |how: (&str, &str)| call::several(how, &renewals, *max_lines, now);
        let answers: Vec<Value> = match several.call_with_errors(link, call).await? {
            Value::Array(answers) => answers,
            other => redis::from_redis_value(other)?,
        };
        let mut answers = answers.into_iter().map(|answer| {
            let answer: RedisResult<String> =
                answer.extract_error().and_then(|answer| Ok(redis::from_redis_value(answer)?));
            match answer {
                Ok(answer) => call::read_answer(&answer),
                Err(error) => Err(Fault::from(error).into()),
            }
        });
        let read: Vec<_> = are_sent
            .into_iter()
            .map(|is_sent| if is_sent { answers.next() } else { None })
            .collect();
        if let Some(answer) = read.iter().flatten().rev().find_map(|read| read.as_ref().ok()) {
            clock.set(answer.now);
        }
        Ok(read)
    }

    /// Lets a renewal go, or puts it with those that wait.
    fn enter(&self, job: &Arc<Job>) -> Place {
        let mut queue = self.queue();
        if queue.calls < MAX_CALLS && queue.waiting.is_empty() {
            return Place::First(self.begin(&mut queue));
        }
        if queue.weight + job.weight() > MAX_WEIGHT {
            self.send_all(queue);
            queue = self.queue();
        }
        let (answer, receiver) = oneshot::channel();
        queue.weight += job.weight();
        queue.waiting.push(Waiting { job: Arc::clone(job), answer });
        let number = queue.number;
        if queue.weight >= MAX_WEIGHT {
            self.send_all(queue);
        }
        Place::Behind(number, receiver)
    }

    /// Sends those that wait for a call, if it has not begun.
    fn send_waiting(&self, number: u64) {
        let queue = self.queue();
        if queue.number == number {
            self.send_all(queue);
        }
    }

    /// Sends all that wait, if there is a runtime.
    fn send_all(&self, mut queue: MutexGuard<'_, Queue>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (waiting, turn) = (queue.take(), self.begin(&mut queue));
        // A runtime that ends drops a task at once.
        drop(queue);
        runtime.spawn(async move {
            turn.renewals.send_together(waiting).await;
        });
    }

    fn begin(&self, queue: &mut Queue) -> Turn {
        queue.calls += 1;
        Turn { renewals: self.clone() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.renewals.queue();
        queue.calls -= 1;
        if !queue.waiting.is_empty() {
            self.renewals.send_all(queue);
        }
    }
}

impl Queue {
    /// Takes all that wait.
    fn take(&mut self) -> Vec<Waiting> {
        self.number += 1;
        self.weight = 0;
        mem::take(&mut self.waiting)
    }
}

impl Waiting {
    fn is_waited_for(&self) -> bool {
        !self.answer.is_closed() && !self.job.left().is_zero()
    }
}

impl Job {
    fn weight(&self) -> usize {
        let one = if call::is_plain(&self.renewal) { 1 } else { WHOLE_WEIGHT };
        one + self.renewal.lines.len() / LINES_OF_ONE
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns the renewal as it is sent at `now` by the server's clock.
    fn to_send(&self, now: UnixTime) -> ToSend<'_> {
        let end = self.deadline + CLOCK_TOLERANCE;
        let not_after = now + end.saturating_duration_since(Instant::now());
        ToSend { keys: &self.keys, renewal: &self.renewal, not_after }
    }

    /// The error of a call that failed.
    fn failed(&self, fault: Fault) -> LedgerError {
        match fault {
            Fault::Deadline(_) if self.left().is_zero() => LedgerError::Deadline(self.within),
            fault => fault.into(),
        }
    }
}
