//! Anything as what a journal has: a lease goes on from it.

use std::time::Duration;

use super::{exhaustive::Request, lease::Lease, record::LeaseRecord, rules::LeaseRules};
use crate::{
    Credits,
    ledger::{AccountState, Book, LeaseId, Terms},
};

#[test]
fn a_recovered_lease_debits_what_its_record_says_and_no_more() {
    bolero::check!(name = "journal").for_each(check);
}

#[test]
fn a_record_of_which_a_byte_is_not_what_it_was_is_refused_or_debits_what_it_says() {
    let rules = LeaseRules::default();
    let mut lease: Lease<(), Request> = Lease::new(LeaseId::from_bits(1), Duration::ZERO);
    let renewal = lease.renew(&rules, Terms::nothing(), false, Duration::ZERO);
    lease.unanswered(&rules, renewal.seq, Duration::from_secs(1));
    let record = serde_json::to_vec(&lease.store(Duration::from_secs(2)).unwrap()).unwrap();
    check(&record);
    for at in 0..record.len() {
        for other in b"0-9\"}]{n \xff" {
            let mut record = record.clone();
            record[at] = *other;
            check(&record);
        }
    }
}

/// Goes on from a record, and reports until all is acknowledged or refused.
fn check(bytes: &[u8]) {
    let rules = LeaseRules::default();
    let Ok(record) = serde_json::from_slice::<LeaseRecord>(bytes) else { return };
    let batch = record.outbox.frozen.as_ref().map_or(Credits::ZERO, |(_, settled, _)| *settled);
    let most = record.outbox.spent.max(batch);
    let mut lease: Lease<(), Request> = Lease::recovered(record, &rules, Duration::ZERO);
    let mut ledger = AccountState::default();
    let period = "2026-11".parse().unwrap();
    let now = crate::Period::begins(period) + Duration::from_secs(3_600);
    for tick in 1..4 {
        let at = Duration::from_secs(tick);
        let renewal = lease.renew(&rules, Terms::nothing(), true, at);
        match ledger.renew(period, &renewal, now, now) {
            Ok(answer) => drop(lease.answered(&rules, renewal.seq, &answer, |()| false, at)),
            // Lines that cost more than they may are refused, and nothing is debited.
            Err(_) => lease.unanswered(&rules, renewal.seq, at),
        }
    }
    let debited = ledger.book(period).map_or(Credits::ZERO, Book::used);
    assert!(debited <= most);
}
