//! The format in which a meter denies a request.

use super::{credit_meter::CreditMeter, settings::FormatChoice};
use crate::{DenialFormat, contained::contained, identify::RequestHead, rejection::DenialStyle};

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
