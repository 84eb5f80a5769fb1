//! One multiplexed connection to one server, replaced when it stops answering.
//!
//! The client's own `ConnectionManager` waits longer than a caller may, and does not replace a
//! connection whose other end has silently gone. Here each call has the caller's deadline. A
//! connection is closed after an I/O error, after a replica's refusal to write, or after two calls
//! in a row without an answer. A new one is opened in the background, once for all callers that
//! wait for it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::{BoxFuture, FutureExt, Shared},
    stream::{FuturesUnordered, StreamExt},
};
use redis::RedisError;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    checks::{Mode, check_mode, check_schema, eviction_policy, must_not_evict},
    connector::Connector,
    fault::{Fault, is_lost},
    link::{Link, Socket},
    server_clock::{ServerClock, server_time},
};
use crate::clock::until;

/// Time in which a connection must be open. Callers wait no longer than their own deadline.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after which a second try to open a connection starts in parallel with the first. It doubles
/// with each try. A try whose packets were lost in a network failure is not answered after it.
const FIRST_TRY_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum time between two tries.
const MAX_TRY_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the server's eviction policy is checked.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Time after a failure to open a connection in which callers get that failure without another try.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Maximum time for a call.
const MAX_CALL_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Calls in a row without an answer after which a connection is closed.
const MAX_UNANSWERED: u32 = 2;

/// A connection to one server.
pub(crate) struct Connection {
    connector: Arc<Connector>,
    role: Role,
    slot: Arc<Mutex<Slot>>,
    /// The server that was connected to last has said that it is one by itself.
    is_to_standalone: Arc<AtomicBool>,
}

/// Role of a server for this node.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// It has all data. This key says which schema its data has.
    Whole { schema_key: String },
    /// It is one server of a cluster.
    NodeOfCluster,
}

type Opening = Shared<BoxFuture<'static, Result<Open, Fault>>>;

#[derive(Clone)]
struct Open {
    link: Link,
    /// Calls in a row without an answer.
    unanswered: Arc<AtomicU32>,
    /// Last check of the server.
    checked: Arc<Mutex<Instant>>,
}

#[derive(Default)]
struct Slot {
    /// Counts connections, so that a caller closes only the one that it used.
    generation: u64,
    opening: Option<Opening>,
    failed: Option<(Instant, Fault)>,
}

impl Connection {
    /// Returns a connection. The first call opens it.
    pub(super) fn new(connector: Connector, role: Role) -> Self {
        Self {
            connector: Arc::new(connector),
            role,
            slot: Arc::default(),
            is_to_standalone: Arc::default(),
        }
    }

    /// `true` if the last one was [to one server by itself](Link::is_to_standalone); `false` before
    /// it is open.
    pub(super) fn is_to_standalone(&self) -> bool {
        self.is_to_standalone.load(Ordering::Relaxed)
    }

    /// Opens the connection if there is none.
    pub(super) async fn open(&self, within: Duration) -> Result<(), Fault> {
        self.run(within, |_| std::future::ready(Ok(()))).await
    }

    /// Checks that the server writes: a key that is gone a second later.
    pub(super) async fn check(&self, key: &str, within: Duration) -> Result<(), Fault> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(1).arg("PX").arg(1_000);
        let set = &set;
        self.run(within, |mut link| async move { set.exec_async(&mut link).await }).await
    }

    /// Runs `call` on the connection, and opens one if there is none. It ends after `within`.
    pub(crate) async fn run<T, F>(
        &self,
        within: Duration,
        call: impl FnOnce(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let within = within.min(MAX_CALL_TIMEOUT);
        let deadline = Instant::now() + within;
        let (generation, opening) = self.opening()?;
        let open = until(deadline, opening).await.ok_or(Fault::Deadline(within))??;
        let called_at = Instant::now();
        match until(deadline, call(open.link.clone())).await {
            None => {
                // A call that spent most of its time waiting for the connection does not count.
                let had_time = !within.is_zero() && called_at.elapsed() >= within / 2;
                if had_time && open.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_UNANSWERED
                {
                    close(&self.slot, generation, None);
                }
                Err(Fault::Deadline(within))
            }
            Some(Err(error)) => {
                if is_lost(&error) {
                    close(&self.slot, generation, None);
                }
                Err(error.into())
            }
            Some(Ok(answer)) => {
                open.unanswered.store(0, Ordering::Relaxed);
                open.check_again();
                Ok(answer)
            }
        }
    }

    /// Makes the next call check the server, as if [`CHECK_INTERVAL`] had passed.
    #[cfg(test)]
    pub(super) fn make_check_due(&self) {
        let opening = self.opening().ok().and_then(|(_, opening)| opening.now_or_never());
        let open = opening.and_then(Result::ok).expect("it is open");
        let before = Instant::now().checked_sub(CHECK_INTERVAL).expect("the process is that old");
        *open.checked.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    fn opening(&self) -> Result<(u64, Opening), Fault> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = &slot.opening {
            return Ok((slot.generation, opening.clone()));
        }
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < RETRY_PAUSE
        {
            return Err(error.clone());
        }
        let (connector, role) = (Arc::clone(&self.connector), self.role.clone());
        let is_to_standalone = Arc::clone(&self.is_to_standalone);
        let opening = async move {
            let open = open(connector, role).await?;
            is_to_standalone.store(open.link.is_to_standalone(), Ordering::Relaxed);
            Ok(open)
        };
        let opening = opening.boxed().shared();
        let generation = slot.generation;
        slot.opening = Some(opening.clone());
        // A runtime that ends drops a task at once, and its guard with it, which locks the slot.
        drop(slot);
        // On a task of its own, so that it continues when its callers have given up, and its
        // failure becomes known.
        let (guard, outcome) = (
            OpeningGuard { slot: Arc::clone(&self.slot), generation: Some(generation) },
            opening.clone(),
        );
        tokio::spawn(async move {
            let mut guard = guard;
            let outcome = outcome.await;
            guard.generation = None;
            if let Err(fault) = outcome {
                close(&guard.slot, generation, Some(fault));
            }
        });
        Ok((generation, opening))
    }
}

/// Guard of a connection that is being opened. If its task is dropped, with its runtime, the next
/// call opens another connection.
struct OpeningGuard {
    slot: Arc<Mutex<Slot>>,
    generation: Option<u64>,
}

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        if let Some(generation) = self.generation {
            close(&self.slot, generation, None);
        }
    }
}

/// Closes a connection, unless that was done already.
fn close(slot: &Mutex<Slot>, generation: u64, failed: Option<Fault>) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.generation == generation {
        slot.generation += 1;
        slot.opening = None;
        slot.failed = failed.map(|fault| (Instant::now(), fault));
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connector.fmt(f)
    }
}

/// Opens a connection to a server that is fit for storing balances.
async fn open(connector: Arc<Connector>, role: Role) -> Result<Open, Fault> {
    let mut tries = FuturesUnordered::new();
    let mut interval = FIRST_TRY_INTERVAL;
    let opened = timeout(OPEN_TIMEOUT, async {
        loop {
            tries.push(open_once(&connector, &role));
            let next_try = Instant::now() + interval;
            interval = (interval * 2).min(MAX_TRY_INTERVAL);
            while let Ok(Some(opened)) = timeout_at(next_try, tries.next()).await {
                if opened.is_ok() || tries.is_empty() {
                    return opened;
                }
            }
        }
    });
    opened.await.map_err(|_| Fault::Deadline(OPEN_TIMEOUT))?
}

async fn open_once(connector: &Connector, role: &Role) -> Result<Open, Fault> {
    let mut link = match connector.open().await {
        // What is wrong with the settings is not the server's.
        Err(fault @ Fault::Failed { .. }) => return Err(fault.of(connector)),
        opened => opened?,
    };
    let expected = match role {
        Role::Whole { .. } => Mode::Standalone,
        Role::NodeOfCluster => Mode::Cluster,
    };
    // A connection of the host may lead to several servers, of which one answers.
    let is_to_standalone = check_mode(&mut link, expected).await? == Some(Mode::Standalone)
        && matches!(link, Socket::Own(_));
    if let Some(policy) = eviction_policy(&mut link).await? {
        must_not_evict(&policy)?;
    } else {
        tracing::warn!(
            target: "tower_credits",
            "the maxmemory-policy of the Redis server cannot be checked (CONFIG and INFO are \
             denied): make sure that it is `noeviction`, or the server may delete balances"
        );
    }
    if let Role::Whole { schema_key } = role {
        check_schema(&mut link, schema_key).await?;
    }
    let time = redis::cmd("TIME").query_async(&mut link).await?;
    let clock = Arc::new(ServerClock::new(server_time(time)));
    let link = Link::new(link, clock, is_to_standalone);
    let checked = Arc::new(Mutex::new(Instant::now()));
    Ok(Open { link, unanswered: Arc::default(), checked })
}

impl Open {
    /// Checks the eviction policy every [`CHECK_INTERVAL`]: an operator may change it at any time.
    fn check_again(&self) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        *checked = Instant::now();
        drop(checked);
        let mut link = self.link.clone();
        tokio::spawn(async move {
            if let Ok(Ok(Some(policy))) = timeout(OPEN_TIMEOUT, eviction_policy(&mut link)).await
                && let Err(fault) = must_not_evict(&policy)
            {
                tracing::error!(target: "tower_credits", %fault, "balances may be lost");
            }
        });
    }
}
