//! Plans in files.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Plan, PlanError,
    document::{self, DocumentError},
    handle::PlanHandle,
};
use crate::{
    observe,
    reload::{self, Applied},
};

impl Plan {
    /// Reads a plan from a file. [`PlanFile`] also follows its changes.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if the file cannot be read, or with its wrong line and what to write instead.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        parse(path, reload::read(path))
    }

    /// Reads a plan from TOML, as in a file.
    ///
    /// # Errors
    ///
    /// [`PlanError`] with the wrong line, and what to write instead.
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        document::read(text).map_err(|error| refused(None, error))
    }
}

/// Plan in a file whose changes are followed.
///
/// ```no_run
/// use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, PlanFile};
///
/// let plan = PlanFile::watch("plan.toml")?;
/// let meter = CreditMeter::new(plan, MemoryLedger::new(), BearerTokens::new());
/// # Ok::<(), tower_credits::plan::PlanError>(())
/// ```
#[derive(Debug)]
pub struct PlanFile;

impl PlanFile {
    /// Reads a plan from a file and follows its changes within two seconds: prices, tiers, routes
    /// and quotas count for requests that come after. A file that became wrong changes nothing; its
    /// line and what to write instead are logged, once for each content.
    ///
    /// Starts a thread that reads the file more than once a second. The thread ends when the last
    /// handle is dropped.
    ///
    /// # Errors
    ///
    /// As [`Plan::from_file`]; also if no thread can be started.
    pub fn watch(path: impl Into<PathBuf>) -> Result<PlanHandle, PlanError> {
        let path = path.into();
        let text = reload::read(&path).map_err(|error| unreadable(&path, error))?;
        let handle = PlanHandle::from(parse(&path, Ok(text.clone()))?);
        let (alive, watched) = (handle.downgrade(), handle.downgrade());
        let file = path.clone();
        let apply = move |content: io::Result<String>| {
            let Some(handle) = watched.upgrade() else { return Applied::Stop };
            match parse(&file, content) {
                Ok(plan) => {
                    handle.replace(plan);
                    observe::reloaded("plan", &file, None);
                }
                Err(error) => {
                    observe::not_reloaded("plan", &error);
                    handle.set_refused(Some(error.to_string()));
                }
            }
            Applied::Done
        };
        reload::follow(path.clone(), &text, move || alive.upgrade().is_some(), apply).map_err(
            |source| PlanError {
                file: Some(path),
                line: None,
                reason: "cannot be watched: no thread could be started".to_owned(),
                source: Some(source),
            },
        )?;
        Ok(handle)
    }
}

fn parse(path: &Path, content: io::Result<String>) -> Result<Plan, PlanError> {
    let text = content.map_err(|error| unreadable(path, error))?;
    document::read(&text).map_err(|error| refused(Some(path), error))
}

fn refused(path: Option<&Path>, DocumentError { line, reason }: DocumentError) -> PlanError {
    PlanError { file: path.map(Path::to_owned), line, reason, source: None }
}

fn unreadable(path: &Path, source: io::Error) -> PlanError {
    PlanError {
        file: Some(path.to_owned()),
        line: None,
        reason: format!("cannot be read: {source}"),
        source: Some(source),
    }
}
