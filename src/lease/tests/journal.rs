//! A lease that a journal has a record of.

use super::{renewal::TERMS, *};

/// A lease in the journal that owes nothing since the first second. It may say goodbye after 801.
fn stored() -> Pair {
    let (mut pair, request, key) = with_one_running(1_000);
    request.0.set(7);
    assert!(pair.lease.store(s(0)).is_some());
    pair.lease.end(key, true, s(1));
    pair.renew(s(1));
    assert_eq!(pair.until(s(1), s(801)), [s(201)]);
    pair
}

#[test]
fn a_lease_says_goodbye_once_the_journal_has_removed_its_record() {
    let mut pair = stored();
    let next = |pair: &Pair| pair.lease.next(&RULES, false, s(801));
    assert_eq!(next(&pair), Next::LeaveJournal);
    assert!(!pair.lease.removed_from_journal(), "it has not asked for that");
    assert_eq!(next(&pair), Next::LeaveJournal);
    pair.lease.leave_journal();
    assert_eq!(next(&pair), Next::Wait(Duration::MAX), "the record is still there");
    assert!(pair.lease.store(s(801)).is_none(), "nor is it written again");
    assert!(pair.lease.removed_from_journal());
    assert_eq!(next(&pair), Next::Renew);
    assert!(pair.lease.renew(&RULES, TERMS, false, s(801)).forget);
    assert!(!pair.lease.removed_from_journal(), "once");
}

#[test]
fn a_lease_that_is_used_again_before_its_record_is_removed_goes_on() {
    let mut pair = stored();
    pair.lease.leave_journal();
    pair.lease.enqueue(WANT, unused(), ());
    assert!(!pair.lease.removed_from_journal());
    assert_eq!(pair.lease.next(&RULES, false, s(801)), Next::Renew);
    assert_eq!(pair.renew(s(801)).admitted.len(), 1);
    assert!(pair.lease.store(s(801)).is_some() && !pair.lease.is_leaving());
}

#[test]
fn a_lease_without_a_record_asks_for_no_removal() {
    let (mut pair, ..) = with_one_running(1_000);
    pair.lease.leave_journal();
    assert!(!pair.lease.needs_removal());
}

#[cfg(feature = "journal")]
#[test]
fn the_journal_is_written_while_something_runs_is_owed_or_is_to_be_removed() {
    let mut pair = Pair::new(1_000);
    assert!(!pair.lease.needs_journal(), "nobody has used it");
    let (request, key) = pair.start(0, s(0));
    assert!(pair.lease.needs_journal(), "a request runs");
    request.0.set(7);
    pair.lease.end(key, true, s(1));
    assert!(pair.lease.needs_journal(), "its usage is not reported");
    pair.renew(s(1));
    assert!(!pair.lease.needs_journal());

    let mut pair = stored();
    assert!(!pair.lease.needs_journal());
    pair.lease.leave_journal();
    assert!(pair.lease.needs_journal(), "its record is to be removed");
    assert!(pair.lease.removed_from_journal());
    pair.lease.renew(&RULES, TERMS, false, s(801));
    assert!(!pair.lease.needs_journal(), "it has said goodbye");
}
