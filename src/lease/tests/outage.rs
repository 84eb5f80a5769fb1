//! A lease that the ledger does not answer.

use super::{renewal::TERMS, *};

impl Pair {
    /// Sends a renewal that is not answered.
    fn fail(&mut self, now: Duration) {
        let renewal = self.lease.renew(&self.rules, TERMS, false, now);
        self.lease.unanswered(&self.rules, renewal.seq, now);
    }
}

#[test]
fn after_three_failures_in_a_row_nobody_need_wait_to_learn_that() {
    let (mut pair, ..) = with_one_running(1_000);
    for failures in 0..=3 {
        assert_eq!(pair.lease.is_failing(), failures == 3, "after {failures}");
        assert_eq!(pair.lease.has_failed(), failures > 0, "after {failures}");
        pair.fail(s(1));
    }
    pair.renew(s(2));
    assert!(!pair.lease.is_failing() && !pair.lease.has_failed());
}

#[test]
fn what_is_only_to_be_given_back_is_not_owed_while_the_ledger_is_away() {
    type Begin = fn(&mut Pair);
    let unspoken: Begin = |_| {};
    let given_back: Begin = |pair| {
        pair.lease.enqueue(WANT, unused(), ());
        pair.lease.remove_waiting(|()| true);
        pair.start(0, s(0));
        pair.lease.end_all(s(0));
        pair.renew(s(0));
    };
    let on_hold: Begin = |pair| {
        let (_, key) = pair.start(0, s(0));
        pair.lease.release(key, s(0));
    };
    let used: Begin = |pair| {
        let (_, key) = pair.start(7, s(0));
        pair.lease.end(key, true, s(0));
    };
    let waits: Begin = |pair| pair.lease.enqueue(WANT, unused(), ());
    for (name, begin, owes_nothing, owes_nothing_if_away) in [
        ("never used", unspoken, true, true),
        ("given back", given_back, true, true),
        ("a hold that is to be given back", on_hold, false, true),
        ("usage", used, false, false),
        ("a request that waits", waits, false, false),
    ] {
        let mut pair = Pair::new(1_000);
        begin(&mut pair);
        assert_eq!(pair.lease.owes_nothing(), owes_nothing, "{name}");
        for _ in 0..3 {
            pair.fail(s(1));
        }
        assert_eq!(pair.lease.owes_nothing(), owes_nothing_if_away, "{name}, away");
    }
}

#[test]
fn a_lease_only_probes_if_it_has_no_other_reason_to_ask() {
    for (probes, failed, waits, only_probes) in [
        (false, false, false, false),
        (false, true, false, false),
        (false, false, true, false),
        (true, false, false, true),
        (true, true, false, false),
        (true, false, true, false),
        (true, true, true, false),
    ] {
        let (mut pair, ..) = with_one_running(1_000);
        if failed {
            pair.fail(s(1));
        }
        if waits {
            pair.lease.enqueue(WANT, unused(), ());
        }
        if probes {
            pair.lease.probe();
        }
        assert_eq!(pair.lease.only_probes(), only_probes, "{probes}, {failed}, {waits}");
    }
}

#[test]
fn a_probe_is_sent_at_once_and_once_if_it_is_not_cancelled() {
    let (mut pair, ..) = with_one_running(1_000);
    let next = |pair: &Pair| pair.lease.next(&RULES, false, s(1));
    assert!(matches!(next(&pair), Next::Wait(_)), "there is nothing to ask");
    pair.lease.probe();
    assert_eq!(next(&pair), Next::Renew);
    pair.lease.cancel_probe();
    assert!(matches!(next(&pair), Next::Wait(_)));
    pair.lease.probe();
    pair.renew(s(1));
    assert!(matches!(next(&pair), Next::Wait(_)));
}

#[test]
fn an_outage_allowance_is_bounded_over_the_leases_that_take_from_it() {
    let mut lease = TestLease::new(LeaseId::from_bits(1), s(0));
    assert!(!lease.has_granted_unbacked());
    assert!(lease.take_allowance(nanos(100), nanos(150)));
    assert!(lease.has_granted_unbacked());
    assert!(!lease.take_allowance(nanos(100), nanos(150)));
    assert!(lease.grant_unbacked(WANT, unused(), nanos(150), s(0)).is_err());
    assert!(lease.grant_unbacked(WANT, unused(), nanos(200), s(0)).is_ok());
}

#[test]
fn a_shutdown_that_forgets_failures_tries_again_at_once() {
    let mut pair = Pair::new(1_000);
    let (_, key) = pair.start(7, s(0));
    pair.lease.end(key, true, s(0));
    pair.fail(s(1));
    assert!(matches!(pair.lease.next(&pair.rules, true, s(1)), Next::Wait(at) if at > s(1)));
    pair.lease.forget_failures();
    assert!(!pair.lease.has_failed());
    assert_eq!(pair.lease.next(&pair.rules, true, s(1)), Next::Renew);
}
