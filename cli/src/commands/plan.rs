//! `credits plan check`.

use http::HeaderMap;
use serde_json::{Value, json};
use tower_credits::{
    Name, Plan,
    clock::UnixTime,
    plan::{Classification, Runs, Tier, WhenUsedUp, Workload},
};

use crate::{
    arguments::{CheckPlan, Global},
    failure::{Done, Failure},
    output,
};

pub(crate) fn check(global: &Global, check: &CheckPlan) -> Result<Done, Failure> {
    let plan = Plan::from_file(&check.file)?;
    let headers = HeaderMap::from_iter(check.headers.iter().cloned());
    let paths: Vec<_> =
        check.paths.iter().map(|path| (path, plan.classify(path, &headers))).collect();
    let is_lost = |found: &Classification| {
        matches!(found, Classification::Unknown | Classification::UnknownModel(_))
    };
    let remarks = plan.remarks();
    let found = !remarks.is_empty() || paths.iter().any(|(_, found)| is_lost(found));
    if global.json {
        let routes = plan.routes().into_iter().map(|route| route_json(&route.pattern, &route.runs));
        let paths = paths.iter().map(|(path, found)| {
            let why = is_lost(found).then(|| plan.explain(path, &headers));
            path_json(path, found, why)
        });
        output::json(&json!({
            "routes": routes.collect::<Vec<_>>(),
            "paths": paths.collect::<Vec<_>>(),
            "remarks": remarks,
        }))?;
        return Ok(if found { Done::Found } else { Done::Well });
    }
    let mut table = output::table(&["Route", "Runs"]);
    for route in plan.routes() {
        table.add_row([output::printable(&route.pattern), described(&plan, &route.runs)]);
    }
    output::line(output::lines(&table))?;
    let mut models = output::table(&["Model", "Hardware", ">A second", ">A request", ">At least"]);
    let api = "api".parse().map_err(|error| Failure::Usage(format!("{error}")))?;
    for model in plan.models().iter() {
        if let Some(workload) = plan.workload(model.as_str(), &api) {
            let workload = in_force(&workload);
            let shared = if workload.shared { ", shared" } else { "" };
            models.add_row([
                output::printable(model.as_str()),
                output::printable(&format!("{}{shared}", workload.hardware)),
                workload.price.a_second().to_string(),
                workload.fee.to_string(),
                workload.least.to_string(),
            ]);
        }
    }
    output::line(format!("\n{}", output::lines(&models)))?;
    let mut tiers = output::table(&["Tier", ">Included", "When used up", ">Prices"]);
    for tier in plan.tiers() {
        tiers.add_row([
            output::printable(tier.name.as_str()),
            included(tier),
            when_used_up(tier).to_owned(),
            format!("x {}", tier.price_factor),
        ]);
    }
    output::line(format!("\n{}", output::lines(&tiers)))?;
    for (path, found) in &paths {
        let why = is_lost(found).then(|| format!(": {}", plan.explain(path, &headers)));
        output::line(output::printable(&format!(
            "{path}: {}{}",
            classified(found),
            why.unwrap_or_default()
        )))?;
    }
    for remark in &remarks {
        output::line(format!("odd: {}", output::printable(remark)))?;
    }
    if !found {
        output::line("The plan is valid.")?;
    }
    Ok(if found { Done::Found } else { Done::Well })
}

fn included(tier: &Tier) -> String {
    let seats = if tier.per_seat { " a seat" } else { "" };
    let day = match tier.included_per_day {
        none if none.is_zero() => String::new(),
        day => format!(", {day} a day"),
    };
    format!("{} a month{day}{seats}", tier.included)
}

const fn when_used_up(tier: &Tier) -> &'static str {
    match tier.when_used_up {
        WhenUsedUp::Block => "stops",
        _ => "pays as it goes",
    }
}

fn described(plan: &Plan, runs: &Runs) -> String {
    match runs {
        Runs::Free => "free".to_owned(),
        Runs::Authenticated => "free, with credentials".to_owned(),
        Runs::Refused => "denied".to_owned(),
        Runs::Workload(found) => workload(found),
        Runs::Model { template, feature } => {
            format!("model {template}{}: one of {}", through(feature), plan.models().len())
        }
        _ => UNKNOWN.to_owned(),
    }
}

fn classified(found: &Classification) -> String {
    match found {
        Classification::Workload(found) => workload(found),
        Classification::Free => "free".to_owned(),
        Classification::Authenticated => "free, with credentials".to_owned(),
        Classification::InBody(_) => "the model that its body names".to_owned(),
        Classification::UnknownModel(_) => "denied, unknown model".to_owned(),
        Classification::Unknown => "denied".to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

const UNKNOWN: &str = "something that this version does not know";

fn through(feature: &Name) -> String {
    if feature.as_str() == "api" { String::new() } else { format!(" ({feature})") }
}

/// Returns a workload at the prices that are in force.
fn in_force(workload: &Workload) -> &Workload {
    workload.in_force_at(UnixTime::now()).map_or(workload, |found| found)
}

fn workload(workload: &Workload) -> String {
    let Workload { model, hardware, feature, price, fee, .. } = in_force(workload);
    let fee = if fee.is_zero() { String::new() } else { format!(" and {fee} a request") };
    format!("{model}{} on {hardware}: {} a second{fee}", through(feature), price.a_second())
}

fn workload_json(workload: &Workload) -> Value {
    let Workload { model, hardware, feature, price, fee, least, .. } = in_force(workload);
    json!({
        "runs": "workload",
        "model": model.as_str(),
        "hardware": hardware.as_str(),
        "feature": feature.as_str(),
        "price_nano_usd_per_second": price.a_second().as_nano_usd(),
        "fee_nano_usd": fee.as_nano_usd(),
        "least_nano_usd": least.as_nano_usd(),
    })
}

fn route_json(pattern: &str, runs: &Runs) -> Value {
    let mut route = match runs {
        Runs::Free => json!({ "runs": "free" }),
        Runs::Authenticated => json!({ "runs": "authenticated" }),
        Runs::Refused => json!({ "runs": "denied" }),
        Runs::Workload(found) => workload_json(found),
        Runs::Model { template, feature } => {
            json!({ "runs": "model", "template": template, "feature": feature.as_str() })
        }
        _ => json!({ "runs": Value::Null }),
    };
    route["pattern"] = pattern.into();
    route
}

fn path_json(path: &str, found: &Classification, why: Option<String>) -> Value {
    let mut classified = match found {
        Classification::Workload(found) => workload_json(found),
        Classification::Free => json!({ "runs": "free" }),
        Classification::Authenticated => json!({ "runs": "authenticated" }),
        Classification::InBody(_) => json!({ "runs": "in_body" }),
        Classification::UnknownModel(_) => json!({ "runs": "denied", "unknown": "model" }),
        Classification::Unknown => json!({ "runs": "denied", "unknown": "path" }),
        _ => json!({ "runs": Value::Null }),
    };
    classified["path"] = path.into();
    classified["why"] = why.into();
    classified
}
