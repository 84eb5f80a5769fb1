//! What a tier allows an account.

use crate::Credits;

/// What a tier allows an account; the account's own [`Record`](crate::ledger::Record) may add to it or
/// narrow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Included each period.
    pub included: Credits,
    /// `true` if `included` counts once for each seat of the account.
    pub per_seat: bool,
    /// What may be used beyond included and purchased credits and is charged afterwards: nothing
    /// where usage stops there, [`Credits::MAX`] where it has no limit.
    pub pay_as_you_go: Credits,
}

impl Terms {
    /// Nothing is allowed.
    pub const fn nothing() -> Self {
        Self { included: Credits::ZERO, per_seat: false, pay_as_you_go: Credits::ZERO }
    }
}
