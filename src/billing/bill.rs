//! [`Bill`]: the statement that a request asks for, and who may see it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::{Query, Request},
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde::Deserialize;

use super::denied::Denied;
use crate::{
    CreditMeter, Credits, Identity, Period, Plan,
    identify::{IdentifyError, RequestHead},
    ledger::{Statement, StatementLine, Usage},
    plan::{Amount, Tier, Unit, WhenUsedUp},
    rejection::Rejection,
};

/// The query of a billing route.
#[derive(Deserialize)]
struct BillQuery {
    period: Option<String>,
    organisation: Option<String>,
    sort: Option<String>,
}

/// Order of the parts on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    Used,
    Today,
}

/// A statement that the caller may see.
pub(super) struct Bill {
    /// The identity whose account it is.
    pub(super) identity: Arc<Identity>,
    /// The caller, with the caller's own account.
    pub(super) caller: Arc<Identity>,
    pub(super) tier: Arc<Tier>,
    pub(super) statement: Statement,
    /// `true` if it is the current month's.
    pub(super) is_current: bool,
    pub(super) sort: Sort,
    /// The plan in force: labels, units and prices.
    pub(super) plan: Arc<Plan>,
}

impl Bill {
    /// Reads the bill that a request asks for.
    pub(super) async fn read(meter: &CreditMeter, parts: &Parts) -> Result<Self, Denied> {
        let (caller, identity) = account_of(meter, parts).await?;
        let query = read_query(parts)?;
        let period = query
            .period
            .as_deref()
            .map(str::parse::<Period>)
            .transpose()
            .map_err(|_| Rejection::NoSuchPeriod)?;
        let plan = meter.plan().current();
        let Some(tier) = plan.tier(&identity.tier).cloned() else {
            return Err(Rejection::UnknownTier.into());
        };
        let statement = meter.statement(&identity, period).await.map_err(|error| {
            tracing::warn!(
                target: "tower_credits",
                account = %identity.account,
                %error,
                "a statement could not be read"
            );
            Rejection::LedgerUnreachable
        })?;
        let is_current = statement.period == meter.this_month();
        let sort = match query.sort.as_deref() {
            Some("used") => Sort::Used,
            Some("today") => Sort::Today,
            _ => Sort::Name,
        };
        Ok(Self { identity, caller, tier, statement, is_current, sort, plan })
    }

    /// Returns the usage of the lines, added up by a key of each.
    pub(super) fn usage_by<K: Ord>(&self, key: impl Fn(&StatementLine) -> K) -> BTreeMap<K, Usage> {
        let mut merged: BTreeMap<_, Usage> = BTreeMap::new();
        for line in &self.statement.lines {
            merged.entry(key(line)).or_default().add(line.usage);
        }
        merged
    }

    /// Returns an amount as the plan labels it.
    pub(super) fn amount(&self, credits: Credits) -> Amount {
        self.plan.currency().amount(credits)
    }

    /// Returns what lines computed: seconds, and for hardware whose time is counted in something
    /// else, how much of that.
    pub(super) fn computed<'a>(&self, lines: impl Iterator<Item = &'a StatementLine>) -> String {
        let (mut micros, mut units): (Option<u64>, BTreeMap<&str, (&Unit, u64)>) =
            (None, BTreeMap::new());
        for line in lines {
            let time = line.usage.compute_micros;
            match self.plan.unit(&line.hardware) {
                None => *micros.get_or_insert_default() += time,
                Some(unit) => units.entry(unit.name.as_str()).or_insert((unit, 0)).1 += time,
            }
        }
        if units.is_empty() {
            micros.get_or_insert_default();
        }
        let time = micros.map(|micros| seconds(Duration::from_micros(micros)));
        let counted = units.into_iter().map(|(name, (unit, micros))| {
            format!("{} {name}", unit.count(Duration::from_micros(micros)))
        });
        time.into_iter().chain(counted).collect::<Vec<_>>().join(", ")
    }

    /// Returns the date of a day of the month: `2026-11-03`.
    pub(super) fn date(&self, day: u8) -> String {
        format!("{}-{day:02}", self.statement.period)
    }

    /// `true` if the tier has pay-as-you-go, which a spending limit limits.
    pub(super) fn has_limit(&self) -> bool {
        matches!(self.tier.when_used_up, WhenUsedUp::PayAsYouGo(_))
    }

    /// `true` if the caller may set the account's limits: it is their own, and they are not of a
    /// part of it.
    pub(super) fn is_owner(&self) -> bool {
        self.is_own() && self.caller.part.is_none()
    }

    /// `true` if it is the caller's own account's.
    pub(super) fn is_own(&self) -> bool {
        self.identity.account == self.caller.account
    }
}

/// `2.000000 s`
fn seconds(time: Duration) -> String {
    format!("{}.{:06} s", time.as_secs(), time.subsec_micros())
}

fn read_query(parts: &Parts) -> Result<BillQuery, Denied> {
    Query::try_from_uri(&parts.uri).map(|Query(query)| query).map_err(|_| {
        let detail = "The query cannot be read. Write `period=YYYY-MM` and `organisation=<id>`, \
            each at most once.";
        Denied::other(StatusCode::BAD_REQUEST, "Invalid query", detail)
    })
}

/// Returns the caller of a request, and the identity whose account it asks about.
pub(super) async fn account_of(
    meter: &CreditMeter,
    parts: &Parts,
) -> Result<(Arc<Identity>, Arc<Identity>), Denied> {
    let head = RequestHead::from(parts);
    let caller = meter.caller(head).await.map_err(|error| meter.not_identified(error))?;
    let organisation = match read_query(parts)?.organisation {
        Some(organisation) => Some(organisation),
        None => meter.bill_to(head)?.map(str::to_owned),
    };
    let identity = match organisation {
        Some(organisation) => caller.billed_to(&organisation).ok_or(IdentifyError::NotAMember)?,
        None => Arc::clone(&caller),
    };
    Ok((caller, identity))
}

/// Answers a request of a program with the bill that it asks for.
pub(super) async fn answer(
    meter: &CreditMeter,
    request: Request,
    show: impl FnOnce(&Bill) -> Response,
) -> Response {
    let (parts, _) = request.into_parts();
    match Bill::read(meter, &parts).await {
        Ok(bill) => show(&bill),
        Err(denied) => denied.into_response(meter, &parts),
    }
}
