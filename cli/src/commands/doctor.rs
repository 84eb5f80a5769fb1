//! `credits doctor`.

use std::time::Duration;

use serde_json::json;
use tower_credits::ledger::{Ledger, ServerReport};

use crate::{
    arguments::Global,
    failure::{Done, Failure},
    output,
    store::Store,
};

pub(crate) async fn run(global: &Global) -> Result<Done, Failure> {
    let store = Store::open(global).await?;
    let ledger = match &store {
        Store::Redis(ledger) => ledger,
        Store::File(ledger) => {
            ledger.check(global.timeout).await?;
            if global.json {
                output::json(&json!({ "ledger": store.describe(), "problems": [] }))?;
            } else {
                output::line(format!("{}: it can be read and written.", store.describe()))?;
            }
            return Ok(Done::Well);
        }
    };
    let reports = ledger.inspect().await?;
    let mut found = false;
    for report in &reports {
        let problems = report.problems();
        found |= !problems.is_empty();
        if global.json {
            output::json(&as_json(report, &problems))?;
            continue;
        }
        output::line(output::lines(&output::facts(facts(report))))?;
        for problem in &problems {
            output::line(format!("problem: {problem}"))?;
        }
    }
    if !found && !global.json {
        output::line("No problem was found.")?;
    }
    Ok(if found { Done::Found } else { Done::Well })
}

fn facts(report: &ServerReport) -> Vec<(&'static str, String)> {
    let unknown = || "not known".to_owned();
    let persistence = match (report.append_only, &report.append_fsync) {
        (Some(true), Some(fsync)) => format!("appendonly yes, appendfsync {fsync}"),
        (Some(true), None) => "appendonly yes".to_owned(),
        (Some(false), _) => "appendonly no".to_owned(),
        (None, _) => unknown(),
    };
    let memory = report.memory.map_or_else(unknown, |(used, most)| match most {
        0 => format!("{used} bytes, no limit"),
        most => format!("{used} of {most} bytes"),
    });
    let replicas =
        report.replicas.map_or_else(unknown, |replicas| match report.min_replicas_to_write {
            Some(least) => format!("{replicas}, {least} needed to write"),
            None => replicas.to_string(),
        });
    let clock = match report.clock_ahead_millis {
        ahead if ahead >= 0 => format!("{ahead} ms ahead of this machine's"),
        behind => format!("{} ms behind this machine's", -behind),
    };
    vec![
        ("Server", report.address.clone()),
        ("Version", report.version.clone().unwrap_or_else(unknown)),
        ("When memory is full", report.eviction.clone().unwrap_or_else(unknown)),
        ("Persistence", persistence),
        ("Replicas", replicas),
        ("Memory", memory),
        ("Schema", report.schema.clone().unwrap_or_else(unknown)),
        ("Clock", clock),
        ("Round trip", output::millis(report.round_trip)),
        ("Script", output::millis(report.script)),
    ]
}

fn as_json(report: &ServerReport, problems: &[String]) -> serde_json::Value {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    json!({
        "server": report.address,
        "version": report.version,
        "eviction": report.eviction,
        "append_only": report.append_only,
        "append_fsync": report.append_fsync,
        "replicas": report.replicas,
        "min_replicas_to_write": report.min_replicas_to_write,
        "memory_bytes": report.memory.map(|(used, _)| used),
        "max_memory_bytes": report.memory.map(|(_, most)| most),
        "schema": report.schema,
        "clock_ahead_milliseconds": report.clock_ahead_millis,
        "round_trip_microseconds": micros(report.round_trip),
        "script_microseconds": micros(report.script),
        "problems": problems,
    })
}
