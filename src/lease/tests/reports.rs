//! The time at which spending is reported: at once if somebody waits for it, soon where others
//! depend on it, later otherwise.

use super::{renewal::TERMS, *};
use crate::ledger::AccountRate;

const SOON: Duration = RULES.report_soon;
const LATER: Duration = Duration::from_secs(1);

/// Returns when spending since a moment is reported, if that may wait.
fn later(since: Duration) -> Duration {
    let at = LeaseRules { report_within: LATER, ..RULES }.report_with_others(since);
    assert!(at <= since + LATER && at + RULES.early > since + LATER);
    at
}

impl Pair {
    /// A pair whose reports may wait for a second.
    fn patient(limit: i64) -> Self {
        let rules = LeaseRules { report_within: LATER, ..RULES };
        Self { rules, ..Self::new(limit) }
    }

    /// Runs a request that used so much of its hold of 100. Returns when its report is due, counted
    /// from its end.
    fn due_after(&mut self, used: i64) -> Duration {
        let (_, key) = self.start(used, s(0));
        self.lease.end(key, true, s(5));
        let due = self.lease.report_at(&self.rules) - s(5);
        assert_eq!(self.until(s(5), s(7)), [s(5) + due]);
        assert_eq!(self.book.used(), nanos(used));
        due
    }
}

#[test]
fn it_waits_until_what_others_do_not_know_of_is_an_eighth_of_what_is_left() {
    // A hold of 100: so much of the rest is not known to be free or spent.
    let later = later(s(5)) - s(5);
    for (limit, due) in [(2_000, later), (908, later), (907, SOON), (150, SOON)] {
        for used in [0, 1, 30, 100] {
            assert_eq!(Pair::patient(limit).due_after(used), due, "{used} of {limit}");
        }
    }
}

#[test]
fn more_that_is_spent_meanwhile_makes_it_due_sooner() {
    let mut pair = Pair::patient(1_000);
    let (_, first) = pair.start(1, s(0));
    pair.start(1, s(0));
    pair.lease.end(first, true, s(1));
    // 800 are left, 100 are an eighth of it.
    assert_eq!(pair.lease.report_at(&pair.rules), s(1) + SOON);
    let mut pair = Pair::patient(2_000);
    let (_, third) = pair.start(1, s(0));
    let (_, fourth) = pair.start(1, s(0));
    let (_, fifth) = pair.start(1, s(0));
    pair.lease.end(third, true, s(1));
    pair.lease.end(fourth, true, s(1));
    assert_eq!(pair.lease.report_at(&pair.rules), later(s(1)), "200 of 1 700");
    pair.lease.end(fifth, true, s(1) + SOON * 5);
    assert_eq!(pair.lease.report_at(&pair.rules), s(1) + SOON, "300: as early as can be");
    assert_eq!(pair.until(s(1) + SOON * 5, s(2)), [s(1) + SOON * 5]);
}

#[test]
fn before_a_threshold_half_of_the_way_may_stay_unsaid() {
    for (distance, at) in [(202, later(s(5))), (201, s(5) + SOON), (0, s(5) + SOON)] {
        let mut pair = Pair::patient(1_000_000);
        let (_, key) = pair.start(30, s(0));
        pair.lease.note_threshold(nanos(distance));
        pair.lease.note_threshold(nanos(1_000_000));
        pair.lease.end(key, true, s(5));
        assert_eq!(pair.lease.report_at(&pair.rules), at, "{distance}");
    }
}

#[test]
fn permits_are_brought_along_as_often_as_they_lapse() {
    let rate = AccountRate { count: 60.try_into().unwrap(), per: s(60), burst: None };
    let want = SliceRequest { rate: Some(rate), ..WANT };
    let mut pair = Pair::patient(1_000_000);
    pair.lease.find_permit(rate, s(0));
    pair.lease.enqueue(want, unused(), ());
    let served = pair.renew(s(0));
    pair.lease.end(served.admitted[0].1, true, s(5));
    assert_eq!(pair.lease.report_at(&pair.rules), s(5) + SOON);
}

#[test]
fn under_a_new_name_nothing_is_known_of_what_is_left() {
    let mut pair = Pair::patient(1_000_000);
    let (_, key) = pair.start(30, s(0));
    pair.lease.rename(LeaseId::from_bits(2));
    pair.lease.end(key, true, s(5));
    assert_eq!(pair.lease.report_at(&pair.rules), s(5) + SOON);
}

#[test]
fn somebody_who_waits_for_it_has_all_reported_at_once() {
    let mut pair = Pair::patient(1_000_000);
    assert_eq!(pair.lease.report_now(), None, "nothing was spent");
    let (_, first) = pair.start(30, s(0));
    let (_, key) = pair.start(1, s(0));
    pair.lease.end(first, true, s(4));
    let batch = pair.lease.report_now().unwrap();
    assert!(!pair.lease.has_reported(batch));
    assert_eq!(pair.until(s(4), s(6)), [s(4)]);
    assert!(pair.lease.has_reported(batch));
    assert_eq!(pair.book.used(), nanos(30));
    assert!(pair.lease.report_now().is_some(), "what runs may have spent more");
    pair.until(s(6), s(6));
    pair.lease.end(key, true, s(7));
    pair.until(s(7), s(9));
    assert_eq!(pair.lease.report_now(), None, "all is known");
}

/// A batch that was lost is sent again unchanged. What was spent since comes in the one after it,
/// which does not wait either.
#[test]
fn what_was_spent_after_a_renewal_that_was_lost_is_in_the_one_after_its_copy() {
    let mut pair = Pair::patient(1_000_000);
    let (_, first) = pair.start(30, s(0));
    let (_, second) = pair.start(1, s(0));
    pair.lease.end(first, true, s(7));
    let lost = pair.lease.renew(&pair.rules, TERMS, false, s(7));
    pair.lease.end(second, true, s(7));
    let batch = pair.lease.report_now().unwrap();
    assert!(batch > lost.batch);
    pair.lease.unanswered(&pair.rules, lost.seq, s(8));
    let retry = s(8) + pair.rules.retry_delay() / 4;
    assert_eq!(pair.until(s(8), s(9)), [retry, retry], "its copy, and all since");
    assert!(pair.lease.has_reported(batch));
    assert_eq!(pair.book.used(), nanos(31));
}

#[test]
fn a_share_that_is_free_again_is_given_back_soon() {
    let most = SliceRequest { most_running: NonZeroU32::new(15), ..WANT };
    let mut pair = Pair::patient(1_000_000);
    let begin = |pair: &mut Pair| {
        pair.lease.enqueue(most, unused(), ());
        pair.renew(s(0)).admitted[0].1
    };
    let (first, second) = (begin(&mut pair), begin(&mut pair));
    pair.lease.end(first, true, s(1));
    assert_eq!(pair.lease.report_at(&pair.rules), s(1) + SOON);
    pair.until(s(1), s(2));
    pair.lease.end(second, true, s(3));
    assert_eq!(pair.lease.report_at(&pair.rules), s(3) + SOON);
}
