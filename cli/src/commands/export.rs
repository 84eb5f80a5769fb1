//! `credits export`.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;
use tower_credits::{
    Account, Accounts, Period,
    export::{
        Customers, Doubt, EventFile, ExportReport, Exporter, Lago, OpenMeter, Receiver, StateError,
        StripeMeter,
    },
    ledger::Usage,
};

use super::this_month;
use crate::{
    arguments::{Doubts, Export, ExportTo, Global},
    failure::{Done, Failure},
    output, progress,
    store::Store,
};

pub(crate) async fn run(global: &Global, export: Export) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    match &export.to {
        ExportTo::JsonLines { file } => {
            let receiver = EventFile::json_lines(file);
            to(global, &export, accounts, receiver.map_err(|e| unusable(file, &e))?).await
        }
        ExportTo::Csv { file } => {
            let receiver = EventFile::csv(file);
            to(global, &export, accounts, receiver.map_err(|e| unusable(file, &e))?).await
        }
        ExportTo::Openmeter { url, key_file, event_type, dedupe_window } => {
            let mut receiver =
                OpenMeter::to(url).map_err(|e| Failure::unusable(&"OpenMeter", &e))?;
            if let Some(file) = key_file {
                let key = key(file)?;
                receiver = receiver.bearer_token(&key).map_err(|e| unusable(file, &e))?;
            }
            let receiver = receiver
                .event_type(event_type)
                .source(&export.namespace)
                .dedupe_window(*dedupe_window);
            to(global, &export, accounts, receiver).await
        }
        ExportTo::Stripe { event_name, customers, key_file, measure, calls_per_second, url } => {
            let customers = Customers::from_file(customers)?;
            let key = key(key_file)?;
            let mut receiver = StripeMeter::new(event_name, &key, customers)
                .map_err(|e| Failure::unusable(&"Stripe", &e))?
                .measure(*measure)
                .calls_per_second(calls_per_second.get());
            if let Some(url) = url {
                receiver = receiver.url(url).map_err(|e| Failure::unusable(&"Stripe", &e))?;
            }
            to(global, &export, accounts, receiver).await
        }
        ExportTo::Lago { code, key_file, subscriptions, url } => {
            let key = key(key_file)?;
            let mut receiver =
                Lago::to(url, &key, code).map_err(|e| Failure::unusable(&"Lago", &e))?;
            if let Some(file) = subscriptions {
                receiver = receiver.subscriptions(Customers::from_file(file)?);
            }
            to(global, &export, accounts, receiver).await
        }
    }
}

async fn to(
    global: &Global,
    export: &Export,
    accounts: Accounts,
    receiver: impl Receiver,
) -> Result<Done, Failure> {
    let state = export.state.as_ref().ok_or_else(|| {
        Failure::Usage("pass --state FILE, which says what was sent to this receiver".to_owned())
    })?;
    let exporter = match (export.dry_run, export.new_state) {
        (_, false) => Exporter::open(accounts, receiver, state).map_err(|error| match error {
            StateError::Missing(file) => Failure::Refused(format!(
                "there is no state of an export in {}: pass --new-state if nothing was sent to \
                 this receiver before; otherwise find the file, since without it everything is \
                 sent again",
                file.display()
            )),
            error => error.into(),
        })?,
        (true, true) if state.exists() => {
            return Err(Failure::Refused(format!(
                "there is a file {} already: leave out --new-state",
                state.display()
            )));
        }
        (true, true) => {
            // Nothing was sent, so nothing is in it.
            let state = std::env::temp_dir().join(format!("credits-{}.state", super::new_id()));
            let exporter = Exporter::create(accounts, receiver, &state);
            let _ = fs::remove_file(state);
            exporter?
        }
        (_, true) => Exporter::create(accounts, receiver, state).map_err(|error| match error {
            StateError::Exists(file) => Failure::Refused(format!(
                "there is a state of an export in {} already: leave out --new-state",
                file.display()
            )),
            error => error.into(),
        })?,
    };
    let counter = progress::counter("events");
    let exporter = exporter.namespace(&export.namespace).retry_for(export.retry_for).on_progress({
        let counter = counter.clone();
        move |report| counter.set_position(report.events)
    });
    if let (Some(doubts), false) = (export.doubts, export.dry_run) {
        let doubt = match doubts {
            Doubts::Arrived => Doubt::Arrived,
            Doubts::Lost => Doubt::Lost,
        };
        let ids = &export.doubt_ids;
        let decided = exporter.resolve(doubt, |event| ids.is_empty() || ids.contains(&event.id));
        let number = decided.await?;
        eprintln!("{number} events were in doubt, and are decided.");
    }
    if export.drop_refused && !export.dry_run {
        let number = exporter.drop_refused().await?;
        eprintln!("{number} events that were refused are dropped.");
    }
    let months = match export.periods.as_slice() {
        // Usage of a month comes in for 62 days.
        [] => {
            let (month, last) = (this_month(), this_month().previous());
            vec![last.previous(), last, month]
        }
        periods => periods.to_vec(),
    };
    let report = if export.dry_run {
        preview(global, &exporter, &months, &counter).await?
    } else {
        exporter.export(&months).await?
    };
    counter.finish_and_clear();
    print(global, &months, &report, export.dry_run)?;
    Ok(if report.is_complete() { Done::Well } else { Done::Found })
}

/// Shows what would be sent, by account.
async fn preview(
    global: &Global,
    exporter: &Exporter,
    months: &[Period],
    counter: &indicatif::ProgressBar,
) -> Result<ExportReport, Failure> {
    let mut accounts: BTreeMap<Account, (u64, Usage)> = BTreeMap::new();
    let mut written = Ok(());
    let report = exporter
        .preview(months, |event| {
            if global.json && written.is_ok() {
                written = output::json(event);
            }
            let (events, sum) = accounts.entry(event.account.clone()).or_default();
            *events += 1;
            sum.requests += event.requests;
            sum.compute_micros += event.compute_micros;
            sum.cost = sum.cost.saturating_add(event.cost);
        })
        .await?;
    written?;
    if !global.json && !accounts.is_empty() {
        let mut table = output::table(&["Account", ">Events", ">Requests", ">Compute", ">Cost"]);
        for (account, (events, sum)) in &accounts {
            table.add_row([
                output::printable(account.as_str()),
                events.to_string(),
                sum.requests.to_string(),
                output::seconds(sum.compute_micros),
                sum.cost.to_string(),
            ]);
        }
        counter.suspend(|| output::line(output::lines(&table)))?;
    }
    Ok(report)
}

fn print(
    global: &Global,
    months: &[Period],
    report: &ExportReport,
    dry_run: bool,
) -> std::io::Result<()> {
    let months: Vec<_> = months.iter().map(ToString::to_string).collect();
    if global.json {
        for (event, reason) in &report.refusals {
            output::json(&json!({ "refused": event, "reason": reason }))?;
        }
        for event in &report.doubts {
            output::json(&json!({ "in_doubt": event }))?;
        }
        for (account, reason) in &report.unreadable_accounts {
            output::json(&json!({ "unreadable": account.as_str(), "reason": reason }))?;
        }
        return output::json(&json!({
            "months": months,
            "dry_run": dry_run,
            "accounts": report.accounts,
            "left_out": report.skipped,
            "events": report.events,
            "repeated": report.repeated,
            "requests": report.usage.requests,
            "compute_microseconds": report.usage.compute_micros,
            "cost_nano_usd": report.cost().as_nano_usd(),
            "refused": report.refused,
            "in_doubt": report.in_doubt,
            "unreadable": report.unreadable,
        }));
    }
    output::line(format!(
        "{}: {} events {}, {} requests, {}, {}",
        months.join(", "),
        report.events,
        if dry_run { "would be sent" } else { "sent" },
        report.usage.requests,
        output::seconds(report.usage.compute_micros),
        report.cost(),
    ))?;
    if report.skipped > 0 {
        output::line(format!(
            "left out, since they have no name at the receiver: {}",
            output::counted(usize::try_from(report.skipped).unwrap_or(usize::MAX), "account"),
        ))?;
    }
    for (event, reason) in &report.refusals {
        let text = format!("refused: {}, {}: {reason}", event.account, event.id);
        output::line(output::printable(&text))?;
    }
    if report.refused > 0 {
        output::line(format!(
            "{} events were refused; the next export sends them again, or drops them with \
             --drop-refused",
            report.refused
        ))?;
    }
    for (account, reason) in &report.unreadable_accounts {
        output::line(output::printable(&format!("not sent: {account}: {reason}")))?;
    }
    for event in &report.doubts {
        output::line(output::printable(&format!("in doubt: {}, {}", event.account, event.id)))?;
    }
    if report.in_doubt > 0 {
        output::line(format!(
            "{} events may have arrived or not, and the receiver does not know them again any \
             more; look there for their ids, and pass --doubts arrived or --doubts lost",
            report.in_doubt
        ))?;
    }
    Ok(())
}

fn key(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| unusable(file, &format!("{error}; check the path and its permissions")))?;
    match text.trim() {
        "" => Err(unusable(file, &"it is empty: write the key into it")),
        key => Ok(key.to_owned()),
    }
}

fn unusable(file: &Path, reason: &dyn std::fmt::Display) -> Failure {
    Failure::unusable(&file.display(), reason)
}
