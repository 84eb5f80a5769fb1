//! [`Audit`]: whether what is stored of an account's month adds up.

use std::{collections::BTreeMap, fmt};

use super::{Book, Cursor, LedgerError, Record, holds::is_live};
use crate::{Account, Credits, Part, Period, clock::UnixTime};

/// Audit of what a ledger has stored of an account's month: it comes from
/// [`Accounts::audit`](super::Accounts::audit), which changes nothing.
///
/// A ledger whose server lost a key, or a part of a write, is repaired by the account's next
/// renewal. An audit before that names what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// The account.
    pub account: Account,
    /// The month.
    pub period: Period,
    /// Debited, refunds not subtracted.
    pub used: Credits,
    /// The part of `used` that is in usage lines.
    pub itemised: Credits,
    /// The part of `used` that is in no line, because a failover forgot it.
    pub recovered: Credits,
    /// On hold by leases that are live.
    pub held: Credits,
    /// The number of leases that the ledger remembers.
    pub leases: usize,
    /// Amounts that do not add up. Empty if all do.
    pub findings: Vec<Finding>,
}

/// One page of [`Accounts::audit_page`](super::Accounts::audit_page).
#[derive(Debug)]
#[non_exhaustive]
pub struct AuditsPage {
    /// The audits.
    pub audits: Vec<Audit>,
    /// Accounts of which something cannot be read.
    pub unreadable: Vec<(Account, LedgerError)>,
    /// The start of the next page; `None` if this is the last one.
    pub next: Option<Cursor>,
}

/// Two amounts that should be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Name of the amounts, in words.
    pub what: &'static str,
    /// The amount as its parts say.
    pub expected: Credits,
    /// The amount as it is stored.
    pub found: Credits,
}

impl Audit {
    /// `true` if everything adds up.
    pub const fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Audits what is stored of a month. `book` is as the ledger has it, without repairs.
    pub(super) fn of(account: &Account, book: &Book, record: &Record, now: UnixTime) -> Self {
        let sum = |amounts: &mut dyn Iterator<Item = Credits>| {
            amounts.fold(Credits::ZERO, Credits::saturating_add)
        };
        let itemised = sum(&mut book.lines.values().map(|usage| usage.cost));
        let holds = &book.holds.entries;
        let live = holds.values().filter(|hold| is_live(hold.expires, now));
        let held = sum(&mut live.map(|hold| hold.amount));
        let mut findings = Vec::new();
        let mut check = |what, expected, found| {
            if expected != found {
                findings.push(Finding { what, expected, found });
            }
        };
        check(
            "used: usage lines and what was recovered",
            itemised.saturating_add(book.recovered),
            book.used,
        );
        // Holds that expired since the last renewal are in the sum until the next.
        let all = sum(&mut holds.values().map(|hold| hold.amount));
        check("held: the holds of leases", all, book.holds.held);
        check(
            "refunded: the refunds",
            sum(&mut book.refunds.values().map(|r| r.amount)),
            book.refunded,
        );
        if let Some(leases) = &book.leases.sums {
            let entries = sum(&mut book.leases.entries.values().map(|entry| entry.settled));
            check(
                "settled by leases: the leases, and those that said goodbye",
                entries.saturating_add(leases.sums.forgotten),
                leases.sums.settled,
            );
            // Until they have reported again, leases whose entries were lost are behind.
            if leases.behind_until.is_none() {
                check(
                    "settled, in the book: as with the leases",
                    leases.sums.settled,
                    book.sums.settled,
                );
            }
        }
        if !book.is_empty() {
            let of_record = record.purchased_used.get(&book.period).copied().unwrap_or_default();
            check(
                "used of purchases, in the book: as in the record",
                of_record,
                book.purchased_used,
            );
        }
        for (what, part) in [
            ("refunded: at most what was used", book.refunded),
            ("used of purchases: at most what was used", book.purchased_used),
            ("charged: at most what was used", book.charged),
        ] {
            check(what, part.min(book.used), part);
        }
        for (what, expected, found) in audit_parts(book) {
            check(what, expected, found);
        }
        for (_, grant) in record.grants() {
            check("left of a grant: at most its amount", grant.left.min(grant.amount), grant.left);
        }
        Self {
            account: account.clone(),
            period: book.period,
            used: book.used,
            itemised,
            recovered: book.recovered,
            held,
            leases: book.leases(),
            findings,
        }
    }
}

/// Compares the parts of a month with their holds, and with those that have them.
fn audit_parts(book: &Book) -> Vec<(&'static str, Credits, Credits)> {
    let parts = &book.parts;
    let (mut held, mut used): (BTreeMap<Part, Credits>, BTreeMap<Option<Part>, Credits>) =
        Default::default();
    for hold in parts.holds.values() {
        for part in &hold.parts {
            let sum = held.entry(part.clone()).or_default();
            *sum = sum.saturating_add(hold.amount);
        }
    }
    let mut found = Vec::new();
    for (part, total) in &parts.totals {
        let held = held.get(part).copied().unwrap_or_default();
        found.push(("held of a part: the holds of leases", held, total.held));
        let most = book.used.min(total.used);
        found.push(("used of a part: at most what the account used", most, total.used));
        if part.models().is_none() {
            let sum = used.entry(part.parent()).or_default();
            *sum = sum.saturating_add(total.used);
        }
    }
    for (parent, sum) in used {
        let of_parent = parent.map_or(book.used, |parent| {
            parts.totals.get(&parent).map_or(Credits::ZERO, |total| total.used)
        });
        found.push(("used of parts: at most what they are parts of", of_parent.min(sum), sum));
    }
    found
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} expected, {} found", self.what, self.expected, self.found)
    }
}

/// One line of text: `sound`, or what does not add up.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, period, used, held, findings, .. } = self;
        write!(f, "{account} {period}: used {used}, held {held}, ")?;
        if findings.is_empty() {
            return f.write_str("sound");
        }
        for (number, finding) in findings.iter().enumerate() {
            write!(f, "{}{finding}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;

    use super::*;
    use crate::ledger::histories::{Step, by_book, history};

    #[test]
    fn every_state_that_lost_nothing_is_sound_and_losses_are_named() {
        let (mut audited, mut found) = (0, BTreeSet::new());
        for seed in 0..2_000 {
            let steps = history(&mut Rng::with_seed(seed));
            let lost = steps.iter().position(|step| matches!(step, Step::Lose { .. }));
            let account = Account::user("alice").unwrap();
            for (number, (step, (_, record, books))) in
                steps.iter().zip(by_book(&steps)).enumerate()
            {
                let (Step::Renew { now, .. } | Step::Amend { now, .. } | Step::Claim { now, .. }) =
                    step
                else {
                    continue;
                };
                for book in books {
                    let audit = Audit::of(&account, &book, &record, *now);
                    if lost.is_none_or(|lost| number < lost) {
                        assert!(audit.is_sound(), "history {seed}, step {number}: {audit}");
                        audited += 1;
                    }
                    found.extend(audit.findings.iter().map(|finding| finding.what));
                }
            }
        }
        assert!(audited > 10_000 && found.len() >= 4, "{audited}: {found:?}");
    }
}
