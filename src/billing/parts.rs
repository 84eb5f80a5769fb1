//! The parts of an account on the page, and the form that sets their limits.

use serde::Deserialize;

use super::bill::{Bill, Sort};
use crate::{Credits, ledger::StatementPart, plan::Amount};

/// The word for a limit that is lifted, whatever the tier says.
pub(super) const UNLIMITED: &str = "no limit";

#[derive(Clone, Deserialize)]
pub(super) struct LimitsForm {
    /// The part; empty for the account's own day.
    #[serde(default)]
    pub(super) part: String,
    #[serde(default)]
    pub(super) per_month: String,
    #[serde(default)]
    pub(super) per_day: String,
}

/// A part on the page.
pub(super) struct PartRow {
    pub(super) name: String,
    /// The path before the last name, with a `/` at its end, and that name.
    pub(super) parent: String,
    pub(super) last: String,
    pub(super) depth: usize,
    pub(super) used: Amount,
    pub(super) used_today: Amount,
    pub(super) held: Amount,
    pub(super) per_month: String,
    pub(super) per_day: String,
    /// The limits as the form has them.
    pub(super) set: LimitsForm,
}

/// Returns the rows of the page, in the order that the query asks for.
pub(super) fn rows(bill: &Bill) -> Vec<PartRow> {
    let mut parts: Vec<_> = bill.statement.parts.iter().collect();
    match bill.sort {
        Sort::Name => {}
        Sort::Used => parts.sort_by_key(|part| std::cmp::Reverse(part.used)),
        Sort::Today => parts.sort_by_key(|part| std::cmp::Reverse(part.used_today)),
    }
    parts.into_iter().map(|part| row(bill, part)).collect()
}

fn row(bill: &Bill, part: &StatementPart) -> PartRow {
    let depth = part.part.as_str().matches('/').count();
    let tiers = bill.tier.part_limits.get(depth).copied().unwrap_or_default();
    let name = part.part.as_str();
    let (parent, last) = name.split_at(name.rfind('/').map_or(0, |at| at + 1));
    PartRow {
        name: name.to_owned(),
        parent: parent.to_owned(),
        last: last.to_owned(),
        depth,
        used: bill.amount(part.used),
        used_today: bill.amount(part.used_today),
        held: bill.amount(part.held),
        per_month: shown(bill, part.limits.per_month, tiers.per_month),
        per_day: shown(bill, part.limits.per_day, tiers.per_day),
        set: LimitsForm {
            part: part.part.to_string(),
            per_month: entered(part.limits.per_month),
            per_day: entered(part.limits.per_day),
        },
    }
}

/// Returns a limit for people: as it was set, or else the tier's.
pub(super) fn shown(bill: &Bill, set: Option<Credits>, tiers: Option<Credits>) -> String {
    let amount = |limit: Credits| {
        if limit == Credits::MAX { UNLIMITED.to_owned() } else { bill.amount(limit).to_string() }
    };
    match (set, tiers) {
        (Some(limit), _) => amount(limit),
        (None, Some(limit)) => format!("{} (tier)", amount(limit)),
        (None, None) => UNLIMITED.to_owned(),
    }
}

fn entered(limit: Option<Credits>) -> String {
    match limit {
        None => String::new(),
        Some(Credits::MAX) => UNLIMITED.to_owned(),
        Some(limit) => limit.to_string().trim_start_matches('$').to_owned(),
    }
}
