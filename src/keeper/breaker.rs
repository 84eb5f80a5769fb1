//! The breaker: the number of renewals that may be under way, by the ledger's answers.
//!
//! After [`MAX_FAILING_ACCOUNTS`] accounts in a row without an answer the breaker opens. Requests
//! that need the ledger get their answer at once then, instead of waiting for a timeout each, and
//! one renewal at a time is tried, at growing intervals, each time of another account. The first
//! answer closes the breaker. From then on each answer allows one more renewal under way, so that
//! the backlog reaches the ledger as a ramp and not as a herd. Repeated failures of one account
//! count once: they may be the account's own.

use std::time::Duration;

/// The number of accounts that fail in a row after which it opens.
const MAX_FAILING_ACCOUNTS: usize = 3;

/// The most renewals under way at once.
const MAX_WINDOW: usize = 4_096;

/// The most renewals under way at once when an outage ends.
const WINDOW_AFTER_OUTAGE: usize = 16;

/// The first and the longest pause between tries while it is open.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

#[derive(Debug)]
pub(super) struct Breaker {
    /// The accounts that failed since the last answer, up to [`MAX_FAILING_ACCOUNTS`].
    failing: Vec<u64>,
    /// Failures since the last answer, of all accounts.
    failures: usize,
    window: usize,
    pause: Duration,
    next_try: Duration,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self {
            failing: Vec::new(),
            failures: 0,
            window: MAX_WINDOW,
            pause: PAUSES.0,
            next_try: Duration::ZERO,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.failing.len() >= MAX_FAILING_ACCOUNTS
    }

    /// `true` if the ledger has not answered for a while, even if only one account called it.
    pub(super) const fn is_silent(&self) -> bool {
        self.failures >= MAX_FAILING_ACCOUNTS
    }

    /// `true` if another renewal may be sent.
    pub(super) fn allows(&self, in_flight: usize, now: Duration) -> bool {
        if self.is_open() {
            in_flight == 0 && now >= self.next_try
        } else {
            in_flight < self.window
        }
    }

    /// Returns the moment of the next try; `None` while it is closed.
    pub(super) fn next_try(&self) -> Option<Duration> {
        self.is_open().then_some(self.next_try)
    }

    /// Counts a renewal that was answered.
    pub(super) fn answered(&mut self) {
        if self.is_open() {
            self.window = WINDOW_AFTER_OUTAGE;
        }
        self.failing.clear();
        self.failures = 0;
        self.pause = PAUSES.0;
        self.window = (self.window + 1).min(MAX_WINDOW);
    }

    /// Counts a renewal of this account that had no answer.
    pub(super) fn failed(&mut self, account: u64, now: Duration) {
        let was_open = self.is_open();
        self.failures = self.failures.saturating_add(1);
        if !was_open && !self.failing.contains(&account) {
            self.failing.push(account);
        }
        // Renewals that were under way when it opened fail, too, which is no news.
        let was_a_try = !was_open || now >= self.next_try;
        if self.is_open() && was_a_try {
            self.next_try = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tries_one_at_a_time() {
        let mut breaker = Breaker::new();
        breaker.failed(1, ms(0));
        breaker.failed(2, ms(0));
        breaker.answered();
        breaker.failed(1, ms(0));
        breaker.failed(2, ms(0));
        assert!(
            !breaker.is_open()
                && breaker.allows(MAX_WINDOW - 1, ms(0))
                && !breaker.allows(MAX_WINDOW, ms(0))
        );
        breaker.failed(3, ms(100));
        assert!(
            breaker.is_open()
                && !breaker.allows(0, ms(149))
                && breaker.allows(0, ms(150))
                && !breaker.allows(1, ms(150))
        );
        for account in 0..100 {
            breaker.failed(account, ms(149));
        }
        assert_eq!(
            breaker.next_try(),
            Some(ms(150)),
            "those that were under way do not put it off"
        );
        for seconds in 1..10 {
            breaker.failed(seconds, ms(1_000 * seconds));
        }
        assert_eq!(breaker.next_try(), Some(ms(10_000)), "a second, at most");
    }

    #[test]
    fn however_often_one_account_fails_that_is_one_failure() {
        let mut breaker = Breaker::new();
        for second in 0..100 {
            breaker.failed(1, ms(1_000 * second));
            breaker.failed(2, ms(1_000 * second));
        }
        assert!(
            breaker.is_silent()
                && !breaker.is_open()
                && breaker.allows(MAX_WINDOW - 1, ms(100_000))
        );
    }

    #[test]
    fn after_an_outage_the_ledger_is_asked_gently() {
        let mut breaker = Breaker::new();
        (0..3).for_each(|account| breaker.failed(account, ms(0)));
        breaker.answered();
        assert!(!breaker.is_open() && breaker.next_try().is_none());
        assert!(
            breaker.allows(WINDOW_AFTER_OUTAGE, ms(0))
                && !breaker.allows(WINDOW_AFTER_OUTAGE + 1, ms(0))
        );
        (0..10_000).for_each(|_| breaker.answered());
        assert!(breaker.allows(MAX_WINDOW - 1, ms(0)) && !breaker.allows(MAX_WINDOW, ms(0)));
    }
}
