//! What a journal keeps of a lease, so that its usage is settled if the process dies.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    exchange::Exchange, lease::Lease, life::Life, outbox::Outbox, pool::Pool, rules::LeaseRules,
    run::Run,
};
use crate::{
    Credits,
    ledger::{LeaseId, LineKey, Standing, Usage},
};

/// By how much the numbers of a recovered lease's renewals are ahead of those in its record: the
/// process may have sent that many after the record was made.
const SEQ_AHEAD: u64 = 1 << 32;

/// What a journal keeps of a lease: its name, and its usage as it was reported and is to be
/// reported. What the process spent and reported later is not in it. That is settled or lost, and
/// not settled twice: totals and numbers of batches only grow under one name of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(super) id: LeaseId,
    seq: u64,
    pub(super) outbox: OutboxRecord,
}

/// The same of its outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutboxRecord {
    pub(super) spent: Credits,
    pub(super) acknowledged: Credits,
    pub(super) batches: u64,
    /// The batch that is not acknowledged: its number, its total, its lines.
    pub(super) frozen: Option<(u64, Credits, Lines)>,
    /// The lines that are in no batch.
    pub(super) lines: Lines,
}

/// Usage lines.
pub(super) type Lines = Vec<(LineKey, Usage)>;

/// (13) What a journal has of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing.
    No,
    /// A record.
    Yes,
    /// A record that is to be removed, because the lease is to say goodbye.
    Leaving,
}

impl LeaseRecord {
    /// Returns the name of the lease.
    pub(crate) const fn id(&self) -> LeaseId {
        self.id
    }

    #[cfg(test)]
    pub(super) fn spent(&self) -> Credits {
        self.outbox.spent
    }

    /// Returns what is not acknowledged.
    pub(crate) fn unreported(&self) -> Credits {
        self.outbox.spent.saturating_sub(self.outbox.acknowledged)
    }
}

impl<W, R: Run> Lease<W, R> {
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
    pub(crate) fn needs_journal(&self) -> bool {
        self.stored == Stored::Leaving
            || (self.is_worth_storing() && (self.is_running() || !self.is_settled()))
    }

    #[cfg(test)]
    pub(super) fn needs_removal(&self) -> bool {
        self.stored == Stored::Leaving
    }

    /// Notes that the journal has no record of the lease any more.
    pub(crate) fn removed_from_journal(&mut self) {
        if self.stored == Stored::Leaving || !self.is_worth_storing() {
            self.stored = Stored::No;
        }
    }

    /// (13) Asks for the removal of its record, before it says goodbye.
    pub(crate) fn leave_journal(&mut self) {
        if self.stored == Stored::Yes {
            self.stored = Stored::Leaving;
        }
    }

    /// `true` if the ledger may know the lease, or is to learn of it; `false` once it has said
    /// goodbye, because (13) nothing may be sent about it then.
    fn is_worth_storing(&self) -> bool {
        let outbox = self.pool.outbox();
        let is_known = self.exchange.has_spoken() || self.is_running() || outbox.has_usage();
        is_known && self.life.is_open()
    }
}
