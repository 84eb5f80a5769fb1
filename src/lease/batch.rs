//! Usage on its way to the ledger.

use std::{collections::HashMap, sync::Arc};

use crate::Credits;
use crate::ledger::{LineKey, MOST_LINES, Usage, UsageLine};

/// Lines that are found by their number alone.
const MOST_RECENT: usize = 16;

/// Usage that is in no batch yet, by line.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By number: most accounts use few lines, and those again and again.
    recent: Vec<(u64, LineKey, Usage)>,
    rest: HashMap<LineKey, Usage>,
}

impl Tally {
    /// Adds usage to a line, which is made where it is not there yet. The same number always means the same line.
    pub(super) fn add(&mut self, number: u64, line: impl FnOnce() -> LineKey, usage: Usage) {
        if let Some((_, _, sum)) = self.recent.iter_mut().find(|(known, ..)| *known == number) {
            sum.add(usage);
        } else if self.recent.len() < MOST_RECENT {
            self.recent.push((number, line(), usage));
        } else {
            self.add_to_rest(line(), usage);
        }
    }

    fn add_to_rest(&mut self, key: LineKey, usage: Usage) {
        let room = self.rest.len() < MOST_LINES || self.rest.contains_key(&key);
        self.rest.entry(if room { key } else { LineKey::Other }).or_default().add(usage);
    }

    pub(super) fn take(&mut self) -> Arc<[UsageLine]> {
        while let Some((_, key, usage)) = self.recent.pop() {
            self.add_to_rest(key, usage);
        }
        let mut lines: Vec<_> = self.rest.drain().map(|(key, usage)| UsageLine { key, usage }).collect();
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
