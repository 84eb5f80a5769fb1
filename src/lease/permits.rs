//! (14) The permits that a lease has for requests to begin, by an account's rate over all nodes.
//!
//! A permit lapses twice [`LeaseRules::report_soon`] after the renewal that asked for it was sent.
//! So in any time at most as many requests begin as the rate allows in that time and the time in
//! which a permit lapses, whatever the number of nodes. A renewal asks for those that wait, and for
//! as many as begin before they lapse, where they come steadily: the next ones need not wait then.

use std::{collections::VecDeque, time::Duration};

use super::rules::LeaseRules;
use crate::ledger::{AccountRate, PermitRequest, Permits};

/// Permits that the account must have left for each that is asked for before it is needed.
const MIN_LEFT_FOR_ONE_AHEAD: u32 = 16;

/// The permits of a lease.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct PermitPool {
    rate: Option<AccountRate>,
    /// Permits that were granted together, and when they lapse, the oldest first.
    at_hand: VecDeque<(u32, Duration)>,
    /// Requests that began since the last renewal was composed, and when that was.
    begun: u32,
    composed_at: Duration,
    /// As many as began in `report_soon` before that.
    pace: u32,
    /// Until then the ledger has none.
    none_until: Duration,
    /// The last answer of the ledger, and when it was asked.
    said: Option<(Permits, Duration)>,
    /// The rate that the renewal in flight asks for.
    asked: Option<AccountRate>,
    /// Granted by the answer that is being served, and when the rest of it lapses.
    landing: (u32, Duration),
    /// The suspension after which all was given up.
    woke_at: Option<Duration>,
}

/// The answer to a request that needs a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermitAnswer {
    /// One is at hand.
    AtHand,
    /// The ledger is to be asked.
    Ask,
    /// The ledger has said that there is none for this time.
    None(Duration),
}

impl PermitPool {
    /// Looks for a permit.
    pub(super) fn find(&mut self, rate: AccountRate, now: Duration) -> PermitAnswer {
        if self.rate != Some(rate) {
            *self = Self { rate: Some(rate), ..Self::default() };
        }
        self.drop_lapsed(now);
        if !self.at_hand.is_empty() {
            PermitAnswer::AtHand
        } else if now < self.none_until {
            PermitAnswer::None(self.none_until - now)
        } else {
            PermitAnswer::Ask
        }
    }

    /// Takes a permit, if one is at hand.
    pub(super) fn take(&mut self, rate: AccountRate, now: Duration) -> PermitAnswer {
        let found = self.find(rate, now);
        if let (PermitAnswer::AtHand, Some((count, _))) = (found, self.at_hand.front_mut()) {
            *count -= 1;
            if *count == 0 {
                self.at_hand.pop_front();
            }
            self.begun = self.begun.saturating_add(1);
        }
        found
    }

    /// Takes one of those that the answer grants which is being served: however long it took, the
    /// request was asked for.
    pub(super) fn take_landed(&mut self, rate: AccountRate, now: Duration) -> PermitAnswer {
        if self.rate == Some(rate) && self.landing.0 > 0 {
            self.landing.0 -= 1;
            self.begun = self.begun.saturating_add(1);
            return PermitAnswer::AtHand;
        }
        self.take(rate, now)
    }

    /// Keeps what no request has taken of those that an answer granted.
    pub(super) fn keep_landed(&mut self, rules: &LeaseRules) {
        let (granted, lapses) = std::mem::take(&mut self.landing);
        if granted == 0 {
            return;
        }
        match self.at_hand.back_mut() {
            // Those that come close together lapse together, none too late.
            Some((count, at)) if *at + rules.report_soon / 4 >= lapses => *count += granted,
            _ => self.at_hand.push_back((granted, lapses)),
        }
    }

    /// Returns what a renewal asks for, of which so many requests wait.
    pub(super) fn request(
        &mut self,
        waiting: usize,
        rules: &LeaseRules,
        now: Duration,
    ) -> Option<PermitRequest> {
        let rate = self.rate?;
        self.drop_lapsed(now);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let elapsed = now.saturating_sub(self.composed_at).max(rules.report_soon);
        let pace = rules.report_soon.mul_f64(self.begun.into()).div_duration_f64(elapsed);
        // Where they come steadily, enough for the time in which they lapse, as far as that is
        // little of what is left: what nobody takes is lost for the account.
        let left = self.said.map_or(0, |(permits, _)| permits.remaining);
        let ahead = (self.pace.min(pace as u32) * 2).min(left / MIN_LEFT_FOR_ONE_AHEAD);
        (self.begun, self.composed_at, self.pace) = (0, now, pace as u32);
        let wanted = waiting.saturating_add(ahead).saturating_sub(self.count());
        self.asked = Some(rate).filter(|_| wanted > 0);
        self.asked.map(|rate| PermitRequest { rate, wanted })
    }

    /// Takes what the ledger granted to the renewal that was sent at `sent_at`.
    pub(super) fn granted(&mut self, permits: Permits, rules: &LeaseRules, sent_at: Duration) {
        if self.asked.take() != self.rate {
            return;
        }
        self.said = Some((permits, sent_at));
        self.none_until = sent_at + permits.next_after;
        self.landing = (permits.granted, sent_at + rules.report_soon * 2);
    }

    /// Returns permits that are left, at hand or by the ledger's last answer, and the time until
    /// all are there again.
    pub(super) fn state(&self, now: Duration) -> (u32, Duration) {
        let Some((permits, sent_at)) = self.said else { return (0, Duration::ZERO) };
        let remaining = permits.remaining.saturating_add(self.count());
        (remaining, (sent_at + permits.reset_after).saturating_sub(now))
    }

    /// Returns the time for which the ledger has none.
    pub(super) fn none_for(&self, now: Duration) -> Duration {
        self.none_until.saturating_sub(now)
    }

    /// Gives up all: time has passed that the process did not see.
    pub(super) fn mark_suspended(&mut self, woke_at: Duration) {
        if self.woke_at.replace(woke_at) != Some(woke_at) {
            self.at_hand.clear();
            self.none_until = Duration::ZERO;
        }
    }

    fn count(&self) -> u32 {
        self.at_hand.iter().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }

    fn drop_lapsed(&mut self, now: Duration) {
        while self.at_hand.front().is_some_and(|(_, lapses)| now >= *lapses) {
            self.at_hand.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn rate() -> AccountRate {
        let count = std::num::NonZeroU32::new(60).unwrap();
        AccountRate { count, per: Duration::from_secs(60), burst: None }
    }

    impl PermitPool {
        /// Takes the answer to a renewal that was sent then.
        fn answered(&mut self, granted: u32, next_after: Duration, sent_at: Duration) {
            let (rules, remaining) = (LeaseRules::default(), 32);
            self.find(rate(), sent_at);
            self.request(99, &rules, sent_at).unwrap();
            let permits = Permits { granted, remaining, next_after, reset_after: next_after };
            self.granted(permits, &rules, sent_at);
            self.keep_landed(&rules);
        }
    }

    #[test]
    fn it_says_how_long_the_ledger_has_no_permit_and_asks_then() {
        let mut pool = PermitPool::default();
        assert_eq!(pool.find(rate(), ms(1_000)), PermitAnswer::Ask);
        pool.answered(0, ms(500), ms(1_000));
        for (now, found) in [
            (1_000, PermitAnswer::None(ms(500))),
            (1_499, PermitAnswer::None(ms(1))),
            (1_500, PermitAnswer::Ask),
        ] {
            assert_eq!(pool.find(rate(), ms(now)), found, "at {now}");
        }
    }

    #[test]
    fn permits_that_come_close_together_lapse_together_and_none_too_late() {
        let lapse = LeaseRules::default().report_soon * 2;
        let apart = LeaseRules::default().report_soon / 4;
        let mut pool = PermitPool::default();
        pool.answered(2, ms(0), ms(1_000));
        pool.answered(3, ms(0), ms(1_000) + apart);
        assert_eq!(pool.at_hand, [(5, ms(1_000) + lapse)]);
        let later = ms(1_001) + apart;
        pool.answered(1, ms(0), later);
        assert_eq!(pool.at_hand, [(5, ms(1_000) + lapse), (1, later + lapse)]);
        assert_eq!(pool.find(rate(), ms(1_000) + lapse), PermitAnswer::AtHand);
        assert_eq!(pool.at_hand, [(1, later + lapse)]);
    }

    #[test]
    fn where_requests_come_steadily_it_asks_for_some_ahead_as_far_as_much_is_left() {
        let (rules, mut pool) = (LeaseRules::default(), PermitPool::default());
        pool.answered(30, ms(0), ms(1_000));
        // What waits beyond those at hand; then a few ahead.
        for (flushes, waiting, asked) in [(1, 25, Some(5)), (2, 0, Some(2)), (3, 0, None)] {
            let now = ms(1_000) + rules.report_soon * flushes;
            // Ten came in each of the first two intervals, and 32 are left.
            for _ in (0..10).filter(|_| flushes < 3) {
                assert_eq!(pool.take(rate(), now - ms(1)), PermitAnswer::AtHand);
            }
            let wanted = pool.request(waiting, &rules, now).map(|request| request.wanted);
            assert_eq!(wanted, asked, "after {flushes}");
        }
    }
}
