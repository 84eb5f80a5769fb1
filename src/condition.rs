//! [`Condition`]: how a part of a node is.

use std::fmt;

use serde::Serialize;

/// The condition of a part of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "because", rename_all = "kebab-case")]
pub enum Condition {
    /// It works.
    Well,
    /// It works with what it had before: the file as it is now cannot be used, for this reason.
    Outdated(String),
    /// It does not work now, for this reason.
    Away(String),
}

impl Condition {
    /// `true` unless it is [`Away`](Self::Away).
    pub const fn works(&self) -> bool {
        !matches!(self, Self::Away(_))
    }

    /// Returns the condition of what follows a file: `refused` is why the file as it is now is not
    /// in force.
    pub(crate) fn of_file(refused: Option<String>) -> Self {
        refused.map_or(Self::Well, Self::Outdated)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::Outdated(reason) => write!(f, "outdated: {reason}"),
            Self::Away(reason) => write!(f, "away: {reason}"),
        }
    }
}
