//! The record of one request.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Account, Credits, Name, Part, RequestId, clock::UnixTime, identify::Subject, metering::End,
    plan::TierName,
};

/// Usage record: what one request used, what it cost, and how it ended.
///
/// A request is recorded once its service was called and it has ended; a denied one is not. As JSON
/// it is an object of these members, in this order:
///
/// | member | type |
/// |---|---|
/// | `id`, `account`, `subject`, `tier`, `model`, `hardware`, `feature` | string |
/// | `part` | string; `null` if the account was used as a whole |
/// | `beganAt` | string, as RFC 3339 has it: `2026-11-29T08:04:18.250Z` |
/// | `computeMicros`, `costNanoUsd` | number |
/// | `end` | string: `complete`, `failed`, `dropped`, `cut_off`, `stalled` or `shut_down` |
/// | `status`, `grpcStatus` | number; `null` if there was none |
/// | `forgiven` | `true` or `false` |
/// | `serviceId` | string; left out if the service set no `Inference-Id` |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageRecord {
    /// Id of the request. No other request has it.
    pub id: RequestId,
    /// `Inference-Id` that the service set on its response, which is the one that the client saw.
    /// Two requests may have the same.
    pub service_id: Option<RequestId>,
    /// Account that pays.
    pub account: Account,
    /// Part of the account that the caller belongs to.
    pub part: Option<Part>,
    /// Caller.
    pub subject: Subject,
    /// Tier of the account at admission.
    pub tier: TierName,
    /// Model that ran.
    pub model: Name,
    /// Hardware that it ran on.
    pub hardware: Name,
    /// Feature through which it was used.
    pub feature: Name,
    /// Moment at which the service was called, by this node's clock.
    pub began_at: UnixTime,
    /// Compute time that was billed; of a forgiven request, that would have been.
    pub compute: Duration,
    /// Cost that was debited; zero if it was forgiven.
    pub cost: Credits,
    /// End of the response.
    pub end: End,
    /// Status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// Status of a gRPC call.
    pub grpc_status: Option<u8>,
    /// `true` if the plan or the host's code did not bill it.
    pub forgiven: bool,
}

impl Serialize for UsageRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = 16 - usize::from(self.service_id.is_none());
        let mut record = serializer.serialize_struct("UsageRecord", members)?;
        record.serialize_field("id", &self.id)?;
        record.serialize_field("account", self.account.as_str())?;
        record.serialize_field("part", &self.part.as_ref().map(Part::as_str))?;
        record.serialize_field("subject", &self.subject)?;
        record.serialize_field("tier", &self.tier)?;
        record.serialize_field("model", &self.model)?;
        record.serialize_field("hardware", &self.hardware)?;
        record.serialize_field("feature", &self.feature)?;
        record.serialize_field("beganAt", &self.began_at.to_string())?;
        record.serialize_field("computeMicros", &self.compute_micros())?;
        record.serialize_field("costNanoUsd", &self.cost.as_nano_usd())?;
        record.serialize_field("end", self.end.as_str())?;
        record.serialize_field("status", &self.status)?;
        record.serialize_field("grpcStatus", &self.grpc_status)?;
        record.serialize_field("forgiven", &self.forgiven)?;
        match &self.service_id {
            Some(id) => record.serialize_field("serviceId", id)?,
            None => record.skip_field("serviceId")?,
        }
        record.end()
    }
}

impl UsageRecord {
    /// Returns the compute time in whole microseconds.
    pub(super) fn compute_micros(&self) -> u64 {
        u64::try_from(self.compute.as_micros()).unwrap_or(u64::MAX)
    }
}
