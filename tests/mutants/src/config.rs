//! tests/mutants.toml: files to mutate, tests that must catch their mutants, equivalent mutants.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::list::Mutant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(rename = "group")]
    pub(crate) groups: Vec<Group>,
    #[serde(default, rename = "equivalent")]
    equivalents: Vec<Equivalent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) files: Vec<String>,
    /// The tests of each stage: `lib` or the name of a test binary, then its arguments. The next
    /// stage runs if the one before catches nothing.
    pub(crate) stages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Equivalent {
    file: String,
    /// The mutant's description, as cargo-mutants has it after the line and the column.
    mutant: String,
    /// A part of the source line that it changes.
    line: String,
    /// Why nothing that can be observed differs.
    #[serde(rename = "reason")]
    _reason: String,
}

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn stages(&self, file: &str) -> &[String] {
        let group = self.groups.iter().find(|group| group.files.iter().any(|name| name == file));
        group.map_or(&[], |group| &group.stages)
    }

    pub(crate) fn has_equivalent(&self, mutant: &Mutant) -> bool {
        self.equivalents.iter().any(|equivalent| equivalent.is(mutant))
    }

    /// Returns an error if an entry `equivalent` names none of these mutants.
    pub(crate) fn check_equivalents(&self, mutants: &[Mutant]) -> Result<(), String> {
        let names_none = |equivalent: &&Equivalent| !mutants.iter().any(|m| equivalent.is(m));
        match self.equivalents.iter().find(names_none) {
            Some(Equivalent { file, mutant, .. }) => Err(format!(
                "tests/mutants.toml: the entry `equivalent` for {mutant:?} in {file} names no \
                 mutant: the code has changed, so mend or remove the entry"
            )),
            None => Ok(()),
        }
    }
}

impl Equivalent {
    fn is(&self, mutant: &Mutant) -> bool {
        let text = || fs::read_to_string(&mutant.file).unwrap_or_default();
        let is_on_line = |text: String| {
            let line = text.lines().nth(mutant.span.start.line - 1);
            line.is_some_and(|line| line.contains(&self.line))
        };
        self.file == mutant.file && self.mutant == mutant.description() && is_on_line(text())
    }
}
