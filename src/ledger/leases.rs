//! The running total of each lease, and the sums of these.
//!
//! The sums are stored twice, in the book and with the leases, because a server may lose one of the
//! two or tear a write between them. They agree after every renewal. If they differ at the next
//! one, the book is brought up to what the leases account for, and what the book has already is not
//! debited again.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{LeaseId, holds::is_live};
use crate::{Credits, clock::UnixTime};

/// The time that leases whose entries were lost have to report again what they had settled. Live
/// leases do so within minutes.
pub(super) const REPORT_AGAIN_WITHIN: Duration = Duration::from_secs(60 * 60);

/// The last renewal of a lease that took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) batch: u64,
    pub(super) settled: Credits,
}

/// Sums over all leases that a period ever had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct SettledSums {
    /// Settled by all leases.
    pub(super) settled: Credits,
    /// The part of it that was settled by leases whose entries were removed at their own request:
    /// nobody reports it again.
    pub(super) forgotten: Credits,
}

/// The sums as they are stored with the leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct LeaseSums {
    pub(super) sums: SettledSums,
    /// Set while these sums are behind the book's because entries were lost: the moment until which
    /// what those had settled may be reported again.
    pub(super) behind_until: Option<UnixTime>,
    /// The part of `sums.settled` that was debited in other months.
    pub(super) moved: Credits,
}

/// The leases of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Leases {
    pub(super) entries: BTreeMap<LeaseId, Entry>,
    /// `None` if no lease is remembered: the book's sums are right then.
    pub(super) sums: Option<LeaseSums>,
}

impl SettledSums {
    /// Brings the book's sums and those of the leases together. Returns the leases' as they are
    /// then, and what was missing in the book.
    ///
    /// If the leases are behind, they stay behind by what their lost entries had settled, for as
    /// long as that may be reported again.
    pub(super) fn reconcile(
        &mut self,
        leases: Option<LeaseSums>,
        now: UnixTime,
    ) -> (LeaseSums, Credits) {
        let Self { settled, forgotten } = *self;
        let mut leases = leases.unwrap_or(LeaseSums {
            sums: Self { settled: forgotten.min(settled), forgotten },
            behind_until: None,
            moved: Credits::ZERO,
        });
        let missing = leases.sums.settled.saturating_sub(settled);
        self.settled = settled.saturating_add(missing);
        leases.sums.forgotten = leases.sums.forgotten.max(forgotten);
        let behind = self.settled.saturating_sub(leases.sums.settled);
        let until = leases.behind_until.unwrap_or(now + REPORT_AGAIN_WITHIN);
        leases.behind_until = Some(until).filter(|until| !behind.is_zero() && is_live(*until, now));
        if leases.behind_until.is_none() {
            leases.sums = Self {
                settled: self.settled,
                forgotten: leases.sums.forgotten.saturating_add(behind),
            };
        }
        self.forgotten = leases.sums.forgotten;
        (leases, missing)
    }
}
