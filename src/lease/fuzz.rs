//! Anything as what a journal has: a lease goes on from it.

use std::time::Duration;

use super::{
    exhaustive::Request,
    lease::{Lease, Next},
    record::LeaseRecord,
    rules::LeaseRules,
    run::SliceRequest,
};
use crate::{
    Credits,
    ledger::{AccountState, Book, LeaseId, Terms},
    pieces::{edited, with_each_byte_replaced},
};

const WORDS: &[&str] = &["null", "{}", "[]", "0", "-1", "18446744073709551615", "1e400", "\"\""];

#[test]
fn a_recovered_lease_debits_what_its_record_says_and_no_more() {
    let record = record();
    bolero::check!(name = "journal").for_each(|bytes| {
        check(bytes);
        check(&edited(&record, bytes, WORDS));
    });
}

#[test]
fn a_record_of_which_a_byte_is_not_what_it_was_is_refused_or_debits_what_it_says() {
    let record = record();
    assert_eq!(check(&record), Some(Credits::clamped(18)), "all of it is debited");
    with_each_byte_replaced(&record, |record| {
        check(record);
    });
}

/// A record with a request in a batch that nobody answered, and one that ended after it.
fn record() -> Vec<u8> {
    let rules = LeaseRules::default();
    let mut lease: Lease<(), Request> = Lease::new(LeaseId::from_bits(1), Duration::ZERO);
    let want = SliceRequest {
        hold: Credits::clamped(100),
        min_slice: Credits::clamped(1),
        first_refill_after: Duration::from_secs(1),
        max_concurrent: None,
        rate: None,
        most_running: None,
    };
    for second in 0..2 {
        let now = Duration::from_secs(second);
        let request = Request::new(false, 9);
        let id = lease.grant_unbacked(want, request, Credits::MAX, now).ok().unwrap();
        lease.end(id, false, now + Duration::from_millis(900));
        if second == 0 {
            let renewal = lease.renew(&rules, Terms::nothing(), false, now);
            lease.unanswered(&rules, renewal.seq, now);
        }
    }
    serde_json::to_vec(&lease.store(Duration::from_secs(2)).unwrap()).unwrap()
}

/// Goes on from a record, and reports until all is acknowledged or refused. Returns what is debited
/// then; `None` if the record cannot be read.
fn check(bytes: &[u8]) -> Option<Credits> {
    let rules = LeaseRules::default();
    let record = serde_json::from_slice::<LeaseRecord>(bytes).ok()?;
    let batch = record.outbox.frozen.as_ref().map_or(Credits::ZERO, |(_, settled, _)| *settled);
    let most = record.outbox.spent.max(batch);
    let mut lease: Lease<(), Request> = Lease::recovered(record, &rules, Duration::ZERO);
    let mut ledger = AccountState::default();
    let period = "2026-11".parse().unwrap();
    let now = crate::Period::begins(period) + Duration::from_secs(3_600);
    for tick in 1..8 {
        let at = Duration::from_secs(tick);
        match lease.next(&rules, true, at) {
            Next::Renew => {}
            Next::LeaveJournal => {
                lease.leave_journal();
                lease.removed_from_journal();
                continue;
            }
            Next::Wait(_) => continue,
            Next::Gone => break,
        }
        let renewal = lease.renew(&rules, Terms::nothing(), true, at);
        match ledger.renew(period, &renewal, now, now) {
            Ok(answer) => drop(lease.answered(&rules, renewal.seq, &answer, |()| false, at)),
            // Lines that cost more than they may are refused, and nothing is debited.
            Err(_) => lease.unanswered(&rules, renewal.seq, at),
        }
    }
    let debited = ledger.book(period).map_or(Credits::ZERO, Book::used);
    assert!(debited <= most, "{debited} of {most}: {}", String::from_utf8_lossy(bytes));
    Some(debited)
}
