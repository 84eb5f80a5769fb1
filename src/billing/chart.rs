//! The page's chart: what each day of the month cost.

use super::Bill;
use crate::Credits;

/// What each day cost, as bars; the table by day has the figures.
pub(super) struct Chart {
    pub(super) width: u64,
    pub(super) height: u64,
    pub(super) days: u64,
    pub(super) bars: Vec<Bar>,
    /// What there is to see.
    pub(super) words: String,
}

pub(super) struct Bar {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) width: u64,
    pub(super) height: u64,
}

/// A day's place in the chart, and the highest bar.
const WIDTH: u64 = 10;
const HEIGHT: u64 = 100;

impl Chart {
    pub(super) fn new(bill: &Bill) -> Self {
        let period = bill.statement.period;
        let days = (period.ends() - period.begins()).as_secs() / (24 * 60 * 60);
        let by_day = bill.by(|line| line.day);
        let cost = |day: u64| {
            u8::try_from(day)
                .ok()
                .and_then(|day| by_day.get(&Some(day)))
                .map_or(0, |usage| usage.cost.as_nano_usd())
        };
        let highest = (1..=days).map(cost).max().unwrap_or_default();
        let bars = (1..=days).filter(|day| cost(*day) > 0).map(|day| {
            // Every day on which something was used is seen.
            let height =
                u64::try_from(i128::from(cost(day)) * i128::from(HEIGHT) / i128::from(highest))
                    .unwrap_or(HEIGHT)
                    .max(2);
            Bar { x: (day - 1) * WIDTH + 1, y: HEIGHT - height, width: WIDTH - 2, height }
        });
        let bars: Vec<_> = bars.collect();
        let best = (1..=days).find(|day| cost(*day) == highest).filter(|_| highest > 0);
        let words = match best.and_then(|day| u8::try_from(day).ok()) {
            Some(day) => {
                let on = if bars.len() == 1 {
                    "1 day".to_owned()
                } else {
                    format!("{} days", bars.len())
                };
                let most = by_day.get(&Some(day)).map_or(Credits::ZERO, |usage| usage.cost);
                format!("{on} with costs; most on {}: {most}.", bill.day(day))
            }
            None => "No day of this month has costs.".to_owned(),
        };
        Self { width: days * WIDTH, height: HEIGHT, days, bars, words }
    }
}
