//! Record that a journal keeps of a lease, so that its usage is settled if the process dies.

#[cfg(any(test, feature = "journal"))]
use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "journal"))]
use crate::{
    Credits,
    ledger::{LeaseId, LineKey, Usage},
};

/// Record that a journal keeps of a lease: its name, and its usage as it was reported and is to be
/// reported. What the process spent and reported later is not in it. That is settled or lost, and
/// not settled twice: totals and numbers of batches only grow under one name of a lease.
#[cfg(any(test, feature = "journal"))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct LeaseRecord {
    pub(super) id: LeaseId,
    #[serde(deserialize_with = "read_number")]
    pub(super) seq: u64,
    pub(super) outbox: OutboxRecord,
}

/// The same of its outbox.
#[cfg(any(test, feature = "journal"))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct OutboxRecord {
    pub(super) spent: Credits,
    pub(super) acknowledged: Credits,
    #[serde(deserialize_with = "read_number")]
    pub(super) batches: u64,
    /// The batch that is not acknowledged: its number, its total, its lines.
    pub(super) frozen: Option<(u64, Credits, Lines)>,
    /// The lines that are in no batch.
    pub(super) lines: Lines,
}

/// The largest number of a renewal or of a batch. Ledgers are exact below 2^53, and each process
/// that goes on with the record begins 2^32 further: a million can.
#[cfg(any(test, feature = "journal"))]
const MAX_SEQUENCE_NUMBER: u64 = 1 << 52;

/// Reads the number of a renewal or of a batch.
#[cfg(any(test, feature = "journal"))]
fn read_number<'de, D: serde::Deserializer<'de>>(number: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(number)?;
    if number > MAX_SEQUENCE_NUMBER {
        return Err(serde::de::Error::custom(format_args!(
            "{number} is no number of a renewal or a batch: it is above 2^52"
        )));
    }
    Ok(number)
}

/// Usage lines.
#[cfg(any(test, feature = "journal"))]
pub(super) type Lines = Vec<(LineKey, Usage)>;

/// (13) State of a lease's record in a journal.
#[cfg_attr(not(any(test, feature = "journal")), allow(dead_code, reason = "there is no journal"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Stored {
    /// Nothing.
    No,
    /// A record.
    Yes,
    /// A record that is to be removed, because the lease is to say goodbye.
    Leaving,
}

#[cfg(any(test, feature = "journal"))]
impl LeaseRecord {
    /// Returns the name of the lease.
    #[cfg(feature = "journal")]
    pub(crate) const fn id(&self) -> LeaseId {
        self.id
    }

    #[cfg(test)]
    pub(super) fn spent(&self) -> Credits {
        self.outbox.spent
    }

    /// Returns what is not acknowledged.
    #[cfg(feature = "journal")]
    pub(crate) fn unreported(&self) -> Credits {
        self.outbox.spent.saturating_sub(self.outbox.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_up_to_the_largest_that_a_million_processes_can_go_on_from() {
        let read = |number: u64| read_number(serde_json::Value::from(number)).ok();
        assert_eq!(read(MAX_SEQUENCE_NUMBER), Some(MAX_SEQUENCE_NUMBER));
        assert_eq!(read(MAX_SEQUENCE_NUMBER + 1), None);
    }
}
