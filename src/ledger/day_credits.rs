//! Credits that a tier includes each day.

use serde::{Deserialize, Serialize};

use crate::Credits;

/// The credits that are included each day of a month (UTC), and the usage of the month that they
/// paid for. They pay before all others, and those that are left at midnight lapse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct DayCredits {
    /// Included each day, by the terms in force, for one seat.
    pub(super) each: Credits,
    /// Usage of the month that they paid for, that of the last day included.
    pub(super) covered: Credits,
    /// The last day on which they paid, in days since 1970, UTC.
    pub(super) day: u64,
    /// Usage that they paid for on that day.
    pub(super) today: Credits,
}

impl DayCredits {
    /// Returns what is left of the day's credits, of which there are `included`.
    pub(super) fn left(self, included: Credits) -> Credits {
        included.saturating_sub(self.today)
    }

    /// Pays `cost`.
    pub(super) fn pay(self, cost: Credits) -> Self {
        Self {
            covered: self.covered.saturating_add(cost),
            today: self.today.saturating_add(cost),
            ..self
        }
    }

    /// Returns the state at the begin of a day: days without usage paid some of what was owed, and
    /// this one pays `debt` of it first.
    pub(super) fn begin_day(self, day: u64, of_idle_days: Credits, debt: Credits) -> Self {
        let covered = self.covered.saturating_add(of_idle_days);
        Self { day, covered, today: Credits::ZERO, ..self }.pay(debt)
    }
}
