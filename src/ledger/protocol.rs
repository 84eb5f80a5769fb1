//! What nodes and ledgers say to each other: a [`Renewal`] of a lease, and its [`Answer`].

use std::{fmt, sync::Arc, time::Duration};

use crate::{Credits, Name, identify::Subject, ledger::Terms};

/// The most usage lines of a month that a ledger keeps apart unless it is set; what would be more
/// is added to one line, [`LineKey::Other`].
pub const MAX_LINES: usize = 20_000;

/// The part of what is left that a surplus may take: one in this many.
pub(crate) const SHARE: i64 = 4;

/// How far ahead of the ledger's clock a period may begin and still be renewed in.
pub(crate) const EARLY: Duration = Duration::from_secs(60);

/// How long after its end a period still takes what is settled.
pub(crate) const LATE: Duration = Duration::from_secs(62 * 24 * 60 * 60);

/// Time as ledgers count it: in whole milliseconds, at most 2^53 - 1 of them.
pub(crate) fn whole_millis(time: Duration) -> Duration {
    let most = Credits::MAX.as_nano_usd().unsigned_abs();
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(most).min(most))
}

/// 128 random bits that name a lease; a name is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u128);

impl LeaseId {
    /// A name from its bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)?;
        Ok(Self(u128::from_ne_bytes(bits)))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One message from a node to the ledger about one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Which lease.
    pub lease: LeaseId,
    /// Counts this lease's renewals from 1; the ledger acts only on a number larger than any
    /// before.
    pub seq: u64,
    /// Counts this lease's batches of lines from 1.
    pub batch: u64,
    /// All that this lease ever settled, this batch included.
    pub settled: Credits,
    /// The most that an earlier renewal of this lease said in `settled`: as far as that the ledger
    /// may have debited already, whether it answered or not.
    pub reported: Credits,
    /// What this batch is made of. Together they cost what `settled` grew by since the batch
    /// before.
    pub lines: Arc<[UsageLine]>,
    /// What must stay on hold: running requests' slices, and what is spent but not in this batch.
    /// Kept by right where it is on hold already.
    pub keep: Credits,
    /// More for running requests, as far as there is any.
    pub refill: Credits,
    /// More for requests that wait to be admitted, as far as there is any and the period has not
    /// ended.
    pub need: Credits,
    /// A surplus for requests to come: granted from a share of what is left after everything else.
    pub extra: Credits,
    /// What the tier allows the account.
    pub terms: Terms,
    /// When a request last said so, since the Unix epoch by the node's clock, in whole seconds: of
    /// what nodes say of a month, the newest counts.
    pub said: Duration,
    /// How long the ledger keeps the hold without hearing of the lease again.
    pub ttl: Duration,
    /// The lease says goodbye: if this brings no news, its entry is removed.
    pub forget: bool,
}

/// What was used in one batch under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageLine {
    /// What the usage was for.
    pub key: LineKey,
    /// How much it was.
    pub usage: Usage,
}

/// What usage was for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineKey {
    /// The usual: by day, model, hardware, feature and subject.
    Of {
        /// Day of the month, 1 to 31, UTC, of the admission.
        day: u8,
        /// The model that ran.
        model: Name,
        /// The hardware it ran on.
        hardware: Name,
        /// The feature it was used through.
        feature: Name,
        /// Who asked.
        subject: Subject,
    },
    /// What was settled of another month: of one that was closed, or of one that has not begun,
    /// into which a clock had gone for a while.
    Late,
    /// All beyond the [most lines](MAX_LINES) that are kept apart.
    Other,
}

/// How much was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Billed requests.
    pub requests: u64,
    /// Compute time in whole microseconds.
    pub compute_micros: u64,
    /// What it cost.
    pub cost: Credits,
}

impl Usage {
    /// What this is more than `part` of it.
    pub(crate) fn less(self, part: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            compute_micros: self.compute_micros.saturating_sub(part.compute_micros),
            cost: self.cost.saturating_sub(part.cost),
        }
    }

    /// Adds `more`; counts stay at 2^53 - 1 rather than grow beyond.
    pub(crate) fn add(&mut self, more: Self) {
        let most = Credits::MAX.as_nano_usd().unsigned_abs();
        self.requests = self.requests.saturating_add(more.requests).min(most);
        self.compute_micros = self.compute_micros.saturating_add(more.compute_micros).min(most);
        self.cost = self.cost.saturating_add(more.cost);
    }
}

/// What the ledger says to a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
    /// The ledger's clock, since the Unix epoch, in whole milliseconds.
    pub now: Duration,
}

/// What came of a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, now or when it came the first time.
    Renewed {
        /// What this lease has on hold now.
        hold: Credits,
        /// How the account stands.
        standing: Standing,
    },
    /// A later renewal of this lease came before it. No effect.
    Superseded,
    /// The entry is gone. Nothing may be sent about this lease again.
    Forgotten,
    /// It came too late by the ledger's clock. No effect.
    Late,
    /// The period has not begun by the ledger's clock, and will not within a minute, and nothing is
    /// to be settled. No effect.
    NotBegun,
    /// The period ended too long ago to settle in: 62 days. No effect.
    Closed,
    /// The account was erased. No effect: nothing of it is kept, and nothing may be sent about this
    /// lease again.
    Erased,
}

impl Outcome {
    /// Its name as a label.
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

/// How an account stands in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Debited so far, less refunds.
    pub used: Credits,
    /// On hold by all leases.
    pub held: Credits,
    /// The most that may be used: included, purchased and pay-as-you-go credits.
    pub limit: Credits,
    /// Included credits, seats counted.
    pub included: Credits,
    /// `true` if the owner's own spending limit is what bounds `limit`.
    pub limited_by_owner: bool,
    /// `true` if the period has not begun by the ledger's clock: what runs is settled in the month
    /// that it is, and nothing more is held.
    pub early: bool,
    /// `true` if the period has ended by the ledger's clock.
    pub ended: bool,
}

impl Standing {
    /// What is left once `unreported` is debited too: of the included credits where there is no
    /// limit, which is what people want to know then.
    pub(crate) fn left(&self, unreported: Credits) -> Credits {
        let of = if self.limit == Credits::MAX { self.included } else { self.limit };
        of.saturating_sub(self.used.saturating_add(unreported))
    }

    /// What is neither used nor on hold.
    pub fn available(&self) -> Credits {
        self.limit.saturating_sub(self.used).saturating_sub(self.held)
    }
}
