//! [`Currency`]: what amounts are called.

use std::{fmt, str::FromStr};

use crate::Credits;

/// Label of amounts: a code of ISO 4217. Amounts are written with it on the billing page and in
/// denials; nothing is converted. Default: `USD`, written `$1.00`.
///
/// ```
/// use tower_credits::plan::Currency;
///
/// let euros: Currency = "EUR".parse()?;
/// assert_eq!(euros.amount("0.10".parse()?).to_string(), "0.10 EUR");
/// assert_eq!(Currency::USD.amount("0.10".parse()?).to_string(), "$0.10");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency([u8; 3]);

/// An amount, written in a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    credits: Credits,
    currency: Currency,
}

/// Text that is no code of a currency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no code of a currency: write three capital letters, such as EUR")]
pub struct CurrencyError(String);

impl Currency {
    /// US dollars.
    pub const USD: Self = Self(*b"USD");

    /// Returns an amount, to be written.
    pub const fn amount(self, credits: Credits) -> Amount {
        Amount { credits, currency: self }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        // Letters only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for Currency {
    fn default() -> Self {
        Self::USD
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let code: Option<[u8; 3]> = text.as_bytes().try_into().ok();
        code.filter(|code| code.iter().all(u8::is_ascii_uppercase))
            .map(Self)
            .ok_or_else(|| CurrencyError(text.to_owned()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(feature = "axum")]
impl Amount {
    /// `true` if it is zero.
    pub(crate) const fn is_zero(&self) -> bool {
        self.credits.is_zero()
    }

    /// Billionths of the currency.
    pub(crate) const fn as_nano_usd(&self) -> i64 {
        self.credits.as_nano_usd()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.currency == Currency::USD {
            return self.credits.fmt(f);
        }
        let dollars = self.credits.to_string();
        write!(f, "{} {}", dollars.trim_start_matches('$'), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_with_their_label() {
        let credits: Credits = "1234.5".parse().unwrap();
        assert_eq!(Currency::default().amount(credits).to_string(), "$1234.50");
        let yen: Currency = "JPY".parse().unwrap();
        assert_eq!(yen.amount(credits).to_string(), "1234.50 JPY");
        for wrong in ["", "eur", "EURO", "E1R", "€"] {
            assert_eq!(wrong.parse::<Currency>(), Err(CurrencyError(wrong.to_owned())));
        }
    }
}
