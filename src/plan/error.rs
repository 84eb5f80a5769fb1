//! Why a plan was refused.

use std::path::PathBuf;

/// Why a plan was refused: where, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", place(.file.as_ref(), *.line))]
pub struct PlanError {
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<usize>,
    pub(super) reason: String,
    #[source]
    pub(super) source: Option<std::io::Error>,
}

impl PlanError {
    /// The line of the file, counted from 1, where it is one line that is wrong.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

fn place(file: Option<&PathBuf>, line: Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}
