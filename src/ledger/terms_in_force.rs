//! The terms that count in a month.

use std::num::NonZeroU32;

use crate::{Credits, clock::UnixTime, ledger::Terms};

/// The terms by which a month's usage is debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct TermsInForce {
    pub(super) terms: Terms,
    pub(super) seats: NonZeroU32,
    /// Moment at which a request last stated them: [`Renewal::terms_at`](super::Renewal::terms_at).
    pub(super) stated_at: UnixTime,
}

impl TermsInForce {
    /// Included credits, seats counted.
    pub(super) fn included(&self) -> Credits {
        self.for_seats(self.terms.included)
    }

    /// Included credits of a day, seats counted.
    pub(super) fn included_per_day(&self) -> Credits {
        self.for_seats(self.terms.included_per_day)
    }

    fn for_seats(&self, credits: Credits) -> Credits {
        let seats = if self.terms.per_seat { self.seats.get() } else { 1 };
        credits.checked_mul(seats).unwrap_or(Credits::MAX)
    }
}
