//! The times of the lease protocol.

use std::{num::NonZeroU32, time::Duration};

use crate::Credits;

/// By the ledger's clock, a renewal may act until so long after its deadline.
pub(crate) const A_LITTLE: Duration = Duration::from_millis(100);

/// The times of the lease protocol. The defaults fit a ledger in the same data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRules {
    /// How long a call to the ledger may take, and how long a request waits for its admission,
    /// counted from its arrival. Default 250 ms.
    pub(crate) deadline: Duration,
    /// How long spending may stay unreported. Default 100 ms.
    pub(crate) flush: Duration,
    /// How long after sending a renewal requests are admitted on its answer: 10 s, or twice `flush`
    /// where that is longer.
    pub(crate) admit_for: Duration,
    /// How long the ledger keeps a hold without hearing of the lease. Default 10 min.
    pub(crate) ttl: Duration,
    /// The surplus that leases ask for beyond what running requests own, if any.
    pub(crate) ahead: Option<HoldAhead>,
    /// `true` if leases of a node that ends say goodbye once they are settled.
    pub(crate) farewell: bool,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            flush: Duration::from_millis(100),
            admit_for: Duration::from_secs(10),
            ttl: Duration::from_secs(600),
            ahead: None,
            farewell: true,
        }
    }
}

impl LeaseRules {
    /// Spending may stay unreported for so long. Between two reports a lease must not cease to
    /// admit.
    pub(crate) fn flush_after(&mut self, flush: Duration) {
        self.flush = flush;
        self.admit_for = Self::default().admit_for.max(flush.saturating_mul(2));
    }

    /// After how long without use and without news a lease speaks once more, and is then quiet
    /// until it says goodbye. Longer than what a failover of the ledger can forget, and than two
    /// that follow each other closely: they lag by seconds, not by minutes.
    pub(crate) fn idle(&self) -> Duration {
        self.ttl / 3
    }

    /// What is not worth a look of its own waits so long: short against a slice, which is at least
    /// four deadlines.
    pub(crate) fn soon(&self) -> Duration {
        (self.flush / 20).min(Duration::from_millis(5)).min(self.deadline / 8)
    }

    /// After a failure or a short grant, the next try: `flush`, but no request waits for that where
    /// it is long.
    pub(crate) fn pause(&self) -> Duration {
        self.flush.min(Self::default().flush)
    }

    /// How long after the last use a lease holds no more ahead than the least, and over what span
    /// burn is looked at.
    pub(crate) fn lull(&self) -> Duration {
        self.admit_for / 4
    }
}

/// A surplus that leases hold, so that most requests are admitted without asking the ledger.
///
/// It follows what the account burns: a slice (what one request takes at its admission, by default
/// a second of its price) for each of its requests that lately ran or waited at once on this node,
/// and four more. It is asked for again when half of it is taken, before requests have to wait.
/// Where it is more than twice the least, that is what remains a few seconds after the last use;
/// the rest is given back ten seconds after it, or after twice
/// [`flush`](crate::CreditMeterBuilder::report_within) where that is longer.
///
/// It is at most a quarter of what is left, so near zero this becomes strict by itself. What one
/// node holds ahead, another cannot use until it is given back; a node that dies strands it for the
/// holds' time to live, ten minutes.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_credits::HoldAhead;
///
/// let by_burn = HoldAhead::default(); // up to 1024 slices
/// let at_most_a_minute = HoldAhead::default().at_most(NonZeroU32::new(60).expect("not zero"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldAhead {
    least: NonZeroU32,
    most: NonZeroU32,
}

const LEAST: NonZeroU32 = NonZeroU32::new(4).unwrap();
const MOST: NonZeroU32 = NonZeroU32::new(1024).unwrap();

impl HoldAhead {
    /// Always the same: `slices` times what one request takes at its admission.
    pub const fn slices(slices: NonZeroU32) -> Self {
        Self { least: slices, most: slices }
    }

    /// So many slices more than what lately ran at once, and at least so many until ten seconds
    /// after the last use. Default 4.
    #[must_use]
    pub fn at_least(self, slices: NonZeroU32) -> Self {
        Self { least: slices, most: self.most.max(slices) }
    }

    /// At most so many slices, however much is burned. Default 1024.
    #[must_use]
    pub fn at_most(self, slices: NonZeroU32) -> Self {
        Self { least: self.least.min(slices), most: slices }
    }

    /// The surplus where requests lately took `burn` at once, and `hold` each at most.
    pub(crate) fn surplus(self, hold: Credits, burn: Credits) -> Credits {
        burn.saturating_add(self.least(hold)).min(times(hold, self.most.get()))
    }

    pub(crate) fn least(self, hold: Credits) -> Credits {
        times(hold, self.least.get())
    }
}

fn times(hold: Credits, slices: u32) -> Credits {
    hold.checked_mul(slices).unwrap_or(Credits::MAX)
}

/// By what the account burns: 4 slices more than that, up to 1024.
impl Default for HoldAhead {
    fn default() -> Self {
        Self { least: LEAST, most: MOST }
    }
}

/// What an account's requests lately took at once: what they burn while a slice lasts.
#[derive(Debug)]
pub(super) struct Burn {
    /// The most since `since`.
    peak: Peak,
    /// The most in the span before that.
    before: Peak,
    since: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    /// By all at once.
    together: Credits,
    /// By one.
    hold: Credits,
}

impl Burn {
    pub(super) fn new(now: Duration) -> Self {
        Self { peak: Peak::default(), before: Peak::default(), since: now }
    }

    /// One asks for this.
    pub(super) fn asks(&mut self, hold: Credits) {
        self.peak.hold = self.peak.hold.max(hold);
    }

    /// All take this now. What is older than two spans in which somebody asked is forgotten.
    pub(super) fn sample(&mut self, together: Credits, span: Duration, now: Duration) {
        self.peak.together = self.peak.together.max(together);
        if now >= self.since.saturating_add(span) && !self.peak.hold.is_zero() {
            *self = Self {
                peak: Peak { together, hold: Credits::ZERO },
                before: self.peak,
                since: now,
            };
        }
    }

    /// The most that was lately taken at once.
    pub(super) fn together(&self) -> Credits {
        self.peak.together.max(self.before.together)
    }

    /// The most that one of them took.
    pub(super) fn hold(&self) -> Credits {
        self.peak.hold.max(self.before.hold)
    }
}
