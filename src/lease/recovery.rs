//! The lease and the journal: what it gives, and how it goes on from that in the next process.

use std::time::Duration;

use super::{
    exchange::Exchange,
    lease::Lease,
    life::Life,
    memory::ReusesMemory,
    outbox::Outbox,
    pool::Pool,
    record::{LeaseRecord, Stored},
    rules::LeaseRules,
};
use crate::ledger::Standing;

/// By how much the numbers of a recovered lease's renewals are ahead of those in its record: the
/// process may have sent that many after the record was made.
const SEQ_AHEAD: u64 = 1 << 32;

impl<W, R: ReusesMemory> Lease<W, R> {
    /// Returns the lease of a process that died: what its record has is reported, what it held is
    /// given back, and it says goodbye in time. Nothing runs on it.
    pub(crate) fn recovered(record: LeaseRecord, rules: &LeaseRules, now: Duration) -> Self {
        let LeaseRecord { id, seq, outbox } = record;
        let mut exchange = Exchange::continued(seq.saturating_add(SEQ_AHEAD));
        // The last renewal of the process may be on its way.
        exchange.may_act_again(rules, now);
        let pool = Pool::of_outbox(Outbox::recovered(outbox, now), now);
        Self::from_parts(id, pool, exchange, Life::new(now), Standing::default(), Stored::Yes)
    }

    /// Settles what running requests have used so far, and returns a record of it. The journal has
    /// it from now on. `None` if there is nothing to keep.
    pub(crate) fn store(&mut self, now: Duration) -> Option<LeaseRecord> {
        if !self.is_worth_storing() || (self.stored == Stored::Leaving && self.is_settled()) {
            return None;
        }
        self.stored = Stored::Yes;
        self.pool.settle_running(now);
        let outbox = self.pool.outbox().record();
        Some(LeaseRecord { id: self.id(), seq: self.exchange.seq(), outbox })
    }

    /// Returns `true` if the journal is to be written while the lease is as it is: something runs,
    /// is owed, or is to be removed there.
    #[cfg(feature = "journal")]
    pub(crate) fn needs_journal(&self) -> bool {
        self.stored == Stored::Leaving || (self.is_worth_storing() && !self.is_settled())
    }

    #[cfg(test)]
    pub(super) fn needs_removal(&self) -> bool {
        self.stored == Stored::Leaving
    }

    /// Notes that the journal has no record of the lease any more. Returns `true` if it may say
    /// goodbye now.
    pub(crate) fn removed_from_journal(&mut self) -> bool {
        let may_leave = self.stored == Stored::Leaving && self.is_settled();
        if may_leave || !self.is_worth_storing() {
            self.stored = Stored::No;
        }
        may_leave
    }

    /// `true` if the ledger may know the lease, or is to learn of it; `false` once it has said
    /// goodbye, because (13) nothing may be sent about it then.
    fn is_worth_storing(&self) -> bool {
        let outbox = self.pool.outbox();
        let is_known = self.exchange.has_spoken() || self.is_running() || outbox.has_usage();
        is_known && self.life.is_open()
    }
}
