//! Usage on its way to the ledger.

use std::{collections::HashMap, sync::Arc};

use crate::Credits;
use crate::ledger::{LineKey, MOST_LINES, Usage, UsageLine};

/// Usage that is in no batch yet, by line.
#[derive(Debug, Default)]
pub(super) struct Tally(HashMap<LineKey, Usage>);

impl Tally {
    pub(super) fn add(&mut self, key: LineKey, usage: Usage) {
        let room = self.0.len() < MOST_LINES || self.0.contains_key(&key);
        self.0.entry(if room { key } else { LineKey::Other }).or_default().add(usage);
    }

    pub(super) fn take(&mut self) -> Arc<[UsageLine]> {
        let mut lines: Vec<_> = self.0.drain().map(|(key, usage)| UsageLine { key, usage }).collect();
        lines.sort_by(|a, b| a.key.cmp(&b.key));
        lines.into()
    }
}

/// What a renewal settles. Frozen, and sent again unchanged until it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    /// The lease's running total with this batch.
    pub(super) settled: Credits,
    pub(super) lines: Arc<[UsageLine]>,
}
