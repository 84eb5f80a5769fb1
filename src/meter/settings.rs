//! The settings of a meter.

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;

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

/// The most accounts that a node keeps leases of, by default.
const MAX_ACCOUNTS: usize = 1 << 18;

/// The most bytes of a request's body that are read to find out what it runs, and of all together.
const MAX_REQUEST_BODY: usize = 8 << 20;
const MAX_REQUEST_BODIES_TOTAL: usize = 256 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: LeaseRules::default(),
            max_accounts: MAX_ACCOUNTS,
            compute_until_head: false,
            request_extensions: true,
            shadow: false,
            denials: DenialStyle {
                unavailable: StatusCode::SERVICE_UNAVAILABLE,
                format: DenialFormat::Problem,
                grpc: false,
                grpc_web: false,
            },
            response: ResponseSettings {
                inference_id: true,
                rate_limit: true,
                usage_headers: false,
            },
            identify_timeout: Duration::from_secs(5),
            read_ahead: ReadAheadLimits::default(),
            uploads: UploadSettings {
                max_bytes: MAX_REQUEST_BODY,
                stall_timeout: Duration::from_secs(60),
            },
            upload_memory: MAX_REQUEST_BODIES_TOTAL,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/settings.md` and `docs/guarantees.md` state them.
    #[test]
    fn the_defaults_are_those_of_the_guide() {
        let Settings { rules, max_accounts, read_ahead, uploads, upload_memory, .. } =
            Settings::default();
        let (second, mib) = (Duration::from_secs(1), 1024 * 1024);
        assert_eq!((rules.deadline, rules.report_soon), (second / 4, second / 10));
        assert_eq!(rules.report_within, second);
        assert_eq!((rules.admit_for, rules.ttl), (second * 10, second * 600));
        assert_eq!(max_accounts, 262_144);
        assert_eq!((read_ahead.per_response, read_ahead.total), (mib / 4, 256 * mib));
        assert_eq!((uploads.max_bytes, upload_memory), (8 * mib, 256 * mib));
        assert_eq!((uploads.stall_timeout, read_ahead.stall_timeout), (second * 60, second * 60));
    }
}
