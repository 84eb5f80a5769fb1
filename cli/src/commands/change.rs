//! `credits grant`, `refund`, `seats` and `erase`.

use serde_json::json;

use super::{new_id, this_month};
use crate::{
    arguments::{Erase, Global, Grant, Refund, Seats},
    confirm,
    failure::{Done, Failure},
    output,
    store::{Store, tokens},
};

pub(crate) async fn grant(global: &Global, grant: Grant) -> Result<Done, Failure> {
    let Grant { account, amount, expires, id } = grant;
    let id = id.map_or_else(|| new_id().parse(), Ok).map_err(invalid)?;
    let accounts = Store::accounts(global).await?;
    let sent =
        accounts.grant(&account, tower_credits::ledger::GrantId::clone(&id), amount, expires);
    let is_new = sent.await.map_err(|error| again(error.into(), id.as_str()))?;
    if global.json {
        output::json(&json!({ "id": id.as_str(), "new": is_new }))?;
    } else if is_new {
        let until = expires.map(|at| format!(" until {at}")).unwrap_or_default();
        output::line(format!("{account} has {amount} more{until}. Id of the grant: {id}"))?;
    } else {
        output::line(format!("The grant {id} was made before: nothing was changed."))?;
    }
    Ok(Done::Well)
}

pub(crate) async fn refund(global: &Global, refund: Refund) -> Result<Done, Failure> {
    let Refund { account, amount, reason, period, id } = refund;
    let id: tower_credits::ledger::RefundId =
        id.map_or_else(|| new_id().parse(), Ok).map_err(invalid)?;
    let period = period.unwrap_or_else(this_month);
    let accounts = Store::accounts(global).await?;
    let sent = accounts.refund(&account, period, id.clone(), amount, reason).await;
    let is_new = sent.map_err(|error| again(error.into(), id.as_str()))?;
    if global.json {
        output::json(&json!({ "id": id.as_str(), "new": is_new }))?;
    } else if is_new {
        output::line(format!(
            "{amount} of {account}'s {} was refunded. Id of the refund: {id}",
            period.name()
        ))?;
    } else {
        output::line(format!("The refund {id} was made before: nothing was changed."))?;
    }
    Ok(Done::Well)
}

pub(crate) async fn seats(
    global: &Global,
    Seats { account, seats }: Seats,
) -> Result<Done, Failure> {
    Store::accounts(global).await?.set_seats(&account, seats).await?;
    if global.json {
        output::json(&json!({ "account": account.as_str(), "seats": seats }))?;
    } else {
        let seats = output::counted(seats.get() as usize, "seat");
        output::line(format!("{account} has {seats} from now on."))?;
    }
    Ok(Done::Well)
}

pub(crate) async fn erase(global: &Global, Erase { account }: Erase) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    // In Redis there may be tokens by which it would be asked for again.
    let issued = match tokens(global).await {
        Ok(tokens) => tokens.list(&account).await?.len(),
        Err(Failure::TokensNeedRedis) => 0,
        Err(failure) => return Err(failure),
    };
    if issued > 0 {
        return Err(Failure::Refused(format!(
            "{account} has {} that work: revoke them first (`credits tokens list {account}`)",
            output::counted(issued, "token")
        )));
    }
    let question = format!(
        "This erases the months, purchased credits, refunds and limits of {account}. It cannot be \
         undone."
    );
    confirm::typed(&question, account.as_str(), global.yes)?;
    let is_new = accounts.erase(&account).await?;
    if global.json {
        output::json(&json!({ "account": account.as_str(), "new": is_new }))?;
    } else if is_new {
        output::line(format!("{account} is erased. Its requests are denied for 93 days."))?;
    } else {
        output::line(format!("{account} was erased before."))?;
    }
    Ok(Done::Well)
}

fn invalid(error: tower_credits::NameError) -> Failure {
    Failure::Usage(error.to_string())
}

/// Adds to a failure how to send the same change again.
fn again(failure: Failure, id: &str) -> Failure {
    match failure {
        Failure::Ledger(error)
            if !matches!(error, tower_credits::ledger::LedgerError::Refused(_)) =>
        {
            Failure::Refused(format!(
                "{}; it may have been made: run the command again with --id {id}, which makes it \
                 once",
                Failure::Ledger(error)
            ))
        }
        failure => failure,
    }
}
