//! Thresholds: marks on an account's spending in a month, of which the host wants to hear once.

use std::{fmt, sync::Arc};

use crate::{Account, Credits, Name, Period, ledger::Standing};

/// The most thresholds that a meter watches.
pub(crate) const MOST_THRESHOLDS: usize = 32;

/// A mark on an account's spending in a month. It is reached once that share is used, refunds
/// subtracted; what is on hold does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Threshold {
    /// This many percent of the included credits, seats counted; more than 100 where an account
    /// goes on beyond them. Accounts without included credits do not reach it.
    Included(u16),
    /// This many percent of all that the account may use: included and purchased credits, and
    /// pay-as-you-go up to its limit. Accounts without a limit do not reach it.
    Limit(u16),
}

/// An account reached a [`Threshold`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdReached {
    /// Which account.
    pub account: Account,
    /// In which month.
    pub period: Period,
    /// Which threshold.
    pub threshold: Threshold,
    /// What was used when it was seen, refunds subtracted.
    pub used: Credits,
    /// What the percentage is of.
    pub of: Credits,
}

/// The host's thresholds, and the function to call when an account reaches one.
#[derive(Clone)]
pub(crate) struct ThresholdHook {
    pub(crate) thresholds: Arc<[Threshold]>,
    pub(crate) call: Arc<dyn Fn(ThresholdReached) + Send + Sync>,
}

impl Threshold {
    /// What the percentage is of, where it is reached.
    pub(crate) fn reached(self, standing: &Standing) -> Option<Credits> {
        let (percent, of) = match self {
            Self::Included(percent) => (percent, standing.included),
            Self::Limit(percent) => (percent, standing.limit),
        };
        let bounded = !of.is_zero() && of != Credits::MAX;
        let (used, of_nanos) =
            (i128::from(standing.used.as_nano_usd()), i128::from(of.as_nano_usd()));
        (bounded && used * 100 >= of_nanos * i128::from(percent)).then_some(of)
    }

    /// As ledgers know it.
    pub(crate) fn name(self) -> Option<Name> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Included(percent) => write!(f, "included {percent} %"),
            Self::Limit(percent) => write!(f, "limit {percent} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_reached_at_its_very_share() {
        let nanos = Credits::clamped;
        let standing = |used, limit| Standing {
            used: nanos(used),
            included: nanos(100),
            limit,
            ..Standing::default()
        };
        for (used, threshold, limit, reached) in [
            (79, Threshold::Included(80), nanos(100), None),
            (80, Threshold::Included(80), nanos(100), Some(100)),
            (149, Threshold::Included(150), Credits::MAX, None),
            (150, Threshold::Included(150), Credits::MAX, Some(100)),
            (250, Threshold::Limit(80), nanos(313), None),
            (251, Threshold::Limit(80), nanos(313), Some(313)),
            (i64::MAX, Threshold::Limit(80), Credits::MAX, None),
            (0, Threshold::Limit(0), nanos(0), None),
        ] {
            assert_eq!(
                threshold.reached(&standing(used, limit)),
                reached.map(nanos),
                "{threshold} at {used}"
            );
        }
    }
}
