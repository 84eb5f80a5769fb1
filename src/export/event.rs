//! [`UsageEvent`]: how much one usage line of a month grew.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Account, Credits, Name, Period, clock::UnixTime, identify::Subject};

/// Growth of one usage line of an account's month since the event before.
///
/// As JSON it is an object of these members, in this order:
///
/// | member | type |
/// |---|---|
/// | `id`, `account`, `model`, `hardware`, `feature` | string |
/// | `period` | string: `2026-11` |
/// | `day` | number from 1 to 31; `null` for usage without details |
/// | `subject` | string; `null` for usage without details |
/// | `time` | string, as RFC 3339 has it: `2026-11-29T23:59:59Z` |
/// | `requests`, `computeMicros`, `costNanoUsd` | number |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct UsageEvent {
    /// Id of the event: 32 hexadecimal digits, a hash of account, month, line, and the totals that
    /// the line has with this event. No other event has it, and a repetition has the same.
    pub id: String,
    /// Account that pays.
    pub account: Account,
    /// Month in which the usage was debited.
    pub period: Period,
    /// Day of the month on which the requests were admitted; `None` for usage without details.
    pub day: Option<u8>,
    /// Model, or a word: see [`StatementLine::model`](crate::ledger::StatementLine::model).
    pub model: Name,
    /// Hardware, or the same word.
    pub hardware: Name,
    /// Feature, or the same word.
    pub feature: Name,
    /// Caller; `None` for usage without details.
    pub subject: Option<Subject>,
    /// Moment that the usage counts at: the last second of its day, or now if that is earlier. For
    /// usage without details, the last second of the month, or now.
    #[serde(with = "rfc_3339")]
    pub time: UnixTime,
    /// Billed requests.
    pub requests: u64,
    /// Compute time in whole microseconds.
    pub compute_micros: u64,
    /// Cost.
    #[serde(rename = "costNanoUsd", serialize_with = "nanos", deserialize_with = "from_nanos")]
    pub cost: Credits,
}

fn nanos<S: Serializer>(credits: &Credits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(credits.as_nano_usd())
}

fn from_nanos<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
    Credits::from_nano_usd(i64::deserialize(deserializer)?).map_err(D::Error::custom)
}

mod rfc_3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::clock::UnixTime;

    pub(super) fn serialize<S: Serializer>(
        time: &UnixTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<UnixTime, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
