//! The credits that leases have on hold, and when the holds expire.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::LeaseId;
use crate::{Credits, clock::UnixTime};

/// A hold that would last longer was made when the ledger's clock was ahead; it does not count.
pub(super) const MAX_HOLD_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The holds of a period. A lease that holds nothing has no entry, so the cost of a scan depends
/// only on leases that hold something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Holds {
    pub(super) entries: BTreeMap<LeaseId, Hold>,
    /// On hold by all of them.
    pub(super) held: Credits,
    /// No hold expires before this moment: they are scanned only from then on.
    pub(super) next_expiry: Option<UnixTime>,
}

/// A lease's hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Hold {
    pub(super) amount: Credits,
    pub(super) expires: UnixTime,
}

/// `true` if a hold that expires at `end` still counts.
pub(super) fn is_live(end: UnixTime, now: UnixTime) -> bool {
    now < end && end <= now + MAX_HOLD_LIFETIME
}

impl Holds {
    /// The hold of a lease.
    pub(super) fn of(&self, lease: LeaseId) -> Credits {
        self.entries.get(&lease).map_or(Credits::ZERO, |hold| hold.amount)
    }

    /// Releases the holds that nobody renewed in time, and adds up the others anew.
    pub(super) fn release(&mut self, now: UnixTime) {
        let is_due = self.next_expiry.map_or(!self.held.is_zero(), |next| !is_live(next, now));
        if !is_due {
            return;
        }
        self.entries.retain(|_, hold| is_live(hold.expires, now));
        self.held =
            self.entries.values().fold(Credits::ZERO, |sum, hold| sum.saturating_add(hold.amount));
        self.next_expiry = self.entries.values().map(|hold| hold.expires).min();
    }

    /// Sets the hold of a lease.
    pub(super) fn set(&mut self, lease: LeaseId, amount: Credits, expires: UnixTime) {
        let others = self.held.saturating_sub(self.of(lease));
        if !amount.is_zero() {
            self.entries.insert(lease, Hold { amount, expires });
            self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        } else if self.entries.remove(&lease).is_none() {
            return;
        }
        self.held = others.saturating_add(amount);
        if self.entries.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_without_a_moment_at_which_it_expires_is_added_up_anew() {
        let (now, lease) = (UnixTime::from_secs(1_796_000_000), LeaseId::from_bits(1));
        let mut holds = Holds::default();
        holds.set(lease, Credits::SMALLEST, now + Duration::from_secs(600));
        let expected = holds.clone();
        holds = Holds { held: Credits::MAX, next_expiry: None, ..holds };
        holds.release(now);
        assert_eq!(holds, expected);
    }

    #[test]
    fn if_a_clock_steps_back_a_hold_ends_later_by_the_step_and_by_a_day_at_most() {
        let (lifetime, set_at) =
            (Duration::from_secs(600), UnixTime::from_millis(1_796_000_000_000));
        let (tick, lease) = (Duration::from_millis(1), LeaseId::from_bits(1));
        let hour = Duration::from_secs(3_600);
        for (step, lasts) in [
            (Duration::ZERO, lifetime),
            (hour, lifetime + hour),
            (MAX_HOLD_LIFETIME - lifetime, MAX_HOLD_LIFETIME),
            (MAX_HOLD_LIFETIME - lifetime + tick, Duration::ZERO),
            (MAX_HOLD_LIFETIME * 40, Duration::ZERO),
        ] {
            let held = |passed: Duration| {
                let mut holds = Holds::default();
                holds.set(lease, Credits::SMALLEST, set_at + lifetime);
                holds.release(set_at - step + passed);
                holds.held
            };
            assert_eq!(held(lasts), Credits::ZERO, "a step of {step:?}");
            if let Some(before) = lasts.checked_sub(tick) {
                assert_eq!(held(before), Credits::SMALLEST, "a step of {step:?}");
            }
        }
    }
}
