//! The credits that a tier allows an account.

use crate::Credits;

/// The credits that a tier allows an account. The account's own
/// [`Record`](crate::ledger::Record) may add to them or narrow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Terms {
    /// Included each period.
    pub included: Credits,
    /// `true` if `included` counts once for each seat of the account.
    pub per_seat: bool,
    /// The credits that can be used beyond included and purchased ones and are charged afterwards:
    /// zero if usage stops there, [`Credits::MAX`] if there is no limit.
    pub pay_as_you_go: Credits,
}

impl Terms {
    /// Returns terms that allow nothing.
    pub const fn nothing() -> Self {
        Self { included: Credits::ZERO, per_seat: false, pay_as_you_go: Credits::ZERO }
    }
}
