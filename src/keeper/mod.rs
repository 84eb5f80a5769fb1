//! The keeper of a node's leases: a table of the accounts that have one, and the background task
//! that renews them.
//!
//! Requests meet the table. An [`AccountHandle`] is an account's entry there; [`admit`] takes a
//! slice of the account's lease for a request, or a [`Ticket`] to wait for the ledger with. A
//! [`HeldSlice`] owns the slice until the request ends. All of this is short work under an
//! account's mutex: nothing awaits, nothing calls the ledger.
//!
//! The [`Worker`] sends renewals when leases say so, and hands their answers back. It is woken only
//! if it would otherwise sleep too long. The [`Keeper`] is its owner's handle, which shuts it down.
//!
//! | file | holds |
//! |---|---|
//! | `entry.rs` | one account in one month: its lease, its request rate |
//! | `journal/` | what the ledger has not acknowledged, in a file |
//! | `inbox.rs` | entries that want the worker's attention |
//! | `table.rs` | all entries, and what they share |
//! | `handle.rs` | a handle to an entry; a request's slice |
//! | `ended.rs` | what is known of a request that ended |
//! | `admission.rs` | the way from a request to its slice |
//! | `breaker.rs` | how many calls of a server may be under way |
//! | `shards.rs` | the servers behind the ledger: breaker, backlog |
//! | `calls.rs` | the calls of the ledger under way |
//! | `schedule.rs` | when the worker examines which entry |
//! | `answer.rs` | what an answer of the ledger brings |
//! | `notifier.rs` | thresholds, and the host's hook |
//! | `worker.rs` | the task |
//! | `shutdown.rs` | its handle |

mod admission;
mod answer;
mod breaker;
mod calls;
mod ended;
mod entry;
mod handle;
mod inbox;
#[cfg(feature = "journal")]
mod journal;
mod notifier;
mod phase;
#[cfg(test)]
mod races;
mod schedule;
mod shards;
mod shutdown;
mod sync;
mod table;
mod worker;

#[cfg(feature = "journal")]
pub use self::journal::{Journal, JournalError};
pub use self::shutdown::{Settlement, Unsettled};
pub(crate) use self::{
    admission::{Admission, Ticket, TicketAnswer, admit, admit_without_ledger},
    ended::{CutRequest, Ended},
    entry::AdmissionError,
    handle::{AccountHandle, HeldSlice, RunRef, WeakAccountHandle},
    shutdown::Keeper,
    worker::Worker,
};
