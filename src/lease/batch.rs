//! Usage in lines, and batches of it on their way to the ledger.

use std::{collections::HashMap, sync::Arc};

use crate::Credits;
use crate::ledger::{LineKey, Usage, UsageLine};

/// The most lines of a batch that are found by their number alone.
const MAX_RECENT_LINES: usize = 16;

/// The most lines of a batch beyond those; what would be more is one line.
const MAX_FURTHER_LINES: usize = 2_000;

/// Usage that is in no batch yet, by line. It takes no memory on the heap while there is none, and
/// bounded memory whatever names clients choose.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Tally {
    /// Lines by number: most accounts use few, and those again and again.
    recent: Vec<(u64, UsageLine)>,
    /// Lines beyond the recent ones.
    #[expect(clippy::box_collection, reason = "few accounts have one")]
    further: Option<Box<HashMap<LineKey, Usage>>>,
}

#[cfg(test)]
impl std::hash::Hash for Tally {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.lines().hash(state);
    }
}

impl Tally {
    /// Adds usage to the line of this number. The same number always means the same line; `line` is
    /// called if it is not known yet.
    pub(super) fn add(&mut self, number: u64, line: impl FnOnce() -> LineKey, usage: Usage) {
        if let Some((_, line)) = self.recent.iter_mut().find(|(known, _)| *known == number) {
            line.usage.add(usage);
        } else if self.recent.len() < MAX_RECENT_LINES {
            if self.recent.is_empty() {
                // Most accounts have one.
                self.recent.reserve_exact(1);
            }
            self.recent.push((number, UsageLine { key: line(), usage }));
        } else {
            let (further, key) = (self.further.get_or_insert_default(), line());
            let room = further.len() < MAX_FURTHER_LINES || further.contains_key(&key);
            further.entry(if room { key } else { LineKey::Other }).or_default().add(usage);
        }
    }

    /// Returns `true` if there is no usage.
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// A tally of these lines.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn of(lines: Vec<(LineKey, Usage)>) -> Self {
        let mut tally = Self::default();
        // Numbers that no context has: they are counted from 0.
        for (number, (key, usage)) in (0..=u64::MAX).rev().zip(lines) {
            tally.add(number, || key, usage);
        }
        tally
    }

    /// Returns all lines. Some may be there twice.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn lines(&self) -> Vec<(LineKey, Usage)> {
        let recent = self.recent.iter().map(|(_, line)| (line.key.clone(), line.usage));
        let further = self.further.iter().flat_map(|further| further.iter());
        recent.chain(further.map(|(key, usage)| (key.clone(), *usage))).collect()
    }

    /// Takes all lines out, each once.
    pub(super) fn take(&mut self) -> Arc<[UsageLine]> {
        let further = self
            .further
            .take()
            .map(|further| further.into_iter().map(|(key, usage)| UsageLine { key, usage }));
        let mut lines: Vec<_> = std::mem::take(&mut self.recent)
            .into_iter()
            .map(|(_, line)| line)
            .chain(further.into_iter().flatten())
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

/// (4) What a renewal settles. It is frozen, and sent again unchanged until it is acknowledged.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
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
    fn one_number_is_one_line_and_so_are_two_numbers_with_one_key() {
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
    fn usage_beyond_the_most_lines_is_in_one_line() {
        let mut tally = Tally::default();
        for model in 0..MAX_RECENT_LINES {
            tally.add(model as u64, || key(1, model), usage(1));
        }
        assert!(tally.further.is_none() && tally.recent.len() == MAX_RECENT_LINES);
        for model in MAX_RECENT_LINES..5_000 {
            tally.add(model as u64, || key(1, model), usage(1));
            // One that is there already stays apart.
            tally.add(5_000 + model as u64, || key(1, MAX_RECENT_LINES), usage(1));
        }
        let lines = tally.take();
        assert_eq!(lines.len(), MAX_RECENT_LINES + MAX_FURTHER_LINES + 1);
        let of = |key: &LineKey| lines.iter().find(|line| line.key == *key).unwrap().usage.requests;
        assert_eq!(of(&LineKey::Other), (5_000 - MAX_RECENT_LINES - MAX_FURTHER_LINES) as u64);
        assert_eq!(of(&key(1, MAX_RECENT_LINES)), 1 + (5_000 - MAX_RECENT_LINES) as u64);
        assert_eq!(
            lines.iter().map(|line| line.usage.requests).sum::<u64>(),
            (MAX_RECENT_LINES + 2 * (5_000 - MAX_RECENT_LINES)) as u64
        );
    }

    #[test]
    fn a_batch_has_no_more_than_its_most_lines_and_one_for_all_others() {
        let most = MAX_RECENT_LINES + MAX_FURTHER_LINES;
        for (models, lines) in [(most, most), (most + 1, most + 1), (most + 2, most + 1)] {
            let mut tally = Tally::default();
            for model in 0..models {
                tally.add(model as u64, || key(1, model), usage(1));
            }
            assert_eq!(tally.take().len(), lines, "of {models}");
        }
    }
}
