//! `credits audit`.

use serde_json::json;
use tower_credits::{
    Account,
    ledger::{self, LedgerError},
};

use super::{PAGE_SIZE, this_month};
use crate::{
    arguments::{Audit, Global},
    failure::{Done, Failure},
    output, progress,
    store::Store,
};

pub(crate) async fn run(global: &Global, audit: Audit) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    let period = audit.period.unwrap_or_else(this_month);
    if let Some(account) = audit.account {
        let audit = match accounts.audit(&account, period).await {
            Err(error @ LedgerError::Malformed(_)) => {
                unreadable(global, &account, &error)?;
                return Ok(Done::Found);
            }
            audit => audit?,
        };
        if global.json {
            output::json(&as_json(&audit))?;
        } else {
            output::line(output::printable(&audit.to_string()))?;
        }
        return Ok(if audit.is_sound() { Done::Well } else { Done::Found });
    }
    let progress = progress::counter("accounts audited");
    let (mut sound, mut found, mut from) = (0, 0, None);
    loop {
        let page = accounts.audit_page(period, from.as_ref(), PAGE_SIZE).await?;
        for audit in &page.audits {
            progress.inc(1);
            sound += usize::from(audit.is_sound());
            if audit.is_sound() {
                continue;
            }
            found += 1;
            progress.suspend(|| {
                if global.json {
                    output::json(&as_json(audit))
                } else {
                    output::line(output::printable(&audit.to_string()))
                }
            })?;
        }
        for (account, error) in &page.unreadable {
            found += 1;
            progress.suspend(|| unreadable(global, account, error))?;
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    if global.json {
        output::json(&json!({ "period": period.to_string(), "sound": sound, "found": found }))?;
    } else {
        output::line(format!(
            "{} of {period} sound, {found} not.",
            output::counted(sound, "account")
        ))?;
    }
    Ok(if found == 0 { Done::Well } else { Done::Found })
}

/// Shows an account of which something cannot be read.
fn unreadable(global: &Global, account: &Account, error: &LedgerError) -> std::io::Result<()> {
    let text = error.to_string();
    if global.json {
        output::json(&json!({ "account": account.as_str(), "error": text }))
    } else {
        output::line(output::printable(&format!("{account}: {text}")))
    }
}

fn as_json(audit: &ledger::Audit) -> serde_json::Value {
    json!({
        "account": audit.account.as_str(),
        "period": audit.period.to_string(),
        "used_nano_usd": audit.used.as_nano_usd(),
        "itemised_nano_usd": audit.itemised.as_nano_usd(),
        "recovered_nano_usd": audit.recovered.as_nano_usd(),
        "held_nano_usd": audit.held.as_nano_usd(),
        "leases": audit.leases,
        "sound": audit.is_sound(),
        "findings": audit.findings.iter().map(|finding| json!({
            "what": finding.what,
            "expected_nano_usd": finding.expected.as_nano_usd(),
            "found_nano_usd": finding.found.as_nano_usd(),
        })).collect::<Vec<_>>(),
    })
}
