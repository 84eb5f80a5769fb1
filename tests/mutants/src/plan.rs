//! tests/mutants.toml: which files have mutants, which tests are to catch them, and why some mutants
//! change nothing.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::list::Mutant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    #[serde(rename = "group")]
    pub(crate) groups: Vec<Group>,
    #[serde(default, rename = "explained")]
    explanations: Vec<Explanation>,
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
struct Explanation {
    file: String,
    /// The mutant's description, as cargo-mutants has it after the line and the column.
    mutant: String,
    /// Nothing that can be observed is another with the mutant, because of this.
    #[serde(rename = "because")]
    _because: String,
}

impl Plan {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn stages(&self, file: &str) -> &[String] {
        let group = self.groups.iter().find(|group| group.files.iter().any(|name| name == file));
        group.map_or(&[], |group| &group.stages)
    }

    pub(crate) fn explains(&self, mutant: &Mutant) -> bool {
        self.explanations.iter().any(|explanation| {
            explanation.file == mutant.file && explanation.mutant == mutant.description()
        })
    }
}
