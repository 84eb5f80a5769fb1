//! The messages between nodes and ledgers: a [`Renewal`] of a lease, and its [`Answer`].

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    concurrency::{Concurrency, ConcurrencyRequest},
    rates::{PermitRequest, Permits},
};
use crate::{
    Credits, Name, clock::UnixTime, ledger::Terms, names::Subject, part::MAX_DEPTH,
    terms::PartTerms,
};

/// The default for how many usage lines of a month a ledger stores one by one; further usage is
/// added to one line, [`LineKey::Other`].
pub const MAX_LINES: usize = 20_000;

/// The most parts that a lease draws on: those along a path, and one of models.
pub(crate) const MAX_LEASE_PARTS: usize = MAX_DEPTH + 1;

/// A surplus ([`Renewal::extra`]) takes at most one part in this many of what is left.
pub(crate) const SURPLUS_DIVISOR: i64 = 4;

/// The time before a period's begin, by the ledger's clock, from which it can be renewed in: nodes'
/// clocks may be ahead by as much.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The time after a period's end in which its usage can still be settled: 62 days.
pub(crate) const SETTLEMENT_WINDOW: Duration = Duration::from_secs(62 * 24 * 60 * 60);

/// 128 random bits that name a lease. A name is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The upper half. A `u128` would be aligned to sixteen bytes, and what has one would grow.
    high: u64,
    low: u64,
}

impl LeaseId {
    /// Returns the name that has these bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    const fn bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)?;
        Ok(Self::from_bits(u128::from_ne_bytes(bits)))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hexadecimal digits, as [`LeaseId`] is shown.
impl FromStr for LeaseId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self::from_bits)
    }
}

/// A message from a node to the ledger about one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Renewal {
    /// The lease.
    pub lease: LeaseId,
    /// Counts this lease's renewals from 1. The ledger acts only on a number that is larger than
    /// any before.
    pub seq: u64,
    /// Counts this lease's batches of lines from 1.
    pub batch: u64,
    /// The cost of everything that this lease ever settled, this batch included.
    pub settled: Credits,
    /// The largest `settled` that an earlier renewal of this lease sent, answered or not: up to it
    /// the ledger may have debited already.
    pub reported: Credits,
    /// The usage lines of this batch. Together they cost what `settled` grew by since the batch
    /// before.
    pub lines: Arc<[UsageLine]>,
    /// Must stay on hold: the slices of running requests, and what is spent but not in this batch.
    /// The part of it that is on hold already stays so by right.
    pub keep: Credits,
    /// More for running requests, as far as there is any.
    pub refill: Credits,
    /// More for requests that wait to be admitted, as far as there is any and the period has not
    /// ended.
    pub need: Credits,
    /// A surplus for requests to come, granted from a share of what is left after everything else:
    /// at most a quarter.
    pub extra: Credits,
    /// The terms of the account's tier.
    pub terms: Terms,
    /// Moment at which a request last stated these terms, by the node's clock. Of the terms that
    /// nodes state for a month, the newest count, to the second.
    pub terms_at: UnixTime,
    /// The lifetime of the hold, unless the lease is renewed again.
    pub ttl: Duration,
    /// Asks the ledger to remove the lease's entry, unless this renewal settles something.
    pub forget: bool,
    /// The most that the account may use on a day (UTC), by its tier; `None` for no limit.
    pub most_per_day: Option<Credits>,
    /// The parts of the account that the lease draws on, the largest first: always the same for a
    /// lease. What it settles counts in each of them.
    pub parts: Arc<[PartTerms]>,
    /// Permits for requests to begin, if the account's rate holds over all nodes.
    pub permits: Option<PermitRequest>,
    /// A share of the requests that may run at the same time, if that holds over all nodes. `None`
    /// gives the lease's share back.
    pub concurrency: Option<ConcurrencyRequest>,
}

/// Usage of one batch that has the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct UsageLine {
    /// The purpose of the usage.
    pub key: LineKey,
    /// The amount of it.
    pub usage: Usage,
}

/// The purpose of usage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LineKey {
    /// Usage by day, model, hardware, feature and subject.
    Of {
        /// Day of the month of the admission, 1 to 31, UTC.
        day: u8,
        /// The model that ran.
        model: Name,
        /// The hardware that it ran on.
        hardware: Name,
        /// The feature that it was used through.
        feature: Name,
        /// The subject that asked.
        subject: Subject,
    },
    /// Usage of another month that was debited in this one: of a month that is closed, or of one
    /// that has not begun, which a clock was in for a while.
    Late,
    /// Usage beyond the [lines](MAX_LINES) that are stored one by one.
    Other,
}

/// An amount of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Usage {
    /// Billed requests.
    pub requests: u64,
    /// Compute time in whole microseconds.
    pub compute_micros: u64,
    /// The cost.
    pub cost: Credits,
}

impl Usage {
    /// Returns this usage without a `part` of it.
    pub(crate) fn less(self, part: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            compute_micros: self.compute_micros.saturating_sub(part.compute_micros),
            cost: self.cost.saturating_sub(part.cost),
        }
    }

    /// Adds `more`. Counts stay at 2^53 - 1 rather than grow beyond.
    pub(crate) fn add(&mut self, more: Self) {
        let max = Credits::MAX.as_nano_usd().unsigned_abs();
        self.requests = self.requests.saturating_add(more.requests).min(max);
        self.compute_micros = self.compute_micros.saturating_add(more.compute_micros).min(max);
        self.cost = self.cost.saturating_add(more.cost);
    }
}

/// The ledger's answer to a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Answer {
    /// The outcome of the renewal.
    pub outcome: Outcome,
    /// The ledger's clock.
    pub now: UnixTime,
}

/// The outcome of a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "most are the large one")]
#[cfg_attr(test, derive(Hash))]
pub enum Outcome {
    /// It took effect, now or when it arrived the first time.
    Renewed {
        /// The hold of this lease now.
        hold: Credits,
        /// The account's balance.
        standing: Standing,
        /// The answer to [`Renewal::permits`].
        permits: Option<Permits>,
        /// The answer to [`Renewal::concurrency`].
        concurrency: Option<Concurrency>,
        /// The months of the [parts](Renewal::parts), in the same order. `None` for those without a
        /// limit.
        parts: [Option<MonthStanding>; MAX_LEASE_PARTS],
    },
    /// A later renewal of this lease arrived before it. No effect.
    Superseded,
    /// The lease's entry is removed. Nothing may be sent about this lease again.
    Forgotten,
    /// It arrived too late by the ledger's clock. No effect.
    Late,
    /// The period begins in more than a minute by the ledger's clock, and nothing is to be settled.
    /// No effect.
    NotBegun,
    /// The period ended too long ago to settle in: more than 62 days. No effect.
    Closed,
    /// The account was erased. No effect: nothing of it is stored, and nothing may be sent about
    /// this lease again.
    Erased,
}

impl Outcome {
    /// The variant's name, as a label of metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Renewed { .. } => "renewed",
            Self::Forgotten => "forgotten",
            Self::Superseded => "superseded",
            Self::Late => "late",
            Self::NotBegun => "not_begun",
            Self::Closed => "closed",
            Self::Erased => "erased",
        }
    }
}

/// An account's balance in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Standing {
    /// Debited so far, less refunds.
    pub used: Credits,
    /// On hold by all leases.
    pub held: Credits,
    /// The most that can be used: included, purchased and pay-as-you-go credits.
    pub limit: Credits,
    /// Included credits, seats counted: of the month, of its days as far as they were used, and of
    /// the current day.
    pub included: Credits,
    /// `true` if `limit` is bounded by the owner's own spending limit.
    pub limited_by_owner: bool,
    /// `true` if the period has not begun by the ledger's clock: usage is debited in the current
    /// month, and nothing more is held.
    pub early: bool,
    /// `true` if the period has ended by the ledger's clock.
    pub ended: bool,
    /// The ledger's clock.
    pub at: UnixTime,
    /// The limit that leaves less than the account has, and the least of all: of the account's day,
    /// or of a part that the lease draws on. `None` if there is none.
    pub tightest: Option<LimitStanding>,
}

/// State of a part's limit for a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct MonthStanding {
    /// The limit.
    pub limit: Credits,
    /// Used of it.
    pub used: Credits,
}

/// State of a limit of the account's day, or of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct LimitStanding {
    /// 0 for the account's own limit, 1 for that of the first of the [parts](Renewal::parts).
    pub level: usize,
    /// The time that it is for.
    pub span: Span,
    /// The limit.
    pub limit: Credits,
    /// Used of it.
    pub used: Credits,
    /// On hold of it.
    pub held: Credits,
    /// The end of the day or the month, from which nothing of it is used.
    pub resets_at: UnixTime,
}

/// The time that a limit is for, by the ledger's clock, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum Span {
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Span {
    /// The word for it, `day` or `month`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl Standing {
    /// The credits that are left once `unreported` is debited too: of the included credits if there
    /// is no limit, because that is what people want to know then; of a tighter limit, if there is
    /// one.
    pub(crate) fn left(&self, unreported: Credits) -> Credits {
        let of = if self.limit == Credits::MAX { self.included } else { self.limit };
        let left = of.saturating_sub(self.used.saturating_add(unreported));
        self.tightest.map_or(left, |tightest| {
            left.min(tightest.limit.saturating_sub(tightest.used.saturating_add(unreported)))
        })
    }

    /// Returns the balance once `unreported` is debited too.
    pub(crate) fn with_unreported(self, unreported: Credits) -> Self {
        let add = |used: Credits| used.saturating_add(unreported);
        let tightest = self.tightest.map(|limit| LimitStanding { used: add(limit.used), ..limit });
        Self { used: add(self.used), tightest, ..self }
    }

    /// The credits that are neither used nor on hold, of the account and of each limit.
    pub(crate) fn available_to_lease(&self) -> Credits {
        let available = self.available();
        self.tightest.map_or(available, |LimitStanding { limit, used, held, .. }| {
            available.min(limit.saturating_sub(used).saturating_sub(held))
        })
    }

    /// The credits that are neither used nor on hold.
    pub fn available(&self) -> Credits {
        self.limit.saturating_sub(self.used).saturating_sub(self.held)
    }
}
