//! Rates of hardware: a price of its time, a fee, and a least charge, from a date on.

use crate::{Credits, Price, clock::UnixTime};

/// Rates of hardware. A [`Price`] becomes rates without a fee and without a minimum charge.
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
    pub(super) hold: Credits,
    /// Those that replace all of these from a moment on, the earliest first.
    pub(super) later: Vec<(UnixTime, Self)>,
}

impl Rates {
    /// Returns rates of compute time alone: `credits` for each second.
    pub const fn per_second(credits: Credits) -> Self {
        let price = Price::per_second(credits);
        let (fee, least, hold) = (Credits::ZERO, Credits::ZERO, Credits::ZERO);
        Self { price, fee, least, hold, later: Vec::new() }
    }

    /// Sets the fee of each request whose service was called. Default: none.
    pub const fn fee_per_request(mut self, fee: Credits) -> Self {
        self.fee = fee;
        self
    }

    /// Sets the minimum charge: a request whose fee and compute time cost less costs this much.
    /// Default: nothing.
    pub const fn least_per_request(mut self, least: Credits) -> Self {
        self.least = least;
        self
    }

    /// Sets the least that a request puts on hold, for services that
    /// [add](crate::ComputeClock::add) to its cost. Accounts that have less are denied before the
    /// service is called. Default: nothing, so where time and fees cost nothing, nobody is denied
    /// before the first amount is added.
    pub const fn hold_per_request(mut self, credits: Credits) -> Self {
        self.hold = credits;
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

#[cfg(test)]
mod tests {
    use super::super::{Plan, Route, Tier, WhenUsedUp};
    use super::*;

    const FILE: &str = r#"
unbilled = ["5xx", "dropped"]

[hardware.gpu]
price_per_second = "0.00012"
least_per_request = "0.00001"

[[hardware.gpu.prices]]
from = "2027-01-01T00:00:00Z"
price_per_second = "0.00015"
fee_per_request = "0.0001"

[[hardware.gpu.prices]]
from = 2027-07-01T02:00:00+02:00
price_per_second = "0.0002"

[models.flux]
hardware = "gpu"
fee_per_request = "0.01"

[models.whisper]
hardware = "gpu"

[routes]
"/models/{model}" = { model = "{model}" }

[tiers.team]
included = "1"
when_used_up = "block"
price_factor = "0.8"
"#;

    /// Fees, least charges and prices of a second, by model and date.
    fn prices(plan: &Plan) -> Vec<(i64, i64, i64)> {
        let api = "api".parse().unwrap();
        let dates = ["2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z", "2027-07-01T00:00:00Z"];
        let mut prices = Vec::new();
        for model in ["flux", "whisper"] {
            for date in dates {
                let at: jiff::Timestamp = date.parse().unwrap();
                let at = UnixTime::from_millis(at.as_millisecond() as u64);
                let workload = plan.workload(model, &api).unwrap();
                let workload = workload.in_force_at(at).unwrap_or(&workload);
                let amounts = [workload.fee, workload.least, workload.price.a_second()];
                let [fee, least, price] = amounts.map(Credits::as_nano_usd);
                prices.push((fee, least, price));
            }
        }
        prices
    }

    #[test]
    fn rates_of_a_file_and_of_code_are_the_same_by_model_and_date() {
        let file = Plan::from_toml(FILE).unwrap();
        let at = |millis| UnixTime::from_millis(millis);
        let credits = |text: &str| text.parse::<Credits>().unwrap();
        // In any order.
        let rates = Rates::per_second(credits("0.00012"))
            .least_per_request(credits("0.00001"))
            .after(
                at(1_814_400_000_000),
                Rates::per_second(credits("0.0002"))
                    .fee_per_request(credits("0.0001"))
                    .least_per_request(credits("0.00001")),
            )
            .after(
                at(1_798_761_600_000),
                Rates::per_second(credits("0.00015"))
                    .fee_per_request(credits("0.0001"))
                    .least_per_request(credits("0.00001")),
            );
        let gpu = || "gpu".parse().unwrap();
        let code = Plan::builder()
            .hardware(gpu(), rates)
            .model("flux".parse().unwrap(), gpu())
            .model_fees("flux".parse().unwrap(), Some(credits("0.01")), None)
            .model("whisper".parse().unwrap(), gpu())
            .route("/models/{model}", Route::model("{model}"))
            .unbilled("5xx".parse().unwrap())
            .unbilled("dropped".parse().unwrap())
            .tier(
                Tier::new("team".parse().unwrap(), credits("1"), WhenUsedUp::Block)
                    .price_factor("0.8".parse().unwrap()),
            )
            .build()
            .unwrap();
        let expected = [
            (10_000_000, 10_000, 120_000),
            (10_000_000, 10_000, 150_000),
            (10_000_000, 10_000, 200_000),
            (0, 10_000, 120_000),
            (100_000, 10_000, 150_000),
            (100_000, 10_000, 200_000),
        ];
        for plan in [&file, &code] {
            assert_eq!(prices(plan), expected);
            let team = plan.tier(&"team".parse().unwrap()).unwrap();
            assert_eq!(team.price_factor.to_string(), "0.8");
        }
        assert_eq!(file.unbilled(), code.unbilled());
        let missing = Plan::builder().model_fees("flux".parse().unwrap(), None, None).build();
        assert!(missing.unwrap_err().to_string().contains("add it with PlanBuilder::model"));
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_line_and_remedy() {
        for (old, new, line, says) in [
            ("\"5xx\"", "\"6xx\"", 2, "unbilled \"6xx\": not an outcome: write"),
            ("least_per_request = \"0.00001\"", "least_per_request = 1", 6, "amounts are exact"),
            ("from = \"2027-01-01T00:00:00Z\"", "", 8, "write from = "),
            ("from = \"2027-01-01T00:00:00Z\"", "from = \"2027-01-01\"", 9, "with its time zone"),
            ("from = 2027-07-01T02:00:00+02:00", "from = 2027-07-01T02:00:00", 14, "time zone"),
            ("2027-07-01T02", "2027-01-01T02", 14, "not after the one before"),
            ("price_per_second = \"0.0002\"", "", 13, "prices[1] has no price"),
            ("fee_per_request = \"0.0001\"", "fee = \"0.0001\"", 11, "unknown field `fee`"),
            ("\"0.8\"", "\"-1\"", 30, "tier `team`, price_factor: not a factor: write a decimal"),
            ("\"0.8\"", "0.8", 30, "price_factor: not a factor"),
        ] {
            assert_eq!(FILE.matches(old).count(), 1, "{old}");
            let error = Plan::from_toml(&FILE.replace(old, new)).unwrap_err();
            assert_eq!(error.line(), Some(line), "{new}: {error}");
            assert!(error.to_string().contains(says), "{new}: {error}");
        }
    }
}
