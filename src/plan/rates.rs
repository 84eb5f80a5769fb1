//! Rates of hardware: a price of its time, a fee, and a least charge, from a date on.

use crate::{Credits, Price, clock::UnixTime};

/// Rates of hardware. A [`Price`] becomes those of compute time alone.
///
/// A request costs `fee + price x compute time`, and no less than the least charge. The tier's
/// [price factor](super::Tier::price_factor) multiplies the sum.
///
/// ```
/// use tower_credits::{Price, clock::UnixTime, plan::Rates};
///
/// let now = Rates::per_second("0.00012".parse()?).fee_per_request("0.001".parse()?);
/// let next_year = UnixTime::from_secs(1_798_761_600);
/// let rates = now.after(next_year, Price::per_second("0.00015".parse()?));
/// # let _ = rates;
/// # Ok::<(), tower_credits::MoneyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Rates {
    pub(super) price: Price,
    pub(super) fee: Credits,
    pub(super) least: Credits,
    /// Those that replace all of these from a moment on, the earliest first.
    pub(super) later: Vec<(UnixTime, Self)>,
}

impl Rates {
    /// Returns rates of compute time alone: `credits` for each second.
    pub const fn per_second(credits: Credits) -> Self {
        let price = Price::per_second(credits);
        Self { price, fee: Credits::ZERO, least: Credits::ZERO, later: Vec::new() }
    }

    /// Sets the fee of each request whose service was called. Default: none.
    pub const fn fee_per_request(mut self, fee: Credits) -> Self {
        self.fee = fee;
        self
    }

    /// Sets the least that fee and compute time of a request are charged as. Default: nothing.
    pub const fn least_per_request(mut self, least: Credits) -> Self {
        self.least = least;
        self
    }

    /// Replaces all rates, the fee included, for requests that are admitted from a moment on, by
    /// the ledger's clock.
    pub fn after(mut self, moment: UnixTime, rates: impl Into<Self>) -> Self {
        let mut rates = rates.into();
        let further = std::mem::take(&mut rates.later);
        self.later.retain(|(from, _)| *from != moment);
        self.later.push((moment, rates));
        self.later.extend(further);
        self.later.sort_by_key(|(from, _)| *from);
        self
    }
}

impl From<Price> for Rates {
    fn from(price: Price) -> Self {
        Self::per_second(price.a_second())
    }
}
