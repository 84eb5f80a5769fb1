//! All rules, one after the other.

use super::{ContractError, MoveClock, accounts, corrections, renewals, time};
use crate::ledger::Ledger;

/// Checks that a ledger holds the contract.
///
/// Each rule has an account of its own with a random name, so you can check a ledger that is in
/// use. The accounts stay there.
///
/// `clock` moves the ledger's clock on, by some months in all. Without it the rules of a month's
/// end are not checked, and the check waits some tenths of a second for a hold to expire; the month
/// must not end meanwhile.
///
/// A ledger that returns [`LedgerError::Refused`](crate::ledger::LedgerError::Refused) from
/// [`claim`](Ledger::claim), [`list`](Ledger::list) or [`keep_costs`](Ledger::keep_costs) does not
/// have thresholds, a list or costs of requests, which is allowed.
///
/// # Errors
///
/// [`ContractError`] with the first rule that is broken.
pub async fn check(
    ledger: &dyn Ledger,
    clock: Option<&dyn MoveClock>,
) -> Result<(), ContractError> {
    renewals::nothing_used(ledger).await?;
    renewals::repeated(ledger).await?;
    renewals::superseded(ledger).await?;
    renewals::debited_once(ledger).await?;
    renewals::bounded(ledger).await?;
    renewals::kept_by_right(ledger).await?;
    renewals::never_refused_for_balance(ledger).await?;
    renewals::lines_within_settled(ledger).await?;
    renewals::recovered(ledger).await?;
    renewals::saturated(ledger).await?;
    renewals::forgotten(ledger).await?;
    renewals::periods(ledger).await?;
    renewals::atomic(ledger).await?;
    accounts::grants(ledger).await?;
    accounts::seats(ledger).await?;
    accounts::spending_limit(ledger).await?;
    accounts::thresholds(ledger).await?;
    accounts::costs(ledger).await?;
    accounts::listed(ledger).await?;
    accounts::erased(ledger).await?;
    corrections::refunded(ledger).await?;
    corrections::closed(ledger).await?;
    match clock {
        Some(clock) => {
            time::holds_expire(ledger, clock).await?;
            time::grants_expire(ledger, clock).await?;
            time::month_ends(ledger, clock).await?;
            time::erasure_ends(ledger, clock).await
        }
        None => time::holds_expire_by_themselves(ledger).await,
    }
}
