//! What cargo-mutants lists.

use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Mutant {
    pub(crate) file: String,
    pub(crate) genre: String,
    pub(crate) name: String,
    pub(crate) replacement: String,
    pub(crate) span: Place,
}

#[derive(Deserialize)]
pub(crate) struct Place {
    pub(crate) start: Point,
}

#[derive(Deserialize)]
pub(crate) struct Point {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Mutant {
    /// Returns its description without its line and column, which change with the file.
    pub(crate) fn description(&self) -> &str {
        self.name.splitn(4, ':').last().unwrap_or_default().trim()
    }
}

/// Returns the mutants of some files.
pub(crate) fn mutants_of<'a>(files: impl Iterator<Item = &'a str>) -> Result<Vec<Mutant>, String> {
    let mut command = Command::new("cargo");
    command.args(["mutants", "--list", "--json"]);
    for file in files {
        command.args(["--file", file]);
    }
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!(
            "`cargo mutants --list` failed: {said}\nIf it is not installed: `cargo install \
             cargo-mutants --locked`"
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo mutants: {error}"))
}
