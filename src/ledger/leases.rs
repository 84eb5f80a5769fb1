//! What the ledger remembers of leases: how far each has settled, and sums of that.
//!
//! The sums are kept twice, in the book and beside the leases, because a server may lose one of the
//! two or tear a write between them. They agree after every renewal; where they differ at the next
//! one, the book is brought up to what the leases account for, and what the book has already is not
//! debited again.

use std::{collections::BTreeMap, time::Duration};

use super::{LeaseId, holds::is_live};
use crate::Credits;

/// How long leases whose entries were lost have to report again what they had settled. Those that
/// live do within minutes.
const BEHIND_FOR: Duration = Duration::from_secs(60 * 60);

/// What the ledger knows of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) batch: u64,
    pub(super) settled: Credits,
}

/// Sums over all leases that a period ever had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// What they settled.
    pub(super) settled: Credits,
    /// What of that was settled by leases that said goodbye, which nobody reports again.
    pub(super) forgotten: Credits,
}

/// The sums as they are kept beside the leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) sums: Sums,
    /// If they are behind the book's, because entries were lost: until when those may be reported
    /// again.
    pub(super) behind_until: Option<Duration>,
    /// What of what they settled was debited in other months.
    pub(super) moved: Credits,
}

/// The leases of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    pub(super) entries: BTreeMap<LeaseId, Entry>,
    /// `None` where no lease is remembered: the book's are right then.
    pub(super) beside: Option<Beside>,
}

impl Sums {
    /// Brings the book's sums and those beside the leases together. Answers the latter as they are
    /// then, and what the book lacked.
    ///
    /// Where the leases are behind, they stay behind by what their lost entries had settled, for as
    /// long as that may be reported again.
    pub(super) fn reconcile(&mut self, beside: Option<Beside>, now: Duration) -> (Beside, Credits) {
        let Self { settled, forgotten } = *self;
        let mut beside = beside.unwrap_or(Beside {
            sums: Self { settled: forgotten.min(settled), forgotten },
            behind_until: None,
            moved: Credits::ZERO,
        });
        let lacking = beside.sums.settled.saturating_sub(settled);
        self.settled = settled.saturating_add(lacking);
        beside.sums.forgotten = beside.sums.forgotten.max(forgotten);
        let behind = self.settled.saturating_sub(beside.sums.settled);
        let until = beside.behind_until.unwrap_or(now + BEHIND_FOR);
        beside.behind_until = Some(until).filter(|until| !behind.is_zero() && is_live(*until, now));
        if beside.behind_until.is_none() {
            beside.sums = Self {
                settled: self.settled,
                forgotten: beside.sums.forgotten.saturating_add(behind),
            };
        }
        self.forgotten = beside.sums.forgotten;
        (beside, lacking)
    }
}
