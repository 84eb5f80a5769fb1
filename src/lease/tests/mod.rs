//! A lease on its own, against a book that answers it.

mod journal;
mod outage;
mod permits;
mod renewal;
mod reports;
mod requests;
mod running;
mod slices;
mod surplus;

use std::{cell::Cell, num::NonZeroU32, rc::Rc, time::Duration};

use super::{
    lease::{Lease, Next},
    memory::ReusesMemory,
    rules::LeaseRules,
    run::{Closing, RefillDenial, Run, RunId, Served, SliceRequest},
};
use crate::{
    Credits,
    clock::UnixTime,
    ledger::{Answer, Book, LeaseId, LineKey, Outcome, Record, Terms, Usage},
};

/// A request that has used this much, and uses more only if a test says so.
#[derive(Debug)]
struct Manual(Cell<i64>);

impl ReusesMemory for Rc<Manual> {}

impl Run for Rc<Manual> {
    fn accrued(&self, _: Duration) -> Credits {
        nanos(self.0.get())
    }

    fn time_until(&self, cost: Credits, _: Duration) -> Duration {
        Duration::from_nanos((cost.as_nano_usd() - self.0.get()).max(0).unsigned_abs())
    }

    fn granted(&mut self, _: Credits, _: Duration) {}

    fn denied(&mut self, _: RefillDenial) {}

    fn stops_at_slice(&self) -> bool {
        false
    }

    fn settleable(&self, _: Duration) -> Option<Usage> {
        None
    }

    fn end(&mut self, _: Duration) -> Option<Usage> {
        Some(Usage { requests: 1, compute_micros: 1, cost: nanos(self.0.get()) })
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}

type TestLease = Lease<(), Rc<Manual>>;

const RULES: LeaseRules = LeaseRules {
    deadline: Duration::from_millis(250),
    report_soon: Duration::from_millis(100),
    report_within: Duration::from_millis(100),
    early: Duration::from_millis(15),
    admit_for: Duration::from_secs(10),
    ttl: Duration::from_secs(600),
    ahead: None,
    farewell: true,
};

const WANT: SliceRequest = SliceRequest {
    hold: nanos(100),
    min_slice: nanos(5),
    first_refill_after: Duration::from_nanos(50),
    max_concurrent: None,
    rate: None,
    most_running: None,
};

const fn nanos(n: i64) -> Credits {
    Credits::clamped(n)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A lease, and the ledger that answers it.
struct Pair {
    lease: TestLease,
    book: Book,
    record: Record,
    limit: i64,
    renewals: usize,
    rules: LeaseRules,
}

impl Pair {
    fn new(limit: i64) -> Self {
        let book = Book::new("2026-11".parse().unwrap());
        Self {
            lease: Lease::new(LeaseId::from_bits(1), s(0)),
            book,
            record: Record::default(),
            limit,
            renewals: 0,
            rules: RULES,
        }
    }

    fn ledger_clock(now: Duration) -> UnixTime {
        "2026-11".parse::<crate::Period>().unwrap().begins() + s(1) + now
    }

    fn renew(&mut self, now: Duration) -> Served<(), Rc<Manual>> {
        let terms = Terms {
            included: nanos(self.limit),
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::ZERO,
        };
        let renewal = self.lease.renew(&self.rules, terms, false, now);
        let clock = Self::ledger_clock(now);
        let answer = self.book.renew(&mut self.record, &renewal, None, clock, clock).unwrap();
        self.renewals += 1;
        self.lease.answered(&self.rules, renewal.seq, &answer, |()| false, now)
    }

    /// Lets the lease do what it wants until `end`, and returns when it spoke.
    fn until(&mut self, mut now: Duration, end: Duration) -> Vec<Duration> {
        let mut spoke = Vec::new();
        while now <= end {
            match self.lease.next(&self.rules, false, now) {
                Next::Renew => {
                    self.renew(now);
                    spoke.push(now);
                }
                // As the worker does: a request that uses nothing just before its refill must not
                // be examined all the time.
                Next::Wait(at) => now = at.max(now + self.rules.report_soon / 20),
                Next::LeaveJournal | Next::Gone => break,
            }
        }
        spoke
    }

    /// Has a request wait, and admits it by a renewal.
    fn start(&mut self, used: i64, now: Duration) -> (Rc<Manual>, RunId) {
        let request = Rc::new(Manual(Cell::new(used)));
        self.lease.enqueue(WANT, request.clone(), ());
        let served = self.renew(now);
        (request, served.admitted[0].1)
    }
}

#[test]
fn a_lease_with_a_request_that_stands_still_speaks_every_third_of_the_ttl() {
    let mut pair = Pair::new(1_000);
    pair.start(1, s(0));
    let spoke = pair.until(s(0), s(1_300));
    assert_eq!(spoke, [200, 400, 600, 800, 1_000, 1_200].map(s));
    assert_eq!(pair.book.held(), nanos(100), "and keeps its hold beyond the ttl");
}

#[test]
fn an_idle_lease_speaks_once_more_then_says_goodbye_after_the_ttl_and_is_gone() {
    let mut pair = Pair::new(1_000);
    let (_, key) = pair.start(30, s(0));
    pair.lease.end(key, true, s(1));
    let spoke = pair.until(s(1), s(5_000));
    assert_eq!(spoke, [1_100, 201_100, 801_100].map(Duration::from_millis));
    assert_eq!((pair.book.used(), pair.book.held(), pair.book.leases()), (nanos(30), nanos(0), 0));
    assert_eq!(pair.lease.next(&RULES, false, s(802)), Next::Gone);
}

#[test]
fn after_a_short_grant_it_asks_again_no_sooner_than_half_of_what_is_left() {
    let mut pair = Pair::new(130);
    let (request, _) = pair.start(0, s(0));
    request.0.set(60);
    pair.renew(s(1));
    // 130 are granted of the 160 it wants: 70 ns are left, so the pause is `retry_delay`.
    assert_eq!(pair.book.held(), nanos(130));
    assert_eq!(pair.lease.next(&RULES, false, s(1)), Next::Wait(s(1) + RULES.report_soon));
}

#[test]
fn a_superseded_lease_goes_on_under_a_new_name_with_what_was_not_acknowledged() {
    let mut pair = Pair::new(1_000);
    let (_, key) = pair.start(30, s(0));
    pair.lease.end(key, true, s(1));
    pair.until(s(1), s(2));
    let (request, key) = pair.start(0, s(2));
    request.0.set(7);
    pair.lease.end(key, true, s(3));
    // A journal was read back twice: somebody else speaks under this name, further on.
    let terms = Terms {
        included: nanos(1_000),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: Credits::ZERO,
    };
    let renewal = pair.lease.renew(&RULES, terms, false, s(3));
    let answer = Answer { outcome: Outcome::Superseded, now: Pair::ledger_clock(s(3)) };
    pair.lease.answered(&RULES, renewal.seq, &answer, |()| false, s(3));
    pair.lease.rename(LeaseId::from_bits(2));
    pair.until(s(3), s(4));
    assert_eq!((pair.lease.id(), pair.book.leases()), (LeaseId::from_bits(2), 2));
    assert_eq!(
        (pair.book.used(), pair.book.lines_cost(), pair.lease.unreported()),
        (nanos(37), nanos(37), nanos(0))
    );
}

#[test]
fn an_outage_allowance_is_bounded_across_leases() {
    let mut pair = Pair::new(1_000);
    let request = || Rc::new(Manual(Cell::new(1)));
    let key = pair.lease.grant_unbacked(WANT, request(), nanos(200), s(0)).ok().unwrap();
    pair.lease.end(key, true, s(1));
    assert!(pair.lease.grant_unbacked(WANT, request(), nanos(200), s(1)).is_ok());
    assert!(pair.lease.grant_unbacked(WANT, request(), nanos(200), s(1)).is_err());
    let mut next = TestLease::new(LeaseId::from_bits(2), s(2));
    next.inherit(&pair.lease);
    assert!(
        next.grant_unbacked(WANT, request(), nanos(200), s(2)).is_err(),
        "also under another lease"
    );
    // Nor is a request there taken for one that ran here.
    let key = next.grant_unbacked(WANT, request(), nanos(400), s(2)).ok().unwrap();
    assert!(pair.lease.run_mut(key).is_none() && next.run_mut(key).is_some());
}

/// A lease with one request that used nothing yet, and nothing else.
fn with_one_running(limit: i64) -> (Pair, Rc<Manual>, RunId) {
    let mut pair = Pair::new(limit);
    let (request, key) = pair.start(0, s(0));
    (pair, request, key)
}

fn unused() -> Rc<Manual> {
    Rc::new(Manual(Cell::new(0)))
}

#[test]
fn a_request_that_waits_is_admitted_before_those_that_come_later() {
    let (mut pair, _, key) = with_one_running(1_000);
    pair.lease.end(key, true, s(1));
    let large = SliceRequest {
        hold: nanos(200),
        min_slice: nanos(200),
        first_refill_after: Duration::from_nanos(100),
        max_concurrent: None,
        rate: None,
        most_running: None,
    };
    pair.lease.enqueue(large, unused(), ());
    assert!(
        pair.lease.admit(WANT, unused(), s(1)).is_err(),
        "there is room for it, and another came first"
    );
    assert_eq!(pair.lease.drain_queue().len(), 1);
    assert!(pair.lease.admit(WANT, unused(), s(1)).is_ok());
}

#[test]
fn a_freed_slice_goes_to_requests_that_still_wait() {
    let (mut pair, _, key) = with_one_running(100);
    assert!(pair.lease.admit(WANT, unused(), s(1)).is_err());
    assert!(!pair.lease.has_waiting());
    pair.lease.enqueue(WANT, unused(), ());
    assert!(pair.lease.has_waiting() && pair.lease.is_running());
    assert_eq!(pair.lease.running_and_waiting(), 2);
    pair.lease.end(key, true, s(1));
    assert!(!pair.lease.is_running());
    assert_eq!(pair.lease.grant_spare(|()| false, s(1)).admitted.len(), 1);
    pair.lease.enqueue(WANT, unused(), ());
    pair.lease.remove_waiting(|()| true);
    assert_eq!((pair.lease.running_and_waiting(), pair.lease.has_waiting()), (1, false));
    pair.lease.enqueue(WANT, unused(), ());
    pair.lease.end_all(s(1));
    assert!(pair.lease.grant_spare(|()| true, s(1)).admitted.is_empty());
    assert_eq!(pair.lease.running_and_waiting(), 0);
}

#[test]
fn its_owner_learns_when_it_has_something_to_report() {
    let (mut pair, request, key) = with_one_running(1_000);
    assert_eq!(pair.lease.report_at(&RULES), Duration::MAX);
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    assert_eq!(pair.lease.report_at(&RULES), s(1) + RULES.report_soon);
    let terms = Terms {
        included: nanos(1_000),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: Credits::ZERO,
    };
    let renewal = pair.lease.renew(&RULES, terms, false, s(1));
    let key = pair.lease.admit(WANT, unused(), s(1)).ok();
    if let Some(key) = key {
        pair.lease.end(key, true, s(1));
    }
    let in_flight = pair.lease.report_at(&RULES);
    assert_eq!(in_flight, Duration::MAX, "its owner examines it anyway when the answer comes");
    pair.lease.unanswered(&RULES, renewal.seq, s(2));
}

#[test]
fn a_request_is_due_when_half_of_its_hold_is_left_and_one_with_a_short_grant_later() {
    let (pair, request, key) = with_one_running(1_000);
    assert_eq!(pair.lease.due_of(key, WANT, s(0)), Duration::from_nanos(50));
    assert!(matches!(pair.lease.next(&RULES, false, s(0)), Next::Wait(_)));
    request.0.set(50);
    assert_eq!(
        pair.lease.next(&RULES, false, s(0)),
        Next::Renew,
        "at once: it got all that it asked for"
    );

    let (pair, request, key) = with_one_running(60);
    assert_eq!(pair.lease.slice_of(key), nanos(60));
    request.0.set(15);
    let wait = pair.lease.next(&RULES, false, s(0));
    assert!(matches!(wait, Next::Wait(_)), "there was no more just now: {wait:?}");
}

#[test]
fn spare_credits_go_to_running_requests_that_are_due_and_to_no_others() {
    let (mut pair, first, first_key) = with_one_running(1_000);
    let (second, second_key) = pair.start(0, s(0));
    let (_, third_key) = pair.start(0, s(0));
    first.0.set(30);
    second.0.set(60);
    pair.lease.end(third_key, true, s(1));
    pair.lease.grant_spare(|()| false, s(1));
    assert_eq!(pair.lease.slice_of(first_key), nanos(100), "more than half of its hold is left");
    assert_eq!(
        pair.lease.slice_of(second_key),
        nanos(160),
        "it wants what it used and a hold on top"
    );
}

#[test]
fn admissions_end_ten_seconds_after_the_renewal_and_with_the_goodbye() {
    let (mut pair, _, key) = with_one_running(1_000);
    pair.lease.end(key, true, s(0));
    assert!(pair.lease.admit(WANT, unused(), s(10)).is_err());
    let key = pair.lease.admit(WANT, unused(), s(10) - Duration::from_nanos(1)).ok().unwrap();
    pair.lease.end(key, true, s(10));
    pair.until(s(10), s(800));
    let mut now = s(800);
    while let Next::Wait(at) = pair.lease.next(&RULES, false, now) {
        now = at;
    }
    assert!(!pair.lease.is_leaving());
    let terms = Terms {
        included: nanos(1_000),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: Credits::ZERO,
    };
    let renewal = pair.lease.renew(&RULES, terms, false, now);
    assert!(renewal.forget && pair.lease.is_leaving(), "said, and not answered yet");
}

/// A lease must not cease to admit between two reports.
#[test]
fn if_a_node_reports_rarely_admissions_end_after_two_of_its_intervals() {
    for (within, last) in [(1, 10), (5, 10), (6, 12), (60, 120)] {
        let mut pair = Pair::new(1_000);
        pair.rules.set_report_within(s(within));
        let (_, key) = pair.start(0, s(0));
        pair.lease.end(key, true, s(0));
        assert!(pair.lease.admit(WANT, unused(), s(last)).is_err(), "within {within} s");
        let just_before = s(last) - Duration::from_nanos(1);
        assert!(pair.lease.admit(WANT, unused(), just_before).is_ok(), "within {within} s");
    }
}

#[test]
fn a_request_that_came_after_the_renewal_is_not_refused_by_its_answer() {
    let mut pair = Pair::new(100);
    pair.lease.enqueue(WANT, unused(), ());
    let terms = Terms {
        included: nanos(100),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: Credits::ZERO,
    };
    let renewal = pair.lease.renew(&RULES, terms, false, s(0));
    pair.lease.enqueue(WANT, unused(), ());
    let clock = Pair::ledger_clock(s(0));
    let answer = pair.book.renew(&mut pair.record, &renewal, None, clock, clock).unwrap();
    let served = pair.lease.answered(&RULES, renewal.seq, &answer, |()| false, s(0));
    assert_eq!((served.admitted.len(), served.refused.len()), (1, 0));
    assert!(pair.lease.has_waiting());
    assert_eq!(pair.lease.next(&RULES, false, s(0)), Next::Renew, "asked for at once");
    let served = pair.renew(s(0));
    assert_eq!((served.admitted.len(), served.refused.len()), (0, 1), "there is nothing more");
    // What becomes free on this node refuses nobody either.
    pair.lease.enqueue(WANT, unused(), ());
    assert_eq!(pair.lease.grant_spare(|()| false, s(0)).refused.len(), 0);
    assert!(pair.lease.has_waiting());
}

#[test]
fn after_a_short_grant_that_lasts_long_it_asks_again_at_half_of_it() {
    let second = Credits::clamped(1_000_000_000);
    let want = SliceRequest {
        hold: second,
        min_slice: nanos(5),
        first_refill_after: s(1),
        max_concurrent: None,
        rate: None,
        most_running: None,
    };
    let mut pair = Pair::new(1_400_000_000);
    let request = Rc::new(Manual(Cell::new(0)));
    pair.lease.enqueue(want, request.clone(), ());
    pair.renew(s(0));
    request.0.set(600_000_000);
    pair.renew(s(1));
    // 1.4 s are granted of the 1.6 s that it wants: 0.8 s are left.
    assert_eq!(pair.book.held(), Credits::clamped(1_400_000_000));
    request.0.set(950_000_000);
    assert_eq!(pair.lease.next(&RULES, false, s(1)), Next::Wait(s(1) + Duration::from_millis(400)));
}
