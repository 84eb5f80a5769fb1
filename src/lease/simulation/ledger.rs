//! The ledger of the simulation: the crate's own book, with storage that forgets and a clock that
//! may be wrong.

use std::{collections::VecDeque, time::Duration};

use fastrand::Rng;

use super::{at, nanos};
use crate::{
    Account, Credits, Limits, Period,
    clock::UnixTime,
    ledger::{Answer, Book, Outcome, PartTerms, Record, Refund, Renewal, Statement, Terms},
};

/// In ticks.
pub(super) const HOUR: u64 = 3_600_000;

pub(super) struct FaultyLedger {
    book: Book,
    record: Record,
    /// An older state of the book, of which a part may come back.
    saved: Book,
    /// If messages are lost, too, the storage loses something once.
    has_lost: bool,
    /// `true` if what the storage lost is mended.
    is_whole: bool,
    /// The latest writes and their times: a failover goes back to one of these.
    history: VecDeque<(u64, (Book, Record))>,
    /// Time that the clock adds to the tick: an hour if it is right.
    ahead: u64,
    /// The tick at which a day ends, if one does.
    midnight: Option<u64>,
}

impl FaultyLedger {
    pub(super) fn new(purchased: i64, midnight: Option<u64>) -> Self {
        let book = Book::new(period());
        let mut record = Record::default();
        if purchased > 0 {
            record.grant("order-1".parse().unwrap(), nanos(purchased), None);
        }
        Self {
            saved: book.clone(),
            has_lost: false,
            is_whole: true,
            history: VecDeque::from([(0, (book.clone(), record.clone()))]),
            ahead: HOUR,
            midnight,
            book,
            record,
        }
    }

    /// Returns what the clock says: well inside of the period.
    pub(super) fn clock(&self, tick: u64) -> UnixTime {
        let midnight = self.midnight.map_or(0, |midnight| 23 * HOUR - midnight);
        period().begins() + Duration::from_secs(864_000) + at(midnight + tick + self.ahead)
    }

    /// Returns on how many days there was usage so far.
    pub(super) fn days(&self, tick: u64) -> u32 {
        1 + u32::from(self.midnight.is_some_and(|midnight| tick >= midnight))
    }

    pub(super) fn mend_clock(&mut self) {
        self.ahead = HOUR;
    }

    /// Sets the clock up to an hour wrong.
    pub(super) fn step_clock(&mut self, rng: &mut Rng) {
        self.ahead = rng.u64(0..=2 * HOUR);
    }

    /// The operator and the account's owner change something.
    pub(super) fn amend(&mut self, rng: &mut Rng, tick: u64) {
        let (clock, id) = (self.clock(tick), format!("id {tick}"));
        let amount = nanos(rng.i64(0..150));
        let (book, record) = (&mut self.book, &mut self.record);
        match rng.u8(0..6) {
            0 => drop(record.grant(id.parse().unwrap(), amount, None)),
            1 => {
                let expires = clock + at(rng.u64(0..500));
                record.grant(id.parse().unwrap(), amount, Some(expires));
            }
            2 => record.seats = rng.u32(1..=3).try_into().unwrap(),
            3 => {
                let part = ["a", "a/b", "a/d", "e"][rng.usize(0..4)].parse().unwrap();
                let limit = |rng: &mut Rng| rng.bool().then(|| nanos(rng.i64(30..=800)));
                let limits = Limits { per_month: limit(rng), per_day: limit(rng) };
                record.set_limits(Some(part), limits).unwrap();
            }
            4 => record.spending_limit = rng.bool().then_some(amount),
            _ => {
                let refund = Refund {
                    amount: amount.min(book.used().saturating_sub(book.refunded())),
                    reason: "a test".parse().unwrap(),
                };
                if !refund.amount.is_zero() {
                    assert!(book.refund(record, id.parse().unwrap(), refund, clock).unwrap());
                }
            }
        }
        self.history.push_back((tick, (self.book.clone(), self.record.clone())));
    }

    /// Replication lags by up to 30 ticks: what was written since is forgotten.
    pub(super) fn fail_over(&mut self, rng: &mut Rng, tick: u64) {
        let recent: Vec<_> =
            self.history.iter().filter(|(written, _)| tick - written < 30).collect();
        if !recent.is_empty() {
            (self.book, self.record) = recent[rng.usize(0..recent.len())].1.clone();
        }
        self.history = VecDeque::from([(tick, (self.book.clone(), self.record.clone()))]);
    }

    /// A key is gone, or is again what it was. Two at once cannot be mended.
    pub(super) fn lose(&mut self, rng: &mut Rng, messages_are_lost: bool) {
        if rng.bool() {
            self.saved = self.book.clone();
        } else if std::mem::take(&mut self.is_whole)
            && (!messages_are_lost || !std::mem::replace(&mut self.has_lost, true))
        {
            let with = if rng.bool() { self.saved.clone() } else { Book::new(period()) };
            let part = rng.usize(0..4);
            // A book that is lost while no lease is remembered is lost.
            if part > 0 || self.book.leases() > 0 {
                self.book.lose(part, with);
            }
        }
    }

    /// Takes a renewal that may act until `not_after`. With `failover`, remembers what it wrote.
    pub(super) fn renew(
        &mut self,
        renewal: &Renewal,
        not_after: UnixTime,
        failover: bool,
        tick: u64,
    ) -> Answer {
        let clock = self.clock(tick);
        let answer = self.book.renew(&mut self.record, renewal, None, not_after, clock).unwrap();
        self.is_whole |= answer.outcome != Outcome::Late && self.book.is_whole();
        if failover {
            self.history.push_back((tick, (self.book.clone(), self.record.clone())));
            if self.history.len() > 30 {
                self.history.pop_front();
            }
        }
        answer
    }

    /// Returns the most that the account may use, refunds included.
    pub(super) fn allowed(&self, terms: Terms, tick: u64) -> Credits {
        let standing = self.book.standing(&self.record, Some(terms), self.clock(tick));
        standing.limit.saturating_add(self.book.refunded())
    }

    /// Returns the limits of a part.
    pub(super) fn limits(&self, terms: &PartTerms) -> Limits {
        self.record.limits(Some(&terms.part)).or(terms.limits)
    }

    /// Returns the number of leases that are remembered.
    pub(super) fn leases(&self) -> usize {
        self.book.leases()
    }

    /// Returns the statement as people read it, `later` than the clock says.
    pub(super) fn statement(&self, terms: Terms, tick: u64, later: Duration) -> Statement {
        let account = Account::user("alice").unwrap();
        let clock = self.clock(tick) + later;
        Statement::from_book(&account, &self.book, &self.record, Some(terms), clock)
    }
}

fn period() -> Period {
    "2026-11".parse().unwrap()
}
