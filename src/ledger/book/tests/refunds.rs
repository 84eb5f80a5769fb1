//! Refunds, and what they give back.

use super::*;

#[test]
fn a_refund_is_of_pay_as_you_go_first_then_of_purchased_credits_then_of_included_ones() {
    let period: Period = "2026-11".parse().unwrap();
    let now = period.begins();
    let (mut book, mut record) = used_up(period);
    let left = |record: &Record| {
        record.grants.values().map(|grant| grant.left.as_nano_usd()).collect::<Vec<_>>()
    };
    assert_eq!(
        (book.purchased_used, book.pay_as_you_go(&record), left(&record)),
        (nanos(50), nanos(30), vec![0, 0])
    );
    let refunds = [
        ("a", 25, 5, 50, [0, 0]),
        ("b", 15, 0, 40, [10, 0]),
        ("c", 25, 0, 15, [30, 5]),
        ("d", 100, 0, 0, [30, 20]),
    ];
    for (id, amount, pay_as_you_go, purchased_used, grants) in refunds {
        assert!(book.refund(&mut record, id.parse().unwrap(), refund(amount), now).unwrap());
        assert!(
            !book.refund(&mut record, id.parse().unwrap(), refund(amount), now).unwrap(),
            "twice with one id refunds once"
        );
        assert_eq!(
            (book.pay_as_you_go(&record), book.purchased_used, left(&record)),
            (nanos(pay_as_you_go), nanos(purchased_used), grants.to_vec()),
            "after {id}"
        );
    }
    assert_eq!(
        (book.used(), book.lines_cost(), book.refunded()),
        (nanos(180), nanos(180), nanos(165))
    );
    let kept = (book.clone(), record.clone());
    for amount in [0, 16] {
        let refused = book.refund(&mut record, "e".parse().unwrap(), refund(amount), now);
        assert!(matches!(refused, Err(LedgerError::Refused(_))), "{refused:?}");
    }
    assert!((book, record) == kept, "it changed nothing");
}

/// However the terms changed since, a refund gives back no more than its amount.
#[test]
fn a_small_refund_gives_back_little() {
    let period: Period = "2026-11".parse().unwrap();
    let now = period.begins();
    let (mut book, mut record) = (Book::new(period), Record::default());
    record.grant("g".parse().unwrap(), nanos(100), None);
    book.renew(&mut record, &settling(1, 100), None, now, now).unwrap();
    let more = Terms { included: nanos(100), ..settling(2, 0).terms };
    book.renew(&mut record, &Renewal { terms: more, ..settling(2, 0) }, None, now, now).unwrap();
    assert!(book.refund(&mut record, "a".parse().unwrap(), refund(1), now).unwrap());
    assert_eq!((book.purchased_used, record.purchased_left(now)), (nanos(99), nanos(1)));
}

/// A refund that only an expired grant could take back may be used again in the month.
#[test]
fn nothing_is_given_back_to_an_expired_grant() {
    let period: Period = "2026-11".parse().unwrap();
    let (now, expires) = (period.begins(), period.begins() + Duration::from_secs(60));
    let (mut book, mut record) = (Book::new(period), Record::default());
    record.grant("g".parse().unwrap(), nanos(100), Some(expires));
    book.renew(&mut record, &settling(1, 100), None, now, now).unwrap();
    assert!(book.refund(&mut record, "a".parse().unwrap(), refund(50), expires).unwrap());
    assert_eq!(hold(&mut book, &mut record, 2, expires), nanos(50));
}

#[test]
fn what_was_refunded_may_be_used_again_that_month() {
    let period: Period = "2026-11".parse().unwrap();
    let (mut book, mut record) = used_up(period);
    let terms = Terms {
        included: nanos(100),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: nanos(30),
    };
    let asks = |book: &mut Book, record: &mut Record, lease, now| {
        let renewal =
            Renewal { need: nanos(100), settled: Credits::ZERO, terms, ..settling(lease, 0) };
        match book.renew(record, &renewal, None, now, now).unwrap().outcome {
            Outcome::Renewed { hold, standing, .. } => (hold, standing.used, standing.available()),
            other => panic!("{other:?}"),
        }
    };
    let now = period.begins();
    assert_eq!(asks(&mut book, &mut record, 2, now), (nanos(0), nanos(180), nanos(0)));
    book.refund(&mut record, "a".parse().unwrap(), refund(60), now).unwrap();
    assert_eq!(asks(&mut book, &mut record, 3, now), (nanos(60), nanos(120), nanos(0)));
}
