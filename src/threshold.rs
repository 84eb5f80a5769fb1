//! Thresholds: shares of an account's monthly spending that are reported to the host, once each.

use std::{fmt, sync::Arc};

use crate::{Account, Credits, Name, Period, ledger::Standing};

/// Maximum number of thresholds that a meter watches.
pub(crate) const MAX_THRESHOLDS: usize = 32;

/// A share of an account's monthly spending, in percent. It is reached once that share is used,
/// less refunds; credits on hold do not count.
///
/// ```
/// use tower_credits::{CreditMeter, Threshold};
/// # use tower_credits::{BearerTokens, MemoryLedger, Plan, meter::ConfigError as Error};
/// # fn example(plan: Plan, ledger: MemoryLedger, tokens: BearerTokens) -> Result<(), Error> {
/// let meter = CreditMeter::builder(plan, ledger, tokens)
///     .thresholds([Threshold::Included(80), Threshold::Limit(100)], |reached| {
///         println!("{}: {} of {} used", reached.account, reached.used, reached.of);
///     })
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Threshold {
    /// Percent of the included credits, multiplied by the seats if the tier is per seat. It can be
    /// more than 100 for accounts that can use more. Accounts without included credits never reach
    /// it.
    Included(u16),
    /// Percent of everything that the account may use: included credits, purchased credits, and
    /// pay-as-you-go up to its limit. Accounts without a limit never reach it.
    Limit(u16),
}

/// Report that an account has reached a [`Threshold`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdReached {
    /// The account that reached it.
    pub account: Account,
    /// The month in which it was reached.
    pub period: Period,
    /// The threshold.
    pub threshold: Threshold,
    /// Usage at the time of the report, less refunds.
    pub used: Credits,
    /// Amount of which the threshold is a percentage.
    pub of: Credits,
}

/// The host's thresholds, and the function to call when an account reaches one.
#[derive(Clone)]
pub(crate) struct ThresholdHook {
    pub(crate) thresholds: Arc<[Threshold]>,
    pub(crate) call: Arc<dyn Fn(ThresholdReached) + Send + Sync>,
}

impl Threshold {
    /// Returns the amount of which it is a percentage, if it is reached.
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

    /// Returns its name in ledgers.
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
    fn a_threshold_is_reached_at_exactly_its_share() {
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
