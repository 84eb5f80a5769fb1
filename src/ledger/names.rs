//! The ids and reasons of what changes an account: [`Name`]s of different types, so that one cannot
//! be given for another.

use std::{borrow::Borrow, fmt, str::FromStr};

use crate::{Name, NameError};

/// Defines a type around a [`Name`]: the same texts, another meaning.
macro_rules! name_type {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        ///
        /// 1 to 128 bytes, no control characters. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Name);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.parse().map(Self)
            }
        }

        impl From<Name> for $name {
            fn from(name: Name) -> Self {
                Self(name)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// Names a grant within its account, for example by the order that paid for it. A second grant
    /// of the same id changes nothing.
    GrantId
}

name_type! {
    /// Names a refund within its account and month, for example by a support case. A second refund
    /// of the same id changes nothing.
    RefundId
}

name_type! {
    /// The reason of a refund, as people read it on the statement.
    Reason
}
