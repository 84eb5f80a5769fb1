//! Permits of a request rate, and shares of concurrent requests, over all nodes.

use super::*;
use crate::{
    HoldAhead,
    lease::PermitAnswer,
    ledger::{AccountRate, Renewal},
};

const FLUSH: Duration = RULES.report_soon;

fn rate(count: u32) -> AccountRate {
    AccountRate { count: count.try_into().unwrap(), per: s(60), burst: count.try_into().ok() }
}

fn with_rate(rate: AccountRate) -> SliceRequest {
    SliceRequest { rate: Some(rate), ..WANT }
}

fn with_most(most: u32) -> SliceRequest {
    SliceRequest { most_running: NonZeroU32::new(most), ..WANT }
}

fn request() -> Rc<Manual> {
    Rc::new(Manual(Cell::new(0)))
}

impl Pair {
    fn with_ahead(limit: i64) -> Self {
        let rules = LeaseRules { ahead: Some(HoldAhead::default()), ..RULES };
        Self { rules, ..Self::new(limit) }
    }

    fn send(&mut self, now: Duration) -> Renewal {
        let terms = Terms { included: nanos(self.limit), ..Terms::nothing() };
        self.lease.renew(&self.rules, terms, false, now)
    }

    /// The ledger acts when the renewal was sent, and answers later.
    fn answer(
        &mut self,
        renewal: &Renewal,
        sent: Duration,
        now: Duration,
    ) -> Served<(), Rc<Manual>> {
        let clock = Self::ledger_clock(sent);
        let answer = self.book.renew(&mut self.record, renewal, None, clock, clock).unwrap();
        self.lease.answered(&self.rules, renewal.seq, &answer, |()| false, now)
    }

    /// Asks for a request as the keeper does. Returns `true` if it runs at once.
    fn ask(&mut self, want: SliceRequest, now: Duration) -> bool {
        let permit = want.rate.map(|rate| self.lease.find_permit(rate, now));
        let request = match permit {
            None | Some(PermitAnswer::AtHand) => self.lease.admit(want, request(), now),
            Some(_) => Err(request()),
        };
        let Err(request) = request else { return true };
        self.lease.enqueue(want, request, ());
        false
    }
}

#[test]
fn who_waited_begins_however_late_the_answer_and_nobody_else_on_its_permits() {
    let mut pair = Pair::new(100_000);
    let want = with_rate(rate(60));
    for _ in 0..3 {
        assert!(!pair.ask(want, s(1)));
    }
    let renewal = pair.send(s(1));
    assert_eq!(renewal.permits.unwrap().wanted, 3);
    let late = s(1) + 5 * FLUSH;
    let served = pair.answer(&renewal, s(1), late);
    assert_eq!((served.admitted.len(), served.beyond_rate.len()), (3, 0));
    assert_eq!(pair.lease.find_permit(rate(60), late), PermitAnswer::Ask, "none is left over");
}

#[test]
fn after_a_suspension_permits_are_asked_for_anew() {
    let mut pair = Pair::with_ahead(100_000);
    let want = with_rate(rate(6_000));
    let mut now = s(1);
    for _ in 0..40 {
        now += FLUSH / 4;
        pair.ask(want, now);
        pair.renew(now);
    }
    assert_eq!(pair.lease.find_permit(rate(6_000), now), PermitAnswer::AtHand);
    pair.lease.mark_suspended(&pair.rules, now);
    assert_eq!(pair.lease.find_permit(rate(6_000), now), PermitAnswer::Ask);
    // The same suspension is noticed again and again, and costs nothing more.
    for _ in 0..40 {
        now += FLUSH / 4;
        pair.lease.mark_suspended(&pair.rules, s(1) + FLUSH * 10);
        pair.ask(want, now);
        let served = pair.renew(now);
        assert!(served.beyond_rate.is_empty() && served.refused.is_empty());
    }
    assert!(pair.ask(want, now + Duration::from_millis(1)));
}

#[test]
fn an_answer_to_another_rate_or_limit_denies_nobody() {
    for [before, after] in
        [[with_rate(rate(60)), with_rate(rate(90))], [with_most(1), with_most(3)]]
    {
        let mut pair = Pair::new(100_000);
        assert!(!pair.ask(before, s(1)));
        let renewal = pair.send(s(1));
        // The plan changes while the ledger is asked.
        assert!(!pair.ask(after, s(1)));
        let served = pair.answer(&renewal, s(1), s(1) + FLUSH / 10);
        let mut admitted = served.admitted.len();
        for number in 1..=3 {
            let served = pair.renew(s(1) + FLUSH * number);
            admitted += served.admitted.len();
            assert!(served.too_many.is_empty() && served.beyond_rate.is_empty());
        }
        assert_eq!(admitted, 2);
    }
}

#[test]
fn a_share_lapses_on_the_node_and_is_given_back_when_nothing_runs() {
    let mut pair = Pair::with_ahead(100_000);
    let want = with_most(8);
    assert!(!pair.ask(want, s(1)));
    let id = pair.renew(s(1)).admitted[0].1;
    // It speaks in time to keep its share while a request runs.
    let spoke = pair.until(s(1), s(100));
    let times: Vec<_> = [s(1)].into_iter().chain(spoke).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= s(10)), "{times:?}");
    let share: u32 = pair.record.shares.values().map(|share| share.count).sum();
    assert!((1..=2).contains(&share) && times.len() < 30, "{share}: {times:?}");
    pair.lease.end(id, false, s(100));
    pair.until(s(100), s(103));
    assert!(pair.record.shares.is_empty(), "{:?}", pair.record.shares);
    // Nor does it speak for its share's sake any more.
    let spoke = pair.until(s(103), s(104));
    assert!(spoke.is_empty(), "{spoke:?}");
}

#[test]
fn a_share_is_of_no_use_once_the_ledger_may_have_given_it_to_others() {
    let mut pair = Pair::with_ahead(100_000);
    let want = with_most(100);
    for _ in 0..4 {
        assert!(!pair.ask(want, s(1)));
    }
    let served = pair.renew(s(1));
    assert_eq!(served.admitted.len(), 4);
    pair.renew(s(1) + FLUSH);
    assert!(pair.ask(want, s(1) + FLUSH), "some are asked for ahead");
    assert!(!pair.ask(want, s(12)), "it was asked for more than ten seconds ago");
    let served = pair.renew(s(12));
    assert_eq!((served.admitted.len(), served.too_many.len()), (1, 0));
    pair.lease.mark_suspended(&pair.rules, s(13));
    assert!(!pair.ask(want, s(13)));
}

#[test]
fn a_share_is_there_again_after_a_suspension_that_is_noticed_again_and_again() {
    let mut pair = Pair::with_ahead(100_000);
    let want = with_most(100);
    pair.ask(want, s(1));
    pair.renew(s(1));
    let woke_at = s(2);
    pair.lease.mark_suspended(&pair.rules, woke_at);
    assert!(!pair.ask(want, s(2)));
    pair.renew(s(2) + FLUSH / 10);
    pair.renew(s(3));
    for at in 4..8 {
        pair.lease.mark_suspended(&pair.rules, woke_at);
        assert!(pair.ask(want, s(at)), "at {at} s");
        pair.renew(s(at));
    }
}

#[test]
fn who_is_denied_for_credits_or_for_concurrency_takes_nothing_of_the_other_limits() {
    // There are no credits.
    let mut pair = Pair::new(0);
    let want = SliceRequest { most_running: NonZeroU32::new(4), ..with_rate(rate(60)) };
    let mut now = s(1);
    let (mut shares, mut permits) = (0, 0);
    for _ in 0..10 {
        assert!(!pair.ask(want, now));
        let renewal = pair.send(now);
        shares += u32::from(renewal.concurrency.is_some_and(|asked| asked.wanted > 0));
        permits += renewal.permits.map_or(0, |asked| asked.wanted);
        assert_eq!(pair.answer(&renewal, now, now).refused.len(), 1);
        now += s(1);
    }
    assert_eq!((shares, permits), (1, 1), "the first time only");
    pair.limit = 100_000;
    assert!(!pair.ask(want, now));
    let admitted: usize = (0..4).map(|at| pair.renew(now + FLUSH * at).admitted.len()).sum();
    assert_eq!(admitted, 1);

    // As many run as may.
    let mut pair = Pair::new(100_000);
    let want = SliceRequest { most_running: NonZeroU32::new(1), ..with_rate(rate(60)) };
    let mut now = s(1);
    assert!(!pair.ask(want, now));
    let id = pair.renew(now).admitted[0].1;
    let mut permits = 0;
    for _ in 0..10 {
        now += s(1);
        assert!(!pair.ask(want, now));
        let renewal = pair.send(now);
        permits += renewal.permits.map_or(0, |asked| asked.wanted);
        assert_eq!(pair.answer(&renewal, now, now).too_many.len(), 1);
    }
    assert_eq!(permits, 1, "the first time only");
    pair.lease.end(id, false, now);
    assert!(!pair.ask(want, now));
    let served: Vec<_> = (0..4).map(|at| pair.renew(now + FLUSH * at)).collect();
    assert_eq!(served.iter().map(|served| served.admitted.len()).sum::<usize>(), 1);
}

#[test]
fn nobody_begins_at_once_without_the_share_and_the_permit_that_it_needs() {
    let mut pair = Pair::with_ahead(100_000);
    pair.ask(WANT, s(1));
    pair.renew(s(1));
    for (want, begins) in [(with_most(8), false), (with_rate(rate(60)), false), (WANT, true)] {
        assert_eq!(pair.lease.admit(want, request(), s(1)).is_ok(), begins, "{want:?}");
    }
}

#[test]
fn who_comes_while_others_wait_for_permits_finds_none_at_hand() {
    let mut pair = Pair::new(100_000);
    let want = with_rate(rate(60));
    pair.ask(want, s(1));
    let renewal = pair.send(s(1));
    pair.lease.remove_waiting(|()| true);
    pair.answer(&renewal, s(1), s(1));
    assert_eq!(pair.lease.find_permit(rate(60), s(1)), PermitAnswer::AtHand);
    pair.lease.enqueue(want, request(), ());
    assert_eq!(pair.lease.find_permit(rate(60), s(1)), PermitAnswer::Ask);
}

#[test]
fn a_lease_says_how_many_permits_are_left_and_when_there_is_one_again() {
    let mut pair = Pair::new(100_000);
    let state = |pair: &Pair, now| (pair.lease.permit_state(now), pair.lease.no_permit_for(now));
    assert_eq!(state(&pair, s(1)), ((0, s(0)), s(0)), "nobody needs one");
    pair.ask(with_rate(rate(3)), s(1));
    pair.renew(s(1));
    assert_eq!(state(&pair, s(1)), ((2, s(20)), s(0)));
    assert_eq!(state(&pair, s(11)), ((2, s(10)), s(0)));
    pair.ask(with_rate(rate(3)), s(1));
    pair.ask(with_rate(rate(3)), s(1));
    pair.renew(s(1));
    assert_eq!(state(&pair, s(1)), ((0, s(60)), s(20)));
    assert_eq!(state(&pair, s(11)), ((0, s(50)), s(10)));
}

#[test]
fn permits_are_asked_for_again_once_the_account_has_the_least_that_a_request_needs() {
    for (limit, wanted) in [(4, 0), (5, 1), (6, 1)] {
        let mut pair = Pair::new(0);
        let want = with_rate(rate(60));
        pair.ask(want, s(1));
        assert_eq!(pair.renew(s(1)).refused.len(), 1);
        pair.limit = limit;
        pair.renew(s(2));
        pair.ask(want, s(3));
        let asked = pair.send(s(3)).permits;
        assert_eq!(asked.map_or(0, |asked| asked.wanted), wanted, "{limit} are there");
    }
}

#[test]
fn only_those_that_the_ledger_was_asked_for_are_denied_for_lack_of_permits() {
    let mut pair = Pair::new(100_000);
    let want = with_rate(rate(1));
    pair.ask(want, s(1));
    assert_eq!(pair.renew(s(1)).admitted.len(), 1);
    pair.ask(want, s(2));
    let renewal = pair.send(s(2));
    pair.ask(want, s(2));
    let served = pair.answer(&renewal, s(2), s(2));
    assert_eq!((served.admitted.len(), served.beyond_rate.len()), (0, 1));
    assert_eq!(pair.lease.drain_queue().len(), 1);
}

#[test]
fn if_the_ledger_says_nothing_of_permits_a_request_is_denied_after_three_more_questions() {
    let mut pair = Pair::new(100_000);
    pair.ask(with_rate(rate(60)), s(1));
    let denied = [1, 2, 3, 4, 5].map(|at| {
        let renewal = Renewal { permits: None, ..pair.send(s(at)) };
        pair.answer(&renewal, s(at), s(at)).beyond_rate.len()
    });
    assert_eq!(denied, [0, 0, 0, 1, 0]);
}
