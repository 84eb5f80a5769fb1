//! (15) The share that a lease has of the requests that may run at the same time over all nodes.
//!
//! A renewal says how many requests run on the lease and how many wait, and asks for up to twice as
//! many as lately ran, where that is little of what is left. What is not asked for again is given
//! up as it is sent. A share lapses long before the ledger gives it to others.

use std::{num::NonZeroU32, time::Duration};

use super::rules::LeaseRules;
use crate::ledger::{Concurrency, ConcurrencyRequest, SHARE_LIFETIME};

/// Asked for ahead is at most one part in this many of what is left.
const AHEAD_DIVISOR: u32 = 4;

/// The time for which it counts how many ran, in units of [`LeaseRules::report_soon`].
const WINDOW: u32 = 5;

/// The share of a lease.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct ConcurrencyPool {
    /// The limit of the last request that has one.
    most: Option<NonZeroU32>,
    /// So many requests may run until `admit_until`.
    share: u32,
    admit_until: Duration,
    /// The most that ran since `since`, and in the window before that.
    peak: u32,
    before: u32,
    since: Duration,
    /// Rest of the limit, by the ledger's last answer.
    left: u32,
    /// The last renewal that asked for a share was sent then.
    asked_at: Option<Duration>,
    /// `true` if the last renewal that asked for a share asked for requests that wait.
    asks_for_waiting: bool,
}

impl ConcurrencyPool {
    /// Notes the limit of a request that comes.
    pub(super) fn set_limit(&mut self, most: NonZeroU32) {
        self.most = Some(most);
        self.share = self.share.min(most.get());
    }

    /// Returns `true` if one more request may begin than those that are `running`.
    pub(super) fn has_room(&self, most: NonZeroU32, running: usize, now: Duration) -> bool {
        count(running) < self.share.min(most.get()) && now < self.admit_until
    }

    /// Returns `true` if it has room that its requests do not use: others may lack it.
    pub(super) fn is_unused(&self, running: usize) -> bool {
        self.most.is_some() && count(running) < self.share
    }

    /// Notes that so many requests run.
    pub(super) fn note_running(&mut self, running: usize) {
        self.peak = self.peak.max(count(running));
    }

    /// Returns `true` if the ledger was asked for requests that wait.
    pub(super) fn asked_for_waiting(&self) -> bool {
        self.asks_for_waiting
    }

    /// Returns what a renewal asks for.
    pub(super) fn request(
        &mut self,
        running: usize,
        waiting: usize,
        rules: &LeaseRules,
        now: Duration,
    ) -> Option<ConcurrencyRequest> {
        let most = self.most?;
        let (running, waiting) = (count(running), count(waiting));
        let ahead = if rules.ahead.is_some() { self.ahead(running) } else { 0 };
        if now >= self.since + rules.report_soon * WINDOW {
            (self.before, self.peak, self.since) = (self.peak, running, now);
        }
        let wanted = running.saturating_add(waiting.max(ahead));
        self.share = self.share.min(wanted);
        (self.asked_at, self.asks_for_waiting) = (Some(now), waiting > 0);
        if wanted == 0 {
            // The share is given back, and nothing needs to be asked until a request comes.
            *self = Self::default();
            return None;
        }
        Some(ConcurrencyRequest { most, running, wanted })
    }

    /// Returns how many more to ask for than run: none where others are denied.
    fn ahead(&self, running: u32) -> u32 {
        if self.left == 0 {
            return 0;
        }
        let free = self.share.saturating_sub(running).saturating_add(self.left);
        let lately = self.peak.max(self.before);
        lately.saturating_mul(2).saturating_sub(running).min(free / AHEAD_DIVISOR)
    }

    /// Takes the share that the ledger answers to the renewal that was sent at `sent_at`.
    pub(super) fn granted(&mut self, answer: Concurrency, rules: &LeaseRules, sent_at: Duration) {
        if let Some(most) = self.most {
            self.share = answer.granted.min(most.get());
            self.left = answer.remaining;
            self.admit_until = sent_at + admit_for(rules);
        }
    }

    /// Returns when the ledger is to be asked again, so that the share does not lapse while
    /// requests run, or so that what nobody takes is given back.
    pub(super) fn due(&self, rules: &LeaseRules, running: usize) -> Duration {
        let Some(asked_at) = self.asked_at.filter(|_| self.most.is_some()) else {
            return Duration::MAX;
        };
        match count(running) {
            _ if self.share == 0 && running == 0 => Duration::MAX,
            // Others are denied for lack of it.
            running if running < self.share && self.left == 0 => asked_at + rules.report_soon / 10,
            // More than is kept ahead of so few.
            running if running.saturating_mul(2) < self.share => {
                asked_at + (rules.report_soon * WINDOW).min(admit_for(rules))
            }
            _ => asked_at + admit_for(rules),
        }
    }

    /// Admits no request on what was granted before the process was suspended: the ledger may have
    /// given it to others since.
    pub(super) fn mark_suspended(&mut self, rules: &LeaseRules, woke_at: Duration) {
        if self.admit_until < woke_at + admit_for(rules) {
            self.admit_until = Duration::ZERO;
        }
    }

    /// (8) Under a new name of the lease there is no share yet.
    pub(super) fn rename(&mut self) {
        self.admit_until = Duration::ZERO;
    }
}

/// Time for which requests begin on a share, from the sending of the renewal that asked for it.
fn admit_for(rules: &LeaseRules) -> Duration {
    rules.admit_for.min(SHARE_LIFETIME / 3)
}

fn count(requests: usize) -> u32 {
    u32::try_from(requests).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: NonZeroU32 = NonZeroU32::new(100).unwrap();

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A pool that was granted a share by a renewal at one second.
    fn pool(share: u32, remaining: u32) -> ConcurrencyPool {
        let (rules, mut pool) = (LeaseRules::default(), ConcurrencyPool::default());
        pool.set_limit(MOST);
        pool.request(0, 1, &rules, ms(1_000)).unwrap();
        pool.granted(Concurrency { granted: share, remaining }, &rules, ms(1_000));
        pool
    }

    #[test]
    fn a_share_is_of_use_for_a_third_of_its_time_in_the_ledger() {
        let (pool, lapses) = (pool(2, 5), ms(1_000) + admit_for(&LeaseRules::default()));
        let seldom = LeaseRules { admit_for: SHARE_LIFETIME * 2, ..LeaseRules::default() };
        assert_eq!(admit_for(&seldom), SHARE_LIFETIME / 3);
        assert!(admit_for(&LeaseRules::default()) <= SHARE_LIFETIME / 3);
        for (running, now, has_room) in [
            (0, ms(1_000), true),
            (1, lapses - ms(1), true),
            (2, ms(1_000), false),
            (1, lapses, false),
        ] {
            assert_eq!(pool.has_room(MOST, running, now), has_room, "{running} run at {now:?}");
        }
        assert!(!pool.has_room(NonZeroU32::MIN, 1, ms(1_000)), "a limit that is lower since");
    }

    #[test]
    fn the_ledger_is_asked_before_a_share_lapses_and_soon_if_others_need_it() {
        let rules = LeaseRules::default();
        let (soon, lapses) = (ms(1_000) + rules.report_soon / 10, ms(1_000) + admit_for(&rules));
        let unneeded = ms(1_000) + (rules.report_soon * WINDOW).min(admit_for(&rules));
        for (share, left, running, due) in [
            (0, 0, 0, Duration::MAX),
            (0, 5, 0, Duration::MAX),
            (0, 0, 1, lapses),
            (4, 0, 3, soon),
            (4, 0, 4, lapses),
            (4, 5, 0, unneeded),
            (4, 5, 1, unneeded),
            (4, 5, 2, lapses),
            (4, 5, 4, lapses),
        ] {
            let due_at = pool(share, left).due(&rules, running);
            assert_eq!(due_at, due, "{running} run of {share}, and {left} are left");
        }
        assert_eq!(ConcurrencyPool::default().due(&rules, 1), Duration::MAX, "nobody has a limit");
    }

    #[test]
    fn a_share_from_before_a_suspension_or_of_another_name_admits_nobody() {
        let (rules, has_room) =
            (LeaseRules::default(), |pool: &ConcurrencyPool| pool.has_room(MOST, 0, ms(1_000)));
        let mut suspended = pool(2, 5);
        suspended.mark_suspended(&rules, ms(1_000));
        assert!(has_room(&suspended), "it was asked for as the process woke");
        suspended.mark_suspended(&rules, ms(1_001));
        assert!(!has_room(&suspended));
        let mut renamed = pool(2, 5);
        renamed.rename();
        assert!(!has_room(&renamed));
    }

    #[test]
    fn it_asks_for_those_that_wait_and_for_twice_as_many_as_lately_ran() {
        let rules =
            LeaseRules { ahead: Some(crate::HoldAhead::default()), ..LeaseRules::default() };
        let window = rules.report_soon * WINDOW;
        let mut pool = pool(10, 90);
        pool.note_running(6);
        let asked = |pool: &mut ConcurrencyPool, running, waiting, now| {
            let asked = pool.request(running, waiting, &rules, now);
            (asked.map(|asked| asked.wanted), pool.asked_for_waiting())
        };
        // Six ran, so twelve: nine more than three.
        assert_eq!(asked(&mut pool, 3, 0, ms(1_100)), (Some(12), false));
        assert_eq!(asked(&mut pool, 3, 20, ms(1_200)), (Some(23), true));
        // Six ran in the window before, and in the one that begins now three do.
        assert_eq!(asked(&mut pool, 3, 0, ms(1_200) + window), (Some(12), false));
        assert_eq!(asked(&mut pool, 3, 0, ms(1_200) + window * 2 - ms(1)), (Some(12), false));
        assert_eq!(asked(&mut pool, 3, 0, ms(1_200) + window * 2), (Some(12), false));
        // Six ran in none of the last two.
        assert_eq!(asked(&mut pool, 3, 0, ms(1_201) + window * 2), (Some(6), false));
        // Little of what is left, and nothing if nothing is.
        pool.granted(Concurrency { granted: 4, remaining: 7 }, &rules, ms(3_000));
        assert_eq!(asked(&mut pool, 4, 0, ms(3_000)), (Some(5), false));
        pool.granted(Concurrency { granted: 4, remaining: 0 }, &rules, ms(3_000));
        assert_eq!(asked(&mut pool, 4, 0, ms(3_000)), (Some(4), false));
        assert_eq!(asked(&mut pool, 0, 0, ms(3_100)), (None, false));
        assert_eq!(pool.due(&rules, 0), Duration::MAX, "the share is given back");
    }
}
