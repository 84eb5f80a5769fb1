//! Who pays, and the names that appear on a bill.
//!
//! Both become part of ledger keys and of headers, so what could move a key to another slot (`{`,
//! `}`) or break a line is refused here, once.

use std::{fmt, str::FromStr, sync::Arc};

/// The most bytes in a name or an account id.
const LONGEST: usize = 128;

/// A short text on a bill: a model, hardware, feature, tier or subject. 1 to 128 bytes, no control
/// characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared, as a recorder of metrics takes it.
    #[cfg(feature = "metrics")]
    pub(crate) fn shared(&self) -> metrics::SharedString {
        metrics::SharedString::from_shared(Arc::clone(&self.0))
    }

    /// For names that are written in this crate.
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

impl std::borrow::Borrow<str> for Name {
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

/// Who pays: `user:<id>` or `org:<id>`. The id has 1 to 128 bytes, no control characters and no
/// braces. Cheap to clone.
///
/// ```
/// use tower_credits::Account;
///
/// let alice = Account::user("alice")?;
/// assert_eq!(alice, "user:alice".parse()?);
/// # Ok::<(), tower_credits::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(Arc<str>);

impl Account {
    /// A person's own account.
    ///
    /// # Errors
    ///
    /// [`NameError`] where the id could not be part of a ledger key.
    pub fn user(id: &str) -> Result<Self, NameError> {
        Self::of("user", id)
    }

    /// An organisation's account.
    ///
    /// # Errors
    ///
    /// [`NameError`] where the id could not be part of a ledger key.
    pub fn org(id: &str) -> Result<Self, NameError> {
        Self::of("org", id)
    }

    /// The id of an organisation; `None` of a person's own account.
    pub fn organisation(&self) -> Option<&str> {
        self.0.strip_prefix("org:")
    }

    /// `user:<id>` or `org:<id>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(kind: &str, id: &str) -> Result<Self, NameError> {
        check(id)?;
        if id.contains(['{', '}']) {
            return Err(NameError::Braces);
        }
        Ok(Self(format!("{kind}:{id}").into()))
    }
}

impl FromStr for Account {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            Some(("user", id)) => Self::user(id),
            Some(("org", id)) => Self::org(id),
            _ => Err(NameError::Kind),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is no name or no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("empty: write at least one character")]
    Empty,
    /// More than 128 bytes.
    #[error("longer than 128 bytes: write a shorter one")]
    TooLong,
    /// A control character, such as a line end or NUL.
    #[error("holds a control character: leave it out")]
    Control,
    /// A brace, which would move the account's keys to another slot of a cluster.
    #[error("holds `{{` or `}}`: leave it out")]
    Braces,
    /// Neither `user:` nor `org:`.
    #[error("neither a user's nor an organisation's account: write `user:<id>` or `org:<id>`")]
    Kind,
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        Err(NameError::Empty)
    } else if text.len() > LONGEST {
        Err(NameError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_could_leave_its_key_is_refused() {
        for (text, reason) in [
            ("alice", NameError::Kind),
            ("team:alice", NameError::Kind),
            ("user:", NameError::Empty),
            ("user:a{b", NameError::Braces),
            ("org:a}b", NameError::Braces),
            ("user:a\r\nb", NameError::Control),
            ("user:a\0", NameError::Control),
            ("user:a\u{85}", NameError::Control),
        ] {
            assert_eq!(text.parse::<Account>(), Err(reason), "{text:?}");
        }
        assert_eq!(Account::user(&"x".repeat(129)), Err(NameError::TooLong));
        assert!(Account::user(&"x".repeat(128)).is_ok());
    }
}
