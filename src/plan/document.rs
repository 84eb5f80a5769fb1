//! The plan as TOML: read into a [`Draft`], or refused with the place in the text.

use std::{
    collections::BTreeMap, fmt::Display, num::NonZeroU32, ops::Range, str::FromStr, time::Duration,
};

use jiff::SignedDuration;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{
    DuringOutage, LimitScope, Midway, Plan, PriceFactor, PriceFactorError, RateWindow, Rates,
    RequestCap, RequestQuota, Route, Tier, TierModels, TimeUnit, Unit, UpstreamTime, WhenUsedUp,
    catalog::{Fees, Hardware},
    draft::{Draft, Field, Language, Problem},
};
use crate::{Credits, DenialFormat, Limits, Name, NameError, clock::UnixTime};

/// Forms of a route, for error messages.
const ROUTE_REMEDY: &str = "write \"free\", \"authenticated\", \"refuse\", \
     { model = \"<name>\" } or { hardware = \"<name>\" }, with feature = \"<name>\" if it is not \
     `api`";

/// The names of the formats of denials.
const DENIAL_FORMATS: [(&str, DenialFormat); 3] = [
    ("problem", DenialFormat::Problem),
    ("hugging-face", DenialFormat::HuggingFace),
    ("openai", DenialFormat::OpenAi),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    currency: Option<Spanned<String>>,
    #[serde(default)]
    unbilled: Vec<Spanned<String>>,
    #[serde(default)]
    hardware: BTreeMap<Spanned<String>, RawHardware>,
    #[serde(default)]
    models: BTreeMap<Spanned<String>, RawModel>,
    #[serde(default)]
    routes: BTreeMap<Spanned<String>, Spanned<Value>>,
    #[serde(default)]
    tiers: BTreeMap<Spanned<String>, RawTier>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHardware {
    price_per_second: Option<Spanned<Value>>,
    fee_per_request: Option<Spanned<Value>>,
    least_per_request: Option<Spanned<Value>>,
    hold_per_request: Option<Spanned<Value>>,
    #[serde(default)]
    shared: bool,
    unit: Option<Spanned<Value>>,
    #[serde(default)]
    prices: Vec<Spanned<RawDatedRates>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDatedRates {
    from: Option<Spanned<Value>>,
    price_per_second: Option<Spanned<Value>>,
    fee_per_request: Option<Spanned<Value>>,
    least_per_request: Option<Spanned<Value>>,
    hold_per_request: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    hardware: Option<Spanned<String>>,
    compute_time: Option<Spanned<Value>>,
    fee_per_request: Option<Spanned<Value>>,
    least_per_request: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    included: Option<Spanned<Value>>,
    included_per_day: Option<Spanned<Value>>,
    #[serde(default)]
    per_seat: bool,
    price_factor: Option<Spanned<Value>>,
    when_used_up: Option<Spanned<Value>>,
    midway: Option<Spanned<Value>>,
    hold: Option<Spanned<Value>>,
    requests: Option<RawQuota>,
    most_per_request: Option<Spanned<Value>>,
    most_running: Option<Spanned<Value>>,
    during_outage: Option<Spanned<Value>>,
    hint: Option<String>,
    most_per_day: Option<Spanned<Value>>,
    #[serde(default)]
    parts: Vec<RawLimits>,
    #[serde(default)]
    models: BTreeMap<Spanned<String>, RawTierModels>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    most_per_month: Option<Spanned<Value>>,
    most_per_day: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTierModels {
    most_per_month: Option<Spanned<Value>>,
    most_per_day: Option<Spanned<Value>>,
    #[serde(default)]
    deny: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    count: Spanned<Value>,
    per: Spanned<Value>,
    burst: Option<Spanned<Value>>,
    scope: Option<Spanned<Value>>,
    window: Option<Spanned<Value>>,
}

/// Reason why a text is not a plan.
pub(super) struct DocumentError {
    /// The line, counted from 1, if one is wrong.
    pub(super) line: Option<usize>,
    pub(super) reason: String,
}

/// A wrong part of the text.
struct Wrong {
    span: Option<Range<usize>>,
    reason: String,
}

/// Reads a plan from TOML.
pub(super) fn read(text: &str) -> Result<Plan, DocumentError> {
    let raw = toml::from_str::<RawPlan>(text)
        .map_err(|error| Wrong { span: error.span(), reason: error.message().to_owned() });
    raw.and_then(plan).map_err(|Wrong { span, reason }| {
        let before = span.and_then(|span| text.get(..span.start));
        DocumentError { line: before.map(|before| before.matches('\n').count() + 1), reason }
    })
}

fn plan(raw: RawPlan) -> Result<Plan, Wrong> {
    let mut draft = Draft::new(Language::Toml);
    if let Some(code) = raw.currency {
        let currency = code.as_ref().parse();
        draft.set_currency(
            currency.map_err(|error| wrong(code.span(), format!("currency: {error}")))?,
        );
    }
    for (key, hardware) in raw.hardware {
        add_hardware(&mut draft, &key, &hardware)?;
    }
    for (key, model) in raw.models {
        add_model(&mut draft, &key, &model)?;
    }
    for (pattern, value) in raw.routes {
        add_route(&mut draft, &pattern, &value)?;
    }
    for (key, raw) in raw.tiers {
        let tier = tier(&key, &raw)?;
        draft.add_tier(tier).map_err(|problem| tier_problem(&key, &raw, problem))?;
    }
    for word in raw.unbilled {
        let outcome = word.as_ref().parse().map_err(|error| {
            wrong(word.span(), format!("unbilled {:?}: {error}", word.as_ref()))
        })?;
        draft.add_unbilled(outcome);
    }
    draft.finish().map_err(|problem| Wrong { span: None, reason: problem.reason })
}

fn add_hardware(draft: &mut Draft, key: &Spanned<String>, raw: &RawHardware) -> Result<(), Wrong> {
    let entry = format!("hardware `{}`", key.as_ref());
    let RawHardware { price_per_second: price, fee_per_request: fee, .. } = raw;
    let of = RawRates { price, fee, least: &raw.least_per_request, hold: &raw.hold_per_request };
    let mut rates = rates(of, key.span(), &entry)?;
    let (mut last, mut before) = (None, rates.clone());
    for (at, dated) in raw.prices.iter().enumerate() {
        let entry = format!("{entry}, prices[{at}]");
        let (span, dated) = (dated.span(), dated.as_ref());
        let place = dated.from.as_ref().map_or(span.clone(), Spanned::span);
        let from = dated.from.as_ref().and_then(moment).ok_or_else(|| {
            let remedy = "write from = \"2027-01-01T00:00:00Z\", a moment with its time zone";
            wrong(place.clone(), format!("{entry} does not say from when it counts: {remedy}"))
        })?;
        if last.is_some_and(|last| from <= last) {
            let reason = format!("{entry}: not after the one before: write the earliest first");
            return Err(wrong(place, reason));
        }
        last = Some(from);
        let RawDatedRates { price_per_second: price, fee_per_request: fee, .. } = dated;
        let of =
            RawRates { price, fee, least: &dated.least_per_request, hold: &dated.hold_per_request };
        let mut new = self::rates(of, span, &entry)?;
        // What an entry leaves out stays as it was.
        new.fee = if fee.is_some() { new.fee } else { before.fee };
        new.least = if dated.least_per_request.is_some() { new.least } else { before.least };
        new.hold = if dated.hold_per_request.is_some() { new.hold } else { before.hold };
        before = new.clone();
        rates = rates.after(from, new);
    }
    let unit = raw.unit.as_ref().map(|unit| self::unit(unit, &entry)).transpose()?;
    let hardware = Hardware { rates, shared: raw.shared, unit };
    draft
        .add_hardware(name(key, "hardware")?, hardware)
        .map_err(|problem| wrong(key.span(), problem.reason))
}

fn unit(value: &Spanned<Value>, entry: &str) -> Result<Unit, Wrong> {
    let refused = || {
        let remedy = "write unit = { name = \"tokens\", per_second = 1000000 }";
        wrong(value.span(), format!("{entry}, unit: {} is no unit: {remedy}", value.as_ref()))
    };
    let table = value.as_ref().as_table().filter(|table| table.len() == 2).ok_or_else(refused)?;
    let name = table.get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
    let per_second = table.get("per_second").and_then(Value::as_integer);
    let per_second = per_second.and_then(|number| u32::try_from(number).ok()?.try_into().ok());
    let (Some(name), Some(per_second)) = (name, per_second) else { return Err(refused()) };
    Ok(Unit::new(name, per_second))
}

fn add_model(draft: &mut Draft, key: &Spanned<String>, raw: &RawModel) -> Result<(), Wrong> {
    let entry = format!("model `{}`", key.as_ref());
    let hardware = raw.hardware.as_ref().ok_or_else(|| {
        wrong(key.span(), format!("{entry} has no hardware: write hardware = \"<name>\""))
    })?;
    let (name, hardware_name) =
        (name(key, "model")?, name(hardware, &format!("{entry}, hardware"))?);
    let time = raw.compute_time.as_ref();
    let upstream_time =
        time.map(|time| upstream_time(time, &format!("{entry}, compute_time"))).transpose()?;
    let fees = Fees {
        fee: optional_amount(&raw.fee_per_request, &entry, "fee_per_request")?,
        least: optional_amount(&raw.least_per_request, &entry, "least_per_request")?,
    };
    let added = draft.add_model(name, hardware_name, upstream_time, fees);
    added.map_err(|Problem { field, reason }| match field {
        Field::ModelHardware => wrong(hardware.span(), reason),
        Field::ModelTime => wrong(time.map_or_else(|| key.span(), Spanned::span), reason),
        _ => wrong(key.span(), reason),
    })
}

/// A price of a second, a fee and a least charge.
#[derive(Clone, Copy)]
struct RawRates<'a> {
    price: &'a Option<Spanned<Value>>,
    fee: &'a Option<Spanned<Value>>,
    least: &'a Option<Spanned<Value>>,
    hold: &'a Option<Spanned<Value>>,
}

fn rates(raw: RawRates<'_>, span: Range<usize>, entry: &str) -> Result<Rates, Wrong> {
    let RawRates { price, fee, least, hold } = raw;
    let price = optional_amount(price, entry, "price_per_second")?.ok_or_else(|| {
        wrong(span, format!("{entry} has no price: write price_per_second = \"0.00012\""))
    })?;
    Ok(Rates::per_second(price)
        .fee_per_request(optional_amount(fee, entry, "fee_per_request")?.unwrap_or_default())
        .least_per_request(optional_amount(least, entry, "least_per_request")?.unwrap_or_default())
        .hold_per_request(optional_amount(hold, entry, "hold_per_request")?.unwrap_or_default()))
}

/// Reads a moment with its time zone: a text as RFC 3339 has it, or TOML's own form of that.
fn moment(value: &Spanned<Value>) -> Option<UnixTime> {
    let text = match value.as_ref() {
        Value::String(text) => text.clone(),
        Value::Datetime(moment) => moment.to_string(),
        _ => return None,
    };
    let millis = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    u64::try_from(millis).ok().map(UnixTime::from_millis)
}

fn optional_amount(
    value: &Option<Spanned<Value>>,
    entry: &str,
    name: &str,
) -> Result<Option<Credits>, Wrong> {
    value.as_ref().map(|value| amount(value, &format!("{entry}, {name}"))).transpose()
}

fn upstream_time(value: &Spanned<Value>, entry: &str) -> Result<UpstreamTime, Wrong> {
    let refused = || {
        let remedy = "write { header = \"x-inference-time\", unit = \"ms\" } or \
             { fields = [\"usage.total_time_sec\"], unit = \"s\" }; units are s, ms, us and ns";
        wrong(value.span(), format!("{entry}: {} is not a place: {remedy}", value.as_ref()))
    };
    let table = value.as_ref().as_table().filter(|table| table.len() == 2).ok_or_else(refused)?;
    let unit = match table.get("unit").and_then(Value::as_str) {
        Some("s") => TimeUnit::Seconds,
        Some("ms") => TimeUnit::Milliseconds,
        Some("us") => TimeUnit::Microseconds,
        Some("ns") => TimeUnit::Nanoseconds,
        _ => return Err(refused()),
    };
    match (table.get("header"), table.get("fields")) {
        (Some(header), None) => {
            let name = header.as_str().and_then(|name| name.parse().ok()).ok_or_else(refused)?;
            Ok(UpstreamTime::header(name, unit))
        }
        (None, Some(fields)) => {
            let paths = fields.as_array().ok_or_else(refused)?.iter().map(Value::as_str);
            let paths = paths.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
            Ok(UpstreamTime::fields(paths, unit))
        }
        _ => Err(refused()),
    }
}

fn add_route(
    draft: &mut Draft,
    pattern: &Spanned<String>,
    value: &Spanned<Value>,
) -> Result<(), Wrong> {
    let located = |Problem { field, reason }| match field {
        Field::RouteTarget => wrong(value.span(), reason),
        _ => wrong(pattern.span(), reason),
    };
    match pattern.as_ref().as_str() {
        "preflight" => {
            draft.set_free_preflights(match value.as_ref().as_str() {
                Some("free") => true,
                Some("refuse") => false,
                _ => {
                    let reason = "route `preflight`: write \"refuse\", or \"free\" if your CORS \
                         layer is inside of the meter";
                    return Err(wrong(value.span(), reason.to_owned()));
                }
            });
            Ok(())
        }
        "otherwise" => draft.set_otherwise(route(pattern, value)?).map_err(located),
        path => draft.add_route(path, route(pattern, value)?).map_err(located),
    }
}

fn route(pattern: &Spanned<String>, value: &Spanned<Value>) -> Result<Route, Wrong> {
    let entry = format!("route `{}`", pattern.as_ref());
    let refused = |reason: String| wrong(value.span(), reason);
    let table = match value.as_ref() {
        Value::String(word) if word == "free" => return Ok(Route::free()),
        Value::String(word) if word == "authenticated" => return Ok(Route::authenticated()),
        Value::String(word) if word == "refuse" => return Ok(Route::refuse()),
        Value::Table(table) => table,
        other => return Err(refused(format!("{entry}: {other} is not a route: {ROUTE_REMEDY}"))),
    };
    if let Some(unknown) = table
        .keys()
        .find(|key| !["model", "hardware", "feature", "denials"].contains(&key.as_str()))
    {
        return Err(refused(format!("{entry}: unknown key `{unknown}`: {ROUTE_REMEDY}")));
    }
    let text = |key: &str| {
        let text = table.get(key).map(|value| {
            let reason = || format!("{entry}, {key}: {value} is not a text: write it in quotes");
            value.as_str().ok_or_else(|| refused(reason()))
        });
        text.transpose()
    };
    let parsed = |key: &str, text: &str| {
        text.parse::<Name>().map_err(|error| refused(format!("{entry}, {key} `{text}`: {error}")))
    };
    let route = match (text("model")?, text("hardware")?) {
        (Some(model), None) => Route::model(model),
        (None, Some(hardware)) => Route::hardware(parsed("hardware", hardware)?),
        (Some(_), Some(_)) => {
            let reason = "has a model and hardware: a model runs on its own hardware: remove one";
            return Err(refused(format!("{entry} {reason} of the two")));
        }
        (None, None) => {
            return Err(refused(format!("{entry} has no model and no hardware: {ROUTE_REMEDY}")));
        }
    };
    let route = match text("denials")? {
        Some(word) => {
            let format = DENIAL_FORMATS.iter().find(|(name, _)| *name == word);
            let (_, format) = format.ok_or_else(|| {
                refused(format!(
                    "{entry}, denials: {word:?} is not a format: write \"openai\", \
                     \"hugging-face\" or \"problem\""
                ))
            })?;
            route.denials(*format)
        }
        None => route,
    };
    Ok(match text("feature")? {
        Some(feature) => route.feature(parsed("feature", feature)?),
        None => route,
    })
}

fn tier(key: &Spanned<String>, raw: &RawTier) -> Result<Tier, Wrong> {
    let entry = format!("tier `{}`", key.as_ref());
    let included = optional_amount(&raw.included, &entry, "included")?;
    let included_per_day = optional_amount(&raw.included_per_day, &entry, "included_per_day")?;
    if included.is_none() && included_per_day.is_none() {
        let reason = "does not say what is included: write included = \"0.10\", dollars a month, \
                      or included_per_day";
        return Err(wrong(key.span(), format!("{entry} {reason}")));
    }
    let when_used_up = when_used_up(key, raw.when_used_up.as_ref(), &entry)?;
    let mut tier = Tier::new(name(key, "tier")?, included.unwrap_or_default(), when_used_up)
        .included_per_day(included_per_day.unwrap_or_default())
        .per_seat(raw.per_seat);
    if let Some(value) = &raw.price_factor {
        let factor = value.as_ref().as_str().map(str::parse::<PriceFactor>);
        tier = tier.price_factor(factor.and_then(Result::ok).ok_or_else(|| {
            wrong(value.span(), format!("{entry}, price_factor: {PriceFactorError}"))
        })?);
    }
    if let Some(value) = &raw.midway {
        tier = tier.midway(midway(value, &format!("{entry}, midway"))?);
    }
    if let Some(value) = &raw.hold {
        tier = tier.hold(duration(value, &format!("{entry}, hold"))?);
    }
    if let Some(value) = &raw.most_per_request {
        tier = tier.most_per_request(request_cap(value, &format!("{entry}, most_per_request"))?);
    }
    if let Some(value) = &raw.most_running {
        let (most, scope) = most_running(value, &format!("{entry}, most_running"))?;
        tier = tier.most_running(most).most_running_scope(scope);
    }
    if let Some(raw) = &raw.requests {
        tier = tier.requests(request_quota(raw, &format!("{entry}, requests"))?);
    }
    if let Some(value) = &raw.most_per_day {
        tier = tier.most_per_day(amount(value, &format!("{entry}, most_per_day"))?);
    }
    let depths = raw.parts.iter().enumerate();
    let parts = depths.map(|(depth, raw)| {
        limits(&raw.most_per_month, &raw.most_per_day, &format!("{entry}, parts[{depth}]"))
    });
    tier = tier.part_limits(parts.collect::<Result<Vec<_>, _>>()?);
    for (pattern, raw) in &raw.models {
        let entry = format!("{entry}, models `{}`", pattern.as_ref());
        let limits = limits(&raw.most_per_month, &raw.most_per_day, &entry)?;
        let models = TierModels::new(pattern.as_ref(), limits);
        tier = tier.models(if raw.deny { models.deny() } else { models });
    }
    if let Some(value) = &raw.during_outage {
        tier = tier.during_outage(during_outage(value, &format!("{entry}, during_outage"))?);
    }
    Ok(match &raw.hint {
        Some(hint) => tier.hint(hint),
        None => tier,
    })
}

fn limits(
    per_month: &Option<Spanned<Value>>,
    per_day: &Option<Spanned<Value>>,
    entry: &str,
) -> Result<Limits, Wrong> {
    Ok(Limits {
        per_month: optional_amount(per_month, entry, "most_per_month")?,
        per_day: optional_amount(per_day, entry, "most_per_day")?,
    })
}

/// Finds the place of a tier's problem.
fn tier_problem(key: &Spanned<String>, raw: &RawTier, problem: Problem) -> Wrong {
    let quota = raw.requests.as_ref();
    let value = match problem.field {
        Field::TierModels(at) => {
            let key = raw.models.keys().nth(at).unwrap_or(key);
            return wrong(key.span(), problem.reason);
        }
        Field::Hold => raw.hold.as_ref(),
        Field::MostPerRequest => raw.most_per_request.as_ref(),
        Field::RequestCount => quota.map(|quota| &quota.count),
        Field::RequestWindow => quota.and_then(|quota| quota.window.as_ref()),
        Field::RequestPer => quota.map(|quota| &quota.per),
        Field::RequestBurst => quota.map(|quota| quota.burst.as_ref().unwrap_or(&quota.count)),
        Field::Key | Field::ModelHardware | Field::ModelTime | Field::RouteTarget => None,
    };
    wrong(value.map_or_else(|| key.span(), Spanned::span), problem.reason)
}

fn when_used_up(
    key: &Spanned<String>,
    value: Option<&Spanned<Value>>,
    entry: &str,
) -> Result<WhenUsedUp, Wrong> {
    let remedy = "write when_used_up = \"block\", \"pay-as-you-go\" or \
         { pay_as_you_go_up_to = \"100.00\" }";
    let Some(value) = value else {
        let reason = format!("{entry} has no rule for used-up credits: {remedy}");
        return Err(wrong(key.span(), reason));
    };
    match (value.as_ref(), only_value(value.as_ref(), "pay_as_you_go_up_to")) {
        (Value::String(word), _) if word == "block" => Ok(WhenUsedUp::Block),
        (Value::String(word), _) if word == "pay-as-you-go" => {
            Ok(WhenUsedUp::PayAsYouGo(Credits::MAX))
        }
        (_, Some(limit)) => {
            let entry = format!("{entry}, pay_as_you_go_up_to");
            amount_of(limit, value.span(), &entry).map(WhenUsedUp::PayAsYouGo)
        }
        (other, None) => {
            Err(wrong(value.span(), format!("{entry}, when_used_up: unknown {other}: {remedy}")))
        }
    }
}

fn midway(value: &Spanned<Value>, entry: &str) -> Result<Midway, Wrong> {
    match value.as_ref().as_str() {
        Some("stop") => Ok(Midway::Stop),
        Some("finish") => Ok(Midway::Finish),
        _ => Err(wrong(value.span(), format!("{entry}: write \"stop\" or \"finish\""))),
    }
}

fn during_outage(value: &Spanned<Value>, entry: &str) -> Result<DuringOutage, Wrong> {
    match (value.as_ref(), only_value(value.as_ref(), "allow")) {
        (Value::String(word), _) if word == "deny" => Ok(DuringOutage::Deny),
        (_, Some(limit)) => amount_of(limit, value.span(), entry).map(DuringOutage::Allow),
        _ => {
            let reason = format!("{entry}: write \"deny\" or {{ allow = \"0.05\" }}");
            Err(wrong(value.span(), reason))
        }
    }
}

fn request_cap(value: &Spanned<Value>, entry: &str) -> Result<RequestCap, Wrong> {
    match only_value(value.as_ref(), "cost") {
        Some(cost) => amount_of(cost, value.span(), entry).map(RequestCap::Cost),
        None if value.as_ref().is_str() => duration(value, entry).map(RequestCap::Compute),
        None => {
            let reason = format!("{entry}: write a time like \"10m\", or {{ cost = \"0.05\" }}");
            Err(wrong(value.span(), reason))
        }
    }
}

fn limit_scope(value: &Value) -> Option<LimitScope> {
    match value.as_str() {
        Some("account") => Some(LimitScope::Account),
        Some("node") => Some(LimitScope::Node),
        _ => None,
    }
}

/// Reads a number of requests, or a table of it and the nodes over which it holds.
fn most_running(value: &Spanned<Value>, entry: &str) -> Result<(NonZeroU32, LimitScope), Wrong> {
    let Some(table) = value.as_ref().as_table() else {
        return Ok((whole(value, entry)?, LimitScope::Account));
    };
    let count = table.get("count").and_then(Value::as_integer);
    let count = count.and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
    let scope = table.get("scope").map_or(Some(LimitScope::Account), limit_scope);
    let is_known = table.keys().all(|key| key == "count" || key == "scope");
    count.zip(scope).filter(|_| is_known).ok_or_else(|| {
        let reason = format!(
            "{entry}: write a whole number from 1 to {}, or {{ count = 8, scope = \"node\" }}",
            u32::MAX
        );
        wrong(value.span(), reason)
    })
}

fn request_quota(raw: &RawQuota, entry: &str) -> Result<RequestQuota, Wrong> {
    let count = whole(&raw.count, &format!("{entry}.count"))?;
    let per = duration(&raw.per, &format!("{entry}.per"))?;
    let mut quota = RequestQuota::new(count, per);
    if let Some(scope) = &raw.scope {
        quota = quota.scope(limit_scope(scope.as_ref()).ok_or_else(|| {
            wrong(scope.span(), format!("{entry}.scope: write \"account\" or \"node\""))
        })?);
    }
    if let Some(window) = &raw.window {
        quota = quota.window(match window.as_ref().as_str() {
            Some("sliding") => RateWindow::Sliding,
            Some("fixed") => RateWindow::Fixed,
            _ => {
                let reason = format!("{entry}.window: write \"sliding\" or \"fixed\"");
                return Err(wrong(window.span(), reason));
            }
        });
    }
    Ok(match &raw.burst {
        Some(burst) => quota.burst(whole(burst, &format!("{entry}.burst"))?),
        None => quota,
    })
}

/// Returns the value of a table that has this key and no other.
fn only_value<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.as_table().filter(|table| table.len() == 1)?.get(key)
}

fn amount(value: &Spanned<Value>, entry: &str) -> Result<Credits, Wrong> {
    amount_of(value.as_ref(), value.span(), entry)
}

fn amount_of(value: &Value, span: Range<usize>, entry: &str) -> Result<Credits, Wrong> {
    let refused = |reason: &dyn Display| wrong(span.clone(), format!("{entry}: {reason}"));
    let text = value
        .as_str()
        .ok_or_else(|| refused(&"amounts are exact: write dollars as a string, like \"0.10\""))?;
    text.parse().map_err(|error| refused(&error))
}

fn duration(value: &Spanned<Value>, entry: &str) -> Result<Duration, Wrong> {
    let parsed = value.as_ref().as_str().and_then(|text| text.parse::<SignedDuration>().ok());
    parsed.and_then(|time| Duration::try_from(time).ok()).ok_or_else(|| {
        let reason = format!(
            "{entry}: {} is not a time: write one from \"1ms\" to \"24h\", like \"500ms\", \"1s\" \
             or \"1m\"",
            value.as_ref()
        );
        wrong(value.span(), reason)
    })
}

fn whole(value: &Spanned<Value>, entry: &str) -> Result<NonZeroU32, Wrong> {
    let number = value.as_ref().as_integer().and_then(|number| u32::try_from(number).ok());
    number.and_then(NonZeroU32::new).ok_or_else(|| {
        let reason = format!("{entry}: write a whole number from 1 to {}", u32::MAX);
        wrong(value.span(), reason)
    })
}

fn name<T: FromStr<Err = NameError>>(text: &Spanned<String>, entry: &str) -> Result<T, Wrong> {
    text.as_ref()
        .parse()
        .map_err(|error| wrong(text.span(), format!("{entry} `{}`: {error}", text.as_ref())))
}

fn wrong(span: Range<usize>, reason: String) -> Wrong {
    Wrong { span: Some(span), reason }
}
