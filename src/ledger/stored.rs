//! The form in which serde stores the types of an account's state: texts as they are
//! shown, amounts as whole nano-dollars, moments as milliseconds since 1970.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::protocol::{LeaseId, LineKey, Usage};
use crate::{
    Account, Credits, Name, Part, Period,
    names::{GrantId, Reason, RefundId, Subject},
};

macro_rules! deserialize_from_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

macro_rules! serialize_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

serialize_as_text!(Account, Part, Period, LeaseId);
deserialize_from_text!(Account, Name, Period, LeaseId, GrantId, RefundId, Reason, Subject);

/// Of paths, and of models.
impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::stored(&text))
    }
}

/// Whole nano-dollars.
impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.as_nano_usd())
    }
}

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_nano_usd(i64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Usage lines as a list: formats like JSON have only texts for keys.
pub(super) mod lines {
    use super::{BTreeMap, Deserialize, Deserializer, LineKey, Serializer, Usage};

    pub(in super::super) fn serialize<S: Serializer>(
        lines: &BTreeMap<LineKey, Usage>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(lines)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<LineKey, Usage>, D::Error> {
        Vec::deserialize(deserializer).map(|lines| lines.into_iter().collect())
    }
}
