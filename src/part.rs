//! Parts of an account: groups, members and keys, by path, whose spending has limits of its own.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    Credits,
    names::{NameError, check},
};

/// The most names of a path.
pub(crate) const MAX_DEPTH: usize = 3;

/// A part of an account: a path of up to three names, such as a group, a member of it, and a key of
/// theirs. Each name has 1 to 128 bytes, no control characters and no `/`. Cheap to clone.
///
/// Spending counts in each part along the path, and in the account: what `research/alice/ci` uses
/// is also used by `research/alice` and by `research`. Each of them may have [`Limits`], of which
/// the strictest counts.
///
/// ```
/// use tower_credits::Part;
///
/// let key: Part = "research/alice/ci".parse()?;
/// let names: Vec<_> = key.path().map(|part| part.to_string()).collect();
/// assert_eq!(names, ["research", "research/alice", "research/alice/ci"]);
/// # Ok::<(), tower_credits::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part(Arc<str>);

/// Limits on what an account, or a part of it, may spend.
///
/// ```
/// use tower_credits::Limits;
///
/// let limits = Limits { per_month: Some("50.00".parse()?), per_day: Some("5.00".parse()?) };
/// assert!(!limits.is_none() && Limits::NONE.is_none());
/// # Ok::<(), tower_credits::MoneyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Limits {
    /// The most in a month; `None` if nobody set it, [`Credits::MAX`] for no limit.
    pub per_month: Option<Credits>,
    /// The most on a day (UTC); `None` if nobody set it, [`Credits::MAX`] for no limit.
    pub per_day: Option<Credits>,
}

impl Part {
    /// `true` if it is the same part. If it is a clone, its text is not read.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }

    /// Returns the parts along the path, the largest first and this one last.
    pub fn path(&self) -> impl Iterator<Item = Self> + '_ {
        let ends = self.0.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        ends.chain([self.0.len()]).map(|end| Self(self.0[..end].into()))
    }

    /// Returns the part of the models that match this pattern, of whatever caller. No path begins
    /// with `/`.
    pub(crate) fn of_models(pattern: &str) -> Self {
        Self(format!("/{pattern}").into())
    }

    /// Returns the pattern of its models, if it is of models.
    pub(crate) fn models(&self) -> Option<&str> {
        self.0.strip_prefix('/')
    }

    /// Returns the part that has this one; `None` if that is the account.
    pub fn parent(&self) -> Option<Self> {
        self.0
            .rsplit_once('/')
            .map(|(parent, _)| Self(parent.into()))
            .filter(|part| !part.0.is_empty())
    }

    /// Returns the part of a text that this crate stored.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, with `/` between the names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Limits {
    /// No limit that anybody set.
    pub const NONE: Self = Self { per_month: None, per_day: None };

    /// `true` if nobody set a limit.
    pub const fn is_none(&self) -> bool {
        self.per_month.is_none() && self.per_day.is_none()
    }

    /// Returns these limits, and where they are not set, the others.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            per_month: self.per_month.or(others.per_month),
            per_day: self.per_day.or(others.per_day),
        }
    }
}

impl FromStr for Part {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.split('/').count() > MAX_DEPTH {
            return Err(NameError::TooDeep);
        }
        text.split('/').try_for_each(check)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_up_to_three_names() {
        for (text, reason) in [
            ("", NameError::Empty),
            ("/a", NameError::Empty),
            ("a/", NameError::Empty),
            ("a//b", NameError::Empty),
            ("a/b/c/d", NameError::TooDeep),
            ("a/b\tc", NameError::Control),
        ] {
            assert_eq!(text.parse::<Part>(), Err(reason), "{text:?}");
        }
        let part: Part = "a/b".parse().unwrap();
        assert_eq!(part.parent(), Some("a".parse().unwrap()));
        assert_eq!(part.parent().unwrap().parent(), None);
    }
}
