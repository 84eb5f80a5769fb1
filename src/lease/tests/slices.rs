//! The requests of a lease: their names, their slices, their memory.

use super::*;
use crate::HoldAhead;

#[test]
fn no_request_has_the_name_of_one_of_the_lease_before() {
    let (mut pair, _, key) = with_one_running(1_000);
    let mut next = TestLease::new(LeaseId::from_bits(2), s(1));
    next.inherit(&pair.lease);
    let other = next.grant_unbacked(WANT, unused(), nanos(100), s(1)).unwrap();
    assert!(pair.lease.run_mut(key).is_some() && pair.lease.run_mut(other).is_none());
}

#[test]
fn a_request_runs_until_it_is_ended_and_is_there_until_its_owner_ends_it() {
    let (mut pair, _, key) = with_one_running(1_000);
    assert!(pair.lease.running_mut(key).is_some() && pair.lease.run_mut(key).is_some());
    pair.lease.end_all(s(1));
    assert!(pair.lease.running_mut(key).is_none() && pair.lease.run_mut(key).is_some());
    assert!(pair.lease.end(key, true, s(1)).is_some());
    assert!(pair.lease.run_mut(key).is_none());
}

#[test]
fn all_requests_end_with_their_node() {
    let (mut pair, ..) = with_one_running(1_000);
    pair.start(0, s(0));
    pair.start(0, s(0));
    pair.lease.end_all(s(1));
    assert!(!pair.lease.is_running());
    assert_eq!(pair.lease.unclaimed_mut().count(), 3);
}

#[test]
fn a_request_that_needs_nothing_more_frees_its_slice_and_is_not_refilled() {
    let (mut pair, _, key) = with_one_running(1_000);
    pair.lease.release(key, s(1));
    assert_eq!(pair.lease.slice_of(key), nanos(0));
    assert_eq!(pair.until(s(1), s(2)), [s(1) + RULES.report_soon]);
    assert_eq!(pair.book.held(), nanos(0));
    assert!(pair.lease.is_running());
}

#[test]
fn a_request_that_got_less_than_it_wants_asks_again_at_once_if_told_to() {
    let (mut pair, request, key) = with_one_running(60);
    request.0.set(15);
    assert!(matches!(pair.lease.next(&RULES, false, s(0)), Next::Wait(_)));
    pair.lease.refill_now(key);
    assert_eq!(pair.lease.next(&RULES, false, s(0)), Next::Renew);
}

#[test]
fn a_lease_takes_memory_for_one_request_and_none_once_nothing_runs() {
    let capacities = |pair: &Pair| {
        let pool = &pair.lease.pool;
        (pool.slices().capacity(), pool.queue().capacity())
    };
    for ahead in [None, Some(HoldAhead::default())] {
        let mut pair = Pair::new(1_000_000);
        pair.rules.ahead = ahead;
        let (_, key) = pair.start(0, s(0));
        assert_eq!(capacities(&pair), (1, 1), "it waited in the queue");
        pair.lease.end(key, true, s(1));
        assert_eq!(capacities(&pair), (0, 1));
        pair.renew(s(1));
        assert_eq!(capacities(&pair), (0, 0));
        assert_eq!(pair.book.held() > nanos(0), ahead.is_some());
    }
}

#[cfg(feature = "metrics")]
#[test]
fn its_load_is_what_runs_what_waits_and_what_is_on_hold_and_not_spent() {
    let (mut pair, request, key) = with_one_running(1_000);
    pair.start(0, s(0));
    pair.start(0, s(0));
    request.0.set(10);
    pair.lease.end(key, true, s(1));
    for _ in 0..3 {
        pair.lease.enqueue(WANT, unused(), ());
    }
    assert_eq!(pair.lease.load(), (2, 3, nanos(290)));
}
