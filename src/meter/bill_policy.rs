//! The host's policy on which requests are billed.

use std::{fmt, sync::Arc};

use http::response::Parts;

use crate::{contained::contained, metering::FinishedRequest};

/// The host's policy on which requests are billed.
#[derive(Clone)]
pub(crate) enum BillPolicy {
    /// Decides once a request has ended.
    AtEnd(Arc<BillIf>),
    /// Decides by the head of its response; by `None` if there was none.
    AtHead(Arc<BillIfHead>),
}

pub(super) type BillIf = dyn Fn(&FinishedRequest) -> bool + Send + Sync;
pub(super) type BillIfHead = dyn Fn(Option<&Parts>) -> bool + Send + Sync;

impl BillPolicy {
    /// Decides for a request that ended, and that was not decided at its head.
    pub(super) fn decide_at_end(&self, finished: &FinishedRequest) -> bool {
        is_billed(|| match self {
            Self::AtEnd(bill_if) => bill_if(finished),
            Self::AtHead(bill_if) => bill_if(None),
        })
    }
}

/// Returns the host's decision, or `true` if its code panics: in a drop while a handler panics,
/// too, where a second panic would abort the process.
pub(super) fn is_billed(bill_if: impl FnOnce() -> bool) -> bool {
    contained("`bill_if`", bill_if).unwrap_or(true)
}

impl fmt::Debug for BillPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtEnd(_) => "AtEnd",
            Self::AtHead(_) => "AtHead",
        })
    }
}
