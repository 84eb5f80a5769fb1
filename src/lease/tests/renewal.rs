//! The renewals of a lease: their times, their contents, and the effect of their answers.

use super::*;
use crate::{HoldAhead, ledger::Renewal};

pub(super) const TERMS: Terms = Terms {
    included: nanos(1_000),
    included_per_day: Credits::ZERO,
    per_seat: false,
    pay_as_you_go: Credits::ZERO,
};

impl Pair {
    /// Renews as a node that ends, and returns what it says.
    fn renew_at_shutdown(&mut self, now: Duration) -> Renewal {
        let renewal = self.lease.renew(&self.rules, TERMS, true, now);
        let clock = Self::ledger_clock(now);
        let answer = self.book.renew(&mut self.record, &renewal, None, clock, clock).unwrap();
        self.lease.answered(&self.rules, renewal.seq, &answer, |()| false, now);
        renewal
    }
}

fn fresh() -> TestLease {
    TestLease::new(LeaseId::from_bits(1), s(0))
}

fn answer(lease: &mut TestLease, outcome: Outcome, now: Duration) {
    let renewal = lease.renew(&RULES, TERMS, false, now);
    lease.answered(
        &RULES,
        renewal.seq,
        &Answer { outcome, now: Pair::ledger_clock(now) },
        |()| false,
        now,
    );
}

#[test]
fn a_lease_that_was_never_used_goes_without_a_word() {
    assert_eq!(fresh().next(&RULES, false, s(0)), Next::Wait(s(200)));
    assert_eq!(fresh().next(&RULES, false, s(200)), Next::Gone);
    assert_eq!(fresh().next(&RULES, true, s(0)), Next::Gone, "nothing is waited for at a shutdown");
    assert!(fresh().is_closed());

    let mut free = fresh();
    assert!(
        free.admit(
            SliceRequest {
                hold: nanos(0),
                min_slice: nanos(0),
                first_refill_after: Duration::MAX,
                max_concurrent: None,
                rate: None,
                most_running: None,
            },
            unused(),
            s(0)
        )
        .is_ok()
    );
    assert_eq!(
        free.next(&RULES, false, s(0)),
        Next::Wait(Duration::MAX),
        "what costs nothing never needs the ledger"
    );
    assert!(
        matches!(free.next(&RULES, true, s(300)), Next::Wait(_)),
        "and is not forgotten while it runs"
    );
}

#[test]
fn it_is_settled_when_nothing_runs_and_everything_is_acknowledged() {
    let (mut pair, request, key) = with_one_running(1_000);
    assert!(!pair.lease.is_settled());
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    assert!(!pair.lease.is_settled());
    pair.renew(s(1));
    assert!(pair.lease.is_settled());
}

#[test]
fn it_knows_how_the_account_stood_and_what_was_acknowledged() {
    let (mut pair, request, key) = with_one_running(1_000);
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    let known = |pair: &Pair| (pair.lease.acknowledged(), pair.lease.unreported());
    assert_eq!(known(&pair), (nanos(0), nanos(7)));
    pair.renew(s(1));
    assert_eq!(known(&pair), (nanos(7), nanos(0)));
    let standing = pair.lease.standing();
    assert_eq!((standing.limit, standing.used), (nanos(1_000), nanos(7)));
}

/// The ledger need not remember a lease that nobody will renew again. But a renewal that was given
/// up, or a copy of one that was answered, may still act, and must find the lease's entry then. And
/// what a failover forgot before the node began to end is repaired first.
#[test]
fn if_its_node_ends_a_lease_says_goodbye_once_nothing_older_can_act() {
    for lost in [false, true] {
        let (mut pair, request, key) = with_one_running(1_000);
        request.0.set(7);
        pair.lease.end(key, true, s(1));
        if lost {
            let given_up = pair.lease.renew(&RULES, TERMS, true, s(1));
            pair.lease.unanswered(&RULES, given_up.seq, s(2));
        }
        let before = pair.book.clone();
        pair.renew(s(2));
        assert!(pair.lease.is_settled() && !pair.lease.is_closed());
        pair.book = before;
        assert_eq!(pair.lease.next(&RULES, true, s(2)), Next::Renew);
        let once_more = pair.renew_at_shutdown(s(2));
        assert!(!once_more.forget && once_more.settled == nanos(7));
        assert_eq!(pair.book.used(), nanos(7));
        let acts_until = Next::Wait(s(2) + RULES.deadline + Duration::from_millis(101));
        assert_eq!(pair.lease.next(&RULES, true, s(2)), acts_until);
        assert_eq!(pair.lease.next(&RULES, true, s(3)), Next::Renew);
        let goodbye = pair.renew_at_shutdown(s(3));
        assert!(goodbye.forget && goodbye.lines.is_empty());
        assert!(pair.lease.is_closed() && pair.lease.next(&RULES, true, s(3)) == Next::Gone);
        assert_eq!((pair.book.leases(), pair.book.used()), (0, nanos(7)));
    }
}

/// Leases whose node ends and that owe nothing: the ledger has their total once more.
fn confirmed_at_shutdown() -> Pair {
    let (mut pair, _, key) = with_one_running(1_000);
    pair.lease.end(key, true, s(1));
    pair.renew(s(1));
    assert!(!pair.renew_at_shutdown(s(1)).forget);
    pair
}

#[test]
fn a_renewal_is_a_goodbye_from_the_moment_on_at_which_nothing_older_can_act() {
    let (acts_until, moment) =
        (s(1) + RULES.deadline + Duration::from_millis(101), Duration::from_nanos(1));
    for (now, is_goodbye) in
        [(acts_until - moment, false), (acts_until, true), (acts_until + moment, true)]
    {
        let renewal = confirmed_at_shutdown().lease.renew(&RULES, TERMS, true, now);
        assert_eq!(renewal.forget, is_goodbye, "at {now:?}");
    }
}

#[test]
fn a_goodbye_asks_for_nothing_ahead() {
    let mut pair = confirmed_at_shutdown();
    pair.rules.ahead = Some(HoldAhead::default());
    let goodbye = pair.renew_at_shutdown(s(2));
    assert!(goodbye.forget && goodbye.keep.is_zero() && goodbye.extra.is_zero());
}

#[test]
fn in_a_month_that_has_not_begun_a_lease_goes_if_nothing_was_used() {
    let mut unused_one = fresh();
    unused_one.enqueue(WANT, unused(), ());
    let renewal = unused_one.renew(&RULES, TERMS, false, s(0));
    let not_begun = Answer { outcome: Outcome::NotBegun, now: UnixTime::EPOCH };
    unused_one.answered(&RULES, renewal.seq, &not_begun, |()| false, s(0));
    assert_eq!(unused_one.next(&RULES, false, s(0)), Next::Gone);

    // Something runs in it, or was used in it, without the ledger: that is reported once the month
    // has begun.
    let mut running = fresh();
    let key =
        running.grant_unbacked(WANT, Rc::new(Manual(Cell::new(3))), nanos(100), s(0)).ok().unwrap();
    answer(&mut running, Outcome::NotBegun, s(0));
    assert!(matches!(running.next(&RULES, false, s(0)), Next::Wait(at) if at < s(1)));
    running.end(key, true, s(1));
    answer(&mut running, Outcome::NotBegun, s(2));
    assert_eq!(running.unreported(), nanos(3));
    assert!(matches!(running.next(&RULES, false, s(2)), Next::Wait(at) if at < s(3)));
}

#[test]
fn a_grant_that_nobody_took_is_given_back() {
    let mut pair = Pair::new(1_000);
    pair.lease.enqueue(WANT, unused(), ());
    let renewal = pair.lease.renew(&RULES, TERMS, false, s(0));
    let answer = pair
        .book
        .renew(&mut pair.record, &renewal, None, Pair::ledger_clock(s(0)), Pair::ledger_clock(s(0)))
        .unwrap();
    let served = pair.lease.answered(&RULES, renewal.seq, &answer, |()| true, s(0));
    assert!(served.admitted.is_empty() && pair.book.held() == nanos(100));
    assert_eq!(pair.until(s(0), s(1)), [RULES.report_soon]);
    assert_eq!(pair.book.held(), nanos(0));
}

#[test]
fn usage_while_a_batch_is_resent_is_in_the_next() {
    let (mut pair, request, key) = with_one_running(1_000);
    let (second, second_key) = pair.start(0, s(0));
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    let lost = pair.lease.renew(&RULES, TERMS, false, s(1));
    pair.lease.unanswered(&RULES, lost.seq, s(1));
    second.0.set(5);
    pair.lease.end(second_key, true, s(2));
    let again = pair.lease.renew(&RULES, TERMS, false, s(2));
    assert_eq!(
        (again.batch, again.settled, &again.lines),
        (lost.batch, lost.settled, &lost.lines),
        "unchanged"
    );
    let clock = Pair::ledger_clock(s(2));
    let answer = pair.book.renew(&mut pair.record, &again, None, clock, clock).unwrap();
    pair.lease.answered(&RULES, again.seq, &answer, |()| false, s(2));
    assert_eq!((pair.book.used(), pair.lease.unreported()), (nanos(7), nanos(5)));
    assert_eq!(pair.until(s(2), s(3)), [s(2) + RULES.report_soon]);
    assert_eq!((pair.book.used(), pair.book.lines_cost()), (nanos(12), nanos(12)));
}

/// Requests are counted in lines, also those of models whose price is nothing.
#[test]
fn free_requests_that_end_while_a_batch_is_resent_are_in_the_next() {
    let (mut pair, request, key) = with_one_running(1_000);
    let (_, free) = pair.start(0, s(0));
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    let lost = pair.lease.renew(&RULES, TERMS, false, s(1));
    pair.lease.unanswered(&RULES, lost.seq, s(1));
    pair.lease.end(free, true, s(2));
    pair.renew(s(2));
    assert_eq!(pair.book.lines().map(|(_, usage)| usage.requests).sum::<u64>(), 1);
    assert_eq!(pair.until(s(2), s(3)), [s(2) + RULES.report_soon]);
    assert_eq!(pair.book.lines().map(|(_, usage)| usage.requests).sum::<u64>(), 2);
}

#[test]
fn a_lease_that_is_in_use_never_says_goodbye_however_long_nobody_answered() {
    let (mut pair, ..) = with_one_running(1_000);
    let renewal = pair.lease.renew(&RULES, TERMS, false, s(700));
    assert!(!renewal.forget && !pair.lease.is_leaving());
    assert_eq!(renewal.keep, nanos(100));
}

#[test]
fn failures_are_retried_after_pauses_that_double_up_to_a_second() {
    let (mut pair, request, key) = with_one_running(1_000);
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    let mut now = s(1);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let renewal = pair.lease.renew(&RULES, TERMS, false, now);
        assert_eq!(pair.lease.next(&RULES, false, now), Next::Wait(Duration::MAX), "one at a time");
        pair.lease.unanswered(&RULES, renewal.seq, now);
        let Next::Wait(at) = pair.lease.next(&RULES, false, now) else {
            panic!("it is not tried at once")
        };
        pauses.push((at - now).as_millis());
        now = at;
    }
    assert_eq!(pauses, [25, 50, 100, 200, 400, 800, 1_000, 1_000]);
    pair.renew(now);
    assert!(pair.lease.is_settled());
}
