use std::sync::Arc;

use super::*;

const fn nanos(n: i64) -> Credits {
    Credits::clamped(n)
}

/// Asks for 100 of what was purchased, at a moment of the period, for a lease of its own.
fn hold(book: &mut Book, record: &mut Record, lease: u128, now: Duration) -> Credits {
    let renewal = Renewal {
        lease: LeaseId::from_bits(lease),
        seq: 1,
        batch: 0,
        settled: Credits::ZERO,
        lines: Arc::default(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: nanos(100),
        extra: Credits::ZERO,
        terms: Terms { included: Credits::ZERO, per_seat: false, pay_as_you_go: Credits::ZERO },
        ttl: Duration::from_secs(600),
        forget: false,
    };
    match book.renew(record, &renewal, now, now).unwrap().outcome {
        Outcome::Renewed { hold, .. } => hold,
        other => panic!("{other:?}"),
    }
}

#[test]
fn purchased_credits_count_until_the_moment_they_expire() {
    let period: Period = "2026-11".parse().unwrap();
    let expires = period.begins() + Duration::from_secs(60);
    let grant =
        |record: &mut Record| record.amend(Amendment::Grant { id: "g".parse().unwrap(), amount: nanos(100), expires: Some(expires) });
    let just_before = expires - Duration::from_millis(1);
    for (now, expected) in [(just_before, 100), (expires, 0)] {
        let (mut book, mut record) = (Book::new(period), Record::default());
        assert!(grant(&mut record));
        assert!(!grant(&mut record), "twice with one id grants once");
        assert_eq!(hold(&mut book, &mut record, 1, now), nanos(expected));
        assert_eq!(book.leases(), 1);
    }
}

#[test]
fn what_one_month_may_draw_is_not_held_by_the_next_until_that_hold_expires() {
    let (november, december): (Period, Period) = ("2026-11".parse().unwrap(), "2026-12".parse().unwrap());
    let (mut old, mut new, mut record) = (Book::new(november), Book::new(december), Record::default());
    assert!(record.amend(Amendment::Grant { id: "g".parse().unwrap(), amount: nanos(100), expires: None }));
    let before = november.ends() - Duration::from_secs(1);
    assert_eq!(hold(&mut old, &mut record, 1, before), nanos(100));
    let ends = before + Duration::from_secs(600);
    assert_eq!(hold(&mut new, &mut record, 2, ends - Duration::from_millis(1)), nanos(0));
    assert_eq!(hold(&mut new, &mut record, 3, ends), nanos(100));
}

/// A renewal that settles `settled` of what was purchased.
fn settling(lease: u128, settled: i64) -> Renewal {
    Renewal {
        lease: LeaseId::from_bits(lease),
        seq: 1,
        batch: 0,
        settled: nanos(settled),
        lines: Arc::default(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: Credits::ZERO,
        extra: Credits::ZERO,
        terms: Terms { included: Credits::ZERO, per_seat: false, pay_as_you_go: Credits::ZERO },
        ttl: Duration::from_secs(600),
        forget: false,
    }
}

/// What was admitted on a grant may be drawn from it for as long as that hold can last, and not a moment longer.
#[test]
fn an_expired_grant_is_drawn_from_for_a_ttl_more() {
    let period: Period = "2026-11".parse().unwrap();
    let expires = period.begins() + Duration::from_secs(60);
    let last = expires + Duration::from_secs(600) - Duration::from_millis(1);
    for (now, left) in [(last, 70), (last + Duration::from_millis(1), 100)] {
        let (mut book, mut record) = (Book::new(period), Record::default());
        record.amend(Amendment::Grant { id: "g".parse().unwrap(), amount: nanos(100), expires: Some(expires) });
        // One that never expires stands beside it, so that there is always enough.
        record.amend(Amendment::Grant { id: "h".parse().unwrap(), amount: nanos(100), expires: None });
        book.renew(&mut record, &settling(1, 30), now, now).unwrap();
        assert_eq!(record.grants[&"g".parse::<Name>().unwrap()].left, nanos(left));
        assert_eq!(record.grants[&"h".parse::<Name>().unwrap()].left, nanos(170 - left));
        assert_eq!((book.used(), book.itemised()), (nanos(30), nanos(30)));
    }
}

#[test]
fn a_month_takes_renewals_from_a_minute_before_it_begins_until_sixty_two_days_after_it_ended() {
    let period: Period = "2026-11".parse().unwrap();
    let tick = Duration::from_millis(1);
    let outcome = |now: Duration| Book::new(period).renew(&mut Record::default(), &settling(1, 30), now, now).unwrap().outcome;
    assert_eq!(outcome(period.begins() - EARLY - tick), Outcome::NotBegun);
    assert!(matches!(outcome(period.begins() - EARLY), Outcome::Renewed { .. }));
    assert!(matches!(outcome(period.ends() + LATE), Outcome::Renewed { .. }));
    assert_eq!(outcome(period.ends() + LATE + tick), Outcome::Closed);
}
