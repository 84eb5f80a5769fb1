//! The credits that a lease has spent, and the part of them that the ledger has acknowledged.

use std::time::Duration;

use super::batch::{Batch, Tally};
use crate::{
    Credits,
    compact_time::CompactTime,
    ledger::{LineKey, Usage},
};

/// Usage on its way to the ledger: the running total that the lease spent, and its usage lines.
///
/// * `acknowledged <= batch.settled <= spent` while a batch is frozen, and each only grows under
///   one name of the lease.
/// * What was spent after the batch was frozen is in the tally, and nothing else is. So the lines
///   of all batches and the tally together cost exactly what was spent.
/// * (4) A batch is frozen until it is acknowledged, and is resent unchanged: the same number, the
///   same total, the same lines.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Outbox {
    /// The cost of all that was used and is settled on the node's side.
    spent: Credits,
    /// Part of `spent` that the ledger has acknowledged.
    acknowledged: Credits,
    /// Usage that is in no batch yet.
    tally: Tally,
    /// Number of batches under this name of the lease.
    batches: u64,
    /// The batch that is not acknowledged yet. In a box: most leases wait for no answer.
    frozen: Option<Box<Batch>>,
    /// Since when there is something to report that no renewal has said: usage, or a hold to give
    /// back.
    dirty_since: Option<CompactTime>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            spent: Credits::ZERO,
            acknowledged: Credits::ZERO,
            tally: Tally::default(),
            batches: 0,
            frozen: None,
            dirty_since: None,
        }
    }

    /// Returns the outbox of a process that died. All of it is to be reported.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn recovered(record: super::record::OutboxRecord, now: Duration) -> Self {
        let super::record::OutboxRecord { spent, acknowledged, batches, frozen, lines } = record;
        let line = |(key, usage)| crate::ledger::UsageLine { key, usage };
        let frozen = frozen.map(|(number, settled, lines)| {
            Box::new(Batch { number, settled, lines: lines.into_iter().map(line).collect() })
        });
        let (tally, dirty_since) = (Tally::of(lines), Some(now.into()));
        Self { spent, acknowledged, tally, batches, frozen, dirty_since }
    }

    /// Returns a record of it.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn record(&self) -> super::record::OutboxRecord {
        let line = |line: &crate::ledger::UsageLine| (line.key.clone(), line.usage);
        super::record::OutboxRecord {
            spent: self.spent,
            acknowledged: self.acknowledged,
            batches: self.batches,
            frozen: self.frozen.as_deref().map(|Batch { number, settled, lines }| {
                (*number, *settled, lines.iter().map(line).collect())
            }),
            lines: self.tally.lines(),
        }
    }

    /// Returns the cost of all that was settled under this name of the lease.
    pub(super) fn spent(&self) -> Credits {
        self.spent
    }

    pub(super) fn acknowledged(&self) -> Credits {
        self.acknowledged
    }

    /// Returns what is spent and not acknowledged.
    pub(super) fn unreported(&self) -> Credits {
        self.spent.saturating_sub(self.acknowledged)
    }

    /// Spends usage, in the line of this number. Past the largest amount nothing is added, so that
    /// the lines always cost what is spent.
    pub(super) fn spend(&mut self, number: u64, line: impl FnOnce() -> LineKey, usage: Usage) {
        let spent = self.spent.saturating_add(usage.cost);
        let usage = Usage { cost: spent.saturating_sub(self.spent), ..usage };
        self.spent = spent;
        self.tally.add(number, line, usage);
    }

    /// Notes that there is something to report, if it is not noted yet.
    pub(super) fn mark_dirty(&mut self, now: Duration) {
        self.dirty_since.get_or_insert_with(|| now.into());
    }

    /// Returns since when there is something to report that no renewal has said.
    pub(super) fn dirty_since(&self) -> Option<Duration> {
        self.dirty_since.map(CompactTime::get)
    }

    /// Returns the number of the batch that brings what is spent by now.
    pub(super) fn next_batch(&self) -> u64 {
        self.batches + 1
    }

    /// Returns `true` if the batch of this number is acknowledged.
    pub(super) fn has_acknowledged(&self, number: u64) -> bool {
        self.batches >= number && self.frozen.as_ref().is_none_or(|batch| batch.number > number)
    }

    /// Returns `true` if a batch is frozen.
    pub(super) fn has_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Returns `true` if there is usage that is not acknowledged. It may have cost nothing: its
    /// lines are counted, too.
    pub(super) fn has_usage(&self) -> bool {
        let has_lines = self.frozen.as_ref().is_some_and(|batch| !batch.lines.is_empty());
        self.has_unsent_usage() || has_lines
    }

    /// The same, but for usage without cost in the frozen batch.
    pub(super) fn has_unsent_usage(&self) -> bool {
        !self.unreported().is_zero() || !self.tally.is_empty()
    }

    /// Returns `true` if all is acknowledged and there is nothing to report.
    pub(super) fn is_settled(&self) -> bool {
        self.frozen.is_none() && self.spent == self.acknowledged && self.dirty_since.is_none()
    }

    /// Returns the most that a renewal under this name has said to be settled, if there was one.
    pub(super) fn reported(&self) -> Credits {
        self.frozen.as_ref().map_or(self.acknowledged, |batch| batch.settled)
    }

    /// (4) Returns the batch that is not acknowledged yet, or else freezes a new one of all that
    /// was spent since. A renewal reports it, so nothing is dirty.
    pub(super) fn freeze(&mut self) -> Batch {
        self.dirty_since = None;
        let frozen = self.frozen.get_or_insert_with(|| {
            self.batches += 1;
            let lines = self.tally.take();
            Box::new(Batch { number: self.batches, settled: self.spent, lines })
        });
        Batch::clone(frozen)
    }

    /// Notes that the ledger has the batch of this number. Returns `true` if its total grew by it.
    pub(super) fn acknowledge(&mut self, number: u64) -> bool {
        let Some(batch) = self.frozen.take_if(|batch| batch.number == number) else {
            return false;
        };
        let brought_news = batch.settled > self.acknowledged;
        self.acknowledged = batch.settled;
        brought_news
    }

    /// (8) Goes on under a new name of the lease with what is not acknowledged. A frozen batch
    /// becomes its first.
    pub(super) fn rename(&mut self) {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        self.spent = self.spent.saturating_sub(acknowledged);
        self.batches = u64::from(self.frozen.is_some());
        if let Some(batch) = &mut self.frozen {
            batch.number = self.batches;
            batch.settled = batch.settled.saturating_sub(acknowledged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(nanos: i64) -> Usage {
        Usage { requests: 1, compute_micros: 1, cost: Credits::clamped(nanos) }
    }

    fn spend(outbox: &mut Outbox, nanos: i64) {
        outbox.spend(1, || LineKey::Other, usage(nanos));
    }

    fn nanos(batch: &Batch) -> (u64, i64, i64) {
        let lines = batch.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
        (batch.number, batch.settled.as_nano_usd(), lines)
    }

    #[test]
    fn a_frozen_batch_does_not_change_and_the_next_has_the_rest() {
        let mut outbox = Outbox::new();
        spend(&mut outbox, 10);
        assert_eq!(nanos(&outbox.freeze()), (1, 10, 10));
        spend(&mut outbox, 5);
        assert_eq!(nanos(&outbox.freeze()), (1, 10, 10));
        assert!(!outbox.acknowledge(2), "it was never sent");
        assert!(outbox.acknowledge(1) && !outbox.acknowledge(1));
        assert_eq!(
            (outbox.acknowledged(), outbox.unreported()),
            (Credits::clamped(10), Credits::clamped(5))
        );
        assert_eq!(nanos(&outbox.freeze()), (2, 15, 5));
    }

    #[test]
    fn under_a_new_name_it_goes_on_with_what_is_not_acknowledged() {
        let mut outbox = Outbox::new();
        spend(&mut outbox, 10);
        outbox.freeze();
        outbox.acknowledge(1);
        spend(&mut outbox, 5);
        outbox.freeze();
        spend(&mut outbox, 3);
        outbox.rename();
        assert_eq!((outbox.spent(), outbox.acknowledged()), (Credits::clamped(8), Credits::ZERO));
        assert_eq!(nanos(&outbox.freeze()), (1, 5, 5));
        assert!(outbox.acknowledge(1));
        assert_eq!(nanos(&outbox.freeze()), (2, 8, 3));
    }

    #[test]
    fn past_the_largest_amount_nothing_is_spent_and_the_lines_say_the_same() {
        let mut outbox = Outbox::new();
        let largest = Credits::MAX.as_nano_usd();
        spend(&mut outbox, largest - 1);
        // In another line than that.
        let line = LineKey::Of {
            day: 1,
            model: "model".parse().unwrap(),
            hardware: "gpu".parse().unwrap(),
            feature: "api".parse().unwrap(),
            subject: "alice".parse().unwrap(),
        };
        outbox.spend(2, || line, usage(7));
        assert_eq!(nanos(&outbox.freeze()), (1, largest, largest));
    }

    #[test]
    fn usage_is_there_until_it_is_acknowledged_also_if_it_cost_nothing() {
        for cost in [0, 10] {
            let mut outbox = Outbox::new();
            assert!(!outbox.has_usage());
            spend(&mut outbox, cost);
            assert!(outbox.has_usage());
            outbox.freeze();
            assert!(outbox.has_usage());
            outbox.acknowledge(1);
            assert!(!outbox.has_usage());
            outbox.freeze();
            assert!(!outbox.has_usage(), "the batch has no lines");
        }
    }

    #[test]
    fn it_is_settled_if_nothing_is_spent_frozen_or_to_be_said() {
        assert!(Outbox::new().is_settled());
        let mut spent = Outbox::new();
        spend(&mut spent, 10);
        assert!(!spent.is_settled());
        let mut frozen = Outbox::new();
        frozen.freeze();
        assert!(!frozen.is_settled());
        let mut dirty = Outbox::new();
        dirty.mark_dirty(Duration::ZERO);
        assert!(!dirty.is_settled());
    }
}
