//! [`ExportReport`]: what an export did.

use super::event::UsageEvent;
use crate::{Account, Credits, ledger::Usage};

/// The most refused events, and of those in doubt, that a report has one by one.
const MAX_LISTED: usize = 1_000;

/// Report of an export or of a preview.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExportReport {
    /// Number of accounts whose statements were read.
    pub accounts: u64,
    /// Number of accounts that the receiver does not [take](super::Receiver::takes).
    pub skipped: u64,
    /// Number of events that were acknowledged, repeated ones included. In a preview: of events
    /// that would be sent.
    pub events: u64,
    /// Number of events that were not acknowledged by an export before, and were sent again.
    pub repeated: u64,
    /// Sum of the events: requests, compute time and cost.
    pub usage: Usage,
    /// Number of events that the receiver does not take. The next export sends them again.
    pub refused: u64,
    /// The first 1 000 of them, with the receiver's reason.
    pub refusals: Vec<(UsageEvent, String)>,
    /// Number of events that may have arrived longer ago than the receiver
    /// [remembers](super::Receiver::remembers_for). They are not sent again by themselves.
    pub in_doubt: u64,
    /// The first 1 000 of them.
    pub doubts: Vec<UsageEvent>,
    /// Number of accounts whose stored data cannot be read. Nothing is sent of them.
    pub unreadable: u64,
    /// The first 1 000 of them, with the reason.
    pub unreadable_accounts: Vec<(Account, String)>,
}

impl ExportReport {
    /// `true` if the receiver has everything of the months that were exported.
    pub const fn is_complete(&self) -> bool {
        self.refused == 0 && self.in_doubt == 0 && self.unreadable == 0
    }

    pub(super) fn add_sent(&mut self, event: &UsageEvent) {
        self.events += 1;
        let UsageEvent { requests, compute_micros, cost, .. } = *event;
        self.usage.add(Usage { requests, compute_micros, cost });
    }

    pub(super) fn add_refused(&mut self, event: UsageEvent, reason: String) {
        self.refused += 1;
        if self.refusals.len() < MAX_LISTED {
            self.refusals.push((event, reason));
        }
    }

    pub(super) fn add_doubt(&mut self, event: UsageEvent) {
        self.in_doubt += 1;
        if self.doubts.len() < MAX_LISTED {
            self.doubts.push(event);
        }
    }

    pub(super) fn add_unreadable(&mut self, account: Account, reason: String) {
        self.unreadable += 1;
        if self.unreadable_accounts.len() < MAX_LISTED {
            self.unreadable_accounts.push((account, reason));
        }
    }

    /// Cost of the events.
    pub const fn cost(&self) -> Credits {
        self.usage.cost
    }
}
