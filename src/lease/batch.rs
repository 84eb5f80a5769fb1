//! Usage on its way to the ledger.

use std::{collections::HashMap, sync::Arc};

use crate::Credits;
use crate::ledger::{LineKey, MOST_LINES, Usage, UsageLine};

/// Lines that are found by their number alone.
const MOST_RECENT: usize = 16;

/// Usage that is in no batch yet, by line. Takes no memory while there is none.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By number: most accounts use few lines, and those again and again.
    recent: Vec<(u64, UsageLine)>,
    #[expect(clippy::box_collection, reason = "few accounts have one")]
    rest: Option<Box<HashMap<LineKey, Usage>>>,
}

impl Tally {
    /// Adds usage to a line, which is made where it is not there yet. The same number always means the same line.
    pub(super) fn add(&mut self, number: u64, line: impl FnOnce() -> LineKey, usage: Usage) {
        if let Some((_, line)) = self.recent.iter_mut().find(|(known, _)| *known == number) {
            line.usage.add(usage);
        } else if self.recent.len() < MOST_RECENT {
            if self.recent.is_empty() {
                // Most accounts have one.
                self.recent.reserve_exact(1);
            }
            self.recent.push((number, UsageLine { key: line(), usage }));
        } else {
            let (rest, key) = (self.rest.get_or_insert_default(), line());
            let room = rest.len() < MOST_LINES || rest.contains_key(&key);
            rest.entry(if room { key } else { LineKey::Other }).or_default().add(usage);
        }
    }

    /// All lines, each once. Those beyond [`MOST_LINES`] are one.
    pub(super) fn take(&mut self) -> Arc<[UsageLine]> {
        let rest = self.rest.take().map(|rest| rest.into_iter().map(|(key, usage)| UsageLine { key, usage }));
        let mut lines: Vec<_> =
            std::mem::take(&mut self.recent).into_iter().map(|(_, line)| line).chain(rest.into_iter().flatten()).collect();
        lines.sort_by(|a, b| a.key.cmp(&b.key));
        // Two numbers may mean one line.
        lines.dedup_by(|line, same| {
            line.key == same.key && {
                same.usage.add(line.usage);
                true
            }
        });
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
