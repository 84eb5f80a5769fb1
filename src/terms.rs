//! The credits that a tier allows an account.

use std::sync::Arc;

use crate::{Account, Credits, Limits, Part, Period};

/// The credits that a tier allows an account. The account's own
/// [`Record`](crate::ledger::Record) may add to them or narrow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Terms {
    /// Included each period.
    pub included: Credits,
    /// Included each day (UTC), in addition. They are used first, and lapse at midnight.
    #[serde(default)]
    pub included_per_day: Credits,
    /// `true` if both count once for each seat of the account.
    pub per_seat: bool,
    /// The credits that can be used beyond included and purchased ones and are charged afterwards:
    /// zero if usage stops there, [`Credits::MAX`] if there is no limit.
    pub pay_as_you_go: Credits,
}

impl Terms {
    /// Returns terms that allow nothing.
    pub const fn nothing() -> Self {
        Self {
            included: Credits::ZERO,
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::ZERO,
        }
    }
}

/// A part of the account that a lease draws on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct PartTerms {
    /// The part.
    pub part: Part,
    /// Its limits by the account's tier. Those that are set in the ledger come before them.
    pub limits: Limits,
}

/// Everything that a request states to the ledger of its account's tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatedTerms {
    pub(crate) terms: Terms,
    /// The most that the account may use on a day; `None` for no limit.
    pub(crate) most_per_day: Option<Credits>,
    /// The parts that its lease draws on, the largest first.
    pub(crate) parts: Arc<[PartTerms]>,
}

/// The account that a lease is of, in a month, and the parts of it that the lease draws on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseScope {
    pub(crate) account: Account,
    /// The part that asks.
    pub(crate) part: Option<Part>,
    /// The models that have limits of their own, as a part.
    pub(crate) models: Option<Part>,
    pub(crate) period: Period,
}

impl StatedTerms {
    /// Returns terms that allow nothing.
    pub(crate) fn nothing() -> Self {
        Self { terms: Terms::nothing(), most_per_day: None, parts: Arc::default() }
    }
}

impl LeaseScope {
    /// Returns the scope of the whole account; `None` if this is it.
    pub(crate) fn whole(&self) -> Option<Self> {
        if self.part.is_none() && self.models.is_none() {
            return None;
        }
        Some(Self { account: self.account.clone(), part: None, models: None, period: self.period })
    }
}
