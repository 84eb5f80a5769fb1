//! The caps that a client sets for its request: `x-max-cost` and `x-max-compute`.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::context::MIN_ADMITTED_TIME;
use crate::{Credits, plan::RequestCap, tariff::Tariff};

/// The begin of both names.
const PREFIX: &str = "x-max-";

/// The most that the request may cost, in dollars.
const MAX_COST: HeaderName = HeaderName::from_static("x-max-cost");

/// The longest compute time of the request, in seconds.
const MAX_COMPUTE: HeaderName = HeaderName::from_static("x-max-compute");

/// Caps of one request, set by its client. At least one is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientCaps {
    cost: Option<Credits>,
    compute: Option<Duration>,
}

impl ClientCaps {
    /// Reads the caps of a request.
    ///
    /// # Errors
    ///
    /// The name of a field that cannot be read.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Box<Self>>, &'static str> {
        // Most requests set none: to look over the names costs less than to look both up.
        if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
            return Ok(None);
        }
        let cost = read(headers, &MAX_COST, |text| text.parse().ok()).ok_or("x-max-cost")?;
        // Seconds have the digits of amounts: nine after the point.
        let seconds = |text: &str| {
            let nanos = text.parse::<Credits>().ok()?.as_nano_usd().unsigned_abs();
            Some(Duration::from_nanos(nanos))
        };
        let compute = read(headers, &MAX_COMPUTE, seconds).ok_or("x-max-compute")?;
        let is_set = cost.is_some() || compute.is_some();
        Ok(is_set.then(|| Box::new(Self { cost, compute })))
    }

    /// Returns them as caps of a plan.
    pub(crate) fn caps(self) -> impl Iterator<Item = RequestCap> {
        let cost = self.cost.map(RequestCap::Cost);
        cost.into_iter().chain(self.compute.map(RequestCap::Compute))
    }

    /// `true` if they pay for the begin of a request: the least time for which one is admitted.
    pub(crate) fn pay_for_begin(self, tariff: &Tariff) -> bool {
        let least = tariff.cost(MIN_ADMITTED_TIME).max(Credits::SMALLEST);
        self.cost.is_none_or(|cost| cost >= least)
            && self.compute.is_none_or(|compute| compute >= MIN_ADMITTED_TIME)
    }
}

/// Reads a field that may be there once. `None` if it cannot be read.
fn read<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<Option<T>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Some(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none())?;
    parse(text.trim()).map(Some)
}
