//! The terms that count in a month.

use std::{num::NonZeroU32, time::Duration};

use crate::{Credits, ledger::Terms};

/// What an account may use in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) terms: Terms,
    pub(super) seats: NonZeroU32,
    pub(super) said: Duration,
}

impl Agreed {
    /// Included credits, seats counted.
    pub(super) fn included(&self) -> Credits {
        let seats = if self.terms.per_seat { self.seats.get() } else { 1 };
        self.terms.included.checked_mul(seats).unwrap_or(Credits::MAX)
    }
}
