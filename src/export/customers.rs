//! [`Customers`]: the names that accounts have at a receiver.

use std::{collections::HashMap, path::Path};

use crate::{Account, names::NameError};

/// Names that accounts have at a receiver: Stripe's customers, Lago's subscriptions.
///
/// In a file, each line has an account and a name, with a comma between them. Lines that are empty
/// or begin with `#` are left out.
///
/// ```
/// use tower_credits::export::Customers;
///
/// let customers: Customers = "
///     user:alice, cus_NffrFeUfNV2Hib
///     org:acme, cus_Q0mGrGhkKzDMsn
/// ".parse()?;
/// # Ok::<(), tower_credits::export::CustomersError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Customers(HashMap<Account, String>);

/// Reason why customers cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CustomersError {
    /// The file cannot be read.
    #[error("cannot read {file}: {error}")]
    File {
        /// The file.
        file: String,
        /// The reason.
        #[source]
        error: std::io::Error,
    },
    /// A line of the file is wrong.
    #[error("{file}, {error}")]
    Text {
        /// The file.
        file: String,
        /// The line, and what is wrong with it.
        #[source]
        error: Box<Self>,
    },
    /// A line has no comma, or nothing behind it.
    #[error("line {line}: write an account, a comma and its name at the receiver")]
    Line {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A line begins with something that is no account.
    #[error("line {line}: {error}")]
    Account {
        /// Number of the line, from 1.
        line: usize,
        /// The reason.
        #[source]
        error: NameError,
    },
    /// An account has two names.
    #[error("line {line}: {account} has a name already: remove one of the lines")]
    Twice {
        /// Number of the second line, from 1.
        line: usize,
        /// The account.
        account: Account,
    },
}

impl Customers {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`CustomersError`] if it cannot be read, with the line that is wrong.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, CustomersError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => {
                text.parse().map_err(|error| CustomersError::Text { file, error: Box::new(error) })
            }
            Err(error) => Err(CustomersError::File { file, error }),
        }
    }

    /// Returns the name of an account.
    pub fn get(&self, account: &Account) -> Option<&str> {
        self.0.get(account).map(String::as_str)
    }
}

impl FromIterator<(Account, String)> for Customers {
    fn from_iter<T: IntoIterator<Item = (Account, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl std::str::FromStr for Customers {
    type Err = CustomersError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut customers = HashMap::new();
        for (number, text) in text.lines().enumerate() {
            let (line, text) = (number + 1, text.trim());
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            // An account's id may have a comma.
            let (account, name) = text.rsplit_once(',').ok_or(CustomersError::Line { line })?;
            let (account, name) = (account.trim(), name.trim());
            if name.is_empty() {
                return Err(CustomersError::Line { line });
            }
            let account: Account =
                account.parse().map_err(|error| CustomersError::Account { line, error })?;
            if customers.insert(account.clone(), name.to_owned()).is_some() {
                return Err(CustomersError::Twice { line, account });
            }
        }
        Ok(Self(customers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_wrong_ones_named() {
        let customers: Customers = "# a\n\nuser:a,b , cus_1\norg:x,cus_2".parse().unwrap();
        assert_eq!(customers.get(&"user:a,b".parse().unwrap()), Some("cus_1"));
        assert_eq!(customers.get(&"org:x".parse().unwrap()), Some("cus_2"));
        assert_eq!(customers.get(&"org:y".parse().unwrap()), None);
        for (text, error) in [
            ("user:a", "line 1: write an account, a comma and its name at the receiver"),
            ("\nuser:a, ", "line 2: write an account, a comma and its name at the receiver"),
            ("user:a,x\nuser:a,y", "line 2: user:a has a name already: remove one of the lines"),
        ] {
            assert_eq!(text.parse::<Customers>().unwrap_err().to_string(), error);
        }
        let error = "someone,x".parse::<Customers>().unwrap_err().to_string();
        assert!(error.starts_with("line 1: "), "{error}");
    }
}
