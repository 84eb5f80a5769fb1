//! The page's chart: the cost of each day of the month.

use super::bill::Bill;
use crate::Credits;

/// Bars for the days that have costs. The table by day has the figures.
pub(super) struct Chart {
    pub(super) width: u64,
    pub(super) height: u64,
    pub(super) days: u64,
    pub(super) bars: Vec<Bar>,
    /// The chart in words.
    pub(super) summary: String,
}

pub(super) struct Bar {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) width: u64,
    pub(super) height: u64,
}

/// Width of one day.
const DAY_WIDTH: u64 = 10;

/// Height of the highest bar.
const MAX_BAR_HEIGHT: u64 = 100;

/// Height of the lowest bar: each day with costs can be seen.
const MIN_BAR_HEIGHT: u64 = 2;

impl Chart {
    pub(super) fn new(bill: &Bill) -> Self {
        let period = bill.statement.period;
        let days = (period.ends() - period.begins()).as_secs() / (24 * 60 * 60);
        let by_day = bill.usage_by(|line| line.day);
        let cost = |day: u64| {
            u8::try_from(day)
                .ok()
                .and_then(|day| by_day.get(&Some(day)))
                .map_or(0, |usage| usage.cost.as_nano_usd())
        };
        let highest = (1..=days).map(cost).max().unwrap_or_default();
        let bars = (1..=days).filter(|day| cost(*day) > 0).map(|day| {
            let height = i128::from(cost(day)) * i128::from(MAX_BAR_HEIGHT) / i128::from(highest);
            let height = u64::try_from(height).unwrap_or(MAX_BAR_HEIGHT).max(MIN_BAR_HEIGHT);
            Bar {
                x: (day - 1) * DAY_WIDTH + 1,
                y: MAX_BAR_HEIGHT - height,
                width: DAY_WIDTH - 2,
                height,
            }
        });
        let bars: Vec<_> = bars.collect();
        let day_of_highest = (1..=days).find(|day| cost(*day) == highest).filter(|_| highest > 0);
        let summary = match day_of_highest.and_then(|day| u8::try_from(day).ok()) {
            Some(day) => {
                let cost = by_day.get(&Some(day)).map_or(Credits::ZERO, |usage| usage.cost);
                let cost = bill.amount(cost);
                let date = bill.date(day);
                match bars.len() {
                    1 => format!("1 day with costs: {cost} on {date}."),
                    days => format!("{days} days with costs. The highest: {cost} on {date}."),
                }
            }
            None => format!("No costs in {}.", period.name()),
        };
        Self { width: days * DAY_WIDTH, height: MAX_BAR_HEIGHT, days, bars, summary }
    }
}
