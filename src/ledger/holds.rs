//! What leases have on hold, and until when.

use std::{collections::BTreeMap, time::Duration};

use super::LeaseId;
use crate::Credits;

/// No hold lasts longer: one that seems to was made when the ledger's clock was ahead of what it
/// is.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The holds of a period. A lease that holds nothing is not among them, so what looking through
/// them costs depends on those that are alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) entries: BTreeMap<LeaseId, Hold>,
    /// By all of them.
    pub(super) held: Credits,
    /// No hold expires before this moment: they are looked through only from then on.
    pub(super) next: Option<Duration>,
}

/// What one lease has on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) amount: Credits,
    pub(super) expires: Duration,
}

/// Says if what ends at `end` is still to be counted.
pub(super) fn is_live(end: Duration, now: Duration) -> bool {
    now < end && end <= now + LONGEST
}

impl Holds {
    /// What a lease has on hold.
    pub(super) fn of(&self, lease: LeaseId) -> Credits {
        self.entries.get(&lease).map_or(Credits::ZERO, |hold| hold.amount)
    }

    /// Releases the holds that nobody renewed in time, and adds up the others anew.
    pub(super) fn release(&mut self, now: Duration) {
        let is_due = self.next.map_or(!self.held.is_zero(), |next| !is_live(next, now));
        if !is_due {
            return;
        }
        self.entries.retain(|_, hold| is_live(hold.expires, now));
        self.held =
            self.entries.values().fold(Credits::ZERO, |sum, hold| sum.saturating_add(hold.amount));
        self.next = self.entries.values().map(|hold| hold.expires).min();
    }

    /// Sets what a lease has on hold.
    pub(super) fn set(&mut self, lease: LeaseId, amount: Credits, expires: Duration) {
        let others = self.held.saturating_sub(self.of(lease));
        if !amount.is_zero() {
            self.entries.insert(lease, Hold { amount, expires });
            self.next = Some(self.next.map_or(expires, |next| next.min(expires)));
        } else if self.entries.remove(&lease).is_none() {
            return;
        }
        self.held = others.saturating_add(amount);
        if self.entries.is_empty() {
            *self = Self::default();
        }
    }
}
