//! Thresholds of an account's monthly spending, and of what is left, that are reported to the host.

use std::{fmt, sync::Arc};

use crate::{
    Account, Credits, Name, Part, Period,
    ledger::{MonthStanding, Standing},
    names::fnv_1a,
};

/// Maximum number of thresholds that a meter watches.
pub(crate) const MAX_THRESHOLDS: usize = 32;

/// A percentage of what an account, or a part of it, may use in a month, or an amount that is left
/// of it. An account reaches a percentage once what it used, less refunds, is that much; for a
/// part, refunds are not subtracted. Credits on hold do not count.
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
    ///
    /// If the tier [includes credits each day](crate::plan::Tier::included_per_day), it is one of
    /// the month's credits, of what earlier days' credits paid for, and of today's. It is reached
    /// once a month all the same.
    Included(u16),
    /// Percent of everything that the account may use: included credits, purchased credits, and
    /// pay-as-you-go up to its limit. Accounts without a limit never reach it.
    Limit(u16),
    /// Percent of the [limit](crate::Limits) that a [part](Part) of the account has for the month,
    /// for each of its parts. Parts without such a limit never reach it.
    PartLimit(u16),
    /// Less than this much is left of everything that the account may use: included credits,
    /// purchased credits, and pay-as-you-go up to its limit. Accounts without a limit never reach
    /// it.
    ///
    /// It can be reached again in the same month when that total has changed, by a purchase for
    /// example: a hook that grants credits is an automatic top-up. Use an id for the grant that
    /// is the same if the hook is called twice, such as one made of [`ThresholdReached::period`]
    /// and [`ThresholdReached::of`].
    Left(Credits),
}

/// Report that an account has reached a [`Threshold`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdReached {
    /// The account that reached it.
    pub account: Account,
    /// The part that reached it; `None` if the account did.
    pub part: Option<Part>,
    /// The month in which it was reached.
    pub period: Period,
    /// The threshold.
    pub threshold: Threshold,
    /// Usage at the time of the report; of an account less refunds.
    pub used: Credits,
    /// Amount of which the threshold is a percentage; of [`Threshold::Left`], everything that the
    /// account may use.
    pub of: Credits,
}

/// The host's thresholds, and the function to call when an account reaches one.
#[derive(Clone)]
pub(crate) struct ThresholdHook {
    pub(crate) thresholds: Arc<[Threshold]>,
    pub(crate) call: Arc<dyn Fn(ThresholdReached) + Send + Sync>,
}

impl Threshold {
    /// Returns the amount of which it is a percentage, if an account reached it.
    pub(crate) fn reached(self, standing: &Standing) -> Option<Credits> {
        match self {
            Self::Included(percent) => reached(standing.used, percent, standing.included),
            Self::Limit(percent) => reached(standing.used, percent, standing.limit),
            Self::PartLimit(_) => None,
            Self::Left(least) => {
                let left = standing.limit.saturating_sub(standing.used);
                (standing.limit != Credits::MAX && left < least).then_some(standing.limit)
            }
        }
    }

    /// Returns the amount of which it is a percentage, if a part reached it.
    pub(crate) fn reached_by_part(self, month: &MonthStanding) -> Option<Credits> {
        match self {
            Self::PartLimit(percent) => reached(month.used, percent, month.limit),
            Self::Included(_) | Self::Limit(_) | Self::Left(_) => None,
        }
    }

    /// Returns what an account has still to spend until it reaches it; [`Credits::MAX`] if it has,
    /// or never does.
    pub(crate) fn distance(self, standing: &Standing) -> Credits {
        match self {
            Self::Included(percent) => distance(standing.used, percent, standing.included),
            Self::Limit(percent) => distance(standing.used, percent, standing.limit),
            Self::PartLimit(_) => Credits::MAX,
            Self::Left(least) => {
                let left = standing.limit.saturating_sub(standing.used);
                if standing.limit == Credits::MAX || left < least {
                    return Credits::MAX;
                }
                left.saturating_sub(least).saturating_add(Credits::SMALLEST)
            }
        }
    }

    /// Returns what a part has still to spend until it reaches it; [`Credits::MAX`] if it has, or
    /// never does.
    pub(crate) fn distance_of_part(self, month: &MonthStanding) -> Credits {
        match self {
            Self::PartLimit(percent) => distance(month.used, percent, month.limit),
            Self::Included(_) | Self::Limit(_) | Self::Left(_) => Credits::MAX,
        }
    }

    /// `true` if it can be reached again once the account's limit has changed.
    pub(crate) const fn can_come_again(self) -> bool {
        matches!(self, Self::Left(_))
    }

    /// Returns its name in ledgers. `of` is the amount of which it was reached.
    pub(crate) fn name(self, part: Option<&Part>, of: Credits) -> Option<Name> {
        if self.can_come_again() {
            return format!("{self} of {of}").parse().ok();
        }
        let Some(part) = part else { return self.to_string().parse().ok() };
        let name = format!("{self} of {part}").parse();
        name.or_else(|_| format!("{self} of {:016x}", fnv_1a(part.as_str())).parse()).ok()
    }
}

/// Returns the amount of which so much is a percentage, if it is reached.
fn reached(used: Credits, percent: u16, of: Credits) -> Option<Credits> {
    let bounded = !of.is_zero() && of != Credits::MAX;
    let (used, of_nanos) = (i128::from(used.as_nano_usd()), i128::from(of.as_nano_usd()));
    (bounded && used * 100 >= of_nanos * i128::from(percent)).then_some(of)
}

/// Returns what is to be spent until so much is a percentage; the most if it is, or never will be.
fn distance(used: Credits, percent: u16, of: Credits) -> Credits {
    if of.is_zero() || of == Credits::MAX || reached(used, percent, of).is_some() {
        return Credits::MAX;
    }
    let at = (i128::from(of.as_nano_usd()) * i128::from(percent)).div_euclid(100);
    let at = i64::try_from(at).map_or(Credits::MAX, Credits::clamped);
    // A fraction of a nano-dollar more is a whole one.
    let is_exact = reached(at, percent, of).is_some();
    let at = if is_exact { at } else { at.saturating_add(Credits::SMALLEST) };
    at.saturating_sub(used)
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Included(percent) => write!(f, "included {percent} %"),
            Self::Limit(percent) => write!(f, "limit {percent} %"),
            Self::PartLimit(percent) => write!(f, "part limit {percent} %"),
            Self::Left(least) => write!(f, "less than {least} left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_a_name_of_its_own() {
        let long = |last: char| format!("{}/{}/{last}", "a".repeat(100), "b".repeat(100));
        let parts = ["a/b", "a", &long('x'), &long('y')].map(|part| part.parse::<Part>().unwrap());
        let names =
            parts.map(|part| Threshold::PartLimit(80).name(Some(&part), Credits::ZERO).unwrap());
        assert_eq!(names[0].as_str(), "part limit 80 % of a/b");
        assert!((1..4).all(|at| !names[at..].contains(&names[at - 1])), "{names:?}");
    }

    #[test]
    fn a_threshold_is_reached_once_its_distance_is_spent_and_no_sooner() {
        let nanos = Credits::clamped;
        for (used, limit, least) in
            [(0, 313, 1), (1, 313, 50), (250, 313, 300), (5, 7, 6), (0, i64::MAX, 5)]
        {
            let standing = |used: Credits| Standing {
                used,
                included: nanos(limit / 3),
                limit: nanos(limit),
                ..Standing::default()
            };
            let month = |used: Credits| MonthStanding { used, limit: nanos(limit) };
            for threshold in [
                Threshold::Included(1),
                Threshold::Included(80),
                Threshold::Included(u16::MAX),
                Threshold::Limit(33),
                Threshold::Limit(100),
                Threshold::Left(nanos(least)),
                Threshold::PartLimit(80),
            ] {
                let used = nanos(used);
                let reached = |used: Credits| {
                    threshold.reached(&standing(used)).is_some()
                        || threshold.reached_by_part(&month(used)).is_some()
                };
                let distance = threshold
                    .distance(&standing(used))
                    .min(threshold.distance_of_part(&month(used)));
                if reached(used) || distance == Credits::MAX {
                    assert_eq!(distance, Credits::MAX, "{threshold} of {limit} at {used}");
                    let is_far = limit == i64::MAX || reached(used);
                    assert!(is_far, "{threshold} of {limit} at {used}");
                    continue;
                }
                let at = used.saturating_add(distance);
                assert!(reached(at), "{threshold} of {limit} at {used}");
                let before = at.saturating_sub(Credits::SMALLEST);
                assert!(!reached(before), "{threshold} of {limit} at {used}");
            }
        }
    }

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
            (50, Threshold::Left(nanos(50)), nanos(100), None),
            (51, Threshold::Left(nanos(50)), nanos(100), Some(100)),
            (51, Threshold::Left(nanos(50)), nanos(101), None),
            (0, Threshold::Left(nanos(50)), nanos(0), Some(0)),
            (i64::MAX, Threshold::Left(nanos(50)), Credits::MAX, None),
        ] {
            assert_eq!(
                threshold.reached(&standing(used, limit)),
                reached.map(nanos),
                "{threshold} at {used}"
            );
        }
    }
}
