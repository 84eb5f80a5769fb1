//! Usage of the parts of an account in a month, and the holds in them.
//!
//! A lease draws on all parts along its path, and on the account, in one step. A hold of a part
//! expires by itself, as one of the account does. Nothing here is repaired if the storage loses it:
//! the account's own totals are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LeaseId, PartTerms, Renewal, holds::is_live};
use crate::{Credits, Part, clock::UnixTime};

/// The parts of an account in a month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Parts {
    pub(super) totals: BTreeMap<Part, PartTotal>,
    pub(super) holds: BTreeMap<LeaseId, PartHold>,
    /// No hold expires before this moment: they are scanned only from then on.
    pub(super) next_expiry: Option<UnixTime>,
}

/// Usage of a part in a month, and its hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct PartTotal {
    pub(super) used: Credits,
    pub(super) held: Credits,
}

/// A lease's hold in the parts that it draws on. They are always the same for a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct PartHold {
    pub(super) amount: Credits,
    pub(super) expires: UnixTime,
    pub(super) parts: Vec<Part>,
}

/// Usage of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct DayTotal {
    /// Days since 1970, UTC.
    pub(super) day: u64,
    pub(super) used: Credits,
}

impl DayTotal {
    /// Returns the usage on the day of `now`.
    pub(super) fn on(self, now: UnixTime) -> Credits {
        if self.day == now.days() { self.used } else { Credits::ZERO }
    }

    /// Adds what is used on the day of `now`.
    pub(super) fn add(&mut self, more: Credits, now: UnixTime) {
        let used = self.on(now).saturating_add(more);
        *self = Self { day: now.days(), used };
    }
}

impl Parts {
    pub(super) const fn new() -> Self {
        Self { totals: BTreeMap::new(), holds: BTreeMap::new(), next_expiry: None }
    }

    /// Releases the holds that nobody renewed in time, and adds up the others anew.
    pub(super) fn release(&mut self, now: UnixTime) {
        if self.next_expiry.is_none_or(|next| is_live(next, now)) {
            return;
        }
        self.holds.retain(|_, hold| is_live(hold.expires, now));
        self.totals.values_mut().for_each(|total| total.held = Credits::ZERO);
        for hold in self.holds.values() {
            for part in &hold.parts {
                let total = self.totals.entry(part.clone()).or_default();
                total.held = total.held.saturating_add(hold.amount);
            }
        }
        self.next_expiry = self.holds.values().map(|hold| hold.expires).min();
    }

    pub(super) fn hold_of(&self, lease: LeaseId) -> Credits {
        self.holds.get(&lease).map_or(Credits::ZERO, |hold| hold.amount)
    }

    pub(super) fn total(&self, part: &Part) -> PartTotal {
        self.totals.get(part).copied().unwrap_or_default()
    }

    /// Sets the hold of a lease in the parts that it draws on.
    pub(super) fn set_hold(&mut self, renewal: &Renewal, amount: Credits, expires: UnixTime) {
        let before = self.hold_of(renewal.lease);
        for PartTerms { part, .. } in renewal.parts.iter() {
            let total = self.totals.entry(part.clone()).or_default();
            total.held = total.held.saturating_sub(before).saturating_add(amount);
        }
        if amount.is_zero() {
            self.holds.remove(&renewal.lease);
        } else {
            let parts = renewal.parts.iter().map(|terms| terms.part.clone()).collect();
            self.holds.insert(renewal.lease, PartHold { amount, expires, parts });
            self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        }
    }
}
