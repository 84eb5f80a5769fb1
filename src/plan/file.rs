//! The plan as TOML: parsed into valid values once, or refused with the line.

use std::{
    collections::BTreeMap,
    fmt::Display,
    num::NonZeroU32,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::SignedDuration;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{
    DuringOutage, Midway, Plan, PlanError, PlanHandle, RequestCap, RequestQuota, Tier, WhenUsedUp,
    routes::{Part, Target, Template},
};
use crate::{
    Credits, Name, Price, observe,
    reload::{self, Applied},
};

/// The longest that a bucket of requests may take to fill.
const LONGEST_REFILL: Duration = Duration::from_secs(31 * 24 * 60 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    hardware: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    included: Option<Spanned<Value>>,
    #[serde(default)]
    per_seat: bool,
    when_used_up: Option<Spanned<Value>>,
    midway: Option<Spanned<Value>>,
    hold: Option<Spanned<Value>>,
    requests: Option<RawQuota>,
    most_per_request: Option<Spanned<Value>>,
    most_running: Option<Spanned<Value>>,
    during_outage: Option<Spanned<Value>>,
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    count: Spanned<Value>,
    per: Spanned<Value>,
    burst: Option<Spanned<Value>>,
}

/// What is wrong, and where in the text.
struct Wrong {
    span: Option<Range<usize>>,
    reason: String,
}

impl Plan {
    /// Reads a plan from a file.
    ///
    /// # Errors
    ///
    /// [`PlanError`] with the file, the line, and what to write instead.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        reload::read(path)
            .map_err(|error| unreadable(path, error))
            .and_then(|text| Self::parse(&text, Some(path.to_owned())))
    }

    /// Reads a plan from TOML.
    ///
    /// # Errors
    ///
    /// [`PlanError`] with the line, and what to write instead.
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        Self::parse(text, None)
    }

    fn parse(text: &str, file: Option<PathBuf>) -> Result<Self, PlanError> {
        let raw = toml::from_str::<RawPlan>(text)
            .map_err(|error| Wrong { span: error.span(), reason: error.message().to_owned() });
        raw.and_then(plan).map_err(|wrong| {
            let line = wrong
                .span
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1);
            PlanError { file, line, reason: wrong.reason, source: None }
        })
    }
}

/// A plan in a file that may change.
///
/// ```no_run
/// use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, PlanFile};
///
/// let plan = PlanFile::watch("plan.toml")?;
/// let meter = CreditMeter::new(plan, MemoryLedger::new(), BearerTokens::new());
/// # Ok::<(), tower_credits::plan::PlanError>(())
/// ```
#[derive(Debug)]
pub struct PlanFile;

impl PlanFile {
    /// Reads a plan from a file and follows its changes: prices, tiers, routes and quotas count for
    /// requests that come after. A file that became wrong changes nothing and is logged, with its
    /// line and what to write instead, once for each content.
    ///
    /// The file is looked at, more than once a second, by a thread of its own, which ends when the
    /// last handle is gone.
    ///
    /// # Errors
    ///
    /// As [`Plan::from_file`]; also where no thread can be started.
    pub fn watch(path: impl Into<PathBuf>) -> Result<PlanHandle, PlanError> {
        let path = path.into();
        let text = reload::read(&path).map_err(|error| unreadable(&path, error))?;
        let handle = PlanHandle::from(Plan::parse(&text, Some(path.clone()))?);
        let (alive, watched) = (handle.downgrade(), handle.downgrade());
        let file = path.clone();
        let apply = move |content: std::io::Result<String>| {
            let Some(handle) = watched.upgrade() else { return Applied::Stop };
            match content
                .map_err(|error| unreadable(&file, error))
                .and_then(|text| Plan::parse(&text, Some(file.clone())))
            {
                Ok(plan) => {
                    handle.replace(plan);
                    observe::reloaded("plan", &file, None);
                }
                Err(error) => observe::not_reloaded("plan", &error),
            }
            Applied::Done
        };
        reload::follow(path.clone(), &text, move || alive.upgrade().is_some(), apply).map_err(
            |source| PlanError {
                file: Some(path),
                line: None,
                reason: "cannot be watched: no thread could be started".to_owned(),
                source: Some(source),
            },
        )?;
        Ok(handle)
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> PlanError {
    PlanError {
        file: Some(path.to_owned()),
        line: None,
        reason: format!("cannot be read: {source}"),
        source: Some(source),
    }
}

fn plan(raw: RawPlan) -> Result<Plan, Wrong> {
    let mut plan = Plan::empty();
    for (key, hardware) in raw.hardware {
        let subject = format!("hardware `{}`", key.as_ref());
        let missing = || {
            wrong(
                key.span(),
                format!("{subject} has no price: write price_per_second = \"0.00012\""),
            )
        };
        let price = amount(
            &hardware.price_per_second.ok_or_else(missing)?,
            &format!("{subject}, price_per_second"),
        )?;
        plan.catalog.hardware.insert(name(&key, "hardware")?, Price::per_second(price));
    }
    for (key, model) in raw.models {
        let subject = format!("model `{}`", key.as_ref());
        let hardware = model.hardware.ok_or_else(|| {
            wrong(key.span(), format!("{subject} has no hardware: write hardware = \"<name>\""))
        })?;
        known_hardware(&plan, &hardware.span(), hardware.as_ref(), &subject)?;
        plan.catalog.models.insert(name(&key, "model")?, name(&hardware, &subject)?);
    }
    for (pattern, value) in raw.routes {
        if pattern.as_ref() == "preflight" {
            plan.routes.free_preflights = match value.as_ref().as_str() {
                Some("free") => true,
                Some("refuse") => false,
                _ => {
                    return Err(wrong(
                        value.span(),
                        "route `preflight`: write \"refuse\", or \"free\" if your CORS layer is inside of the meter".to_owned(),
                    ));
                }
            };
            continue;
        }
        if pattern.as_ref() == "otherwise" {
            plan.routes.otherwise = target(&plan, &pattern, &value)?;
        } else {
            check_pattern(&pattern)?;
            let target = target(&plan, &pattern, &value)?;
            let inserted = plan.routes.insert(pattern.as_ref(), target);
            inserted.map_err(|error| {
                wrong(pattern.span(), format!("route `{}`: {error}", pattern.as_ref()))
            })?;
        }
    }
    if plan.routes.otherwise == Target::Free && plan.routes.targets.iter().any(Target::is_metered) {
        tracing::warn!(
            target: "tower_credits",
            "the plan says otherwise = \"free\": every path that is not listed runs unpaid; what nearly is a metered route's is refused"
        );
    }
    if raw.tiers.is_empty() {
        let reason = "no tiers: add [tiers.<name>] with included and when_used_up, for the tiers that identities have".to_owned();
        return Err(Wrong { span: None, reason });
    }
    for (key, raw) in raw.tiers {
        let tier = tier(&key, &raw)?;
        plan.tiers.insert(tier.name.clone(), Arc::new(tier));
    }
    plan.prepare();
    Ok(plan)
}

/// Paths come as they are written: what no path can be is a route that nothing leads to.
fn check_pattern(pattern: &Spanned<String>) -> Result<(), Wrong> {
    let path = pattern.as_ref().as_str();
    let refused = |remedy: &str| Err(wrong(pattern.span(), format!("route `{path}`: {remedy}")));
    if !path.starts_with('/') {
        return refused("write a path that begins with `/`, or `otherwise`, or `preflight`");
    }
    for segment in path.split('/').skip(1) {
        if let Some(name) = segment.strip_prefix(':') {
            return refused(&format!(
                "axum 0.8 writes a part of a path in braces: write `{{{name}}}` in place of `:{name}`"
            ));
        }
        if let Some(name) = segment.strip_prefix('*') {
            return refused(&format!(
                "axum 0.8 writes the rest of a path in braces: write `{{*{name}}}` in place of `*{name}`"
            ));
        }
        if matches!(segment, "." | "..") || segment.contains(['\\', ';', '?', '#']) {
            return refused(&format!(
                "no path that is let through has `{segment}` in it: write the path plainly"
            ));
        }
    }
    if path.contains("//") {
        return refused("no path that is let through has an empty part: write the path plainly");
    }
    Ok(())
}

fn target(plan: &Plan, pattern: &Spanned<String>, value: &Spanned<Value>) -> Result<Target, Wrong> {
    let subject = format!("route `{}`", pattern.as_ref());
    let remedy = "write \"free\", \"refuse\", { model = \"<name>\" } or { hardware = \"<name>\" }, with feature = \"<name>\" where it is not `api`";
    let confused = || wrong(value.span(), format!("{subject} leads nowhere: {remedy}"));
    let table = match value.as_ref() {
        Value::String(word) if word == "free" => return Ok(Target::Free),
        Value::String(word) if word == "refuse" => return Ok(Target::Refuse),
        Value::Table(table) => table,
        _ => return Err(confused()),
    };
    if let Some(unknown) =
        table.keys().find(|key| !["model", "hardware", "feature"].contains(&key.as_str()))
    {
        return Err(wrong(value.span(), format!("{subject}: unknown key `{unknown}`: {remedy}")));
    }
    let text = |key| table.get(key).map(|value| value.as_str().ok_or_else(confused)).transpose();
    let feature = text("feature")?
        .unwrap_or("api")
        .parse::<Name>()
        .map_err(|error| wrong(value.span(), format!("{subject}, feature: {error}")))?;
    if feature.as_str().contains(['{', '}']) {
        let reason = format!(
            "{subject}, feature `{feature}`: write a name without braces: clients do not choose theirs, a request's `Feature` extension does"
        );
        return Err(wrong(value.span(), reason));
    }
    match (text("model")?, text("hardware")?) {
        (Some(model), None) => {
            let template = Template::parse(model).ok_or_else(|| {
                let remedy =
                    "write a name, or in braces a part of the path, `{name}`, or a header field, `{header:x-model}`: there is nothing else";
                wrong(value.span(), format!("{subject}, model `{model}`: {remedy}"))
            })?;
            for part in &template.0 {
                if let Part::Parameter(parameter) = part
                    && ![format!("{{{parameter}}}"), format!("{{*{parameter}}}")].iter().any(
                        |hole| pattern.as_ref().replace("{{", "").replace("}}", "").contains(hole),
                    )
                {
                    return Err(wrong(
                        value.span(),
                        format!(
                            "{subject}: its path has no `{{{parameter}}}`: name a part of the path, or a model"
                        ),
                    ));
                }
            }
            if let Some(fixed) = template.fixed()
                && !plan.catalog.models.contains_key(fixed)
            {
                let reason = format!(
                    "{subject} leads to model `{fixed}`, which the plan does not have: add [models.{fixed}] or name another"
                );
                return Err(wrong(value.span(), reason));
            }
            Ok(Target::Model { model: template, feature })
        }
        (None, Some(hardware)) => {
            known_hardware(plan, &value.span(), hardware, &subject)?;
            let hardware = hardware
                .parse()
                .map_err(|error| wrong(value.span(), format!("{subject}, hardware: {error}")))?;
            Ok(Target::Hardware { hardware, feature })
        }
        _ => Err(confused()),
    }
}

fn tier(key: &Spanned<String>, raw: &RawTier) -> Result<Tier, Wrong> {
    let subject = format!("tier `{}`", key.as_ref());
    let missing = || {
        wrong(
            key.span(),
            format!(
                "{subject} does not say what is included: write included = \"0.10\", dollars a month"
            ),
        )
    };
    let included = raw.included.as_ref().ok_or_else(missing)?;
    let rule =
        "write when_used_up = \"block\", \"pay-as-you-go\" or { pay_as_you_go_up_to = \"100.00\" }";
    let when_used_up = match &raw.when_used_up {
        None => {
            return Err(wrong(
                key.span(),
                format!("{subject} has no rule for used-up credits: {rule}"),
            ));
        }
        Some(value) => match (value.as_ref(), sole(value.as_ref(), "pay_as_you_go_up_to")) {
            (Value::String(word), _) if word == "block" => WhenUsedUp::Block,
            (Value::String(word), _) if word == "pay-as-you-go" => {
                WhenUsedUp::PayAsYouGo(Credits::MAX)
            }
            (_, Some(limit)) => WhenUsedUp::PayAsYouGo(amount_of(
                limit,
                &value.span(),
                &format!("{subject}, pay_as_you_go_up_to"),
            )?),
            _ => return Err(wrong(value.span(), format!("{subject}, when_used_up: {rule}"))),
        },
    };
    let midway = match &raw.midway {
        None if when_used_up == WhenUsedUp::Block => Midway::Stop,
        None => Midway::Finish,
        Some(value) => match value.as_ref().as_str() {
            Some("stop") => Midway::Stop,
            Some("finish") => Midway::Finish,
            _ => {
                return Err(wrong(
                    value.span(),
                    format!("{subject}, midway: write \"stop\" or \"finish\""),
                ));
            }
        },
    };
    let during_outage = match &raw.during_outage {
        None => DuringOutage::Deny,
        Some(value) => match (value.as_ref(), sole(value.as_ref(), "allow")) {
            (Value::String(word), _) if word == "deny" => DuringOutage::Deny,
            (_, Some(most)) => DuringOutage::Allow(amount_of(
                most,
                &value.span(),
                &format!("{subject}, during_outage"),
            )?),
            _ => {
                return Err(wrong(
                    value.span(),
                    format!("{subject}, during_outage: write \"deny\" or {{ allow = \"0.05\" }}"),
                ));
            }
        },
    };
    Ok(Tier {
        name: name(key, "tier")?,
        included: amount(included, &format!("{subject}, included"))?,
        per_seat: raw.per_seat,
        when_used_up,
        midway,
        hold: raw.hold.as_ref().map_or(Ok(Duration::from_secs(1)), |value| {
            duration(value, &format!("{subject}, hold"))
        })?,
        most_per_request: raw
            .most_per_request
            .as_ref()
            .map(|value| request_cap(value, &subject))
            .transpose()?,
        most_running: raw
            .most_running
            .as_ref()
            .map(|value| whole(value, &format!("{subject}, most_running")))
            .transpose()?,
        requests: raw.requests.as_ref().map(|quota| request_quota(quota, &subject)).transpose()?,
        during_outage,
        hint: raw.hint.clone(),
    })
}

fn request_cap(value: &Spanned<Value>, subject: &str) -> Result<RequestCap, Wrong> {
    let subject = format!("{subject}, most_per_request");
    match sole(value.as_ref(), "cost") {
        Some(cost) => match amount_of(cost, &value.span(), &subject)? {
            Credits::ZERO => Err(wrong(
                value.span(),
                format!(
                    "{subject}: nothing runs for nothing: write more than 0, or leave the cap out"
                ),
            )),
            cost => Ok(RequestCap::Cost(cost)),
        },
        None if value.as_ref().is_str() => Ok(RequestCap::Compute(duration(value, &subject)?)),
        None => Err(wrong(
            value.span(),
            format!("{subject}: write a time like \"10m\", or {{ cost = \"0.05\" }}"),
        )),
    }
}

fn request_quota(raw: &RawQuota, subject: &str) -> Result<RequestQuota, Wrong> {
    let count = whole(&raw.count, &format!("{subject}, requests.count"))?;
    let burst = raw
        .burst
        .as_ref()
        .map_or(Ok(count), |burst| whole(burst, &format!("{subject}, requests.burst")))?;
    let per = duration(&raw.per, &format!("{subject}, requests.per"))?;
    let interval = per / count.get();
    if interval < Duration::from_micros(1) {
        return Err(wrong(
            raw.count.span(),
            format!(
                "{subject}, requests.count: more than one in a microsecond: write fewer, or leave the quota out"
            ),
        ));
    }
    if interval.checked_mul(burst.get()).is_none_or(|refill| refill > LONGEST_REFILL) {
        let at = raw.burst.as_ref().unwrap_or(&raw.count).span();
        return Err(wrong(
            at,
            format!(
                "{subject}, requests: a used-up burst would take more than 31 days to fill again: write a smaller one"
            ),
        ));
    }
    Ok(RequestQuota { count, per, burst })
}

/// The value of a table's only key.
fn sole<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.as_table().filter(|table| table.len() == 1)?.get(key)
}

fn amount(value: &Spanned<Value>, subject: &str) -> Result<Credits, Wrong> {
    amount_of(value.as_ref(), &value.span(), subject)
}

fn amount_of(value: &Value, span: &Range<usize>, subject: &str) -> Result<Credits, Wrong> {
    let refused = |reason: &dyn Display| wrong(span.clone(), format!("{subject}: {reason}"));
    let text = value
        .as_str()
        .ok_or_else(|| refused(&"amounts are exact: write dollars as a string, like \"0.10\""))?;
    text.parse().map_err(|error| refused(&error))
}

fn duration(value: &Spanned<Value>, subject: &str) -> Result<Duration, Wrong> {
    let text = value.as_ref().as_str();
    let parsed = text
        .and_then(|text| text.parse::<SignedDuration>().ok())
        .and_then(|time| Duration::try_from(time).ok());
    let in_range = parsed.filter(|time| {
        (Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60)).contains(time)
    });
    in_range.ok_or_else(|| {
        wrong(
            value.span(),
            format!(
                "{subject}: write a time from \"1ms\" to \"24h\", like \"500ms\", \"1s\" or \"1m\""
            ),
        )
    })
}

fn whole(value: &Spanned<Value>, subject: &str) -> Result<NonZeroU32, Wrong> {
    let number = value
        .as_ref()
        .as_integer()
        .and_then(|number| u32::try_from(number).ok())
        .and_then(NonZeroU32::new);
    number
        .ok_or_else(|| wrong(value.span(), format!("{subject}: write a whole number of 1 or more")))
}

fn name(text: &Spanned<String>, subject: &str) -> Result<Name, Wrong> {
    text.as_ref()
        .parse()
        .map_err(|error| wrong(text.span(), format!("{subject} `{}`: {error}", text.as_ref())))
}

fn known_hardware(
    plan: &Plan,
    span: &Range<usize>,
    hardware: &str,
    subject: &str,
) -> Result<(), Wrong> {
    if plan.catalog.hardware.contains_key(hardware) {
        return Ok(());
    }
    let reason = format!(
        "{subject} runs on hardware `{hardware}`, which has no price: add [hardware.{hardware}] with price_per_second, or name another"
    );
    Err(wrong(span.clone(), reason))
}

fn wrong(span: Range<usize>, reason: String) -> Wrong {
    Wrong { span: Some(span), reason }
}
