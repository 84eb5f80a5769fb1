//! The times of the lease protocol.

use std::{num::NonZeroU32, time::Duration};

use crate::Credits;

/// The times of the lease protocol. The defaults fit a ledger in the same data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRules {
    /// How long a call to the ledger may take, and how long a request waits for its admission, counted from its arrival. Default 250 ms.
    pub(crate) deadline: Duration,
    /// How long spending may stay unreported. Default 100 ms.
    pub(crate) flush: Duration,
    /// How long after sending a renewal requests are admitted on its answer: 10 s, or twice `flush` where that is longer.
    pub(crate) admit_for: Duration,
    /// How long the ledger keeps a hold without hearing of the lease. Default 10 min.
    pub(crate) ttl: Duration,
    /// Whether leases ask for more than running requests own.
    pub(crate) ahead: Option<Ahead>,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            flush: Duration::from_millis(100),
            admit_for: Duration::from_secs(10),
            ttl: Duration::from_secs(600),
            ahead: None,
        }
    }
}

impl LeaseRules {
    /// Spending may stay unreported for so long. Between two reports a lease must not cease to admit.
    pub(crate) fn flush_after(&mut self, flush: Duration) {
        self.flush = flush;
        self.admit_for = Self::default().admit_for.max(flush.saturating_mul(2));
    }

    /// After how long without use and without news a lease speaks once more, and is then quiet until it says goodbye. Longer than what a failover
    /// of the ledger can forget, and than two that follow each other closely: they lag by seconds, not by minutes.
    pub(crate) fn idle(&self) -> Duration {
        self.ttl / 3
    }

    /// How long after the last use a lease holds no more ahead than the least, and over what span burn is looked at.
    pub(crate) fn lull(&self) -> Duration {
        self.admit_for / 4
    }
}

/// A surplus that leases hold, so that most requests are admitted without asking the ledger.
///
/// It follows what the account burns: a slice (what one request takes at its admission, by default a second of its
/// price) for each of its requests that lately ran or waited at once on this node, and a few more. It is asked for again when half of it is taken, before
/// requests have to wait. A few seconds after the last use all but the least is given back, and ten seconds after it the rest.
///
/// The ledger grants at most a quarter of what is left as a surplus, so near zero this becomes strict by itself. What one node holds ahead, another
/// cannot use until it is given back; a node that dies strands it for the holds' time to live, ten minutes.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_credits::Ahead;
///
/// let by_burn = Ahead::default(); // up to 1024 slices
/// let at_most_a_minute = Ahead::default().at_most(NonZeroU32::new(60).expect("not zero"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    least: NonZeroU32,
    most: NonZeroU32,
}

const LEAST: NonZeroU32 = NonZeroU32::new(4).unwrap();
const MOST: NonZeroU32 = NonZeroU32::new(1024).unwrap();

impl Ahead {
    /// Always the same: `slices` times what one request takes at its admission.
    pub const fn slices(slices: NonZeroU32) -> Self {
        Self { least: slices, most: slices }
    }

    /// So many slices more than what lately ran at once, and at least so many until ten seconds after the last use. Default 4.
    #[must_use]
    pub fn at_least(self, slices: NonZeroU32) -> Self {
        Self { least: slices, most: self.most.max(slices) }
    }

    /// At most so many slices, however much is burned. Default 1024.
    #[must_use]
    pub fn at_most(self, slices: NonZeroU32) -> Self {
        Self { least: self.least.min(slices), most: slices }
    }

    /// The surplus where so many requests lately ran or waited at once, each of which takes `hold`.
    pub(crate) fn surplus(self, hold: Credits, engaged: u32) -> Credits {
        times(hold, engaged.saturating_add(self.least.get()).min(self.most.get()))
    }

    pub(crate) fn least(self, hold: Credits) -> Credits {
        times(hold, self.least.get())
    }
}

fn times(hold: Credits, slices: u32) -> Credits {
    hold.checked_mul(slices).unwrap_or(Credits::MAX)
}

/// By what the account burns: 4 slices more than that, up to 1024.
impl Default for Ahead {
    fn default() -> Self {
        Self { least: LEAST, most: MOST }
    }
}

/// What an account lately used at once: what it burns while a slice lasts.
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
    engaged: u32,
    hold: Credits,
}

impl Burn {
    pub(super) fn new(now: Duration) -> Self {
        Self { peak: Peak::default(), before: Peak::default(), since: now }
    }

    /// So many requests run or wait now; the last takes `hold`.
    pub(super) fn note(&mut self, engaged: usize, hold: Credits) {
        let Peak { engaged: most, hold: largest } = &mut self.peak;
        *most = (*most).max(u32::try_from(engaged).unwrap_or(u32::MAX));
        *largest = (*largest).max(hold);
    }

    /// Forgets what is older than two spans in which somebody asked. So many requests run or wait now.
    pub(super) fn forget(&mut self, engaged: usize, span: Duration, now: Duration) {
        if now >= self.since.saturating_add(span) && !self.peak.hold.is_zero() {
            *self = Self { peak: Peak::default(), before: self.peak, since: now };
            self.note(engaged, Credits::ZERO);
        }
    }

    /// The most that lately ran or waited at once.
    pub(super) fn engaged(&self) -> u32 {
        self.peak.engaged.max(self.before.engaged)
    }

    /// The most that one of them took.
    pub(super) fn hold(&self) -> Credits {
        self.peak.hold.max(self.before.hold)
    }
}
