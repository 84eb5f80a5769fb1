//! The way of a call to the server that has its key.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::{Instant, sleep};

use super::{
    super::{fault::Fault, link::Link},
    state::{Cluster, Schema, Server},
    topology::{Address, SharedTopology, redirected, slot_of},
};
use crate::clock::until;

/// Redirections that are followed at once. Then there is a pause before each.
const AT_ONCE: u32 = 2;

/// The first and the longest pause of a call that waits for a slot to have moved.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The most keys that are tried to find one that a server has.
const MAX_TRIED_KEYS: u32 = 100_000;

/// The shard of accounts whose slot no server has.
const NOWHERE: u64 = u64::MAX;

/// Redirection in a server's error.
enum Redirection {
    Moved(Address),
    Ask(Address),
    /// A slot is moving with some of an account's keys.
    TryAgain,
}

impl Cluster {
    /// Opens the connections to all servers. Servers that cannot be reached are logged, unless that
    /// is all of them.
    pub(crate) async fn open(&self, within: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + within;
        let topology = self.topology(deadline, within).await?;
        let opened = join_all(topology.masters().iter().map(async |server| {
            let left = deadline.saturating_duration_since(Instant::now());
            (server, server.0.connection.open(left).await)
        }));
        let (mut open, mut failed) = (0, Vec::new());
        for (server, opened) in opened.await {
            match opened {
                Ok(()) => open += 1,
                Err(fault @ Fault::Unfit(_)) => return Err(fault),
                Err(fault) => failed.push((server, fault)),
            }
        }
        if open == 0
            && let Some((_, fault)) = failed.pop()
        {
            return Err(fault);
        }
        for (server, fault) in failed {
            tracing::warn!(
                target: "tower_credits", %server, %fault,
                "a server of the Redis Cluster cannot be reached: its accounts are served once it \
                 can"
            );
        }
        Ok(())
    }

    /// Checks that all slots have a server, and that all servers answer.
    pub(crate) async fn check(&self, within: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + within;
        let topology = self.topology(deadline, within).await?;
        self.fit()?;
        let asked = join_all(topology.masters().iter().map(async |server| {
            let left = deadline.saturating_duration_since(Instant::now());
            // A key of one of its slots.
            let is_its = |key: &String| {
                topology.owner(slot_of(key)).is_some_and(|owner| owner.0.id == server.0.id)
            };
            let key = (0..MAX_TRIED_KEYS).map(|n| format!("{}:{n}", self.0.check_key)).find(is_its);
            (
                server,
                match key {
                    Some(key) => server.0.connection.check(&key, left).await,
                    None => server.0.connection.open(left).await,
                },
            )
        }));
        for (server, answer) in asked.await {
            if let Err(fault) = answer {
                self.read_soon();
                return Err(fault.of(server));
            }
        }
        match topology.uncovered() {
            None => Ok(()),
            Some(slot) => Err(nobody_has(slot)),
        }
    }

    /// Returns the server that has a key: a number, the same for keys on the same server.
    pub(crate) fn shard(&self, key: &str) -> u64 {
        match &*self.0.topology.load() {
            Some(topology) => topology.owner(slot_of(key)).map_or(NOWHERE, |server| server.0.id),
            None => 0,
        }
    }

    /// Returns all servers that have slots, and the version of the topology that says so.
    pub(crate) async fn masters(&self, within: Duration) -> Result<(Vec<Server>, u64), Fault> {
        let topology = self.topology(Instant::now() + within, within).await?;
        Ok((topology.masters().to_vec(), topology.version()))
    }

    /// Reads the topology, and returns its version.
    pub(crate) async fn read_version(&self, within: Duration) -> Result<u64, Fault> {
        let deadline = Instant::now() + within;
        until(deadline, self.read()).await.ok_or(Fault::Deadline(within))??;
        Ok(self.topology(deadline, within).await?.version())
    }

    /// Runs `call` on the server that has `key`. It ends after `within`. `call` is run again if the
    /// server did nothing but name another one.
    pub(crate) async fn run<T, F>(
        &self,
        key: &str,
        within: Duration,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let slot = slot_of(key);
        let deadline = Instant::now() + within;
        let mut server = self.owner(slot, deadline, within).await?;
        self.fit()?;
        let (mut asks, mut redirections, mut pause) = (false, 0, PAUSES.0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let on = |link: Link| call(if asks { link.asking() } else { link });
            let fault = match server.0.connection.run(left, on).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let Some(redirection) = Redirection::of(&fault, &server.0.address) else {
                if fault.is_about_the_server() {
                    self.read_soon();
                }
                // The deadline is the caller's, not what redirections left of it.
                return Err(if let Fault::Deadline(_) = fault {
                    Fault::Deadline(within)
                } else {
                    fault
                });
            };
            redirections += 1;
            if redirections > AT_ONCE || matches!(redirection, Redirection::TryAgain) {
                let waited = until(deadline, sleep(pause)).await;
                pause = (pause * 2).min(PAUSES.1);
                if waited.is_none() || Instant::now() >= deadline {
                    return Err(fault);
                }
            }
            (server, asks) = match redirection {
                Redirection::Moved(address) => (self.moved(slot, &address), false),
                Redirection::Ask(address) => (self.server(&address), true),
                // It may have moved as a whole meanwhile.
                Redirection::TryAgain => (self.owner(slot, deadline, within).await?, false),
            };
        }
    }

    /// Returns the server that has a slot.
    async fn owner(&self, slot: u16, deadline: Instant, within: Duration) -> Result<Server, Fault> {
        let topology = self.topology(deadline, within).await?;
        topology.owner(slot).cloned().ok_or_else(|| {
            self.read_soon();
            nobody_has(slot)
        })
    }

    /// Returns the topology, and reads it if it is not known.
    async fn topology(
        &self,
        deadline: Instant,
        within: Duration,
    ) -> Result<SharedTopology<Server>, Fault> {
        if let Some(topology) = self.0.topology.load_full() {
            return Ok(topology);
        }
        until(deadline, self.read()).await.ok_or(Fault::Deadline(within))??;
        let none = || Fault::failed("the Redis Cluster has no servers".to_owned());
        self.0.topology.load_full().ok_or_else(none)
    }

    /// `Ok` unless the keys are known to have another schema. That is looked at again: somebody may
    /// have mended it.
    fn fit(&self) -> Result<(), Fault> {
        let known = self.0.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Schema::Unfit(fault) => {
                self.read_soon();
                Err(fault)
            }
            Schema::Unknown | Schema::Fit => Ok(()),
        }
    }

    /// Takes note that a slot has moved, and returns the server that has it now.
    fn moved(&self, slot: u16, address: &Address) -> Server {
        let server = self.server(address);
        self.0.topology.rcu(|topology| {
            topology.as_ref().map(|topology| {
                let is_it = |known: &Server| known.0.id == server.0.id;
                Arc::new(topology.moved(slot, is_it, &server))
            })
        });
        // Other slots have moved, too, if a failover is the reason.
        self.read_soon();
        server
    }
}

fn nobody_has(slot: u16) -> Fault {
    Fault::failed(format!("no server of the Redis Cluster has slot {slot}"))
}

impl Redirection {
    fn of(fault: &Fault, from: &Address) -> Option<Self> {
        let Fault::Failed { source: Some(error), .. } = fault else { return None };
        let to = || redirected(error.redirect_node()?.0, from);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(Self::Moved(to()?)),
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Self::Ask(to()?)),
            ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Self::TryAgain),
            _ => None,
        }
    }
}
