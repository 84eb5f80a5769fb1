//! `credits costs`.

use serde_json::json;
use tower_credits::{RequestId, ledger::RequestCost};

use crate::{
    arguments::{Costs, Global},
    failure::{Done, Failure},
    output,
    store::Store,
};

pub(crate) async fn run(global: &Global, costs: Costs) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    let mut found = Vec::new();
    // A call takes no more.
    for ids in costs.ids.chunks(10_000) {
        found.extend(accounts.costs(&costs.account, ids).await?);
    }
    let cost_of = |id: &RequestId| found.iter().find(|cost| cost.id == *id).map(|cost| cost.cost);
    if global.json {
        for RequestCost { id, cost } in &found {
            let nanos = cost.as_nano_usd();
            output::json(&json!({ "request_id": id.to_string(), "cost_nano_usd": nanos }))?;
        }
    } else {
        let mut table = output::table(&["Request", ">Cost"]);
        for id in &costs.ids {
            let cost = cost_of(id).map_or_else(|| "not known".to_owned(), |cost| cost.to_string());
            table.add_row([id.to_string(), cost]);
        }
        output::line(output::lines(&table))?;
    }
    if costs.ids.iter().all(|id| cost_of(id).is_some()) {
        return Ok(Done::Well);
    }
    eprintln!(
        "Costs are known if the meter keeps them (`keep_costs`), for {} only, and some seconds \
         after a request's end.",
        costs.account
    );
    Ok(Done::Found)
}
