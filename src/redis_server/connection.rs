//! One multiplexed connection to one server, replaced when it stops answering.
//!
//! The client's own reconnecting manager waits longer than a caller may, and keeps a connection
//! whose other end has silently gone. Here every call has the caller's deadline, and a connection
//! is thrown away after an I/O error, after a replica's refusal to write, or after two calls in a
//! row without an answer. A new one is opened in the background, once for all who wait for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::{BoxFuture, FutureExt, Shared},
    stream::{FuturesUnordered, StreamExt},
};
use redis::{FromRedisValue, RedisError};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    RedisServer,
    fault::{Fault, is_lost, says},
    server::{Door, Link},
};
use crate::clock::until;

/// The schema of keys and values that this version reads and writes.
const SCHEMA: &str = "4";

/// How long opening a connection may take; callers wait no longer than their own deadline.
pub(super) const OPENING: Duration = Duration::from_secs(5);

/// How long one try is waited for before another is made beside it, at first; each time twice as
/// long. What was sent into a hole is not answered when the hole has closed.
const PATIENCE: Duration = Duration::from_millis(250);

/// No longer than this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether the server is still fit to keep money.
pub(super) const LOOKS_AGAIN: Duration = Duration::from_secs(60);

/// After a connection could not be opened, callers are told so without another try for this long.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// No deadline is further away.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Calls in a row without an answer, after which a connection is thrown away.
const SILENCES: u32 = 2;

/// A connection to one server.
pub(crate) struct Connection {
    door: Arc<Door>,
    schema_key: String,
    slot: Arc<Mutex<Slot>>,
}

type Opening = Shared<BoxFuture<'static, Result<Open, Fault>>>;

#[derive(Clone)]
struct Open {
    link: Link,
    silences: Arc<AtomicU32>,
    /// When its server was last looked at.
    checked: Arc<Mutex<Instant>>,
}

#[derive(Default)]
struct Slot {
    /// Counts connections, so that one is thrown away only by those who used it.
    generation: u64,
    opening: Option<Opening>,
    failed: Option<(Instant, Fault)>,
}

impl Connection {
    /// A connection for keys that begin with `prefix`; it is opened by the first call.
    pub(crate) fn new(server: RedisServer, prefix: &str) -> Result<Self, Fault> {
        if prefix.contains(['{', '}']) {
            return Err(Fault::Unfit(
                "the key prefix holds a brace, which would move keys to other slots: leave it out"
                    .to_owned(),
            ));
        }
        Ok(Self {
            door: Arc::new(server.resolve()?),
            schema_key: format!("{prefix}:schema"),
            slot: Arc::default(),
        })
    }

    /// Runs `call` on the connection, opening one where there is none; gives up after `within`.
    pub(crate) async fn run<T, F>(
        &self,
        within: Duration,
        call: impl FnOnce(Link) -> F,
    ) -> Result<T, Fault>
    where
        T: FromRedisValue,
        F: Future<Output = Result<T, RedisError>>,
    {
        let within = within.min(LONGEST);
        let deadline = Instant::now() + within;
        let (generation, opening) = self.opening()?;
        let open = until(deadline, opening).await.ok_or(Fault::Deadline(within))??;
        let asked_at = Instant::now();
        match until(deadline, call(open.link.clone())).await {
            None => {
                // A call that spent its time waiting for the connection says nothing about it.
                let had_time = !within.is_zero() && asked_at.elapsed() >= within / 2;
                if had_time && open.silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES {
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
                open.silences.store(0, Ordering::Relaxed);
                open.watch();
                Ok(answer)
            }
        }
    }

    /// The minute after which the server is looked at has passed.
    #[cfg(test)]
    pub(super) fn look_again(&self) {
        let opening = self.opening().ok().and_then(|(_, opening)| opening.now_or_never());
        let open = opening.and_then(Result::ok).expect("it is open");
        let before = Instant::now().checked_sub(LOOKS_AGAIN).expect("the process is that old");
        *open.checked.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    fn opening(&self) -> Result<(u64, Opening), Fault> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = &slot.opening {
            return Ok((slot.generation, opening.clone()));
        }
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let opening = open(Arc::clone(&self.door), self.schema_key.clone()).boxed().shared();
        let generation = slot.generation;
        slot.opening = Some(opening.clone());
        // On its own task, so that it goes on, and its failure is known, when those who wait for it
        // have given up.
        let (watched, outcome) = (
            Watched { slot: Arc::clone(&self.slot), generation: Some(generation) },
            opening.clone(),
        );
        tokio::spawn(async move {
            let mut watched = watched;
            let outcome = outcome.await;
            watched.generation = None;
            if let Err(fault) = outcome {
                close(&watched.slot, generation, Some(fault));
            }
        });
        Ok((generation, opening))
    }
}

/// A connection that is being opened. If whoever watches it ends first, with its runtime, another
/// one is opened.
struct Watched {
    slot: Arc<Mutex<Slot>>,
    generation: Option<u64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(generation) = self.generation {
            close(&self.slot, generation, None);
        }
    }
}

/// Throws a connection away, where that was not done yet.
fn close(slot: &Mutex<Slot>, generation: u64, failed: Option<Fault>) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.generation == generation {
        slot.generation += 1;
        slot.opening = None;
        slot.failed = failed.map(|fault| (Instant::now(), fault));
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.door).finish_non_exhaustive()
    }
}

/// Opens a connection to a server that is fit to keep money.
async fn open(door: Arc<Door>, schema_key: String) -> Result<Open, Fault> {
    let mut tries = FuturesUnordered::new();
    let mut patience = PATIENCE;
    let opened = timeout(OPENING, async {
        loop {
            tries.push(open_once(&door, &schema_key));
            let next_try = Instant::now() + patience;
            patience = (patience * 2).min(LONGEST_PATIENCE);
            while let Ok(Some(opened)) = timeout_at(next_try, tries.next()).await {
                if opened.is_ok() || tries.is_empty() {
                    return opened;
                }
            }
        }
    });
    opened.await.map_err(|_| Fault::Deadline(OPENING))?
}

async fn open_once(door: &Door, schema_key: &str) -> Result<Open, Fault> {
    let mut link = door.open().await?;
    check_mode(&mut link).await?;
    if let Some(policy) = eviction(&mut link).await? {
        must_not_evict(&policy)?;
    } else {
        tracing::warn!(
            "the Redis server does not tell its maxmemory-policy (CONFIG and INFO are denied): make sure that it is `noeviction`, \
             or balances may be deleted in silence"
        );
    }
    check_schema(&mut link, schema_key).await?;
    Ok(Open { link, silences: Arc::default(), checked: Arc::new(Mutex::new(Instant::now())) })
}

impl Open {
    /// Looks now and then whether the server still keeps what it is given: an operator may set it
    /// to evict while it runs.
    fn watch(&self) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.elapsed() < LOOKS_AGAIN {
            return;
        }
        *checked = Instant::now();
        drop(checked);
        let mut link = self.link.clone();
        tokio::spawn(async move {
            if let Ok(Ok(Some(policy))) = timeout(OPENING, eviction(&mut link)).await
                && let Err(fault) = must_not_evict(&policy)
            {
                tracing::error!(target: "tower_credits", %fault, "balances may be lost");
            }
        });
    }
}

/// A node of a cluster answers for some accounts alone, and a sentinel for none.
async fn check_mode(link: &mut Link) -> Result<(), Fault> {
    let info: Result<String, _> = redis::cmd("INFO").arg("server").query_async(link).await;
    let mode = match &info {
        Ok(info) => info.lines().find_map(|line| {
            line.strip_prefix("redis_mode:")
                .or_else(|| line.strip_prefix("server_mode:"))
                .map(str::trim)
        }),
        Err(error) if error.is_io_error() || error.is_connection_dropped() => {
            return Err(Fault::failed(error.to_string()));
        }
        // Denied, or not known to what stands before the server.
        Err(_) => None,
    };
    let remedy = match mode {
        Some("cluster") => {
            "a node of a Redis Cluster, which has only some of the accounts: use a server that is no cluster"
        }
        Some("sentinel") => {
            "a Redis Sentinel, which keeps no data: use the address of the master that it watches"
        }
        _ => return Ok(()),
    };
    Err(Fault::Unfit(format!("the server is {remedy}")))
}

/// What the server deletes when its memory is full, if it tells.
async fn eviction(link: &mut Link) -> Result<Option<String>, Fault> {
    let config: Result<HashMap<String, String>, _> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(link).await;
    Ok(match config {
        Ok(mut found) => found.remove("maxmemory-policy"),
        // Denied or renamed; whatever else is wrong is no reason to go on without looking.
        Err(error) if !says(&error, "NOPERM") && !says(&error, "unknown") => {
            return Err(error.into());
        }
        Err(_) => {
            let info: Result<String, _> = redis::cmd("INFO").arg("memory").query_async(link).await;
            let line = |info: String| {
                info.lines().find_map(|line| {
                    line.strip_prefix("maxmemory_policy:").map(|policy| policy.trim().to_owned())
                })
            };
            info.ok().and_then(line)
        }
    })
}

/// Balances must not be deleted in silence.
fn must_not_evict(policy: &str) -> Result<(), Fault> {
    if policy == "noeviction" {
        return Ok(());
    }
    Err(Fault::Unfit(format!(
        "the server's maxmemory-policy is `{policy}`, under which it deletes balances in silence when memory is full: \
         set `maxmemory-policy noeviction`"
    )))
}

/// Two versions that read each other's keys differently must not share them.
async fn check_schema(link: &mut Link, key: &str) -> Result<(), Fault> {
    // Read first: a server whose memory is full can still tell.
    let known: Option<String> = redis::cmd("GET").arg(key).query_async(link).await?;
    let found = match known {
        Some(known) => known,
        None => {
            let (_, found): ((), String) = redis::pipe()
                .cmd("SET")
                .arg(key)
                .arg(SCHEMA)
                .arg("NX")
                .cmd("GET")
                .arg(key)
                .query_async(link)
                .await?;
            found
        }
    };
    if found == SCHEMA {
        return Ok(());
    }
    Err(Fault::Unfit(format!(
        "its keys have schema version {found}, and this version of tower-credits reads version {SCHEMA}: use another key prefix, or the \
         version of tower-credits that wrote them"
    )))
}
