//! The journal: what the ledger has not acknowledged is in a file of this machine, and is settled
//! when the node starts again after a crash.
//!
//! A thread writes the [record](crate::lease::LeaseRecord) of every lease on which something runs
//! or is owed, every [`WRITE_INTERVAL`](self::writer::WRITE_INTERVAL), if it changed; what running
//! requests have used by then is in it. Requests do nothing for that but note, once, that their
//! account is in use.
//!
//! A node that starts goes on with the leases of the file: it reports what their records have,
//! gives back what they held, and says goodbye for them. What the crashed process reported later
//! than it wrote is not debited again: totals and batches have numbers. (13) A lease says goodbye
//! only after its record was removed, because nothing may be sent about it afterwards.
//!
//! * `handle.rs`: [`Journal`], the open file, and the records that were in it.
//! * `list.rs`: the accounts that are in use.
//! * `writer.rs`: the thread.

mod handle;
mod list;
mod writer;

pub use self::handle::{Journal, JournalError};
pub(super) use self::{list::JournalList, writer::Writer};
