//! The terms in force, and the credits of a day.

use super::*;

/// A node on which nobody asked since a change of tier goes on stating the old terms.
#[test]
fn the_newest_terms_that_were_stated_count() {
    let period: Period = "2026-11".parse().unwrap();
    let now = period.begins() + Duration::from_secs(60);
    let (mut book, mut record) = (Book::new(period), Record::default());
    let free = Terms { included: nanos(10), ..settling(1, 0).terms };
    let stated = |seconds| period.begins() + Duration::from_secs(seconds);
    for (lease, terms, at, included, used) in
        [(1, free, 1, 10, 1), (2, PRO, 3, 20, 2), (3, free, 2, 20, 3), (4, free, 3, 10, 4)]
    {
        let renewal = Renewal { terms, terms_at: stated(at), ..settling(lease, 1) };
        let Outcome::Renewed { standing, .. } =
            book.renew(&mut record, &renewal, None, now, now).unwrap().outcome
        else {
            panic!()
        };
        assert_eq!(
            (standing.included, standing.used),
            (nanos(included), nanos(used)),
            "lease {lease}"
        );
    }
}

#[test]
fn a_month_that_ended_keeps_its_terms_and_seats() {
    let november: Period = "2026-11".parse().unwrap();
    let (mut book, mut record) = (Book::new(november), Record::default());
    record.seats = NonZeroU32::new(3).unwrap();
    let account = crate::Account::user("alice").unwrap();
    let seats = Terms {
        included: nanos(20),
        included_per_day: Credits::ZERO,
        per_seat: true,
        pay_as_you_go: nanos(5),
    };
    let (before, ended) = (november.ends() - Duration::from_millis(1), november.ends());
    // A change of tier in mid-month counts for all of it.
    book.renew(&mut record, &settling(1, 10), None, before, before).unwrap();
    book.renew(&mut record, &Renewal { terms: seats, ..settling(2, 52) }, None, before, before)
        .unwrap();
    record.seats = NonZeroU32::MIN;
    book.renew(&mut record, &Renewal { terms: PRO, ..settling(3, 1) }, None, ended, ended).unwrap();
    for terms in [None, Some(PRO)] {
        let statement = Statement::from_book(&account, &book, &record, terms, ended);
        assert_eq!(
            (statement.included, statement.seats.get(), statement.limit),
            (nanos(60), 3, nanos(65))
        );
        assert_eq!((statement.pay_as_you_go, statement.used), (nanos(3), nanos(63)));
    }
    // By the terms that were stated last, and by the seats of now.
    let current = Statement::from_book(&account, &book, &record, None, before);
    assert_eq!((current.included, current.seats.get(), current.limit), (nanos(20), 1, nanos(25)));
    let current = Statement::from_book(&account, &book, &record, Some(PRO), before);
    assert_eq!(
        (current.included, current.seats.get(), current.limit),
        (nanos(20), 1, Credits::MAX)
    );
}

#[test]
fn seats_count_from_the_next_renewal_on() {
    let period: Period = "2026-11".parse().unwrap();
    let now = period.begins() + Duration::from_secs(60);
    let (mut book, mut record) = (Book::new(period), Record::default());
    let seats = Terms {
        included: nanos(20),
        included_per_day: Credits::ZERO,
        per_seat: true,
        pay_as_you_go: nanos(0),
    };
    // The last one states terms that are older than those noted.
    for (lease, at, count) in [(1, 10, 1), (2, 11, 3), (3, 5, 2)] {
        record.seats = NonZeroU32::new(count).unwrap();
        let renewal = Renewal {
            terms: seats,
            terms_at: period.begins() + Duration::from_secs(at),
            ..settling(lease, 1)
        };
        let Outcome::Renewed { standing, .. } =
            book.renew(&mut record, &renewal, None, now, now).unwrap().outcome
        else {
            panic!()
        };
        assert_eq!(standing.included, nanos(20 * i64::from(count)), "lease {lease}");
        assert_eq!(book.terms.map(|terms| terms.seats), NonZeroU32::new(count));
    }
}

#[test]
fn the_credits_of_a_day_are_noted_and_what_is_left_of_them_shows() {
    let november: Period = "2026-11".parse().unwrap();
    let (mut book, mut record) = (Book::new(november), Record::default());
    let daily = |each| Terms { included_per_day: nanos(each), ..settling(1, 0).terms };
    let now = november.begins() + Duration::from_secs(60);
    assert_eq!(book.included_today(&record, Some(daily(10)), now), (nanos(10), nanos(10)));
    let renewal = Renewal { terms: daily(10), ..settling(1, 4) };
    book.renew(&mut record, &renewal, None, now, now).unwrap();
    assert_eq!(record.day_credits(november).each, nanos(10));
    for terms in [None, Some(daily(10))] {
        assert_eq!(book.included_today(&record, terms, now), (nanos(6), nanos(10)));
    }
    let tomorrow = now + Duration::from_secs(24 * 60 * 60);
    assert_eq!(book.included_today(&record, None, tomorrow), (nanos(10), nanos(10)));
    assert_eq!(book.included_today(&record, Some(daily(0)), now), (nanos(0), nanos(0)));
}
