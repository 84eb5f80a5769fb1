//! The setting of how much leases hold beyond the slices of their requests.

use std::num::NonZeroU32;

use crate::Credits;

/// A surplus that leases hold, so that most requests are admitted without asking the ledger.
///
/// It is counted in slices. A slice is what one request takes at its admission: by default, a
/// second of its price.
///
/// The surplus follows what the account burns. It is one slice for each of the account's requests
/// that lately ran or waited at once on this node, and four more. When half of it is taken, it is
/// asked for again, before requests have to wait.
///
/// After the last use it shrinks. If it is more than twice the least, it is reduced to the least a
/// few seconds after the last use. The rest is given back ten seconds after the last use, or after
/// twice [`report_within`](crate::CreditMeterBuilder::report_within) if that is longer.
///
/// It is at most a quarter of what the account has left, so it vanishes by itself as the credits
/// end. What one node holds ahead, another cannot use until it is given back. A node that dies
/// strands it for the holds' time to live, ten minutes.
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

const DEFAULT_LEAST_SLICES: NonZeroU32 = NonZeroU32::new(4).unwrap();
const DEFAULT_MOST_SLICES: NonZeroU32 = NonZeroU32::new(1024).unwrap();

impl HoldAhead {
    /// Holds this many slices ahead while the account is in use, whatever it burns.
    pub const fn slices(slices: NonZeroU32) -> Self {
        Self { least: slices, most: slices }
    }

    /// Sets how many slices are held ahead beyond what lately ran at once, and at least until ten
    /// seconds after the last use. Default 4.
    #[must_use]
    pub fn at_least(self, slices: NonZeroU32) -> Self {
        Self { least: slices, most: self.most.max(slices) }
    }

    /// Sets how many slices are held ahead at most, however much is burned. Default 1024.
    #[must_use]
    pub fn at_most(self, slices: NonZeroU32) -> Self {
        Self { least: self.least.min(slices), most: slices }
    }

    /// Returns the surplus if requests lately held `burn` together, and `hold` each at most.
    pub(super) fn surplus(self, hold: Credits, burn: Credits) -> Credits {
        burn.saturating_add(self.least(hold)).min(times(hold, self.most.get()))
    }

    /// Returns the least that is held ahead while the account is in use.
    pub(super) fn least(self, hold: Credits) -> Credits {
        times(hold, self.least.get())
    }
}

fn times(hold: Credits, slices: u32) -> Credits {
    hold.checked_mul(slices).unwrap_or(Credits::MAX)
}

/// Four slices more than what lately ran at once, up to 1024.
impl Default for HoldAhead {
    fn default() -> Self {
        Self { least: DEFAULT_LEAST_SLICES, most: DEFAULT_MOST_SLICES }
    }
}
