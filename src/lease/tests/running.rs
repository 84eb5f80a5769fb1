//! Properties of one running request, millisecond by millisecond: when it needs a renewal, and what
//! it is billed.

use proptest::prelude::*;

use super::*;
use crate::lease::running::Running;

/// A request that uses a nano-dollar each millisecond.
#[derive(Clone, Debug)]
struct Steady {
    stops_at_slice: bool,
    is_settleable: bool,
    /// The last debt that it was told.
    debt: Option<Credits>,
}

fn steady(stops_at_slice: bool, is_settleable: bool) -> Steady {
    Steady { stops_at_slice, is_settleable, debt: None }
}

impl ReusesMemory for Steady {}

impl Run for Steady {
    fn accrued(&self, now: Duration) -> Credits {
        nanos(i64::try_from(now.as_millis()).unwrap())
    }

    fn time_until(&self, cost: Credits, now: Duration) -> Duration {
        Duration::from_millis(cost.as_nano_usd().unsigned_abs()).saturating_sub(now)
    }

    fn granted(&mut self, _: Credits, _: Duration) {}

    fn in_debt(&mut self, slice: Credits) {
        self.debt = Some(slice);
    }

    fn denied(&mut self, _: RefillDenial) {}

    fn stops_at_slice(&self) -> bool {
        self.stops_at_slice
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        let cost = self.accrued(now);
        let compute_micros = u64::try_from(now.as_micros()).unwrap();
        self.is_settleable.then_some(Usage { requests: 1, compute_micros, cost })
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        let cost = self.accrued(now);
        Some(Usage { requests: 1, compute_micros: u64::try_from(now.as_micros()).unwrap(), cost })
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn begin(slice: i64, hold: i64, run: Steady) -> Running<Steady> {
    Running::new(0, nanos(slice), nanos(hold), run, Duration::ZERO)
}

#[test]
fn a_request_with_a_large_slice_is_due_for_settlement_at_half_of_its_hold() {
    for stops_at_slice in [false, true] {
        let running = begin(200, 100, steady(stops_at_slice, true));
        for (now, due) in [(0, 50), (49, 50), (50, 50), (60, 60)] {
            assert_eq!(running.due_at(ms(now)), ms(due), "at {now} ms, {stops_at_slice}");
        }
    }
}

#[test]
fn a_request_that_stops_at_its_slice_is_settled_as_far_as_that_goes() {
    // It was refused more, and asks again after a second.
    for (slice, stops_at_slice, due) in
        [(49, true, 1_000), (50, true, 50), (51, true, 50), (49, false, 50)]
    {
        let mut running = begin(slice, 100, steady(stops_at_slice, true));
        running.refuse_refill(ms(0), ms(1_000), ms(0));
        assert_eq!(running.due_at(ms(0)), ms(due), "{slice}, {stops_at_slice}");
    }
}

#[test]
fn a_request_without_a_hold_needs_more_once_it_has_used_more_than_its_slice() {
    let running = begin(10, 0, steady(false, false));
    for (now, needed, due) in
        [(9, None, Duration::MAX), (10, None, Duration::MAX), (11, Some(nanos(1)), ms(11))]
    {
        assert_eq!((running.due_refill(ms(now)), running.due_at(ms(now))), (needed, due));
    }
}

#[test]
fn a_request_that_took_all_of_its_hold_is_first_due_when_its_owner_says() {
    let want = SliceRequest { first_refill_after: ms(7), ..WANT };
    for (slice, due) in [(60, 30), (99, 49), (100, 7), (101, 7)] {
        let running = begin(slice, 100, steady(false, false));
        assert_eq!(running.first_due_at(want, ms(0)), ms(due), "{slice} of 100");
    }
}

#[test]
fn a_request_is_told_of_a_debt_once_more_is_settled_than_it_was_granted() {
    let mut running = begin(10, 10, steady(false, true));
    for (now, debt) in [(9, None), (10, None), (12, Some(nanos(12)))] {
        running.settle_so_far(ms(now));
        assert_eq!(running.run().debt, debt, "at {now} ms");
    }
}

proptest! {
    /// A request is due as soon as half of its hold is left, or half of its hold is unsettled, and
    /// not earlier.
    #[test]
    fn a_request_is_due_exactly_when_it_needs_a_refill_or_a_settlement(
        slice in 0..200_i64,
        hold in 0..200_i64,
        stops_at_slice: bool,
        is_settleable: bool,
        settled_at in 0..200_u64,
        looked_at in 0..200_u64,
    ) {
        let mut running = begin(slice, hold, steady(stops_at_slice, is_settleable));
        running.settle_so_far(ms(settled_at));
        // If the slice is smaller than the hold, no refill is due before half of it is used.
        let refill_from = if slice < hold { slice / 2 } else { 0 };
        let slice = running.slice().as_nano_usd();
        let settled = running.settled_cost().as_nano_usd();
        let needs_refill = |now: i64| {
            let level = if hold == 0 { now > slice } else { now >= (slice - hold / 2).max(0) };
            level && now >= refill_from
        };
        let half = (hold / 2).max(1);
        let needs_settling = |now: i64| {
            let fits = !stops_at_slice || settled + half <= slice;
            hold > 0 && is_settleable && now >= settled + half && fits
        };
        let from = looked_at.max(settled_at);
        let due = running.due_at(ms(from));
        let first = (i64::try_from(from).unwrap()..1_000)
            .find(|now| needs_refill(*now) || needs_settling(*now));
        // Without a hold nothing can be foreseen: it is due once it has used more than its slice.
        let first = first.filter(|first| hold > 0 || *first == i64::try_from(from).unwrap());
        let expected = first.map_or(Duration::MAX, |at| ms(at.unsigned_abs()));
        prop_assert_eq!(due, expected);
        for now in 0..400 {
            let due = running.due_refill(ms(now)).is_some();
            prop_assert_eq!(due, needs_refill(i64::try_from(now).unwrap()), "at {} ms", now);
        }
    }

    /// A request is billed what it used: at most its slice if it stops there, and never less than
    /// was settled. It counts as one request, at its end.
    #[test]
    fn what_is_settled_adds_up_to_what_is_billed(
        slice in 1..200_i64,
        stops_at_slice: bool,
        times in proptest::collection::vec(0..100_u64, 0..6),
        last in 0..100_u64,
    ) {
        let mut running = begin(slice, slice, steady(stops_at_slice, true));
        let (mut now, mut sum) = (0, Usage::default());
        for time in times {
            now += time;
            let more = running.settle_so_far(ms(now)).unwrap_or_default();
            prop_assert_eq!(more.requests, 0);
            sum.add(more);
            prop_assert_eq!(running.settled_cost(), sum.cost);
            prop_assert!(running.slice() >= sum.cost);
        }
        now += last;
        let used = running.run_mut().end(ms(now));
        let rest = running.settle(used).unwrap();
        sum.add(rest);
        let cost = i64::try_from(now).unwrap();
        let cost = if stops_at_slice { cost.min(slice) } else { cost };
        let expected = Usage { requests: 1, compute_micros: now * 1_000, cost: nanos(cost) };
        prop_assert_eq!(sum, expected);
    }
}

/// Its service may add to the cost after the request needs nothing more.
#[test]
fn one_that_was_released_asks_for_what_it_comes_to_cost_beyond_its_slice() {
    let at = Duration::from_millis;
    let mut running = Running::new(1, nanos(100), nanos(100), steady(false, false), at(0));
    running.release();
    // It costs as much as its slice, which is nothing now.
    assert_eq!(running.due_refill(at(0)), None);
    assert_eq!(running.due_refill(at(7)), Some(nanos(7)));
}

#[test]
fn half_a_hold_is_settled_once_it_is_used_however_large_the_slice() {
    let at = Duration::from_millis;
    let mut running = Running::new(1, nanos(100), nanos(100), steady(false, true), at(0));
    running.grant(nanos(100), at(0));
    for (now, due_at) in [(0, 50), (49, 50), (50, 50), (51, 51)] {
        assert_eq!(running.due_at(at(now)), at(due_at), "at {now}");
    }
}
