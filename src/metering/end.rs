//! The end of a metered request.

use http::StatusCode;

/// The way in which a metered response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The body was complete.
    Complete,
    /// The service or its body failed.
    Failed,
    /// The response was dropped before its end: the client went away, a timeout struck, or the
    /// service panicked.
    Dropped,
    /// The account's credits ended, and the request was cut off.
    CutOff,
    /// The client read nothing for the [stall
    /// timeout](crate::CreditMeterBuilder::stall_timeout), and the response was abandoned.
    Stalled,
    /// The meter was shut down while it ran. It was billed what it had used by then.
    ShutDown,
}

impl End {
    /// Returns its name as a label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::CutOff => "cut_off",
            Self::Stalled => "stalled",
            Self::ShutDown => "shut_down",
        }
    }
}

/// A metered request that has ended, as the policy given to
/// [`bill_if`](crate::CreditMeterBuilder::bill_if) sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FinishedRequest {
    /// Status of the response; `None` if there was no response.
    pub status: Option<StatusCode>,
    /// Status of a gRPC call, from its trailers: 0 is OK. `None` for other requests, and for calls
    /// that ended without a status.
    pub grpc_status: Option<u8>,
    /// The way in which it ended.
    pub end: End,
}
