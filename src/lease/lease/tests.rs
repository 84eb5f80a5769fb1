use std::cell::Cell;

use super::*;
use crate::ledger::{Answer, Book, Outcome, Record, Terms};

/// A request that has used this much, and goes no further by itself.
struct Standing(Cell<i64>);

impl Run for std::rc::Rc<Standing> {
    fn accrued(&self, _: Duration) -> Credits {
        nanos(self.0.get())
    }

    fn runway(&self, cost: Credits, _: Duration) -> Duration {
        Duration::from_nanos((cost.as_nano_usd() - self.0.get()).max(0).unsigned_abs())
    }

    fn granted(&self, _: Credits, _: Duration) {}

    fn bill(&self, _: Credits, _: Duration) -> Option<(LineKey, Usage)> {
        Some((LineKey::Other, Usage { requests: 1, compute_micros: 1, cost: nanos(self.0.get()) }))
    }
}

type TestLease = Lease<(), std::rc::Rc<Standing>>;

const RULES: LeaseRules = LeaseRules {
    deadline: Duration::from_millis(250),
    flush: Duration::from_millis(100),
    admit_for: Duration::from_secs(10),
    ttl: Duration::from_secs(600),
    ahead: None,
};

const WANT: Want = Want { hold: nanos(100), least: nanos(5), most_running: None };

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
}

impl Pair {
    fn new(limit: i64) -> Self {
        let book = Book::new("2026-11".parse().unwrap());
        Self { lease: Lease::new(LeaseId::from_bits(1), s(0)), book, record: Record::default(), limit, renewals: 0 }
    }

    fn ledger_clock(now: Duration) -> Duration {
        "2026-11".parse::<crate::Period>().unwrap().begins() + s(1) + now
    }

    fn renew(&mut self, now: Duration) -> Served<()> {
        let terms = Terms { included: nanos(self.limit), per_seat: false, pay_as_you_go: Credits::ZERO };
        let renewal = self.lease.renew(&RULES, terms, now);
        let clock = Self::ledger_clock(now);
        let answer = self.book.renew(&mut self.record, &renewal, clock, clock).unwrap();
        self.renewals += 1;
        self.lease.answered(&RULES, renewal.seq, &answer, |()| false, now)
    }

    /// Lets the lease do what it wants until `end`, and answers when it spoke.
    fn until(&mut self, mut now: Duration, end: Duration) -> Vec<Duration> {
        let mut spoke = Vec::new();
        while now <= end {
            match self.lease.next(&RULES, false, now) {
                Next::Renew => {
                    self.renew(now);
                    spoke.push(now);
                }
                // As the keeper does: a request that stands just before its refill is not looked at all the time.
                Next::Wait(at) => now = at.max(now + RULES.flush / 20),
                Next::Gone => break,
            }
        }
        spoke
    }

    fn start(&mut self, used: i64, now: Duration) -> (std::rc::Rc<Standing>, usize) {
        let request = std::rc::Rc::new(Standing(Cell::new(used)));
        self.lease.wait(WANT, request.clone(), ());
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
    pair.lease.end(key, s(1));
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
    // 130 are granted of the 160 it wants: 70 ns are left, so the pause is the flush interval.
    assert_eq!(pair.book.held(), nanos(130));
    assert_eq!(pair.lease.next(&RULES, false, s(1)), Next::Wait(s(1) + RULES.flush));
}

#[test]
fn a_superseded_lease_goes_on_under_a_new_name_with_what_was_not_acknowledged() {
    let mut pair = Pair::new(1_000);
    let (_, key) = pair.start(30, s(0));
    pair.lease.end(key, s(1));
    pair.until(s(1), s(2));
    let (request, key) = pair.start(0, s(2));
    request.0.set(7);
    pair.lease.end(key, s(3));
    // A journal was read back twice: somebody else speaks under this name, further on.
    let terms = Terms { included: nanos(1_000), per_seat: false, pay_as_you_go: Credits::ZERO };
    let renewal = pair.lease.renew(&RULES, terms, s(3));
    let answer = Answer { outcome: Outcome::Superseded, now: Pair::ledger_clock(s(3)) };
    pair.lease.answered(&RULES, renewal.seq, &answer, |()| false, s(3));
    pair.lease.rename(LeaseId::from_bits(2));
    pair.until(s(3), s(4));
    assert_eq!((pair.book.used(), pair.book.itemised(), pair.lease.unreported()), (nanos(37), nanos(37), nanos(0)));
}

#[test]
fn what_is_trusted_in_an_outage_is_bounded_for_good() {
    let mut pair = Pair::new(1_000);
    let request = || std::rc::Rc::new(Standing(Cell::new(1)));
    let key = pair.lease.trust(WANT, request(), nanos(200), s(0)).ok().unwrap();
    pair.lease.end(key, s(1));
    assert!(pair.lease.trust(WANT, request(), nanos(200), s(1)).is_ok());
    assert!(pair.lease.trust(WANT, request(), nanos(200), s(1)).is_err());
    let mut next = TestLease::new(LeaseId::from_bits(2), s(2));
    next.inherit(&pair.lease);
    assert!(next.trust(WANT, request(), nanos(200), s(2)).is_err(), "also under another lease");
}
