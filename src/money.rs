//! Money: whole nano-US-dollars, checked.
//!
//! A cost is compute time x price, rounded **up** to the next nano-dollar (Hugging Face's billing
//! API counts whole nano-dollars, too). There are no floats, and no amount is larger than
//! [`Credits::MAX`], so that the doubles of Lua and JSON hold every total exactly.

use std::{fmt, str::FromStr, time::Duration};

const NANOS_PER_DOLLAR: i64 = 1_000_000_000;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Durations of fewer seconds fit 64 bits in nanoseconds.
const SECONDS_IN_64_BITS: u64 = 18_000_000_000;

/// An amount of money: 0 to [`Credits::MAX`] nano-US-dollars (10^-9 dollars).
///
/// ```
/// use tower_credits::Credits;
///
/// let included: Credits = "0.10".parse()?;
/// assert_eq!(included.as_nano_usd(), 100_000_000);
/// assert_eq!(included.to_string(), "$0.10");
/// assert_eq!(included.saturating_sub("0.04".parse()?).to_string(), "$0.06");
/// # Ok::<(), tower_credits::MoneyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(i64);

impl Credits {
    /// $0.
    pub const ZERO: Self = Self(0);

    /// One nano-dollar.
    pub(crate) const SMALLEST: Self = Self(1);

    /// 2^53 - 1 nano-dollars, about $9.0 million: the largest whole number that a double holds
    /// exactly.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Returns an amount of whole nano-dollars.
    ///
    /// # Errors
    ///
    /// [`MoneyError`] if `nanos` is negative or larger than [`Credits::MAX`].
    pub const fn from_nano_usd(nanos: i64) -> Result<Self, MoneyError> {
        if nanos < 0 {
            Err(MoneyError::Negative)
        } else if nanos > Self::MAX.0 {
            Err(MoneyError::TooLarge)
        } else {
            Ok(Self(nanos))
        }
    }

    /// Returns the amount in nano-dollars.
    pub const fn as_nano_usd(self) -> i64 {
        self.0
    }

    /// `true` if this is $0.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns the sum.
    ///
    /// # Errors
    ///
    /// [`MoneyError::TooLarge`] if it is larger than [`Credits::MAX`].
    pub const fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        // Two amounts add up to less than 2^54.
        Self::from_nano_usd(self.0 + other.0)
    }

    /// Returns the product with a whole number.
    ///
    /// # Errors
    ///
    /// [`MoneyError::TooLarge`] if it is larger than [`Credits::MAX`].
    pub const fn checked_mul(self, times: u32) -> Result<Self, MoneyError> {
        match self.0.checked_mul(times as i64) {
            Some(nanos) => Self::from_nano_usd(nanos),
            None => Err(MoneyError::TooLarge),
        }
    }

    /// Returns the sum, or [`Credits::MAX`] if the sum is larger.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        match self.checked_add(other) {
            Ok(sum) => sum,
            Err(_) => Self::MAX,
        }
    }

    /// Returns the difference, or $0 if `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        if other.0 >= self.0 { Self::ZERO } else { Self(self.0 - other.0) }
    }

    /// Returns half of the amount, rounded down.
    #[must_use]
    pub(crate) const fn half(self) -> Self {
        Self(self.0 / 2)
    }

    /// Returns the amount divided by `of`, rounded down.
    #[must_use]
    pub(crate) const fn part(self, of: i64) -> Self {
        Self(self.0 / of)
    }

    /// Returns the amount nearest to `nanos`, for differences that are known to be in range.
    pub(crate) const fn clamped(nanos: i64) -> Self {
        match Self::from_nano_usd(nanos) {
            Ok(amount) => amount,
            Err(MoneyError::TooLarge) => Self::MAX,
            Err(_) => Self::ZERO,
        }
    }
}

/// Writes dollars with at least two digits after the point: `$0.10`, `$0.000000001`.
impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, nanos) = (self.0 / NANOS_PER_DOLLAR, self.0 % NANOS_PER_DOLLAR);
        let digits = format!("{nanos:09}");
        let used = digits.trim_end_matches('0').len().max(2);
        write!(f, "${dollars}.{}", &digits[..used])
    }
}

/// Reads a decimal number of dollars without a sign or an exponent, and with at most nine digits
/// after the point: `2`, `0.10`, `0.00012`.
impl FromStr for Credits {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        if text.starts_with('-') {
            return Err(MoneyError::Negative);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(MoneyError::Malformed);
        }
        if fraction.len() > 9 {
            return Err(MoneyError::TooPrecise);
        }
        let whole: i64 = whole.parse().map_err(|_| MoneyError::TooLarge)?;
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| MoneyError::Malformed)?;
        let total = whole.checked_mul(NANOS_PER_DOLLAR).and_then(|n| n.checked_add(nanos));
        Self::from_nano_usd(total.ok_or(MoneyError::TooLarge)?)
    }
}

/// The price of one second of compute on one hardware.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::Price;
///
/// let price = Price::per_second("0.00012".parse()?);
/// assert_eq!(price.cost(Duration::from_secs(10))?.as_nano_usd(), 1_200_000);
/// # Ok::<(), tower_credits::MoneyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price(Credits);

impl Price {
    /// Returns a price of `credits` per second.
    pub const fn per_second(credits: Credits) -> Self {
        Self(credits)
    }

    /// Returns the cost of one second.
    pub const fn a_second(self) -> Credits {
        self.0
    }

    /// Returns the cost of `compute`, rounded up to the next nano-dollar.
    ///
    /// # Errors
    ///
    /// [`MoneyError::TooLarge`] if that is more than [`Credits::MAX`].
    pub const fn cost(self, compute: Duration) -> Result<Credits, MoneyError> {
        // Most costs fit 64 bits, in which a division is many times faster.
        if compute.as_secs() < SECONDS_IN_64_BITS
            && let Some(product) = (compute.as_secs() * NANOS_PER_SECOND as u64
                + compute.subsec_nanos() as u64)
                .checked_mul(self.0.0 as u64)
        {
            return Ok(Credits(product.div_ceil(NANOS_PER_SECOND as u64) as i64));
        }
        // At most 2^53 x 2^94, the longest `Duration`.
        match compute.as_nanos().checked_mul(self.0.0 as u128) {
            Some(product) if product <= Credits::MAX.0 as u128 * NANOS_PER_SECOND => {
                Ok(Credits(product.div_ceil(NANOS_PER_SECOND) as i64))
            }
            _ => Err(MoneyError::TooLarge),
        }
    }

    /// Returns the cost of `compute`, or [`Credits::MAX`] if the cost is larger.
    pub(crate) const fn cost_or_max(self, compute: Duration) -> Credits {
        match self.cost(compute) {
            Ok(cost) => cost,
            Err(_) => Credits::MAX,
        }
    }

    /// Returns the longest compute time that costs no more than `credits`; [`Duration::MAX`] if the
    /// price is $0.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_credits::Price;
    ///
    /// let price = Price::per_second("0.00012".parse()?);
    /// assert_eq!(price.runway("0.0012".parse()?), Duration::from_secs(10));
    /// # Ok::<(), tower_credits::MoneyError>(())
    /// ```
    pub const fn runway(self, credits: Credits) -> Duration {
        if self.0.is_zero() {
            return Duration::MAX;
        }
        if let Some(product) = (credits.0 as u64).checked_mul(NANOS_PER_SECOND as u64) {
            return Duration::from_nanos(product / self.0.0 as u64);
        }
        let nanos = credits.0 as u128 * NANOS_PER_SECOND / self.0.0 as u128;
        Duration::new((nanos / NANOS_PER_SECOND) as u64, (nanos % NANOS_PER_SECOND) as u32)
    }
}

/// Error that a number is not an amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyError {
    /// Below zero.
    #[error("the amount is negative: write 0 or more")]
    Negative,
    /// Above [`Credits::MAX`].
    #[error("the amount is larger than $9007199.254740991, the maximum: write a smaller one")]
    TooLarge,
    /// More than nine digits after the point.
    #[error("the amount is finer than a nano-dollar: write at most nine digits after the point")]
    TooPrecise,
    /// Not a decimal number.
    #[error("not a decimal number of dollars: write digits and at most one point, as in \"0.10\"")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(n: i64) -> Credits {
        Credits::from_nano_usd(n).unwrap()
    }

    #[test]
    fn ten_seconds_at_the_price_of_the_price_page_cost_exactly_1_200_000() {
        let price = Price::per_second("0.00012".parse().unwrap());
        assert_eq!(price.cost(Duration::from_secs(10)), Ok(nanos(1_200_000)));
    }

    #[test]
    fn a_cost_is_rounded_up() {
        let price = Price::per_second(nanos(120_000));
        assert_eq!(price.cost(Duration::ZERO), Ok(Credits::ZERO));
        assert_eq!(price.cost(Duration::from_nanos(1)), Ok(nanos(1)));
        assert_eq!(price.cost(Duration::from_micros(25)), Ok(nanos(3)));
        assert_eq!(price.cost(Duration::from_nanos(25_001)), Ok(nanos(4)));
    }

    #[test]
    fn amounts_of_2_to_the_53_or_more_are_refused_and_never_wrap() {
        assert_eq!(Credits::MAX.as_nano_usd(), 9_007_199_254_740_991);
        assert_eq!(Credits::from_nano_usd(1 << 53), Err(MoneyError::TooLarge));
        assert_eq!(Credits::MAX.checked_add(nanos(1)), Err(MoneyError::TooLarge));
        assert_eq!(Credits::MAX.checked_add(Credits::MAX), Err(MoneyError::TooLarge));
        assert_eq!(Credits::MAX.checked_mul(u32::MAX), Err(MoneyError::TooLarge));
        assert_eq!(Credits::MAX.saturating_add(nanos(1)), Credits::MAX);
        assert_eq!("9007199.254740992".parse::<Credits>(), Err(MoneyError::TooLarge));
        assert_eq!("99999999999999999999".parse::<Credits>(), Err(MoneyError::TooLarge));
        let expensive = Price::per_second(Credits::MAX);
        assert_eq!(expensive.cost(Duration::from_secs(1)), Ok(Credits::MAX));
        assert_eq!(expensive.cost(Duration::from_nanos(1_000_000_001)), Err(MoneyError::TooLarge));
        assert_eq!(expensive.cost(Duration::MAX), Err(MoneyError::TooLarge));
    }

    #[test]
    fn costs_are_exact_on_both_sides_of_the_limit_of_64_bits() {
        let price = Price::per_second(nanos(1));
        for seconds in SECONDS_IN_64_BITS - 1..=SECONDS_IN_64_BITS + 1 {
            let cost = i64::try_from(seconds).unwrap();
            assert_eq!(price.cost(Duration::new(seconds, 0)), Ok(nanos(cost)), "{seconds}");
            assert_eq!(price.cost(Duration::new(seconds, 999_999_999)), Ok(nanos(cost + 1)));
        }
    }

    #[test]
    fn text_that_is_not_an_amount_is_refused_with_its_reason() {
        for (text, reason) in [
            ("-1", MoneyError::Negative),
            ("0.0000000001", MoneyError::TooPrecise),
            ("", MoneyError::Malformed),
            (".", MoneyError::Malformed),
            (".5", MoneyError::Malformed),
            ("1.", MoneyError::Malformed),
            ("1e3", MoneyError::Malformed),
            ("+1", MoneyError::Malformed),
            ("1.2.3", MoneyError::Malformed),
            ("\u{661}", MoneyError::Malformed),
        ] {
            assert_eq!(text.parse::<Credits>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn the_runway_of_small_and_of_large_credits() {
        let price = Price::per_second(nanos(120_000));
        for (credits, runway) in [
            (60_000, Duration::from_millis(500)),
            (1, Duration::from_nanos(8_333)),
            (0, Duration::ZERO),
            (Credits::MAX.as_nano_usd(), Duration::new(75_059_993_789, 508_258_333)),
        ] {
            assert_eq!(price.runway(nanos(credits)), runway, "{credits}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_survives_being_written_and_read(n in 0..=Credits::MAX.as_nano_usd()) {
            let text = nanos(n).to_string();
            prop_assert_eq!(text.trim_start_matches('$').parse(), Ok(nanos(n)));
        }

        #[test]
        fn the_runway_is_the_longest_time_that_the_credits_pay(
            price in 1..1_000_000_000_i64,
            n in 0..=Credits::MAX.as_nano_usd(),
        ) {
            let price = Price::per_second(nanos(price));
            let runway = price.runway(nanos(n));
            prop_assert!(price.cost_or_max(runway) <= nanos(n));
            let longer = price.cost(runway + Duration::from_nanos(1));
            prop_assert!(longer.is_err() || longer.unwrap() > nanos(n));
        }
    }
}
