//! `credits tokens`.

use std::io::{self, IsTerminal};

use serde_json::json;
use tower_credits::{Account, Identity, clock::UnixTime, plan::TierName};

use crate::{
    arguments::{Global, IssueToken, RevokeToken, own_name},
    failure::{Done, Failure},
    output,
    store::tokens,
};

pub(crate) async fn issue(global: &Global, issue: IssueToken) -> Result<Done, Failure> {
    let IssueToken { account, tier, subject, part, member_of, label, lifetime } = issue;
    let own = own_name(&account).map_err(Failure::Usage)?;
    let subject = match subject {
        Some(subject) => subject,
        None => own.as_str().parse().map_err(|error| Failure::Usage(format!("{error}")))?,
    };
    let mut identity = Identity::new(subject, account, tier);
    if let Some(part) = part {
        identity = identity.in_part(part);
    }
    for (organisation, tier) in member_of {
        identity = identity
            .member_of(&organisation, tier)
            .map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let issued = tokens(global).await?.issue(&identity, &label, lifetime).await?;
    if global.json {
        output::json(&json!({ "id": issued.id, "secret": issued.secret() }))?;
    } else {
        // The secret alone is on the standard output, so that it can be put into a file.
        output::line(issued.secret())?;
        if io::stdout().is_terminal() {
            eprintln!("Keep it: it is shown once. Id of the token: {}", issued.id);
        } else {
            eprintln!("Id of the token: {}", issued.id);
        }
    }
    Ok(Done::Well)
}

pub(crate) async fn list(global: &Global, account: &Account) -> Result<Done, Failure> {
    let listed = tokens(global).await?.list(account).await?;
    let mut table = output::table(&["Id", "Label", "Caller", "Tier", "Part", "Issued", "Expires"]);
    for token in &listed {
        let part = token.part.as_ref().map(|part| output::printable(part.as_str()));
        let time = |time| UnixTime::from(time).to_string();
        if global.json {
            output::json(&json!({
                "id": token.id,
                "label": token.label,
                "subject": token.subject.as_str(),
                "tier": token.tier.as_str(),
                "part": token.part.as_ref().map(tower_credits::Part::as_str),
                "issued_at": time(token.issued_at),
                "expires_at": token.expires_at.map(time),
            }))?;
        }
        table.add_row([
            output::printable(&token.id),
            output::printable(&token.label),
            output::printable(token.subject.as_str()),
            output::printable(token.tier.as_str()),
            part.unwrap_or_default(),
            time(token.issued_at),
            token.expires_at.map_or_else(|| "never".to_owned(), time),
        ]);
    }
    if global.json {
        return Ok(Done::Well);
    }
    if listed.is_empty() {
        output::line(format!("{account} has no tokens."))?;
    } else {
        output::line(output::lines(&table))?;
    }
    Ok(Done::Well)
}

pub(crate) async fn tier(
    global: &Global,
    account: &Account,
    tier: &TierName,
) -> Result<Done, Failure> {
    let changed = tokens(global).await?.set_tier(account, tier).await?;
    if global.json {
        output::json(&json!({ "changed": changed }))?;
    } else {
        output::line(format!(
            "{} of {account} now of tier {tier}: on every node within the time for which it \
             caches tokens, 30 s by default.",
            output::counted(changed, "token")
        ))?;
    }
    Ok(Done::Well)
}

pub(crate) async fn revoke(global: &Global, revoke: RevokeToken) -> Result<Done, Failure> {
    let tokens = tokens(global).await?;
    let revoked = match (&revoke.account, &revoke.id) {
        (Some(account), Some(id)) => tokens.revoke(account, id).await?,
        _ => {
            let mut secret = String::new();
            if io::stdin().is_terminal() {
                eprint!("Secret of the token: ");
            }
            io::stdin().read_line(&mut secret)?;
            tokens.revoke_secret(secret.trim()).await?
        }
    };
    if !revoked {
        return Err(Failure::Refused(
            "there is no such token that works: `credits tokens list` shows those of an account"
                .to_owned(),
        ));
    }
    if global.json {
        output::json(&json!({ "revoked": true }))?;
    } else {
        output::line(
            "Revoked: on every node within the time for which it caches tokens, 30 s by default.",
        )?;
    }
    Ok(Done::Well)
}
