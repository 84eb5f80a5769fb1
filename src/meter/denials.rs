//! The format in which a meter denies a request.

use std::{fmt, sync::Arc};

use super::credit_meter::CreditMeter;
use crate::{DenialFormat, contained::contained, identify::RequestHead, rejection::DenialStyle};

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

impl CreditMeter {
    /// Returns the style in which this request is denied.
    pub(crate) fn denial_style(&self, head: RequestHead<'_>) -> DenialStyle {
        let client = || DenialFormat::of_client(head.headers);
        let format = match &self.inner.format_choice {
            FormatChoice::ByRouteAndClient => {
                self.inner.plan.load().denial_format(head.uri.path()).unwrap_or_else(client)
            }
            FormatChoice::Always(format) => *format,
            FormatChoice::By(choose) => {
                contained("the choice of a denial's format", || choose(head))
                    .unwrap_or_else(|_| client())
            }
        };
        self.inner.settings.denials.for_caller(head.headers, format)
    }
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
