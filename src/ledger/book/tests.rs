mod refunds;
mod terms;

use std::{num::NonZeroU32, sync::Arc};

use super::*;
use crate::{
    Limits, Part,
    ledger::{
        AccountSummary, ConcurrencyRequest, GrantId, LedgerError, Outcome, PartTerms, Renewal,
        SETTLEMENT_WINDOW, Statement,
    },
};

const fn nanos(n: i64) -> Credits {
    Credits::clamped(n)
}

/// Asks for 100 of what was purchased, at a moment of the period, for a lease of its own.
fn hold(book: &mut Book, record: &mut Record, lease: u128, now: UnixTime) -> Credits {
    let renewal = Renewal {
        lease: LeaseId::from_bits(lease),
        seq: 1,
        batch: 0,
        settled: Credits::ZERO,
        reported: Credits::ZERO,
        lines: Arc::default(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: nanos(100),
        extra: Credits::ZERO,
        terms: Terms {
            included: Credits::ZERO,
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::ZERO,
        },
        terms_at: UnixTime::EPOCH,
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    };
    match book.renew(record, &renewal, None, now, now).unwrap().outcome {
        Outcome::Renewed { hold, .. } => hold,
        other => panic!("{other:?}"),
    }
}

#[test]
fn purchased_credits_count_until_the_moment_they_expire() {
    let period: Period = "2026-11".parse().unwrap();
    let expires = period.begins() + Duration::from_secs(60);
    let grant = |record: &mut Record| record.grant("g".parse().unwrap(), nanos(100), Some(expires));
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
    let (november, december): (Period, Period) =
        ("2026-11".parse().unwrap(), "2026-12".parse().unwrap());
    let (mut old, mut new, mut record) =
        (Book::new(november), Book::new(december), Record::default());
    assert!(record.grant("g".parse().unwrap(), nanos(100), None));
    let before = november.ends() - Duration::from_secs(1);
    assert_eq!(hold(&mut old, &mut record, 1, before), nanos(100));
    let ends = before + Duration::from_secs(600);
    assert_eq!(hold(&mut new, &mut record, 2, ends - Duration::from_millis(1)), nanos(0));
    assert_eq!(hold(&mut new, &mut record, 3, ends), nanos(100));
}

/// A renewal that settles `settled` of what was purchased.
pub(in crate::ledger) fn settling(lease: u128, settled: i64) -> Renewal {
    Renewal {
        lease: LeaseId::from_bits(lease),
        seq: 1,
        batch: 0,
        settled: nanos(settled),
        reported: Credits::ZERO,
        lines: Arc::default(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: Credits::ZERO,
        extra: Credits::ZERO,
        terms: Terms {
            included: Credits::ZERO,
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::ZERO,
        },
        terms_at: UnixTime::EPOCH,
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    }
}

/// The leases of a month were lost. What is in its book is not debited again by the lease that
/// reports it once more within an hour of the first renewal that found that out.
#[test]
fn what_a_lost_lease_reports_again_within_an_hour_is_not_debited_again() {
    let hour = Duration::from_secs(3_600);
    for (after, used) in
        [(Duration::ZERO, 57), (hour - Duration::from_millis(1), 57), (hour, 107), (hour * 2, 107)]
    {
        let period: Period = "2026-11".parse().unwrap();
        let (mut book, mut record) = (Book::new(period), Record::default());
        let lost_at = period.begins() + hour;
        let mut renew = |book: &mut Book, renewal: &Renewal, now| {
            book.renew(&mut record, renewal, None, now, now).unwrap();
        };
        renew(&mut book, &settling(1, 50), lost_at);
        assert_eq!(book.used(), nanos(50));
        book.leases = crate::ledger::leases::Leases::default();
        renew(&mut book, &settling(2, 7), lost_at);
        assert_eq!(book.used(), nanos(57));
        let again = Renewal { seq: 2, reported: nanos(50), ..settling(1, 50) };
        renew(&mut book, &again, lost_at + after);
        assert_eq!(book.used(), nanos(used), "reported again after {after:?}");
    }
}

/// Usage that was admitted on a grant may be drawn from it for as long as that hold can last, and
/// not a moment longer.
#[test]
fn an_expired_grant_is_drawn_from_for_a_ttl_more() {
    let period: Period = "2026-11".parse().unwrap();
    let expires = period.begins() + Duration::from_secs(60);
    let last = expires + Duration::from_secs(600) - Duration::from_millis(1);
    for (now, left) in [(last, 70), (last + Duration::from_millis(1), 100)] {
        let (mut book, mut record) = (Book::new(period), Record::default());
        record.grant("g".parse().unwrap(), nanos(100), Some(expires));
        // One that never expires stands beside it, so that there is always enough.
        record.grant("h".parse().unwrap(), nanos(100), None);
        book.renew(&mut record, &settling(1, 30), None, now, now).unwrap();
        let first = "g".parse::<GrantId>().unwrap();
        assert_eq!(
            record.grants.get(&first).or_else(|| record.spent.get(&first)).unwrap().left,
            nanos(left)
        );
        assert_eq!(record.grants[&"h".parse::<GrantId>().unwrap()].left, nanos(170 - left));
        assert_eq!((book.used(), book.lines_cost()), (nanos(30), nanos(30)));
    }
}

#[test]
fn a_month_takes_renewals_from_a_minute_before_it_begins_until_sixty_two_days_after_it_ended() {
    let period: Period = "2026-11".parse().unwrap();
    let tick = Duration::from_millis(1);
    let outcome = |now: UnixTime| {
        Book::new(period)
            .renew(&mut Record::default(), &settling(1, 30), None, now, now)
            .unwrap()
            .outcome
    };
    assert_eq!(outcome(period.begins() - CLOCK_SKEW - tick), Outcome::NotBegun);
    assert!(matches!(outcome(period.begins() - CLOCK_SKEW), Outcome::Renewed { .. }));
    assert!(matches!(outcome(period.ends() + SETTLEMENT_WINDOW), Outcome::Renewed { .. }));
    assert_eq!(outcome(period.ends() + SETTLEMENT_WINDOW + tick), Outcome::Closed);
}

fn refund(amount: i64) -> Refund {
    Refund { amount: nanos(amount), reason: "it was slow".parse().unwrap() }
}

/// 100 are included, 50 were purchased, 30 may be charged as pay-as-you-go; all of it was used.
fn used_up(period: Period) -> (Book, Record) {
    let (mut book, mut record) = (Book::new(period), Record::default());
    record.grant("soon".parse().unwrap(), nanos(20), Some(period.ends()));
    record.grant("later".parse().unwrap(), nanos(30), None);
    let terms = Terms {
        included: nanos(100),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: nanos(30),
    };
    let now = period.begins();
    book.renew(&mut record, &Renewal { terms, ..settling(1, 180) }, None, now, now).unwrap();
    (book, record)
}

/// The charge is fixed when it is debited: a tier that was left later owes it all the
/// same.
#[test]
fn what_was_charged_stays_charged_and_what_is_beyond_the_limit_is_not() {
    let period: Period = "2026-11".parse().unwrap();
    let now = period.begins();
    let (mut book, mut record) = (Book::new(period), Record::default());
    let statement = |book: &Book, record: &Record| {
        let statement =
            Statement::from_book(&crate::Account::user("alice").unwrap(), book, record, None, now);
        assert_eq!(
            statement
                .included_used()
                .saturating_add(statement.pay_as_you_go)
                .saturating_add(statement.beyond()),
            book.used()
        );
        (statement.pay_as_you_go.as_nano_usd(), statement.beyond().as_nano_usd())
    };
    let capped = Terms {
        included: nanos(20),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: nanos(30),
    };
    let free = Terms { included: nanos(10), ..settling(1, 0).terms };
    book.renew(&mut record, &Renewal { terms: capped, ..settling(1, 45) }, None, now, now).unwrap();
    assert_eq!(statement(&book, &record), (25, 0));
    book.renew(&mut record, &Renewal { terms: free, ..settling(2, 4) }, None, now, now).unwrap();
    assert_eq!(statement(&book, &record), (25, 14));
    book.renew(&mut record, &Renewal { terms: capped, ..settling(3, 10) }, None, now, now).unwrap();
    assert_eq!(statement(&book, &record), (30, 9));
    let more = Terms { included: nanos(50), ..capped };
    book.renew(&mut record, &Renewal { terms: more, ..settling(4, 1) }, None, now, now).unwrap();
    assert_eq!(statement(&book, &record), (10, 0), "what is included now covers it");
}

#[test]
fn what_comes_late_of_a_closed_month_is_debited_in_the_current_one() {
    let november: Period = "2026-11".parse().unwrap();
    let (mut old, mut record) = used_up(november);
    let mut new = Book::new(november.next());
    let ended = november.ends();
    let early = old.close(&mut record, ended - Duration::from_millis(1));
    assert!(matches!(early, Err(LedgerError::Refused(_))), "{early:?}");
    assert!(old.close(&mut record, ended).unwrap() && !old.close(&mut record, ended).unwrap());
    let closed = old.refund(&mut record, "a".parse().unwrap(), refund(1), ended);
    assert!(matches!(closed, Err(LedgerError::Refused(_))), "{closed:?}");

    let line = UsageLine {
        key: LineKey::Other,
        usage: Usage { requests: 1, compute_micros: 7, cost: nanos(5) },
    };
    let late = Renewal {
        batch: 1,
        lines: Arc::new([line]),
        refill: nanos(10),
        terms: PRO,
        ..settling(2, 9)
    };
    for not_open in [None, Some(&mut Book::new(november))] {
        let answer = old.renew(&mut record, &late, not_open, ended, ended).unwrap();
        assert_eq!(answer.outcome, Outcome::Late, "it comes again with the current month's");
    }
    for _ in 0..2 {
        let answer = old.renew(&mut record, &late, Some(&mut new), ended, ended).unwrap();
        let Outcome::Renewed { hold, standing, .. } = answer.outcome else { panic!("{answer:?}") };
        assert_eq!((hold, standing.left(nanos(0))), (nanos(0), nanos(0)), "no more is held for it");
        assert_eq!(
            (old.used(), old.lines_cost()),
            (nanos(180), nanos(180)),
            "the closed month stays as it is"
        );
        assert_eq!(
            new.lines[&LineKey::Late],
            Usage { requests: 1, compute_micros: 7, cost: nanos(9) },
            "repeated, it counts once"
        );
        assert_eq!((new.used(), new.lines_cost()), (nanos(9), nanos(9)));
    }

    // By the terms that came with it, where nobody used anything in the current month.
    let again = Renewal { seq: 2, settled: nanos(39), terms: PRO, ..settling(2, 0) };
    old.renew(&mut record, &again, Some(&mut new), ended, ended).unwrap();
    let statement =
        Statement::from_book(&crate::Account::user("alice").unwrap(), &new, &record, None, ended);
    assert_eq!(
        (statement.used, statement.included, statement.pay_as_you_go),
        (nanos(39), nanos(20), nanos(19))
    );
    assert!(new.close(&mut record, new.period.ends()).unwrap());
}

/// November is closed, and 9 of it were debited in December.
fn closed_and_late() -> (Book, Book, Record, UnixTime) {
    let november: Period = "2026-11".parse().unwrap();
    let (mut old, mut record) = used_up(november);
    let mut new = Book::new(november.next());
    let now = november.ends();
    assert!(old.close(&mut record, now).unwrap());
    old.renew(&mut record, &Renewal { terms: PRO, ..settling(2, 9) }, Some(&mut new), now, now)
        .unwrap();
    assert_eq!((old.used(), new.used()), (nanos(180), nanos(9)));
    (old, new, record, now)
}

/// A file that ends between the two, or a key that is gone: the next renewal that is late finds it
/// out.
#[test]
fn what_was_moved_to_another_month_is_there_once_whichever_book_is_lost() {
    let again = Renewal { seq: 2, terms: PRO, ..settling(2, 14) };
    let (mut old, new, mut record, now) = closed_and_late();
    let mut new = Book::new(new.period);
    old.renew(&mut record, &again, Some(&mut new), now, now).unwrap();
    assert_eq!(
        (old.used(), new.used(), new.lines_cost()),
        (nanos(180), nanos(14), nanos(14)),
        "the later month's was lost"
    );
    assert_eq!(new.lines[&LineKey::Late].cost, nanos(14));

    let (old, mut new, mut record, now) = closed_and_late();
    let mut old = Book { leases: old.leases, ..Book::new(old.period) };
    let alice = crate::Account::user("alice").unwrap();
    let shown = Statement::from_book(&alice, &old, &record, None, now).used;
    assert_eq!(
        (shown, AccountSummary::from_book(alice, &old, true).used),
        (nanos(180), nanos(180))
    );
    for seq in 2..4 {
        old.renew(&mut record, &Renewal { seq, ..again.clone() }, Some(&mut new), now, now)
            .unwrap();
        assert_eq!(
            (old.used(), old.lines_cost()),
            (nanos(180), nanos(180)),
            "the closed month's was lost: it is what it was again"
        );
        assert_eq!((new.used(), new.lines_cost()), (nanos(14), nanos(14)));
    }

    // It is another month by then.
    let (old, new, mut record, _) = closed_and_late();
    let (mut old, mut later) =
        (Book { leases: old.leases, ..Book::new(old.period) }, Book::new(new.period.next()));
    let now = new.period.ends();
    old.renew(&mut record, &again, Some(&mut later), now, now).unwrap();
    assert_eq!((old.used(), new.used(), later.used()), (nanos(180), nanos(9), nanos(5)));
}

/// Usage that is debited again because a book was lost was taken from the grants already.
#[test]
fn what_was_used_of_grants_is_not_used_again_when_a_book_is_repaired() {
    let november: Period = "2026-11".parse().unwrap();
    let terms = Terms {
        included: nanos(30),
        included_per_day: Credits::ZERO,
        per_seat: false,
        pay_as_you_go: nanos(0),
    };
    let left =
        |record: &Record| record.grants.values().map(|grant| grant.left.as_nano_usd()).sum::<i64>();
    let torn = || {
        let (mut book, mut record) = (Book::new(november), Record::default());
        record.grant("g".parse().unwrap(), nanos(100), None);
        book.renew(
            &mut record,
            &Renewal { terms, ..settling(1, 0) },
            None,
            november.begins(),
            november.begins(),
        )
        .unwrap();
        let before = book.clone();
        book.renew(
            &mut record,
            &Renewal { seq: 2, terms, ..settling(1, 80) },
            None,
            november.begins(),
            november.begins(),
        )
        .unwrap();
        assert_eq!(left(&record), 50);
        (Book { leases: book.leases, ..before }, record)
    };
    let (mut book, mut record) = torn();
    assert!(book.close(&mut record, november.ends()).unwrap());
    assert_eq!((left(&record), book.purchased_used, book.used()), (50, nanos(50), nanos(80)));
    let (mut book, mut record) = torn();
    assert!(book.refund(&mut record, "a".parse().unwrap(), refund(10), november.begins()).unwrap());
    assert_eq!((left(&record), book.purchased_used, book.used()), (60, nanos(40), nanos(80)));

    // The same of what another month settled.
    let (mut old, mut record) = (Book::new(november), Record::default());
    record.grant("g".parse().unwrap(), nanos(100), None);
    let now = november.ends();
    assert!(old.close(&mut record, now).unwrap());
    for _ in 0..2 {
        let (seq, mut new) = (old.leases() as u64 + 1, Book::new(november.next()));
        old.renew(
            &mut record,
            &Renewal { seq, terms, ..settling(1, 60) },
            Some(&mut new),
            now,
            now,
        )
        .unwrap();
        assert_eq!(
            (new.used(), new.purchased_used, left(&record)),
            (nanos(60), nanos(30), 70),
            "seq {seq}"
        );
    }
}

#[test]
fn a_month_that_was_closed_while_the_clock_was_ahead_is_open_until_it_ends() {
    let november: Period = "2026-11".parse().unwrap();
    let (mut book, mut record) = used_up(november);
    assert!(book.close(&mut record, november.ends()).unwrap());
    let now = november.begins() + Duration::from_secs(60);
    let answer = book.renew(&mut record, &settling(2, 5), None, now, now).unwrap();
    assert!(
        matches!(answer.outcome, Outcome::Renewed { .. }) && book.used() == nanos(185),
        "{answer:?}"
    );
    assert!(book.refund(&mut record, "a".parse().unwrap(), refund(1), now).unwrap());
}

/// The book has less than the leases account for, and nobody renews in that month again.
#[test]
fn a_statement_a_refund_and_a_close_have_what_the_leases_account_for() {
    let november: Period = "2026-11".parse().unwrap();
    let behind = || {
        let (mut book, mut record) = used_up(november);
        let before = book.clone();
        let now = november.begins();
        book.renew(&mut record, &Renewal { terms: PRO, ..settling(2, 40) }, None, now, now)
            .unwrap();
        (Book { leases: book.leases, ..before }, record)
    };
    let (book, record) = behind();
    let alice = crate::Account::user("alice").unwrap();
    assert_eq!(AccountSummary::from_book(alice, &book, false).used, nanos(220));
    let (mut book, mut record_closed) = (book, record.clone());
    assert!(book.close(&mut record_closed, november.ends()).unwrap());
    assert_eq!(
        (book.used(), book.lines_cost(), book.missing()),
        (nanos(220), nanos(220), nanos(0))
    );
    for (closed, used) in [(None, 220), (Some(november), 180)] {
        let (mut book, mut record) = behind();
        record.closed = closed;
        book.refresh(&mut record, None, november.ends());
        // Nothing of it is in a line.
        assert_eq!((book.used(), book.recovered()), (nanos(used), nanos(used)));
    }
    let (mut book, mut record) = behind();
    assert!(
        book.refund(&mut record, "a".parse().unwrap(), refund(220), november.begins()).unwrap()
    );
    assert_eq!(
        (book.used(), book.refunded(), book.lines_cost()),
        (nanos(220), nanos(220), nanos(220))
    );
}

/// The ledger's clock was a month ahead for a while.
#[test]
fn what_a_clock_put_into_a_month_that_has_not_begun_is_settled_in_the_month_that_is() {
    let november: Period = "2026-11".parse().unwrap();
    let (mut current, mut ahead, mut record) =
        (Book::new(november), Book::new(november.next()), Record::default());
    let there = november.ends() + Duration::from_secs(1);
    let held = Renewal { need: nanos(100), terms: PRO, ..settling(1, 0) };
    ahead.renew(&mut record, &held, None, there, there).unwrap();
    assert_eq!((ahead.used(), ahead.held()), (nanos(0), nanos(100)));

    // It is November again.
    let now = november.begins() + Duration::from_secs(60);
    let line = UsageLine {
        key: LineKey::Other,
        usage: Usage { requests: 1, compute_micros: 7, cost: nanos(30) },
    };
    let settles = Renewal {
        seq: 2,
        batch: 1,
        lines: Arc::new([line]),
        refill: nanos(500),
        need: nanos(500),
        terms: PRO,
        ..settling(1, 30)
    };
    for _ in 0..2 {
        let answer = ahead.renew(&mut record, &settles, Some(&mut current), now, now).unwrap();
        let Outcome::Renewed { hold, standing, .. } = answer.outcome else { panic!("{answer:?}") };
        assert!(hold.is_zero() && standing.early, "nothing more is granted there: {answer:?}");
        assert_eq!(
            (ahead.used(), ahead.held(), current.used(), current.lines_cost()),
            (nanos(0), nanos(0), nanos(30), nanos(30))
        );
        assert_eq!(
            current.lines[&LineKey::Late],
            Usage { requests: 1, compute_micros: 7, cost: nanos(30) },
            "repeated, it counts once"
        );
    }
    let stranger = Renewal { need: nanos(500), terms: PRO, ..settling(2, 0) };
    assert_eq!(
        ahead.renew(&mut record, &stranger, Some(&mut current), now, now).unwrap().outcome,
        Outcome::NotBegun
    );
}

/// A node whose clock is a day ahead does not pin its terms, nor does a clock of the ledger that
/// was.
#[test]
fn terms_count_from_the_ledgers_clock_at_the_latest() {
    let period: Period = "2026-11".parse().unwrap();
    let (mut book, mut record) = (Book::new(period), Record::default());
    let now = period.begins() + Duration::from_secs(60);
    let ahead = now + Duration::from_secs(86_400);
    let states = |lease, terms, terms_at| Renewal { terms, terms_at, ..settling(lease, 1) };
    let free = Terms { included: nanos(10), ..settling(1, 0).terms };
    book.renew(&mut record, &states(1, free, ahead), None, now, now).unwrap();
    book.renew(&mut record, &states(2, PRO, now), None, now, now).unwrap();
    assert_eq!(book.terms.unwrap().terms, PRO);
    // The ledger's own clock was a day ahead, and is right again.
    book.renew(&mut record, &states(3, free, ahead), None, ahead, ahead).unwrap();
    // By the clock of a node that is behind.
    book.renew(&mut record, &states(4, PRO, now - Duration::from_secs(2)), None, now, now).unwrap();
    assert_eq!(book.terms.unwrap().terms, PRO);
}

const PRO: Terms = Terms {
    included: nanos(20),
    included_per_day: Credits::ZERO,
    per_seat: false,
    pay_as_you_go: Credits::MAX,
};

#[test]
fn a_threshold_is_claimed_by_one() {
    let mut book = Book::new("2026-11".parse().unwrap());
    let threshold = || "included 80".parse::<Name>().unwrap();
    assert!(book.claim(threshold(), LeaseId::from_bits(1)));
    assert!(!book.claim(threshold(), LeaseId::from_bits(2)));
    assert!(book.claim(threshold(), LeaseId::from_bits(1)), "who asks again has it");
    assert!(book.claim("limit 80".parse().unwrap(), LeaseId::from_bits(2)));
}

#[test]
fn counts_of_the_days_of_a_part_that_is_used_no_more_go_after_31_days() {
    let november: Period = "2026-11".parse().unwrap();
    let of_part = |part: &str, lease| Renewal {
        parts: Arc::from([PartTerms { part: part.parse().unwrap(), limits: Limits::default() }]),
        ..settling(lease, 5)
    };
    let (first, mut record) = (november.begins(), Record::default());
    Book::new(november).renew(&mut record, &of_part("old", 1), None, first, first).unwrap();
    for (days, is_there) in [(31, true), (32, false)] {
        let (now, mut record) = (first + Duration::from_secs(days * 86_400), record.clone());
        let mut book = Book::new(Period::containing(now));
        book.renew(&mut record, &of_part("new", 2), None, now, now).unwrap();
        let is_counted = record.part_days.contains_key(&"old".parse::<Part>().unwrap());
        assert_eq!(is_counted, is_there, "after {days} days");
    }
}

#[test]
fn at_the_end_of_a_month_no_request_begins_in_it() {
    let november: Period = "2026-11".parse().unwrap();
    let just_before = november.ends() - Duration::from_millis(1);
    for (now, expected) in [(just_before, 3), (november.ends(), 0)] {
        let most = NonZeroU32::new(8).unwrap();
        let concurrency = Some(ConcurrencyRequest { most, running: 0, wanted: 3 });
        let renewal = Renewal { concurrency, ..settling(1, 0) };
        let mut book = Book::new(november);
        let answer = book.renew(&mut Record::default(), &renewal, None, now, now).unwrap();
        let Outcome::Renewed { concurrency: Some(share), .. } = answer.outcome else { panic!() };
        assert_eq!(share.granted, expected, "at {now}");
    }
}
