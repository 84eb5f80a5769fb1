//! Requests that are settled, refilled, denied and billed.

use super::*;
use crate::ledger::Renewal;

/// A request that stops at its slice, and remembers the last denial.
#[derive(Debug, Default)]
struct Stopping {
    used: Cell<i64>,
    denied: Cell<Option<RefillDenial>>,
    ended: Cell<bool>,
}

impl ReusesMemory for Rc<Stopping> {}

impl Run for Rc<Stopping> {
    fn accrued(&self, _: Duration) -> Credits {
        nanos(self.used.get())
    }

    fn time_until(&self, cost: Credits, _: Duration) -> Duration {
        Duration::from_millis((cost.as_nano_usd() - self.used.get()).max(0).unsigned_abs())
    }

    fn granted(&mut self, _: Credits, _: Duration) {
        self.denied.set(None);
    }

    fn denied(&mut self, denial: RefillDenial) {
        self.denied.set(Some(denial));
    }

    fn stops_at_slice(&self) -> bool {
        true
    }

    fn settleable(&self, _: Duration) -> Option<Usage> {
        Some(Usage {
            requests: 1,
            compute_micros: self.used.get().unsigned_abs(),
            cost: nanos(self.used.get()),
        })
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        self.ended.set(true);
        self.settleable(now)
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}

const TERMS: Terms = Terms {
    included: nanos(1_000),
    included_per_day: Credits::ZERO,
    per_seat: false,
    pay_as_you_go: Credits::ZERO,
};

struct World {
    lease: Lease<(), Rc<Stopping>>,
    book: Book,
    record: Record,
    limit: i64,
}

impl World {
    fn new(limit: i64) -> Self {
        let book = Book::new("2026-11".parse().unwrap());
        Self {
            lease: Lease::new(LeaseId::from_bits(1), s(0)),
            book,
            record: Record::default(),
            limit,
        }
    }

    fn send(&mut self, now: Duration) -> Renewal {
        self.lease.renew(&RULES, Terms { included: nanos(self.limit), ..TERMS }, false, now)
    }

    fn answer(&mut self, renewal: &Renewal, now: Duration) -> Served<(), Rc<Stopping>> {
        let clock = Pair::ledger_clock(now);
        let answer = self.book.renew(&mut self.record, renewal, None, clock, clock).unwrap();
        self.lease.answered(&RULES, renewal.seq, &answer, |()| false, now)
    }

    fn renew(&mut self, now: Duration) -> Served<(), Rc<Stopping>> {
        let renewal = self.send(now);
        self.answer(&renewal, now)
    }

    /// Begins a request that holds 100.
    fn start(&mut self, now: Duration) -> (Rc<Stopping>, RunId) {
        let request = Rc::new(Stopping::default());
        self.lease.enqueue(WANT, Rc::clone(&request), ());
        let served = self.renew(now);
        (request, served.admitted[0].1)
    }

    fn settled_and_held(&self) -> (i64, i64) {
        (self.book.used().as_nano_usd(), self.book.held().as_nano_usd())
    }
}

#[test]
fn a_renewal_settles_what_runs_and_its_end_adds_the_rest() {
    let mut world = World::new(1_000);
    let (request, key) = world.start(s(0));
    request.used.set(60);
    world.renew(s(1));
    assert_eq!(world.settled_and_held(), (60, 100), "and its hold is filled again");
    assert_eq!(world.book.lines_cost(), nanos(60));
    request.used.set(75);
    let Some(Closing::Settled(Some(billed))) = world.lease.end(key, true, s(2)) else {
        panic!("its slice covers it")
    };
    assert_eq!(
        (billed.requests, billed.compute_micros, billed.cost),
        (1, 75, nanos(75)),
        "it is told all of it"
    );
    world.renew(s(2));
    assert_eq!(world.settled_and_held(), (75, 0));
    let lines: Vec<_> = world
        .book
        .lines()
        .map(|(_, usage)| (usage.requests, usage.compute_micros, usage.cost))
        .collect();
    assert_eq!(lines, [(1, 75, nanos(75))], "once");
}

#[test]
fn usage_that_is_reported_lower_later_refunds_nothing() {
    let mut world = World::new(1_000);
    let (request, key) = world.start(s(0));
    request.used.set(60);
    world.renew(s(1));
    request.used.set(20);
    let Some(Closing::Settled(Some(billed))) = world.lease.end(key, true, s(2)) else {
        panic!("its slice covers it")
    };
    assert_eq!((billed.compute_micros, billed.cost), (60, nanos(60)));
    world.renew(s(2));
    assert_eq!((world.settled_and_held(), world.book.lines_cost()), ((60, 0), nanos(60)));
}

/// A renewal is due when half a hold can be settled, however the slice was filled. One that used
/// more than its slice does not keep the worker busy.
#[test]
fn running_requests_are_settled_at_least_every_half_hold() {
    let mut world = World::new(1_000);
    let (request, _) = world.start(s(0));
    request.used.set(30);
    assert_eq!(
        world.lease.next(&RULES, false, s(0)),
        Next::Wait(Duration::from_millis(20)),
        "after 50 of 100"
    );
    request.used.set(50);
    world.renew(s(1));
    assert_eq!(world.lease.next(&RULES, false, s(1)), Next::Wait(s(1) + Duration::from_millis(50)));
    let mut world = World::new(100);
    let (request, _) = world.start(s(0));
    request.used.set(700);
    world.renew(s(1));
    assert_eq!(
        request.denied.get(),
        Some(RefillDenial { requested_at: s(1).into(), answered: true })
    );
    let Next::Wait(at) = world.lease.next(&RULES, false, s(1)) else {
        panic!("it has just been told")
    };
    assert_eq!(at, s(1) + RULES.retry_delay());
}

#[test]
fn a_request_that_used_more_than_its_slice_is_billed_what_the_account_can_pay() {
    for (limit, used, billed) in [(1_000, 340, 340), (250, 340, 250), (100, 340, 100)] {
        let mut world = World::new(limit);
        let (request, key) = world.start(s(0));
        request.used.set(used);
        assert!(matches!(world.lease.end(key, true, s(1)), Some(Closing::Pending(_))));
        assert!(
            request.ended.get()
                && !world.lease.is_running()
                && world.lease.running_and_waiting() == 0,
            "it runs no more"
        );
        assert!(!world.lease.is_settled() && world.lease.next(&RULES, false, s(1)) == Next::Renew);
        // One that is lost is asked again.
        let lost = world.send(s(1));
        world.lease.unanswered(&RULES, lost.seq, s(2));
        let served = world.renew(s(3));
        let [(_, Some(told))] = &served.settled[..] else { panic!("{served:?}") };
        assert_eq!((told.requests, told.cost), (1, nanos(billed)));
        world.renew(s(4));
        assert_eq!(world.settled_and_held(), (billed, 0), "of {limit}");
        assert!(world.lease.unreported().is_zero() && world.lease.unfinished().count() == 0);
        assert_eq!(
            world.lease.next(&RULES, true, s(5)),
            Next::Renew,
            "where its node ends, it says goodbye"
        );
    }
}

#[test]
fn a_request_that_was_denied_is_billed_its_slice_at_once() {
    let mut world = World::new(100);
    let (request, key) = world.start(s(0));
    request.used.set(340);
    let Some(Closing::Settled(Some(billed))) = world.lease.end(key, false, s(1)) else {
        panic!("nobody is asked")
    };
    assert_eq!(billed.cost, nanos(100));
}

#[test]
fn spare_credits_pay_before_the_ledger_is_asked() {
    let mut world = World::new(200);
    let (_, other) = world.start(s(0));
    let (request, key) = world.start(s(0));
    request.used.set(170);
    world.lease.end(other, true, s(1));
    let Some(Closing::Settled(Some(billed))) = world.lease.end(key, true, s(1)) else {
        panic!("there is enough here")
    };
    assert_eq!(billed.cost, nanos(170));
}

#[test]
fn at_a_shutdown_the_ledger_is_asked_and_without_an_answer_the_slice_is_billed() {
    for answered in [true, false] {
        let mut world = World::new(1_000);
        let (request, key) = world.start(s(0));
        request.used.set(340);
        world.lease.end_all(s(1));
        assert!(!world.lease.is_settled());
        if answered {
            assert!(world.renew(s(1)).settled.is_empty(), "its owner is told when it ends it");
        } else {
            assert!(world.lease.settle_pending().is_empty());
        }
        let Some(Closing::Settled(Some(billed))) = world.lease.end(key, true, s(2)) else {
            panic!("it is over")
        };
        assert_eq!(billed.cost, nanos(if answered { 340 } else { 100 }));
        assert!(world.lease.end(key, true, s(2)).is_none(), "once");
    }
}

/// Two need more; the ledger is asked for one. What it grants is that one's, also if the other has
/// come to need more meanwhile and is first in the list.
#[test]
fn what_an_answer_grants_goes_to_those_it_was_asked_for() {
    let mut world = World::new(360);
    let (first, _) = world.start(s(0));
    let (second, second_key) = world.start(s(0));
    second.used.set(50);
    let renewal = world.send(s(1));
    assert_eq!(renewal.refill, nanos(50));
    first.used.set(60);
    world.answer(&renewal, s(1));
    assert_eq!(second.denied.get(), None, "it was given what it asked for");
    assert_eq!(first.denied.get(), None, "nobody has been asked for it");
    let waiting = Rc::new(Stopping::default());
    world.lease.enqueue(WANT, waiting, ());
    let renewal = world.send(s(2));
    second.used.set(120);
    let served = world.answer(&renewal, s(2));
    assert_eq!(
        (served.admitted.len(), served.refused.len()),
        (1, 0),
        "it was asked for the one that waited: {served:?}"
    );
    assert_eq!(
        (first.denied.get(), second.denied.get()),
        (None, None),
        "and nobody else was told no"
    );
    assert!(world.lease.run_mut(second_key).is_some());
}

#[test]
fn requests_that_need_more_learn_that_no_answer_came() {
    let mut world = World::new(1_000);
    let (request, _) = world.start(s(0));
    request.used.set(60);
    let lost = world.send(s(1));
    world.lease.unanswered(&RULES, lost.seq, s(2));
    assert_eq!(
        request.denied.get(),
        Some(RefillDenial { requested_at: s(1).into(), answered: false })
    );
    // While nobody can be asked, those that need more are told so.
    let mut world = World::new(1_000);
    let (request, _) = world.start(s(0));
    world.lease.deny_unanswered(s(1));
    assert_eq!(request.denied.get(), None, "it needs nothing");
    request.used.set(60);
    world.lease.deny_unanswered(s(1));
    assert_eq!(
        request.denied.get(),
        Some(RefillDenial { requested_at: s(1).into(), answered: false })
    );
}

#[test]
fn a_renewal_that_is_given_up_denies_nobody_anything() {
    let mut world = World::new(1_000);
    let (request, _) = world.start(s(0));
    request.used.set(60);
    world.send(s(1));
    world.lease.abandon_in_flight(&RULES, s(1));
    assert_eq!(request.denied.get(), None);
    assert!(world.lease.has_failed());
}

#[test]
fn if_the_ledger_takes_nothing_any_more_requests_are_billed_their_slices() {
    for outcome in [Outcome::Closed, Outcome::Erased] {
        let mut world = World::new(1_000);
        let (request, key) = world.start(s(0));
        request.used.set(340);
        assert!(matches!(world.lease.end(key, true, s(1)), Some(Closing::Pending(_))));
        let renewal = world.send(s(1));
        let answer = Answer { outcome, now: Pair::ledger_clock(s(1)) };
        let served = world.lease.answered(&RULES, renewal.seq, &answer, |()| false, s(1));
        let [(_, Some(billed))] = &served.settled[..] else { panic!("{served:?}") };
        assert_eq!(billed.cost, nanos(100));
        assert_eq!(world.lease.next(&RULES, false, s(1)), Next::Gone);
    }
}

/// It has used nothing that could be billed without the ledger.
#[test]
fn a_lease_with_a_free_request_that_came_to_cost_something_asks_until_it_is_answered() {
    let mut world = World::new(1_000);
    let request = Rc::new(Stopping::default());
    let free = SliceRequest { hold: nanos(0), min_slice: nanos(0), ..WANT };
    let key = world.lease.admit(free, Rc::clone(&request), s(0)).unwrap();
    request.used.set(10);
    assert!(matches!(world.lease.end(key, true, s(1)), Some(Closing::Pending(_))));
    let renewal = world.send(s(1));
    let not_begun = Answer { outcome: Outcome::NotBegun, now: UnixTime::EPOCH };
    world.lease.answered(&RULES, renewal.seq, &not_begun, |()| false, s(1));
    assert_eq!(world.lease.next(&RULES, false, s(2)), Next::Renew);
    for _ in 0..3 {
        let lost = world.send(s(2));
        world.lease.unanswered(&RULES, lost.seq, s(2));
    }
    assert!(world.lease.is_failing() && !world.lease.owes_nothing());
    let served = world.renew(s(3));
    let [(_, Some(billed))] = &served.settled[..] else { panic!("{served:?}") };
    assert_eq!(billed.cost, nanos(10));
}
