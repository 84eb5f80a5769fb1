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
