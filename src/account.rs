//! Accounts: who pays.
//!
//! An account becomes part of ledger keys, so what could move a key to another slot of a Redis
//! cluster (`{`, `}`) or break a line is refused here, once.

use std::{fmt, str::FromStr, sync::Arc};

use crate::names::{NameError, check};

/// The beginning of a shadow account.
const SHADOW: &str = "shadow-";

/// Account that pays: `user:<id>` or `org:<id>`. The id has 1 to 128 bytes, no control characters
/// and no braces. Cheap to clone. What it uses in [shadow mode](crate::CreditMeterBuilder::shadow)
/// is in the books of `shadow-user:<id>` or `shadow-org:<id>`.
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
    /// `true` if it is the same account. If it is a clone, its text is not read.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }

    /// Returns a person's own account.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the id is empty, too long, or has a control character or a brace.
    pub fn user(id: &str) -> Result<Self, NameError> {
        Self::of("user", id)
    }

    /// Returns an organisation's account.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the id is empty, too long, or has a control character or a brace.
    pub fn org(id: &str) -> Result<Self, NameError> {
        Self::of("org", id)
    }

    /// The organisation's id; `None` for a person's own account.
    pub fn organisation(&self) -> Option<&str> {
        self.0.strip_prefix("org:")
    }

    /// The text, `user:<id>` or `org:<id>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the account in whose books a meter in shadow mode keeps what this one uses:
    /// `shadow-user:<id>` or `shadow-org:<id>`.
    pub(crate) fn shadow(&self) -> Self {
        Self(format!("{SHADOW}{}", self.0).into())
    }

    /// Returns the account of which this is the shadow.
    pub(crate) fn unshadowed(&self) -> Option<Self> {
        self.0.strip_prefix(SHADOW).map(|account| Self(account.into()))
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
            Some(("shadow-user", id)) => Self::user(id).map(|account| account.shadow()),
            Some(("shadow-org", id)) => Self::org(id).map(|account| account.shadow()),
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
