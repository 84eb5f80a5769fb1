//! Names: short texts that become part of ledger keys, of headers and of the bill.
//!
//! A name cannot hold a control character, so it cannot break a line of a header or of the bill.
//! The rule is checked here, once.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest name or account id, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Short text on a bill: a model, hardware, a feature, or the id of a grant or refund. 1 to 128
/// bytes, no control characters. Cheap to clone.
///
/// ```
/// use tower_credits::{Name, NameError};
///
/// let model: Name = "acme/whisper".parse()?;
/// assert_eq!(model.as_str(), "acme/whisper");
/// assert_eq!("".parse::<Name>(), Err(NameError::Empty));
/// # Ok::<(), NameError>(())
/// ```
///
/// A tier's name is a [`TierName`](crate::plan::TierName) and a caller's is a
/// [`Subject`](crate::identify::Subject), so that the compiler finds a mix-up of the two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// `true` if it is the same name. If it is a clone, its text is not read.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as a label of a metric. It is shared, not copied.
    #[cfg(feature = "metrics")]
    pub(crate) fn shared(&self) -> metrics::SharedString {
        metrics::SharedString::from_shared(Arc::clone(&self.0))
    }

    /// Makes a name that is written in this crate.
    pub(crate) fn known(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text.into()))
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Defines a [`Name`] with one use, as a type of its own.
macro_rules! name_type {
    ($(#[$attribute:meta])* $type:ident) => {
        $(#[$attribute])*
        ///
        /// 1 to 128 bytes, no control characters. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Name);

        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// `true` if it is the same name. If it is a clone, its text is not read.
            #[allow(dead_code, reason = "not every type is looked for")]
            pub(crate) fn is(&self, other: &Self) -> bool {
                self.0.is(&other.0)
            }

            /// Makes a name that is written in this crate.
            #[allow(dead_code, reason = "not every type has such a name")]
            pub(crate) fn known(text: &'static str) -> Self {
                Self(Name::known(text))
            }

            /// Returns the text as a label of a metric. It is shared, not copied.
            #[cfg(feature = "metrics")]
            #[allow(dead_code, reason = "some names are no label")]
            pub(crate) fn shared(&self) -> metrics::SharedString {
                self.0.shared()
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.parse().map(Self)
            }
        }

        impl From<$type> for Name {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// Name of a [`Tier`](crate::plan::Tier) in the plan.
    ///
    /// ```
    /// use tower_credits::plan::TierName;
    ///
    /// let tier: TierName = "pro".parse()?;
    /// assert_eq!(tier.to_string(), "pro");
    /// # Ok::<(), tower_credits::NameError>(())
    /// ```
    TierName
}

name_type! {
    /// Name of the caller: a person, a key or a service, as the usage lines of the bill show it.
    ///
    /// ```
    /// use tower_credits::identify::Subject;
    ///
    /// let subject: Subject = "alice".parse()?;
    /// assert_eq!(subject.to_string(), "alice");
    /// # Ok::<(), tower_credits::NameError>(())
    /// ```
    Subject
}

name_type! {
    /// Name of a grant within its account, for example the order that paid for it. A second grant
    /// of the same name changes nothing.
    GrantId
}

name_type! {
    /// Name of a refund within its account and month, for example a support case. A second refund
    /// of the same name changes nothing.
    RefundId
}

name_type! {
    /// Reason of a refund, as people read it on the statement.
    Reason
}

/// Reason why a text is not a [`Name`] or an [`Account`](crate::Account).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    #[error("empty: write at least one character")]
    Empty,
    /// The text has more than 128 bytes.
    #[error("longer than 128 bytes: write a shorter one")]
    TooLong,
    /// The text has a control character, such as a line end or NUL.
    #[error("has a control character: leave it out")]
    Control,
    /// The account's id has a brace. In a Redis cluster it would move the account's keys to another
    /// slot.
    #[error("has `{{` or `}}`: leave it out")]
    Braces,
    /// The path of a [`Part`](crate::Part) has more than three names.
    #[error("more than three names: write at most `<group>/<member>/<key>`")]
    TooDeep,
    /// The account begins with neither `user:` nor `org:`.
    #[error("neither a user's nor an organisation's account: write `user:<id>` or `org:<id>`")]
    Kind,
}

/// The 64-bit hash FNV-1a of a text, which is the same on every node.
pub(crate) fn fnv_1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Checks the text of a name, or the id of an account.
pub(crate) fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        Err(NameError::Empty)
    } else if text.len() > MAX_NAME_BYTES {
        Err(NameError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_hash_is_the_one_that_its_authors_publish() {
        assert_eq!((fnv_1a(""), fnv_1a("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }

    #[test]
    fn a_name_type_checks_and_shows_its_text_as_a_name_does() {
        let tier: TierName = "pro".parse().unwrap();
        assert_eq!((tier.as_str(), format!("{tier} {tier:?}")), ("pro", "pro \"pro\"".to_owned()));
        assert_eq!("a\nb".parse::<Subject>(), Err(NameError::Control));
        assert_eq!(serde_json::to_string(&tier).unwrap(), "\"pro\"");
        assert_eq!(HashMap::from([(tier.clone(), 1)]).get("pro"), Some(&1));
        assert_eq!(Name::from(tier), "pro".parse().unwrap());
    }
}
