//! The commands.

pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod close;
pub(crate) mod costs;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod limit;
pub(crate) mod list;
pub(crate) mod manual;
pub(crate) mod plan;
pub(crate) mod show;
pub(crate) mod tokens;
pub(crate) mod watch;

use std::num::NonZeroUsize;

use tower_credits::{Accounts, Period, clock::UnixTime, ledger::AccountSummary};

use crate::{failure::Failure, progress};

/// Accounts of a page of the ledger's list.
const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(500).unwrap();

/// Returns this month.
fn this_month() -> Period {
    Period::containing(UnixTime::now())
}

/// Returns a new id for a change, which is shown, so that the change can be sent again.
fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Lists the accounts that used something in a month, each once, with progress.
async fn all_accounts(accounts: &Accounts, period: Period) -> Result<Vec<AccountSummary>, Failure> {
    let progress = progress::counter("accounts");
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = accounts.list(period, from.as_ref(), PAGE_SIZE).await?;
        progress.inc(page.accounts.len() as u64);
        found.extend(page.accounts);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    // One may be listed twice while others are added.
    found.sort_by(|one, other| one.account.cmp(&other.account));
    found.dedup_by(|one, other| one.account == other.account);
    Ok(found)
}
