//! Where leases are renewed and statements are read.
//!
//! A [`Lease`](crate::lease) is one node's share of an account's credits in one period. With each
//! [`Renewal`] the node reports the lease's **running total** of settled cost and asks for the hold
//! it wants now; the ledger debits the difference to the total that it last saw. Totals only grow
//! and the ledger keeps the largest, so a renewal that is repeated, late or reordered changes
//! nothing the second time.
//!
//! The types of the protocol ([`Renewal`], [`Terms`], [`Answer`], [`Outcome`], [`Standing`],
//! [`UsageLine`], [`LineKey`], [`Usage`], and of accounts [`Record`], [`Grant`], [`Refund`],
//! [`AccountsPage`], [`AccountSummary`]) are closed: those who write a ledger of their own build
//! and match them whole, and a change of them is a change of the protocol.
//!
//! [`Book`] is that rule as a pure function. [`MemoryLedger`] is a `Book` for each account and
//! period behind a mutex; [`RedisLedger`] runs the same function as a Lua script, checked against
//! `Book`.

mod accounts;
mod book;
mod memory;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod statement;

use std::{
    fmt,
    future::{Future, ready},
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "redis")]
pub use self::redis::{RedisLedger, RedisLedgerBuilder};
pub use self::{
    accounts::{AccountSummary, Accounts, AccountsPage, Cursor},
    book::{Book, Refund},
    memory::MemoryLedger,
    record::{Grant, Record},
    statement::{Statement, StatementLine, StatementRefund},
};
use crate::{Account, Credits, MoneyError, Name, Period};

/// The most usage lines of a month that a ledger keeps apart unless it is set; what would be more
/// is added to one line, [`LineKey::Other`].
pub const MOST_LINES: usize = 20_000;

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

/// A boxed future of a ledger's answer.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// Where leases are renewed and statements are read.
///
/// Implementations keep the contract of [`Book`]: `renew` is one atomic step, safe to repeat. The
/// contract suite of this crate's tests runs against every one of them.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Renews a lease: settles, and sets its hold.
    ///
    /// A renewal whose future was dropped may still take effect, but no later than `within` (and a
    /// little) from this call by the ledger's own clock; later it must have none.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer, or where the renewal was refused whole.
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> Answering<'a, Answer>;

    /// Reads what an account used in a period. An account that used nothing has a statement of
    /// zeros. `terms` are those of the account's tier now: a month that ended keeps its own.
    /// `None`: those that the ledger last heard for the month.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer.
    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> Answering<'a, Statement>;

    /// Changes what the account keeps, or corrects a month. Answers `false` for what was done
    /// already, by its id: it changed nothing.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] where the amendment cannot be, another [`LedgerError`] where there
    /// was no answer.
    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> Answering<'a, bool>;

    /// Answers whether it is for `by` to tell the host that the account reached a threshold in a
    /// period: for whoever asks first, and again for the same one. See [`Book::claim`].
    ///
    /// # Errors
    ///
    /// [`LedgerError`] where there was no answer: the same one asks again then.
    /// [`LedgerError::Refused`] from ledgers that do not do this, which is the default; those that
    /// wrap another one forward it.
    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> Answering<'a, bool> {
        let _ = (account, period, threshold, by);
        Box::pin(ready(Err(LedgerError::Refused("this ledger keeps no thresholds".into()))))
    }

    /// Lists the accounts that used something in a period, about `most` at a time. Where a page has
    /// a `next`, there may be more, though it be empty. An account that is there all the while is
    /// listed at least once.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] for a cursor that makes no sense, and from ledgers that do not do
    /// this, which is the default; another [`LedgerError`] where there was no answer.
    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        most: NonZeroUsize,
    ) -> Answering<'a, AccountsPage> {
        let _ = (period, from, most);
        Box::pin(ready(Err(LedgerError::Refused("this ledger does not list accounts".into()))))
    }
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

/// What a tier allows an account; the account's own [`Record`] may add to it or narrow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Included each period.
    pub included: Credits,
    /// Whether `included` counts once for each seat of the account.
    pub per_seat: bool,
    /// What may be used beyond included and purchased credits and is charged afterwards: nothing
    /// where usage stops there, [`Credits::MAX`] where it has no limit.
    pub pay_as_you_go: Credits,
}

impl Terms {
    /// Nothing is allowed.
    pub const fn nothing() -> Self {
        Self { included: Credits::ZERO, per_seat: false, pay_as_you_go: Credits::ZERO }
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
        subject: Name,
    },
    /// What was settled of another month: of one that was closed, or of one that has not begun,
    /// into which a clock had gone for a while.
    Late,
    /// All beyond the [most lines](MOST_LINES) that are kept apart.
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
    /// Whether the owner's own spending limit is what bounds `limit`.
    pub limited_by_owner: bool,
    /// Whether the period has not begun by the ledger's clock: what runs is settled in the month
    /// that it is, and nothing more is held.
    pub early: bool,
    /// Whether the period has ended by the ledger's clock.
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

/// A change of what an account keeps, or a correction of one of its months.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amendment {
    /// Adds purchased credits; a second grant of the same id changes nothing, so that it can be
    /// sent again where it is not known whether it arrived, or after a failover that may have
    /// forgotten it.
    Grant {
        /// Names the grant: a payment's or an order's id, say.
        id: Name,
        /// How much.
        amount: Credits,
        /// Until when requests are admitted on it, since the Unix epoch, in whole milliseconds;
        /// `None` for ever.
        expires: Option<Duration>,
    },
    /// Sets how many seats the account has; 1 until it is set.
    Seats(std::num::NonZeroU32),
    /// Sets or removes the owner's limit on pay-as-you-go spending in a period; where it is
    /// reached, requests are denied with 403.
    SpendingLimit(Option<Credits>),
    /// Refunds part of what a month cost; a second refund of the same id in the same month changes
    /// nothing. See [`Book::refund`].
    Refund {
        /// The month.
        period: Period,
        /// Names the refund.
        id: Name,
        /// How much, and why.
        refund: Refund,
    },
    /// Closes a month that has ended, and all before; what nodes report of it later is debited in
    /// the current month, in the line [`LineKey::Late`]. See [`Book::close`].
    Close(Period),
    /// Erases the account: its months, its purchased credits, all. What nodes still report of it is
    /// [refused](Outcome::Erased) for 93 days; after that the name may be used again.
    Erase,
}

/// Why a ledger gave no answer, or none that counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// No answer within the deadline. What was asked may have been done all the same.
    #[error("the ledger gave no answer within {0:?}")]
    Deadline(Duration),
    /// The ledger cannot be reached or is failing.
    #[error("the ledger cannot be reached: {reason}")]
    Unreachable {
        /// What the client or the server said.
        reason: String,
        /// The error of the client library, where there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger answered, with an error: of this account, say, or of the part of the ledger that
    /// has it. It changed nothing, or what it changed is found by the next renewal.
    #[error("the ledger answered with an error: {reason}")]
    Failed {
        /// What the server said.
        reason: String,
        /// The error of the client library, where there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The ledger is set up in a way that would lose or mix money.
    #[error("the ledger cannot be used: {0}")]
    Unfit(String),
    /// What the ledger was sent makes no sense; it changed nothing.
    #[error("the ledger refused: {0}")]
    Refused(String),
    /// What the ledger keeps of this account cannot be read; it changed nothing. Other accounts are
    /// well.
    #[error("what the ledger keeps of the account cannot be read: {0}")]
    Malformed(String),
    /// A total would be larger than [`Credits::MAX`].
    #[error("an amount that the ledger keeps is too large: {0}")]
    TooLarge(#[from] MoneyError),
}

impl LedgerError {
    /// Says if nobody can be served: there was no answer, or none that another account would not
    /// get as well.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Unreachable { .. } | Self::Unfit(_))
    }
}
