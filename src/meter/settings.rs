//! The settings of a meter.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    DenialFormat, Plan, identify::RequestHead, lease::LeaseRules, metering::ReadAheadLimits,
    plan::Classification, rejection::DenialStyle,
};

/// The host's function that says what a request runs.
pub(super) type Classify = dyn Fn(RequestHead<'_>, &Plan) -> Classification + Send + Sync;

/// The settings of a meter. [`CreditMeterBuilder`](super::CreditMeterBuilder) explains them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) rules: LeaseRules,
    pub(super) max_accounts: usize,
    pub(super) compute_until_head: bool,
    pub(super) request_extensions: bool,
    pub(super) shadow: bool,
    pub(super) denials: DenialStyle,
    pub(super) response: ResponseSettings,
    pub(super) identify_timeout: Duration,
    pub(super) read_ahead: ReadAheadLimits,
    pub(super) uploads: UploadSettings,
    /// The most bytes of request bodies in memory.
    pub(super) upload_memory: usize,
}

/// The bounds of a request body that is read before the service is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadSettings {
    pub(super) max_bytes: usize,
    pub(super) stall_timeout: Duration,
}

/// The settings by which the layer adds to responses.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseSettings {
    pub(super) inference_id: bool,
    pub(super) rate_limit: bool,
    pub(super) usage_headers: bool,
}

/// The host's function that chooses the format of a denial.
pub(super) type ChooseFormat = dyn Fn(RequestHead<'_>) -> DenialFormat + Send + Sync;

/// The way in which a meter chooses the format of a denial.
#[derive(Clone, Default)]
pub(super) enum FormatChoice {
    /// The one of the plan's route, or else the one that the client reads.
    #[default]
    ByRouteAndClient,
    Always(DenialFormat),
    By(Arc<ChooseFormat>),
}

impl fmt::Debug for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByRouteAndClient => f.write_str("ByRouteAndClient"),
            Self::Always(format) => f.debug_tuple("Always").field(format).finish(),
            Self::By(_) => f.write_str("By"),
        }
    }
}
