//! `credits close`.

use serde_json::json;
use tower_credits::ledger::LedgerError;

use super::{all_accounts, this_month};
use crate::{
    arguments::{Close, Global},
    confirm,
    failure::{Done, Failure},
    output, progress,
    store::Store,
};

pub(crate) async fn run(global: &Global, close: Close) -> Result<Done, Failure> {
    let period = close.period.unwrap_or_else(|| this_month().previous());
    let accounts = Store::accounts(global).await?;
    let all = match close.account {
        Some(account) => vec![account],
        None => {
            let found = all_accounts(&accounts, period).await?;
            found.into_iter().filter(|found| !found.closed).map(|found| found.account).collect()
        }
    };
    if !all.is_empty() {
        let question = format!(
            "This closes {} of {}: usage, lines and refunds change no more.",
            period.name(),
            output::counted(all.len(), "account")
        );
        confirm::typed(&question, &period.to_string(), global.yes)?;
    }
    let bar = progress::bar("accounts closed", all.len());
    let (mut closed, mut failed) = (0, Vec::new());
    for account in &all {
        match accounts.close(account, period).await {
            Ok(is_new) => closed += usize::from(is_new),
            // The same for all: the month has not ended, or nobody answers.
            Err(error) if matches!(error, LedgerError::Refused(_)) || error.is_outage() => {
                bar.finish_and_clear();
                if closed > 0 {
                    eprintln!("{} of {period} closed.", output::counted(closed, "account"));
                }
                return Err(error.into());
            }
            Err(error) => failed.push((account, error)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if global.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(account, error)| {
                json!({ "account": account.as_str(), "error": error.to_string() })
            })
            .collect();
        output::json(&json!({ "period": period.to_string(), "closed": closed, "failed": failed }))?;
    } else {
        output::line(format!("{} of {period} closed.", output::counted(closed, "account")))?;
        for (account, error) in &failed {
            output::line(output::printable(&format!("not closed: {account}: {error}")))?;
        }
    }
    Ok(if failed.is_empty() { Done::Well } else { Done::Found })
}
