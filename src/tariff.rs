//! Cost of a request by its compute time, in exact arithmetic.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Credits, MoneyError, Price};

/// Billionths in one, and nano-units in a unit.
const BILLION: u128 = 1_000_000_000;

/// Factor by which a tier's prices are multiplied: a decimal from 0 to 1000, with at most nine
/// digits after the point. `0.8` is a discount of 20 %.
///
/// ```
/// use tower_credits::plan::PriceFactor;
///
/// let discount: PriceFactor = "0.8".parse()?;
/// assert_eq!(discount.to_string(), "0.8");
/// assert!("-1".parse::<PriceFactor>().is_err());
/// # Ok::<(), tower_credits::plan::PriceFactorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PriceFactor(u64);

/// Error that a text is not a [`PriceFactor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a factor: write a decimal from \"0\" to \"1000\" with at most nine digits after the \
     point, like \"0.8\""
)]
pub struct PriceFactorError;

impl PriceFactor {
    /// The factor that changes nothing.
    pub const ONE: Self = Self(BILLION as u64);

    /// Returns it in percent, unless it is [`ONE`](Self::ONE).
    #[cfg(feature = "axum")]
    pub(crate) fn percent(self) -> Option<String> {
        // At most a hundred times the largest, which fits.
        (self != Self::ONE).then(|| Self(self.0.saturating_mul(100)).to_string())
    }

    const MAX: Self = Self(1_000 * BILLION as u64);
}

impl FromStr for PriceFactor {
    type Err = PriceFactorError;

    fn from_str(text: &str) -> Result<Self, PriceFactorError> {
        // Amounts have the same digits.
        let billionths: Result<Credits, MoneyError> = text.parse();
        let billionths = billionths.map_err(|_| PriceFactorError)?.as_nano_usd().unsigned_abs();
        Some(Self(billionths)).filter(|factor| *factor <= Self::MAX).ok_or(PriceFactorError)
    }
}

impl fmt::Display for PriceFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 / BILLION as u64;
        let fraction = format!("{:09}", self.0 % BILLION as u64);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            fraction => write!(f, "{whole}.{fraction}"),
        }
    }
}

/// Prices of a request: a price of its compute time, a fee, and a least charge, all multiplied by a
/// factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tariff {
    pub(crate) price: Price,
    pub(crate) fee: Credits,
    /// The least that fee and compute time are charged as.
    pub(crate) least: Credits,
    pub(crate) factor: PriceFactor,
}

impl Tariff {
    /// Returns the cost of a request: `factor x max(least, fee + price x compute)`, rounded up to
    /// the next nano-dollar once; [`Credits::MAX`] if it is larger.
    pub(crate) fn cost(&self, compute: Duration) -> Credits {
        if self.factor == PriceFactor::ONE {
            // Most are so simple. Rounding up commutes with adding whole nano-dollars.
            return self.fee.saturating_add(self.price.cost_or_max(compute)).max(self.least);
        }
        let nanos = |amount: Credits| u128::from(amount.as_nano_usd().unsigned_abs());
        let time = compute.as_nanos().saturating_mul(nanos(self.price.a_second()));
        let base = time.saturating_add(nanos(self.fee) * BILLION).max(nanos(self.least) * BILLION);
        // What does not fit 128 bits is more than the largest amount.
        let cost = base
            .checked_mul(u128::from(self.factor.0))
            .and_then(|product| i64::try_from(product.div_ceil(BILLION * BILLION)).ok());
        cost.map_or(Credits::MAX, Credits::clamped)
    }

    /// Returns the cost of some time of a request that goes on.
    pub(crate) fn cost_of_time(&self, compute: Duration) -> Credits {
        Self { fee: Credits::ZERO, least: Credits::ZERO, ..*self }.cost(compute)
    }

    /// Returns the longest compute time of a request that costs no more than `credits`:
    /// [`Duration::MAX`] if time costs nothing, and nothing if not even the begin of a request is
    /// paid for.
    pub(crate) fn runway(&self, credits: Credits) -> Duration {
        if *self == Self::of(self.price) {
            return self.price.runway(credits);
        }
        if self.factor.0 == 0 {
            return Duration::MAX;
        }
        let nanos = |amount: Credits| u128::from(amount.as_nano_usd().unsigned_abs());
        // Before the factor, in billionths of a nano-dollar.
        let base = nanos(credits) * (BILLION * BILLION) / u128::from(self.factor.0);
        let (fee, least) = (nanos(self.fee) * BILLION, nanos(self.least) * BILLION);
        if base < fee.max(least) {
            return Duration::ZERO;
        }
        let price = nanos(self.price.a_second());
        if price == 0 {
            return Duration::MAX;
        }
        let nanos = (base - fee) / price;
        match (u64::try_from(nanos / BILLION), u32::try_from(nanos % BILLION)) {
            (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
            _ => Duration::MAX,
        }
    }

    /// Returns the least time for which a request that took all of a hold needs no refill.
    pub(crate) fn first_refill_after(&self, hold: Credits) -> Duration {
        if *self == Self::of(self.price) {
            return self.price.runway(hold.saturating_sub(hold.half()));
        }
        // What the begin of a request costs is used at once.
        self.runway(hold) / 2
    }

    /// `true` if no request costs anything.
    pub(crate) fn is_free(&self) -> bool {
        self.factor.0 == 0
            || (self.price.a_second().is_zero() && self.fee.is_zero() && self.least.is_zero())
    }

    /// The tariff of a price alone.
    pub(crate) const fn of(price: Price) -> Self {
        Self { price, fee: Credits::ZERO, least: Credits::ZERO, factor: PriceFactor::ONE }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(n: i64) -> Credits {
        Credits::from_nano_usd(n).unwrap()
    }

    fn tariff(price: i64, fee: i64, least: i64, factor: &str) -> Tariff {
        let price = Price::per_second(nanos(price));
        Tariff { price, fee: nanos(fee), least: nanos(least), factor: factor.parse().unwrap() }
    }

    #[test]
    fn a_fee_a_least_charge_and_a_discount_are_exact() {
        let second = Duration::from_secs(1);
        for (tariff, compute, cost) in [
            (tariff(120_000, 0, 0, "1"), second, 120_000),
            (tariff(120_000, 1_000_000, 0, "1"), second, 1_120_000),
            (tariff(120_000, 1_000_000, 0, "1"), Duration::ZERO, 1_000_000),
            (tariff(120_000, 0, 500_000, "1"), second, 500_000),
            (tariff(120_000, 0, 500_000, "1"), second * 5, 600_000),
            (tariff(120_000, 1_000_000, 0, "0.8"), second, 896_000),
            (tariff(120_000, 0, 500_000, "0.8"), second, 400_000),
            // It is rounded once, after the factor: 0.3 of one and a half.
            (tariff(1, 0, 0, "0.3"), second + second / 2, 1),
            (tariff(3, 0, 0, "0.333333333"), second, 1),
            (tariff(120_000, 7, 7, "0"), second, 0),
            (tariff(0, 40_000_000, 0, "1"), second * 3_600, 40_000_000),
        ] {
            assert_eq!(tariff.cost(compute), nanos(cost), "{tariff:?} {compute:?}");
        }
    }

    #[test]
    fn a_factor_is_read_and_written() {
        for text in ["0", "1", "0.8", "12.000000001", "1000"] {
            assert_eq!(text.parse::<PriceFactor>().unwrap().to_string(), text);
        }
        for text in ["", "-1", "1000.000000001", "1e3", "0.0000000001", "80%"] {
            assert_eq!(text.parse::<PriceFactor>(), Err(PriceFactorError), "{text:?}");
        }
    }

    fn tariffs() -> impl Strategy<Value = Tariff> {
        let amounts = || prop_oneof![Just(0), 1..1_000_000_000_i64, 0..=Credits::MAX.as_nano_usd()];
        let factor = prop_oneof![Just(BILLION as u64), 1..BILLION as u64, 1..=PriceFactor::MAX.0];
        (amounts(), amounts(), amounts(), factor).prop_map(|(price, fee, least, factor)| Tariff {
            price: Price::per_second(nanos(price)),
            fee: nanos(fee),
            least: nanos(least),
            factor: PriceFactor(factor),
        })
    }

    proptest! {
        /// Against arithmetic without bounds.
        #[test]
        fn a_cost_is_what_the_formula_says(tariff in tariffs(), compute in 0..u64::MAX) {
            let wide = |credits: Credits| credits.as_nano_usd() as f64;
            let time = compute as f64 / 1e9 * wide(tariff.price.a_second());
            let cost = (time + wide(tariff.fee)).max(wide(tariff.least))
                * (tariff.factor.0 as f64 / 1e9);
            let found = wide(tariff.cost(Duration::from_nanos(compute)));
            let expected = cost.min(wide(Credits::MAX));
            prop_assert!((found - expected).abs() <= 1.0 + expected * 1e-9, "{found} {expected}");
        }

        #[test]
        fn the_runway_is_the_longest_time_that_the_credits_pay(
            tariff in tariffs(),
            credits in 0..Credits::MAX.as_nano_usd(),
        ) {
            let credits = nanos(credits);
            let runway = tariff.runway(credits);
            if tariff.cost(Duration::ZERO) > credits {
                prop_assert_eq!(runway, Duration::ZERO);
            } else {
                prop_assert!(tariff.cost(runway) <= credits);
                if let Some(longer) = runway.checked_add(Duration::from_nanos(1)) {
                    prop_assert!(tariff.cost(longer) > credits);
                }
            }
        }

        #[test]
        fn more_time_never_costs_less(tariff in tariffs(), a in 0..u64::MAX, b in 0..u64::MAX) {
            let cost = |nanos: u64| tariff.cost(Duration::from_nanos(nanos));
            prop_assert!(cost(a.min(b)) <= cost(a.max(b)));
        }
    }
}
