//! The life of a lease: open, quiet, goodbye, gone.

use std::time::Duration;

use super::rules::LeaseRules;
use crate::compact_time::CompactTime;

/// Stage of a lease in its life, and the time of its heartbeats.
///
/// * (5) An open lease speaks at least every third of the `ttl`. If a failover forgot what it had
///   settled, that repairs it.
/// * (6) A lease that rests becomes quiet [`idle`](LeaseRules::idle) after its last use and its
///   last news, and speaks once more then. A whole `ttl` after that answer it says goodbye, and
///   nothing else from then on. If the answer says that the goodbye brought news, the lease is open
///   again.
///
/// A lease rests if nothing runs or waits, and nothing is owed or on hold. `resting_since` is then
/// its last use, and `None` otherwise.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Life {
    stage: Stage,
    /// Last answer of the ledger under this name of the lease.
    answered_at: Option<CompactTime>,
    /// Last acknowledgement of something that the ledger may not have known, or may have forgotten
    /// since.
    news_at: CompactTime,
    /// `true` if the ledger has answered since the leases of its node are closed.
    is_confirmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Stage {
    Open,
    /// A goodbye was sent.
    Leaving,
    /// The ledger has forgotten it, or takes nothing from it any more.
    Gone,
}

impl Life {
    pub(super) fn new(now: Duration) -> Self {
        Self { stage: Stage::Open, answered_at: None, news_at: now.into(), is_confirmed: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Returns `true` if a goodbye was sent and is not answered with anything else.
    pub(super) fn is_leaving(&self) -> bool {
        self.stage == Stage::Leaving
    }

    pub(super) fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// Notes that a goodbye is sent. (6) It is all that may be sent from then on.
    pub(super) fn leave(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Leaving;
        }
    }

    /// Notes that the goodbye was none: it brought news, or the name is abandoned.
    pub(super) fn reopen(&mut self) {
        if self.stage == Stage::Leaving {
            self.stage = Stage::Open;
        }
    }

    pub(super) fn end(&mut self) {
        self.stage = Stage::Gone;
    }

    /// Notes an answer, and if it acknowledged anything new.
    pub(super) fn answered(&mut self, rules: &LeaseRules, brought_news: bool, now: Duration) {
        // What was acknowledged before a silence may have been forgotten in it, and was news just
        // now.
        let after_silence = self.answered_at.is_none_or(|at| now > at.get() + rules.ttl / 2);
        if brought_news || after_silence {
            self.news_at = now.into();
        }
        self.answered_at = Some(now.into());
    }

    /// (6) Notes that the ledger has the running total of a node that ends: it answered since.
    pub(super) fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// Returns `true` if its node may end without the ledger's answer to its total once more: that
    /// came, or its last news is older than what a failover forgets.
    pub(super) fn is_confirmed(&self, rules: &LeaseRules, now: Duration) -> bool {
        self.is_confirmed || now >= self.news_at.get() + rules.quiet_after()
    }

    /// (8) Begins anew, under a new name of the lease.
    pub(super) fn rename(&mut self) {
        self.answered_at = None;
        self.is_confirmed = false;
        self.reopen();
    }

    /// Returns when the lease speaks though it has nothing to say. One that the ledger never heard
    /// of says nothing: it [goes](Self::is_over) then.
    pub(super) fn speaks_at(
        &self,
        rules: &LeaseRules,
        resting_since: Option<Duration>,
    ) -> Duration {
        let quiet_at = resting_since.map(|used_at| self.quiet_at(rules, used_at));
        match (self.answered_at.map(CompactTime::get), quiet_at) {
            (None, quiet_at) => quiet_at.unwrap_or(Duration::MAX),
            // (6) It has told the ledger that it is quiet. The goodbye comes next.
            (Some(answered_at), Some(quiet_at)) if answered_at >= quiet_at => {
                answered_at + rules.ttl
            }
            // (5)
            (Some(answered_at), quiet_at) => {
                (answered_at + rules.ttl / 3).min(quiet_at.unwrap_or(Duration::MAX))
            }
        }
    }

    /// (6) Returns `true` if the lease may say goodbye: it has been quiet for a whole `ttl` since
    /// the ledger's last answer, so that nothing older is under way any more.
    pub(super) fn may_leave(
        &self,
        rules: &LeaseRules,
        resting_since: Option<Duration>,
        now: Duration,
    ) -> bool {
        let answered_at = self.answered_at.map(CompactTime::get);
        let (Some(answered_at), Some(used_at)) = (answered_at, resting_since) else {
            return false;
        };
        answered_at >= self.quiet_at(rules, used_at) && now >= answered_at + rules.ttl
    }

    /// Returns `true` if a lease that the ledger never heard of has rested long enough to be
    /// forgotten without a word. If its node ends, with `flush`, that is at once.
    pub(super) fn is_over(
        &self,
        rules: &LeaseRules,
        resting_since: Option<Duration>,
        flush: bool,
        now: Duration,
    ) -> bool {
        self.answered_at.is_none()
            && resting_since.is_some_and(|used_at| flush || now >= self.quiet_at(rules, used_at))
    }

    fn quiet_at(&self, rules: &LeaseRules, used_at: Duration) -> Duration {
        used_at.max(self.news_at.get()) + rules.quiet_after()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const RULES: fn() -> LeaseRules = LeaseRules::default;

    #[test]
    fn what_a_silence_may_have_hidden_is_news() {
        let mut life = Life::new(s(0));
        for (at, brought_news, news_at) in
            [(1, false, 1), (2, false, 1), (3, true, 3), (303, false, 3), (604, false, 604)]
        {
            life.answered(&RULES(), brought_news, s(at));
            assert_eq!(life.news_at.get(), s(news_at), "at {at}");
        }
    }

    #[test]
    fn in_use_it_speaks_every_third_of_the_ttl_and_at_rest_until_it_says_goodbye() {
        let mut life = Life::new(s(0));
        assert_eq!(life.speaks_at(&RULES(), None), Duration::MAX, "nothing is there to repair");
        life.answered(&RULES(), true, s(10));
        assert_eq!(life.speaks_at(&RULES(), None), s(210));
        assert_eq!(life.speaks_at(&RULES(), Some(s(5))), s(210), "after the last news");
        life.answered(&RULES(), false, s(210));
        assert_eq!(life.speaks_at(&RULES(), None), s(410));
        assert_eq!(life.speaks_at(&RULES(), Some(s(5))), s(810));
        assert!(!life.may_leave(&RULES(), Some(s(5)), s(809)));
        assert!(life.may_leave(&RULES(), Some(s(5)), s(810)));
        assert!(!life.may_leave(&RULES(), None, s(900)), "it is in use");
        assert!(!life.may_leave(&RULES(), Some(s(11)), s(900)), "it was used, and must say so");
    }

    #[test]
    fn a_goodbye_that_is_none_opens_it_again_and_one_that_is_gone_stays_so() {
        let mut life = Life::new(s(0));
        life.leave();
        assert!(life.is_leaving() && !life.is_open());
        life.reopen();
        assert!(life.is_open());
        life.end();
        life.leave();
        life.reopen();
        assert!(life.is_gone());
    }

    #[test]
    fn one_that_the_ledger_never_heard_of_goes_without_a_word() {
        let life = Life::new(s(0));
        assert!(!life.is_over(&RULES(), Some(s(0)), false, s(199)));
        assert!(life.is_over(&RULES(), Some(s(0)), false, s(200)));
        assert!(life.is_over(&RULES(), Some(s(0)), true, s(0)), "its node ends");
        assert!(!life.is_over(&RULES(), None, true, s(900)), "it is in use");
    }

    #[test]
    fn under_a_new_name_the_ledger_has_not_heard_of_it() {
        let mut life = Life::new(s(0));
        life.answered(&RULES(), true, s(10));
        life.confirm();
        life.leave();
        life.rename();
        assert!(life.is_open() && !life.is_confirmed(&RULES(), s(10)));
        assert_eq!(life.speaks_at(&RULES(), None), Duration::MAX);
        assert!(life.is_over(&RULES(), Some(s(10)), true, s(10)));
    }
}
