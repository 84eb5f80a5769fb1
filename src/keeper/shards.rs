//! The servers behind the ledger. Each has a breaker of its own, its calls under way, and the
//! accounts that wait for their turn to call it: one that does not answer keeps nobody waiting who
//! has nothing to do with it.
//!
//! Most ledgers have one, number 0. There are never more than the ledger has named.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{breaker::Breaker, entry::AccountEntry};
use crate::observe;

/// Time after which a server that did not answer is forgotten if nobody calls it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The servers behind the ledger, by number.
#[derive(Default)]
pub(super) struct Shards(BTreeMap<u64, Shard>);

/// A server behind the ledger.
pub(super) struct Shard {
    breaker: Breaker,
    /// Calls under way.
    in_flight: usize,
    /// Entries that wait for their turn to call it. Each is in one backlog at most, so memory is
    /// bounded by the number of accounts.
    backlog: VecDeque<Arc<AccountEntry>>,
    /// Last log line about its outage.
    pub(super) outage_logged_at: Option<Duration>,
    /// Last call of it that landed.
    landed_at: Duration,
}

impl Shards {
    /// Returns a server.
    pub(super) fn get(&mut self, shard: u64) -> &mut Shard {
        self.0.entry(shard).or_insert_with(|| Shard {
            breaker: Breaker::new(),
            in_flight: 0,
            backlog: VecDeque::new(),
            outage_logged_at: None,
            landed_at: Duration::ZERO,
        })
    }

    /// Forgets who waits.
    pub(super) fn clear_backlogs(&mut self) {
        self.0.values_mut().for_each(|shard| shard.backlog.clear());
    }

    /// Forgets the calls under way.
    pub(super) fn abandon(&mut self) {
        self.0.values_mut().for_each(|shard| shard.in_flight = 0);
    }

    /// Takes an entry whose turn it is.
    pub(super) fn pop_backlog(&mut self, now: Duration) -> Option<Arc<AccountEntry>> {
        let mut allowed = self.0.values_mut().filter(|shard| shard.allows(now));
        let entry = allowed.find_map(|shard| shard.backlog.pop_front())?;
        entry.lock().is_in_backlog = false;
        Some(entry)
    }

    /// Returns the moment of the next try of a server that does not answer, for which somebody
    /// waits and no call is under way.
    pub(super) fn next_try(&self) -> Option<Duration> {
        let due = self.0.values().filter(|shard| shard.in_flight == 0 && shard.has_backlog());
        due.filter_map(|shard| shard.breaker.next_try()).min()
    }

    /// Removes servers that nobody calls any more, though they did not answer: a failover has
    /// replaced them. Returns their numbers.
    pub(super) fn remove_replaced(&mut self, now: Duration) -> Vec<u64> {
        let mut replaced = Vec::new();
        self.0.retain(|number, shard| {
            let is_idle = shard.in_flight == 0 && !shard.has_backlog();
            let is_late = now > shard.landed_at + FORGOTTEN_AFTER;
            if shard.breaker.is_silent() && is_idle && is_late {
                replaced.push(*number);
                return false;
            }
            true
        });
        replaced
    }

    /// `true` if a server has not answered for a while, even if only one account called it.
    pub(super) fn is_one_silent(&self) -> bool {
        self.0.values().any(|shard| shard.breaker.is_silent())
    }
}

impl Shard {
    /// `true` if another call may be made.
    pub(super) fn allows(&self, now: Duration) -> bool {
        self.breaker.allows(self.in_flight, now)
    }

    /// `true` if it does not answer: no request needs to wait to learn that.
    pub(super) const fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Counts a call that is made.
    pub(super) const fn sent(&mut self) {
        self.in_flight += 1;
    }

    /// Counts a call of this account that landed. `true` if there was an answer, even if it does
    /// not serve the account.
    pub(super) fn landed(&mut self, account: u64, is_answered: bool, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.landed_at = now;
        if is_answered {
            self.breaker.answered();
        } else {
            self.breaker.failed(account, now);
        }
    }

    /// Puts an entry at the end of the backlog, unless it is in one.
    pub(super) fn defer(&mut self, entry: &Arc<AccountEntry>, is_in_backlog: &mut bool) {
        if !std::mem::replace(is_in_backlog, true) {
            self.backlog.push_back(Arc::clone(entry));
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }
}

/// The servers that do not answer, for requests to read.
#[derive(Default)]
pub(super) struct AwayShards {
    /// Number of them, so that requests take no lock while all answer.
    number: AtomicUsize,
    shards: Mutex<HashSet<u64>>,
}

impl AwayShards {
    /// Sets whether a server is away.
    pub(super) fn set(&self, shard: u64, is_away: bool) {
        if !is_away && self.number.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = if is_away { shards.insert(shard) } else { shards.remove(&shard) };
        self.number.store(shards.len(), Ordering::Release);
        drop(shards);
        if is_news {
            observe::breaker(shard, is_away);
        }
    }

    /// Takes all for servers that answer: nobody finds out any more.
    pub(super) fn clear(&self) {
        let away = std::mem::take(&mut *self.shards.lock().unwrap_or_else(PoisonError::into_inner));
        self.number.store(0, Ordering::Release);
        away.into_iter().for_each(|shard| observe::breaker(shard, false));
    }

    /// `true` if one is away.
    pub(super) fn is_any(&self) -> bool {
        self.number.load(Ordering::Acquire) > 0
    }

    /// `true` if this one is away.
    pub(super) fn contains(&self, shard: u64) -> bool {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }
}

/// Its meter is gone.
impl Drop for AwayShards {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_that_does_not_answer_says_nothing_of_the_others() {
        let mut shards = Shards::default();
        for account in 0..3 {
            shards.get(1).sent();
            shards.get(1).landed(account, false, s(1));
        }
        assert!(shards.get(1).is_open() && !shards.get(1).allows(s(1)));
        assert!(!shards.get(2).is_open() && shards.get(2).allows(s(1)));
        shards.get(2).sent();
        shards.get(2).landed(7, true, s(1));
        assert!(shards.get(1).is_open(), "another one's answer is not its own");
        let away = AwayShards::default();
        away.set(1, true);
        assert!(away.is_any() && away.contains(1) && !away.contains(2));
        away.set(1, false);
        assert!(!away.is_any());
    }

    #[test]
    fn one_that_a_failover_replaced_is_forgotten() {
        let mut shards = Shards::default();
        (0..3).for_each(|account| shards.get(1).landed(account, false, s(1)));
        shards.get(2).landed(1, true, s(1));
        assert!(shards.is_one_silent() && shards.remove_replaced(s(11)).is_empty());
        assert_eq!(shards.remove_replaced(s(12)), [1]);
        assert!(!shards.is_one_silent());
    }
}
