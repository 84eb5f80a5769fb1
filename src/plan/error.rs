//! Reasons why a plan was refused.

use std::path::{Path, PathBuf};

/// Reason why a plan was refused: which entry is wrong, and what to write instead.
///
/// A plan from a file or from TOML is refused with the place. `to_string()` gives, for example,
/// `plan.toml:18: tier `free`, included: amounts are not negative: write 0 or more`.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", location(.file.as_deref(), *.line))]
pub struct PlanError {
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<usize>,
    pub(super) reason: String,
    #[source]
    pub(super) source: Option<std::io::Error>,
}

impl PlanError {
    /// Returns the line of the file or of the TOML text, counted from 1. `None` if no single line
    /// is wrong, or if the plan was built in code.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

fn location(file: Option<&Path>, line: Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}
