//! [`Renewals`]: the calls that renew leases.
//!
//! A renewal is a call of its own, sent at once, while few are under way. Beyond that, renewals
//! wait until one of those calls ends, and what waits then goes together in one call: a group
//! commit. It takes the server less time for each, and adds a wait only where the server would have
//! let them wait.
//!
//! The first renewal that waited leads such a call: it sends the others' with its own, and hands
//! them their answers. Each has its own deadline and its own error. If the caller of the one that
//! leads goes away, the others are sent again, alone: a renewal that is repeated has no second
//! effect.
//!
//! In a cluster each renewal is a call of its own: a call has keys of one slot, and hardly two
//! accounts of a node share one.

use std::{
    collections::VecDeque,
    iter,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::RedisResult;
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::Renewal,
    call::{self, ToSend},
    schema::Keys,
    script::LoadedScript,
};
use crate::{
    clock::{UnixTime, until},
    redis_server::{Fault, Link, ServerClock, Servers},
};

/// The error that a node's copy of the server's clock may have, beyond a renewal's own deadline.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// Calls under way from which further renewals wait. With an answer after a millisecond, a renewal
/// waits for a quarter of one on average.
const MAX_CALLS: usize = 4;

/// The most renewals of one call. They take the server about half a millisecond, for which other
/// clients wait.
const MAX_TOGETHER: usize = 32;

/// The most arguments of a call of several: the server's Lua takes some thousands at a time.
const MAX_ARGUMENTS: usize = 2_000;

/// The calls that renew leases.
pub(super) struct Renewals {
    one: LoadedScript,
    several: LoadedScript,
    max_lines: usize,
    queue: Arc<Queue>,
    /// The server refuses calls for several accounts.
    refuses_several: AtomicBool,
}

/// The answer to a renewal, as text, and the clock of the server that gave it.
pub(super) type Answered = (String, Arc<ServerClock>);

/// The renewals that wait.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Calls under way: permits that exist.
    calls: usize,
    waiting: VecDeque<Waiting>,
}

/// A renewal that is to be sent.
struct Job {
    keys: Keys,
    renewal: Renewal,
    deadline: Instant,
}

/// A renewal that waits, for somebody to send it.
struct Waiting {
    job: Arc<Job>,
    turn: oneshot::Sender<Turn>,
}

/// What a renewal waited for. It is sent alone if neither comes.
enum Turn {
    /// It is to lead the next call.
    Lead(Permit),
    /// Another one led, and this is the answer.
    Answered(Result<Answered, Fault>),
}

/// A permit for a call. Once it is dropped, the renewal that has waited longest leads the next one.
struct Permit {
    /// None once it was passed on.
    queue: Option<Arc<Queue>>,
}

impl Renewals {
    pub(super) fn new(max_lines: usize) -> Self {
        Self {
            one: LoadedScript::renew(),
            several: LoadedScript::renew_several(),
            max_lines,
            queue: Arc::default(),
            refuses_several: AtomicBool::new(false),
        }
    }

    /// Sends a renewal, and returns the answer to it.
    pub(super) async fn send(
        &self,
        servers: &Servers,
        keys: Keys,
        renewal: &Renewal,
        within: Duration,
    ) -> Result<Answered, Fault> {
        let deadline = Instant::now() + within;
        let job = Arc::new(Job { keys, renewal: renewal.clone(), deadline });
        if !servers.is_one()
            || self.refuses_several.load(Ordering::Relaxed)
            || job.arguments() > MAX_ARGUMENTS / 2
        {
            return self.send_alone(servers, &job).await;
        }
        let turn = match self.queue.enter(&job) {
            Ok(_permit) => return self.send_alone(servers, &job).await,
            Err(turn) => turn,
        };
        match until(deadline, turn).await {
            Some(Ok(Turn::Answered(answer))) => answer,
            Some(Ok(Turn::Lead(_permit))) if job.has_time() => {
                self.lead(servers, &job, within).await
            }
            Some(Err(_)) if job.has_time() => self.send_alone(servers, &job).await,
            Some(_) | None => Err(Fault::Deadline(within)),
        }
    }

    async fn send_alone(&self, servers: &Servers, job: &Job) -> Result<Answered, Fault> {
        let invoke = |link: Link| async move {
            let clock = Arc::clone(link.clock());
            let now = clock.now();
            let ToSend { keys, renewal, not_after } = job.to_send(now);
            let call = |how: (&str, &str)| {
                call::renewal(how, keys, renewal, self.max_lines, now, not_after)
            };
            let answer: String = self.one.call(link, call).await?;
            Ok((answer, clock))
        };
        servers.run(&job.keys.record, job.left(), invoke).await
    }

    /// Sends a renewal together with those that wait, and hands them their answers.
    async fn lead(
        &self,
        servers: &Servers,
        job: &Job,
        within: Duration,
    ) -> Result<Answered, Fault> {
        let is_alone = self.refuses_several.load(Ordering::Relaxed);
        let others = if is_alone { Vec::new() } else { self.queue.take(job) };
        if others.is_empty() {
            return self.send_alone(servers, job).await;
        }
        match servers
            .run(&job.keys.record, job.left(), |link| self.send_all(link, job, &others))
            .await
        {
            Ok((own, answers, clock)) => {
                let answered = |answer| (answer, Arc::clone(&clock));
                for (other, answer) in others.into_iter().zip(answers) {
                    if let Some(answer) = answer {
                        let _ = other.turn.send(Turn::Answered(Ok(answered(answer))));
                    }
                }
                match own {
                    Some(own) => Ok(answered(own)),
                    None => self.send_alone(servers, job).await,
                }
            }
            // The others may have more time.
            Err(Fault::Deadline(_)) => Err(Fault::Deadline(within)),
            Err(fault) if fault.is_about_the_server() => {
                for other in others {
                    let _ = other.turn.send(Turn::Answered(Err(fault.clone())));
                }
                Err(fault)
            }
            Err(fault) => {
                if !self.refuses_several.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        target: "tower_credits",
                        %fault,
                        "the server takes no call for several accounts: each renewal is a call of \
                         its own"
                    );
                }
                drop(others);
                self.send_alone(servers, job).await
            }
        }
    }

    /// Sends a renewal and others in one call. Returns its answer, and theirs; none for those that
    /// are to be sent alone, because they failed.
    async fn send_all(
        &self,
        link: Link,
        job: &Job,
        others: &[Waiting],
    ) -> RedisResult<(Option<String>, Vec<Option<String>>, Arc<ServerClock>)> {
        let clock = Arc::clone(link.clock());
        let now = clock.now();
        // Some may have given up while a connection was opened.
        let are_sent: Vec<bool> =
            others.iter().map(|other| other.job.has_time() && !other.turn.is_closed()).collect();
        let sent = others.iter().zip(&are_sent).filter(|(_, is_sent)| **is_sent);
        let jobs = iter::once(job).chain(sent.map(|(other, _)| &*other.job));
        let renewals: Vec<_> = jobs.map(|job| job.to_send(now)).collect();
        let call = |how: (&str, &str)| call::several(how, &renewals, self.max_lines, now);
        let answers: Vec<String> = self.several.call(link, call).await?;
        let mut answers =
            answers.into_iter().map(|answer| Some(answer).filter(|answer| !answer.is_empty()));
        let mut next = || answers.next().flatten();
        let own = next();
        let of_others = are_sent.into_iter().map(|is_sent| if is_sent { next() } else { None });
        Ok((own, of_others.collect(), clock))
    }
}

impl Job {
    fn arguments(&self) -> usize {
        call::number_of_arguments(&self.renewal)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn has_time(&self) -> bool {
        !self.left().is_zero()
    }

    /// What is sent at `now` by the server's clock.
    fn to_send(&self, now: UnixTime) -> ToSend<'_> {
        let not_after = now + (self.left() + CLOCK_TOLERANCE);
        ToSend { keys: &self.keys, renewal: &self.renewal, not_after }
    }
}

impl Queue {
    /// Returns a permit for a call, or puts the renewal with those that wait.
    fn enter(self: &Arc<Self>, job: &Arc<Job>) -> Result<Permit, oneshot::Receiver<Turn>> {
        let mut state = self.lock();
        if state.calls < MAX_CALLS {
            state.calls += 1;
            return Ok(Permit { queue: Some(Arc::clone(self)) });
        }
        let (turn, receiver) = oneshot::channel();
        state.waiting.push_back(Waiting { job: Arc::clone(job), turn });
        Err(receiver)
    }

    /// Takes the renewals that go together with this one.
    fn take(&self, job: &Job) -> Vec<Waiting> {
        let mut arguments = job.arguments();
        let mut taken = Vec::new();
        let mut state = self.lock();
        while taken.len() < MAX_TOGETHER - 1 {
            let Some(next) = state.waiting.front() else { break };
            arguments += next.job.arguments();
            if arguments > MAX_ARGUMENTS {
                break;
            }
            // Others have given up.
            taken.extend(state.waiting.pop_front().filter(|next| !next.turn.is_closed()));
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        loop {
            let mut state = queue.lock();
            let Some(next) = state.waiting.pop_front() else {
                state.calls -= 1;
                return;
            };
            drop(state);
            let permit = Self { queue: Some(Arc::clone(&queue)) };
            match next.turn.send(Turn::Lead(permit)) {
                // Its caller is gone.
                Err(Turn::Lead(mut permit)) => permit.queue = None,
                Err(Turn::Answered(_)) | Ok(()) => return,
            }
        }
    }
}
