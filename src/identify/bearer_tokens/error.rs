//! Reasons why tokens were refused.

use std::path::{Path, PathBuf};

/// Reason why a list of tokens was refused: which line is wrong, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", location(.file.as_deref(), *.line))]
pub struct TokensError {
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<usize>,
    pub(super) reason: String,
    #[source]
    pub(super) source: Option<std::io::Error>,
}

impl TokensError {
    /// Returns the same error, with the file that it is about.
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self { file: Some(path.to_owned()), ..self }
    }
}

fn location(file: Option<&Path>, line: Option<usize>) -> String {
    let file = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    file + &line
}
