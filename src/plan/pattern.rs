//! Path patterns of routes, in axum's syntax.

use matchit::InsertError;

/// Reason why no route can have a pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("the path does not begin with `/`: write one that does")]
    NoSlash,
    #[error("axum 0.8 writes a part of a path in braces: write `{{{0}}}` in place of `:{0}`")]
    Colon(String),
    #[error("axum 0.8 writes the rest of a path in braces: write `{{*{0}}}` in place of `*{0}`")]
    Asterisk(String),
    #[error("every request with `{0}` in its path is refused: write the path without it")]
    Segment(String),
    #[error(
        "every request with an empty part, `//`, in its path is refused: write the path plainly"
    )]
    EmptySegment,
    #[error("it takes the same paths as route `{0}`: remove one of the two")]
    Conflict(String),
    #[error("a part of a path has two names, or text after its name: write one name at its end")]
    TwoParameters,
    #[error(
        "a brace is unpaired, or names nothing: write `{{name}}`, or `{{{{` for the brace itself"
    )]
    Braces,
    #[error("`{{*name}}` stands before the end: write `{{name}}` for a single part of the path")]
    RestBeforeEnd,
    #[error("{0}")]
    Other(String),
}

/// Refuses a pattern that no path can match. Requests are matched by their path as it is written.
pub(super) fn check(pattern: &str) -> Result<(), PatternError> {
    if !pattern.starts_with('/') {
        return Err(PatternError::NoSlash);
    }
    for segment in pattern.split('/').skip(1) {
        if let Some(name) = segment.strip_prefix(':') {
            return Err(PatternError::Colon(name.to_owned()));
        }
        if let Some(name) = segment.strip_prefix('*') {
            return Err(PatternError::Asterisk(name.to_owned()));
        }
        if matches!(segment, "." | "..") || segment.contains(['\\', ';', '?', '#']) {
            return Err(PatternError::Segment(segment.to_owned()));
        }
    }
    if pattern.contains("//") { Err(PatternError::EmptySegment) } else { Ok(()) }
}

/// `true` if the pattern has a part of this name, `{name}` or `{*name}`.
pub(super) fn has_parameter(pattern: &str, name: &str) -> bool {
    let without_escapes = pattern.replace("{{", "").replace("}}", "");
    [format!("{{{name}}}"), format!("{{*{name}}}")]
        .iter()
        .any(|placeholder| without_escapes.contains(placeholder))
}

/// Returns the pattern in lower case, without a slash at its end. The names of its parts stay.
pub(super) fn folded(pattern: &str) -> String {
    let mut in_braces = false;
    let folded = pattern.chars().map(|c| {
        in_braces = (in_braces || c == '{') && c != '}';
        if in_braces { c } else { c.to_ascii_lowercase() }
    });
    let folded: String = folded.collect();
    if folded.len() > 1 { folded.trim_end_matches('/').to_owned() } else { folded }
}

impl From<InsertError> for PatternError {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Conflict { with } => Self::Conflict(with),
            InsertError::InvalidParamSegment => Self::TwoParameters,
            InsertError::InvalidParam => Self::Braces,
            InsertError::InvalidCatchAll => Self::RestBeforeEnd,
            error => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_s_refusals_have_remedies() {
        let mut router = matchit::Router::new();
        router.insert("/models/{model}", ()).unwrap();
        let mut refused =
            |pattern: &str| PatternError::from(router.insert(pattern, ()).unwrap_err());
        assert_eq!(refused("/models/{other}"), PatternError::Conflict("/models/{model}".into()));
        assert_eq!(refused("/a/{one}{two}"), PatternError::TwoParameters);
        assert_eq!(refused("/a/{one"), PatternError::Braces);
        assert_eq!(refused("/a/{}"), PatternError::Braces);
        assert_eq!(refused("/a/{*rest}/b"), PatternError::RestBeforeEnd);
    }
}
