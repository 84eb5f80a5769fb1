//! `credits watch`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    io::Write,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tower_credits::{Account, Accounts, Credits, Period, ledger::AccountSummary};

use super::{all_accounts, this_month};
use crate::{
    arguments::{Global, Watch},
    failure::{Done, Failure},
    output,
    store::Store,
};

/// The time that a node has to answer for its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

/// One look at the accounts and at the nodes.
struct Look {
    at: Instant,
    accounts: HashMap<Account, Credits>,
    /// Requests, and denials by reason, as the nodes count them since they started.
    nodes: Nodes,
}

#[derive(Default)]
struct Nodes {
    requests: f64,
    denied: BTreeMap<String, f64>,
    /// Nodes that gave no answer, with the reason.
    silent: Vec<String>,
}

/// An account that is shown.
struct Row {
    summary: AccountSummary,
    spent: Credits,
    requests: u64,
}

pub(crate) async fn run(global: &Global, watch: Watch) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    let mut stopped = pin!(tokio::signal::ctrl_c());
    tokio::select! {
        done = look_again_and_again(global, &watch, &accounts) => done,
        _ = &mut stopped => Ok(Done::Well),
    }
}

async fn look_again_and_again(
    global: &Global,
    watch: &Watch,
    accounts: &Accounts,
) -> Result<Done, Failure> {
    let (mut before, mut looks): (Option<Look>, u32) = (None, 0);
    loop {
        let begin = Instant::now();
        let period = this_month();
        let found = all_accounts(accounts, period).await?;
        let nodes = scrape(&watch.metrics).await;
        let rows = rows(accounts, period, &found, before.as_ref(), watch).await?;
        let look = Look {
            at: Instant::now(),
            accounts: found.iter().map(|found| (found.account.clone(), found.used)).collect(),
            nodes,
        };
        show(global, period, &found, &rows, before.as_ref(), &look)?;
        before = Some(look);
        looks += 1;
        if watch.count.is_some_and(|count| looks >= count.get()) {
            return Ok(Done::Well);
        }
        // Of a large ledger, no more than half of the time is spent on looking.
        tokio::time::sleep(watch.every.max(begin.elapsed())).await;
    }
}

/// Returns the accounts that spent the most since the last look, then those that spent the most in
/// the month.
async fn rows(
    accounts: &Accounts,
    period: Period,
    found: &[AccountSummary],
    before: Option<&Look>,
    watch: &Watch,
) -> Result<Vec<Row>, Failure> {
    let spent = |summary: &AccountSummary| {
        let then = before.map(|look| look.accounts.get(&summary.account).copied());
        // At the first look nothing is known of before.
        then.map_or(Credits::ZERO, |then| summary.used.saturating_sub(then.unwrap_or_default()))
    };
    let mut rows: Vec<_> = found.iter().map(|summary| (spent(summary), summary.clone())).collect();
    rows.sort_by_key(|(spent, summary)| Reverse((*spent, summary.used)));
    rows.truncate(watch.top.get() as usize);
    let reading = rows.iter().map(|(_, summary)| accounts.statement(&summary.account, period));
    let statements = join_all(reading).await;
    let row = |((spent, summary), statement): ((Credits, AccountSummary), _)| {
        let statement: tower_credits::ledger::Statement = statement?;
        Ok(Row { summary, spent, requests: statement.requests() })
    };
    rows.into_iter().zip(statements).map(row).collect()
}

fn show(
    global: &Global,
    period: Period,
    found: &[AccountSummary],
    rows: &[Row],
    before: Option<&Look>,
    look: &Look,
) -> Result<(), Failure> {
    let seconds = before.map(|before| (look.at - before.at).as_secs_f64());
    let rate = |now: f64, then: f64| {
        // A node that started again counts from zero.
        seconds.map(|seconds| (now - then).max(0.0) / seconds)
    };
    let requests = rate(look.nodes.requests, before.map_or(0.0, |before| before.nodes.requests));
    let denied: BTreeMap<&str, Option<f64>> = look
        .nodes
        .denied
        .iter()
        .map(|(reason, now)| {
            let then = before.and_then(|before| before.nodes.denied.get(reason)).copied();
            (reason.as_str(), rate(*now, then.unwrap_or_default()))
        })
        .collect();
    let sum = |of: fn(&AccountSummary) -> Credits| {
        found.iter().map(of).fold(Credits::ZERO, Credits::saturating_add)
    };
    let (used, held) = (sum(|summary| summary.used), sum(|summary| summary.held));
    if global.json {
        output::json(&json!({
            "period": period.to_string(),
            "accounts": found.len(),
            "used_nano_usd": used.as_nano_usd(),
            "held_nano_usd": held.as_nano_usd(),
            "requests_per_second": requests,
            "denied_per_second": denied,
            "silent_nodes": look.nodes.silent,
            "top": rows.iter().map(|row| json!({
                "account": row.summary.account.as_str(),
                "spent_nano_usd": row.spent.as_nano_usd(),
                "used_nano_usd": row.summary.used.as_nano_usd(),
                "held_nano_usd": row.summary.held.as_nano_usd(),
                "requests": row.requests,
            })).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    let mut text = format!(
        "{period}: {}, {used} used, {held} on hold",
        output::counted(found.len(), "account")
    );
    if let Some(requests) = requests.filter(|_| look.nodes.requests > 0.0) {
        text = format!("{text}, {requests:.1} requests/s");
    }
    let mut text = text + "\n";
    let denied: Vec<_> = denied
        .iter()
        .filter_map(|(reason, rate)| rate.map(|rate| format!("{reason} {rate:.1}/s")))
        .collect();
    if !denied.is_empty() {
        text = format!("{text}denied: {}\n", output::printable(&denied.join(", ")));
    }
    for silent in &look.nodes.silent {
        text = format!("{text}no metrics of {}\n", output::printable(silent));
    }
    let mut table = output::table(&["Account", ">Spent", ">Used", ">On hold", ">Requests"]);
    for row in rows {
        table.add_row([
            output::printable(row.summary.account.as_str()),
            if before.is_some() { row.spent.to_string() } else { String::new() },
            row.summary.used.to_string(),
            row.summary.held.to_string(),
            row.requests.to_string(),
        ]);
    }
    text = format!("{text}{}", output::lines(&table));
    if output::is_terminal() {
        // To the first line, and nothing below it.
        text = format!("\x1b[H\x1b[2J{text}");
    }
    output::line(text)?;
    std::io::stdout().flush()?;
    Ok(())
}

/// Reads what the nodes count.
async fn scrape(urls: &[String]) -> Nodes {
    let reading = urls.iter().cloned().map(|url| {
        tokio::task::spawn_blocking(move || {
            let agent = ureq::Agent::config_builder().timeout_global(Some(METRICS_TIMEOUT)).build();
            let answer = ureq::Agent::new_with_config(agent).get(&url).call();
            answer
                .and_then(|mut answer| answer.body_mut().read_to_string())
                .map_err(|error| format!("{url}: {error}"))
        })
    });
    let mut nodes = Nodes::default();
    for text in join_all(reading).await {
        match text {
            Ok(Ok(text)) => nodes.add(&text),
            Ok(Err(reason)) => nodes.silent.push(reason),
            Err(error) => nodes.silent.push(error.to_string()),
        }
    }
    nodes
}

impl Nodes {
    /// Adds the counters of a node, from the text format of Prometheus.
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "tower_credits_requests_total" => self.requests += value,
                "tower_credits_denied_total" => {
                    let reason = labels.split_once("reason=\"").map_or("", |(_, rest)| rest);
                    let reason = reason.split('"').next().unwrap_or_default().to_owned();
                    *self.denied.entry(reason).or_default() += value;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_nodes_are_added_up() {
        let mut nodes = Nodes::default();
        let text = "# HELP tower_credits_requests_total Billed requests.\n\
                    tower_credits_requests_total{tier=\"pro\",end=\"complete\"} 3\n\
                    tower_credits_requests_total{tier=\"free\",end=\"dropped\"} 2\n\
                    tower_credits_denied_total{reason=\"CREDITS_USED_UP\"} 4\n\
                    tower_credits_leases 7\n\
                    something else\n";
        nodes.add(text);
        nodes.add(text);
        assert_eq!(nodes.requests, 10.0);
        assert_eq!(nodes.denied, BTreeMap::from([("CREDITS_USED_UP".to_owned(), 8.0)]));
    }
}
