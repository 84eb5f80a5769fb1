//! The credits that a lease holds ahead.

use super::{renewal::TERMS, *};
use crate::HoldAhead;

fn ahead(limit: i64, ahead: HoldAhead) -> Pair {
    let mut pair = Pair::new(limit);
    pair.rules.ahead = Some(ahead);
    pair
}

fn slices(number: u32) -> NonZeroU32 {
    number.try_into().unwrap()
}

impl Pair {
    /// Begins `count` requests at once: those that find no room wait for one renewal.
    fn begin(&mut self, count: usize, now: Duration) -> Vec<RunId> {
        let mut begun = Vec::new();
        for _ in 0..count {
            match self.lease.admit(WANT, unused(), now) {
                Ok(id) => begun.push(id),
                Err(request) => self.lease.enqueue(WANT, request, ()),
            }
        }
        if self.lease.has_waiting() {
            begun.extend(self.renew(now).admitted.into_iter().map(|((), id)| id));
        }
        assert_eq!(begun.len(), count);
        begun
    }

    fn end_all(&mut self, begun: Vec<RunId>, now: Duration) {
        for id in begun {
            self.lease.end(id, true, now).unwrap();
        }
    }
}

#[test]
fn it_is_a_slice_for_each_request_that_lately_ran_at_once_within_bounds() {
    for (least, most, at_once, surplus) in
        [(4, 1024, 1, 5), (4, 1024, 30, 34), (4, 16, 30, 16), (50, 70, 30, 70), (9, 9, 30, 9)]
    {
        let mut pair =
            ahead(1_000_000, HoldAhead::default().at_least(slices(least)).at_most(slices(most)));
        pair.begin(at_once, s(0));
        let running = i64::try_from(at_once).unwrap() * 100;
        assert_eq!(
            pair.book.held(),
            nanos(running + i64::from(surplus) * 100),
            "{least} to {most}, {at_once} at once"
        );
    }
    assert_eq!(
        HoldAhead::default().at_most(slices(2)),
        HoldAhead::slices(slices(2)),
        "the bounds never cross"
    );
    assert_eq!(HoldAhead::default().at_least(slices(2_000)), HoldAhead::slices(slices(2_000)));
}

#[test]
fn a_crowd_is_forgotten_after_two_spans() {
    let mut pair = ahead(1_000_000, HoldAhead::default());
    let crowd = pair.begin(40, s(0));
    pair.end_all(crowd, s(1));
    for now in (1..=12).map(s) {
        let one = pair.begin(1, now);
        pair.renew(now);
        let held = pair.book.held();
        assert_eq!(held, nanos(if now < s(6) { 45 * 100 } else { 6 * 100 }), "at {now:?}");
        pair.end_all(one, now);
    }
}

#[test]
fn after_the_last_use_it_shrinks_to_the_least_and_then_to_nothing() {
    let mut pair = ahead(1_000_000, HoldAhead::default());
    let crowd = pair.begin(40, s(0));
    pair.end_all(crowd, s(1));
    // It reports, shrinks, and gives back what is left; the last is the word for failovers.
    let spoke = pair.until(s(1), s(190));
    assert_eq!(spoke, [1_100, 3_500, 11_000].map(Duration::from_millis));
    assert_eq!(pair.book.held(), nanos(0));

    let mut pair = ahead(1_000_000, HoldAhead::default());
    let crowd = pair.begin(40, s(0));
    pair.end_all(crowd, s(1));
    pair.until(s(1), s(3));
    assert_eq!(pair.book.held(), nanos(44 * 100));
    pair.until(s(3), s(10));
    assert_eq!(pair.book.held(), nanos(4 * 100));
}

#[test]
fn it_asks_for_more_when_half_is_taken_and_nobody_waits() {
    let mut pair = ahead(1_000_000, HoldAhead::slices(slices(8)));
    pair.begin(1, s(0));
    for now in 0..4 {
        assert!(!pair.lease.is_low(), "{now} of 8 are taken");
        pair.lease.admit(WANT, unused(), s(1)).unwrap();
    }
    assert!(!pair.lease.is_low());
    pair.lease.admit(WANT, unused(), s(1)).unwrap();
    assert!(pair.lease.is_low());
    assert_eq!(pair.lease.next(&pair.rules, false, s(1)), Next::Renew);
    let renewal = pair.lease.renew(&pair.rules, TERMS, false, s(1));
    assert!(!pair.lease.is_low(), "while it is asked, there is nothing to ask");
    pair.lease.unanswered(&pair.rules, renewal.seq, s(1));
    pair.renew(s(2));
    assert!(!pair.lease.is_low());
    assert_eq!(pair.book.held(), nanos(6 * 100 + 8 * 100));
}

#[test]
fn if_less_than_half_of_it_is_granted_it_does_not_ask_again_at_once() {
    // A quarter of what is left after the first, at most: less than half of eight slices.
    let mut pair = ahead(1_300, HoldAhead::slices(slices(8)));
    pair.begin(1, s(0));
    assert_eq!(pair.book.held(), nanos(100 + 300));
    pair.lease.admit(WANT, unused(), s(0)).unwrap();
    assert!(!pair.lease.is_low());
    assert!(matches!(pair.lease.next(&pair.rules, false, s(0)), Next::Wait(at) if at > s(0)));
}

#[test]
fn however_often_it_asks_it_holds_no_more_than_a_quarter_of_what_is_left() {
    let mut pair = ahead(10_000, HoldAhead::default());
    let crowd = pair.begin(90, s(0));
    pair.end_all(crowd, s(0));
    for tenth in 1..30 {
        let now = Duration::from_millis(100 * tenth);
        let one = pair.begin(1, now);
        pair.end_all(one, now);
        pair.renew(now);
        let held = pair.book.held();
        assert!(held <= nanos(2_500), "{held} of 10 000, after {tenth} renewals");
    }
    assert!(pair.book.held() >= nanos(2_000), "{}", pair.book.held());
}

#[test]
fn after_a_pause_the_first_request_asks_for_the_surplus_too() {
    let mut pair = ahead(1_000_000, HoldAhead::default());
    let one = pair.begin(1, s(0));
    pair.end_all(one, s(0));
    pair.until(s(0), s(60));
    assert_eq!(pair.book.held(), nanos(0));
    pair.begin(1, s(60));
    assert_eq!(pair.book.held(), nanos(100 + 500));
}

#[test]
fn many_cheap_requests_and_one_dear_one_do_not_multiply() {
    let mut pair = ahead(100_000_000, HoldAhead::default());
    let dear = SliceRequest { hold: nanos(100_000), ..WANT };
    pair.lease.enqueue(dear, unused(), ());
    for _ in 0..50 {
        pair.lease.enqueue(WANT, unused(), ());
    }
    pair.renew(s(0));
    let running_and_waiting = 100_000 + 50 * 100;
    assert_eq!(pair.book.held(), nanos(running_and_waiting + (running_and_waiting + 4 * 100_000)));
}

#[test]
fn if_its_node_ends_it_is_given_back_at_once() {
    let mut pair = ahead(1_000_000, HoldAhead::default());
    pair.begin(1, s(0));
    assert!(matches!(pair.lease.next(&pair.rules, false, s(0)), Next::Wait(_)));
    // As the worker does when its node ends.
    let rules = LeaseRules { ahead: None, ..pair.rules };
    assert_eq!(pair.lease.next(&rules, true, s(0)), Next::Renew);
    assert_eq!(pair.lease.renew(&rules, TERMS, true, s(0)).keep, nanos(100));
}
