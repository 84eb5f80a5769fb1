//! Usage on its way to the ledger.

use std::{collections::HashMap, sync::Arc};

use crate::Credits;
use crate::ledger::{LineKey, Usage, UsageLine};

/// Lines that are found by their number alone.
const MOST_RECENT: usize = 16;

/// The most other lines of a batch.
const MAX_LINES: usize = 2_000;

/// Usage that is in no batch yet, by line. Takes no memory while there is none.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By number: most accounts use few lines, and those again and again.
    recent: Vec<(u64, UsageLine)>,
    #[expect(clippy::box_collection, reason = "few accounts have one")]
    rest: Option<Box<HashMap<LineKey, Usage>>>,
}

impl Tally {
    /// Adds usage to a line, which is made where it is not there yet. The same number always means
    /// the same line.
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
            let room = rest.len() < MAX_LINES || rest.contains_key(&key);
            rest.entry(if room { key } else { LineKey::Other }).or_default().add(usage);
        }
    }

    /// `true` if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// All lines, each once. What would be more than [`MAX_LINES`] is one.
    pub(super) fn take(&mut self) -> Arc<[UsageLine]> {
        let rest = self
            .rest
            .take()
            .map(|rest| rest.into_iter().map(|(key, usage)| UsageLine { key, usage }));
        let mut lines: Vec<_> = std::mem::take(&mut self.recent)
            .into_iter()
            .map(|(_, line)| line)
            .chain(rest.into_iter().flatten())
            .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(day: u8, model: usize) -> LineKey {
        let name = |text: &str| text.parse().unwrap();
        LineKey::Of {
            day,
            model: name(&format!("model-{model}")),
            hardware: name("gpu"),
            feature: name("api"),
            subject: "alice".parse().unwrap(),
        }
    }

    fn usage(requests: u64) -> Usage {
        Usage { requests, compute_micros: 10 * requests, cost: Credits::clamped(100) }
    }

    #[test]
    fn what_has_one_number_is_one_line_and_so_is_what_has_two_numbers_and_one_key() {
        let mut tally = Tally::default();
        tally.add(1, || key(1, 1), usage(1));
        tally.add(1, || unreachable!("the line of this number is known"), usage(2));
        tally.add(2, || key(1, 1), usage(4));
        tally.add(3, || key(2, 1), usage(8));
        let lines = tally.take();
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line.key.clone(), line.usage.requests, line.usage.cost.as_nano_usd()))
            .collect();
        assert_eq!(found, [(key(1, 1), 7, 300), (key(2, 1), 8, 100)]);
        assert!(tally.take().is_empty());
    }

    /// Client-chosen names without end take bounded memory, and cost what they cost.
    #[test]
    fn beyond_the_recent_and_the_most_there_is_one_line_for_all() {
        let mut tally = Tally::default();
        for model in 0..MOST_RECENT {
            tally.add(model as u64, || key(1, model), usage(1));
        }
        assert!(tally.rest.is_none() && tally.recent.len() == MOST_RECENT);
        for model in MOST_RECENT..5_000 {
            tally.add(model as u64, || key(1, model), usage(1));
            // One that is there already stays apart.
            tally.add(5_000 + model as u64, || key(1, MOST_RECENT), usage(1));
        }
        let lines = tally.take();
        assert_eq!(lines.len(), MOST_RECENT + MAX_LINES + 1);
        let of = |key: &LineKey| lines.iter().find(|line| line.key == *key).unwrap().usage.requests;
        assert_eq!(of(&LineKey::Other), (5_000 - MOST_RECENT - MAX_LINES) as u64);
        assert_eq!(of(&key(1, MOST_RECENT)), 1 + (5_000 - MOST_RECENT) as u64);
        assert_eq!(
            lines.iter().map(|line| line.usage.requests).sum::<u64>(),
            (MOST_RECENT + 2 * (5_000 - MOST_RECENT)) as u64
        );
    }
}
