//! The page's tables: usage by model, hardware, feature, member and day.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::bill::Bill;
use crate::{
    Credits, Name,
    clock::UnixTime,
    ledger::{StatementLine, Usage},
    plan::Amount,
    tariff::Tariff,
};

pub(super) struct Table {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Head of the first column.
    pub(super) head: &'static str,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) name: String,
    pub(super) requests: u64,
    pub(super) compute: String,
    pub(super) cost: Amount,
}

/// Returns the tables of a bill. Usage whose day or member is not known is in the row of its model,
/// one of those that [`footnotes`] explain.
pub(super) fn tables(bill: &Bill) -> Vec<Table> {
    let by = |id, title, head, key: &dyn Fn(&StatementLine) -> String| {
        let mut merged: BTreeMap<String, Vec<&StatementLine>> = BTreeMap::new();
        for line in &bill.statement.lines {
            merged.entry(key(line)).or_default().push(line);
        }
        let row = |(name, lines): (String, Vec<&StatementLine>)| {
            let mut usage = Usage::default();
            lines.iter().for_each(|line| usage.add(line.usage));
            let compute = bill.computed(lines.into_iter());
            Row { name, requests: usage.requests, compute, cost: bill.amount(usage.cost) }
        };
        Table { id, title, head, rows: merged.into_iter().map(row).collect() }
    };
    let day = |line: &StatementLine| {
        line.day.map_or_else(|| line.model.to_string(), |day| bill.date(day))
    };
    let member = |line: &StatementLine| {
        line.subject.as_ref().map_or_else(|| line.model.to_string(), ToString::to_string)
    };
    let mut tables = vec![
        by("model", "By model", "Model", &|line| line.model.to_string()),
        by("hardware", "By hardware", "Hardware", &|line| line.hardware.to_string()),
        by("feature", "By feature", "Feature", &|line| line.feature.to_string()),
    ];
    if bill.identity.account.organisation().is_some() {
        tables.push(by("member", "By member", "Member", &member));
    }
    tables.push(by("day", "By day", "Day", &day));
    tables
}

/// A name that the ledger gives to usage whose details it does not have.
pub(super) struct Footnote {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

const FOOTNOTES: [Footnote; 3] = [
    Footnote {
        name: "other",
        text: "usage beyond the number of lines that are recorded separately for a month",
    },
    Footnote {
        name: "late",
        text: "usage of another month, which was closed or had not begun when it was reported",
    },
    Footnote {
        name: "recovered",
        text: "usage whose details were lost in a failure; its cost is exact",
    },
];

/// Returns explanations of the names in a bill's tables that are not a model's.
pub(super) fn footnotes(bill: &Bill) -> Vec<&'static Footnote> {
    let lines = &bill.statement.lines;
    let is_used = |note: &&Footnote| {
        lines.iter().any(|line| line.subject.is_none() && line.model.as_str() == note.name)
    };
    FOOTNOTES.iter().filter(is_used).collect()
}

/// A price that was in force when the page was made.
pub(super) struct PriceRow {
    pub(super) model: String,
    pub(super) hardware: String,
    /// `true` if time is counted in units.
    has_unit: bool,
    /// The price of a second, or of as many units as a second has.
    pub(super) price: String,
    pub(super) fee: Amount,
    pub(super) least: Amount,
}

/// Returns the prices that the tier pays now for the models that the month used: of time, and for
/// each request. None if there is nothing but time that is counted in seconds.
pub(super) fn prices(bill: &Bill, now: UnixTime) -> Vec<PriceRow> {
    let factor = bill.tier.price_factor;
    let used: BTreeSet<_> = bill.statement.lines.iter().map(|line| &line.model).collect();
    let price = |model: &&Name| {
        let workload = bill.plan.workload(model.as_str(), model)?;
        let workload = workload.in_force_at(now).unwrap_or(&workload);
        let tariff = workload.tariff(factor);
        let (of_a_second, a_second) = (tariff.cost_of_time(SECOND), "a second");
        let unit = bill.plan.unit(&workload.hardware);
        let price = match unit {
            None => format!("{} {a_second}", bill.amount(of_a_second)),
            Some(unit) => {
                format!("{} for {} {}", bill.amount(of_a_second), unit.per_second, unit.name)
            }
        };
        Some(PriceRow {
            model: workload.model.to_string(),
            hardware: workload.hardware.to_string(),
            has_unit: unit.is_some(),
            price,
            fee: bill.amount(Tariff { least: Credits::ZERO, ..tariff }.cost(Duration::ZERO)),
            least: bill.amount(tariff.cost(Duration::ZERO)),
        })
    };
    let rows: Vec<_> = used.iter().filter_map(price).collect();
    let is_more = |row: &PriceRow| row.has_unit || !row.fee.is_zero() || !row.least.is_zero();
    if rows.iter().any(is_more) { rows } else { Vec::new() }
}

const SECOND: Duration = Duration::from_secs(1);
