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

/// The time for which it counts how many ran, in flush intervals.
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
        if now >= self.since + rules.flush * WINDOW {
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
            running if running < self.share && self.left == 0 => asked_at + rules.flush / 10,
            // More than is kept ahead of so few.
            running if running.saturating_mul(2) < self.share => {
                asked_at + (rules.flush * WINDOW).min(admit_for(rules))
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
