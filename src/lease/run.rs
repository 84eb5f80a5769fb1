//! The interface between a lease and the requests that run on it.

use std::{num::NonZeroU32, time::Duration};

use crate::{
    Credits,
    compact_time::CompactTime,
    ledger::{AccountRate, LineKey, Usage},
};

/// A request as its lease sees it.
pub(crate) trait Run {
    /// Returns the cost of what the request has used so far.
    fn accrued(&self, now: Duration) -> Credits;
    /// Returns how long it takes from now, at the least, until the request has used `cost`.
    fn time_until(&self, cost: Credits, now: Duration) -> Duration;
    /// Tells the request how much it may use in all.
    fn granted(&mut self, slice: Credits, now: Duration);
    /// Returns what it is refilled to while it runs, of the `hold` that it began with: less if a
    /// part of that is used up once, at its begin.
    fn refilled_to(&self, hold: Credits) -> Credits {
        hold
    }
    /// Tells the request that it used more than it was granted and that this is settled: what it
    /// may use in all grew to `slice` by this debt.
    fn in_debt(&mut self, _slice: Credits) {}
    /// Tells the request that it needed more and did not get all of it.
    fn denied(&mut self, denial: RefillDenial);
    /// Tells the request that it was admitted as soon as it came, and begins now.
    fn admitted_at_once(&mut self, _now: Duration) {}
    /// Returns `true` if the request is billed no more than its slice.
    fn stops_at_slice(&self) -> bool;
    /// Returns what the request has used so far, if that can be settled before it ends.
    fn settleable(&self, now: Duration) -> Option<Usage>;
    /// Ends the request and returns all that it used; `None` if it never began or is not billed.
    /// It uses nothing from then on: a second call returns the same.
    fn end(&mut self, now: Duration) -> Option<Usage>;
    /// Returns the line that the usage is itemised in.
    fn line(&self) -> LineKey;
    /// Returns a number that stands for the line: requests with the same number have the same
    /// line.
    fn line_number(&self) -> u64;
}

/// A request came to need more, the ledger was asked for it after that, and did not grant it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct RefillDenial {
    /// Sending of the renewal that asked.
    pub(crate) requested_at: CompactTime,
    /// `true` if the ledger answered; `false` if the renewal's deadline has passed.
    pub(crate) answered: bool,
}

/// Size of the slice that a request asks its lease for.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct SliceRequest {
    /// The slice that it takes at its admission if there is enough, and is refilled to while it
    /// runs.
    pub(crate) hold: Credits,
    /// The smallest slice that it can begin with.
    pub(crate) min_slice: Credits,
    /// The least time for which a request that took all of `hold` needs no refill.
    pub(crate) first_refill_after: Duration,
    /// The most of the account's requests that may run or wait on this node, this one included.
    pub(crate) max_concurrent: Option<NonZeroU32>,
    /// (14) The rate over all nodes that it needs a permit of.
    pub(crate) rate: Option<AccountRate>,
    /// (15) The most of the account's requests that may run over all nodes, this one included.
    pub(crate) most_running: Option<NonZeroU32>,
}

/// Names a running request. No two requests of an account ever have the same name, also under
/// different leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct RunId {
    pub(super) slot: usize,
    pub(super) serial: u64,
}

/// A request that ended, and what it was billed; `None` if it never began or is not billed.
pub(crate) type Billed<R> = (R, Option<Usage>);

/// The requests whose state changed. `W` is the handle by which a waiting request's owner is told.
#[derive(Debug)]
pub(crate) struct Served<W, R> {
    /// Requests that waited and are admitted, with their names from now on.
    pub(crate) admitted: Vec<(W, RunId)>,
    /// Requests that waited, and for which the ledger was asked and had not enough.
    pub(crate) refused: Vec<W>,
    /// (14) Requests that waited, and for which the ledger had no permit.
    pub(crate) beyond_rate: Vec<W>,
    /// (15) Requests that waited, and beside which too many run on all nodes.
    pub(crate) too_many: Vec<W>,
    /// Requests that ended earlier with more used than their slices, and are billed now.
    pub(crate) settled: Vec<Billed<R>>,
}

impl<W, R> Served<W, R> {
    /// Nothing changed.
    pub(crate) const fn none() -> Self {
        Self {
            admitted: Vec::new(),
            refused: Vec::new(),
            beyond_rate: Vec::new(),
            too_many: Vec::new(),
            settled: Vec::new(),
        }
    }
}

/// Result of ending a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Closing {
    /// It was billed this; `None` if it never began or is not billed. Its owner takes it out now.
    Settled(Option<Usage>),
    /// It used this, which is more than its slice. The ledger is asked for the rest before it is
    /// billed.
    Pending(Usage),
}
