//! Builds a copy of the crate that contains all mutants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    config::Config,
    list::Mutant,
    switches::{MODULE, Switched, switched},
};

const COPY: &str = "target/mutants/source";

pub(crate) struct Built {
    /// Test binaries by name; the library's is `lib`.
    pub(crate) binaries: BTreeMap<String, PathBuf>,
    pub(crate) switched: BTreeSet<usize>,
    pub(crate) uncompilable: BTreeSet<usize>,
}

/// Builds the copy. Leaves out the mutants with compile errors and builds again, until there are
/// none.
pub(crate) fn build(config: &Config, mutants: &[(usize, &Mutant)]) -> Result<Built, String> {
    let mutated = mutants.iter().map(|(_, mutant)| mutant.file.as_str()).chain(["src/lib.rs"]);
    copy_tree(&mutated.collect())?;
    let mut uncompilable = found_before(mutants);
    let mut constant = BTreeSet::new();
    loop {
        let files = write(mutants, &uncompilable, &constant)?;
        let (binaries, errors) = compile(config)?;
        if errors.is_empty() {
            remember(mutants, &uncompilable)?;
            let switched = files.values().flat_map(|file| &file.places).map(|place| place.0);
            return Ok(Built { binaries, switched: switched.collect(), uncompilable });
        }
        let before = (uncompilable.len(), constant.len());
        for error in &errors {
            let places = files.get(&error.file).map(|file| file.places.as_slice());
            let places = places.unwrap_or_default().iter();
            let found =
                places.filter(|(_, bytes)| bytes.start <= error.end && error.at < bytes.end);
            uncompilable.extend(found.map(|(number, _)| *number));
            constant.extend(error.called_in_a_constant());
        }
        if (uncompilable.len(), constant.len()) == before {
            let first = &errors[0];
            return Err(format!("{}, byte {}: {}", first.file, first.at, first.message));
        }
        eprintln!("{} compile errors: {} mutants are left out", errors.len(), uncompilable.len());
    }
}

/// File of mutants that did not compile: on each line, a hash of the source file and the mutant's
/// name.
const UNCOMPILABLE: &str = "target/mutants/uncompilable.txt";

/// Returns the mutants that did not compile last time, in files that have not changed since.
fn found_before(mutants: &[(usize, &Mutant)]) -> BTreeSet<usize> {
    let known = fs::read_to_string(UNCOMPILABLE).unwrap_or_default();
    let known: BTreeSet<&str> = known.lines().collect();
    let found = mutants.iter().filter(|(_, mutant)| known.contains(line_of(mutant).as_str()));
    found.map(|(number, _)| *number).collect()
}

fn remember(mutants: &[(usize, &Mutant)], uncompilable: &BTreeSet<usize>) -> Result<(), String> {
    let found = mutants.iter().filter(|(number, _)| uncompilable.contains(number));
    let lines: Vec<String> = found.map(|(_, mutant)| line_of(mutant)).collect();
    replace(Path::new(UNCOMPILABLE), lines.join("\n").as_bytes())
}

fn line_of(mutant: &Mutant) -> String {
    let mut hasher = DefaultHasher::new();
    fs::read(&mutant.file).unwrap_or_default().hash(&mut hasher);
    format!("{:x} {}", hasher.finish(), mutant.name)
}

/// Copies the files that git tracks or would track, apart from the mutated ones. Files that are
/// equal are not written, so that cargo does not compile them again.
fn copy_tree(mutated: &BTreeSet<&str>) -> Result<(), String> {
    let listed = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).output();
    let listed = listed.map_err(|error| format!("git: {error}"))?.stdout;
    for name in String::from_utf8_lossy(&listed).lines() {
        let source = Path::new(name);
        if source.is_file() && !mutated.contains(name) {
            let bytes = fs::read(source).map_err(|error| format!("{name}: {error}"))?;
            replace(&Path::new(COPY).join(name), &bytes)?;
        }
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    written
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn write(
    mutants: &[(usize, &Mutant)],
    uncompilable: &BTreeSet<usize>,
    constant: &BTreeSet<String>,
) -> Result<BTreeMap<String, Switched>, String> {
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants {
        if !uncompilable.contains(number) {
            by_file.entry(&mutant.file).or_default().push((*number, mutant));
        }
    }
    let root = fs::read_to_string("src/lib.rs").map_err(|error| format!("src/lib.rs: {error}"))?;
    replace(&Path::new(COPY).join("src/lib.rs"), (root + MODULE).as_bytes())?;
    let mut files = BTreeMap::new();
    for (name, mutants) in by_file {
        let source = fs::read_to_string(name).map_err(|error| format!("{name}: {error}"))?;
        let file =
            switched(&source, &mutants, constant).map_err(|error| format!("{name}: {error}"))?;
        replace(&Path::new(COPY).join(name), file.text.as_bytes())?;
        files.insert(name.to_owned(), file);
    }
    Ok(files)
}

struct CompileError {
    file: String,
    at: usize,
    end: usize,
    message: String,
}

impl CompileError {
    /// Returns the name of a function that must be `const`: "cannot call non-const associated
    /// function `money::Credits::clamped` in constants".
    fn called_in_a_constant(&self) -> Option<String> {
        let (_, called) = self.message.split_once("cannot call non-const ")?;
        let path = called.split('`').nth(1)?;
        path.rsplit("::").next().map(str::to_owned)
    }
}

type Compiled = (BTreeMap<String, PathBuf>, Vec<CompileError>);

fn compile(config: &Config) -> Result<Compiled, String> {
    let stages = config.groups.iter().flat_map(|group| &group.stages);
    let names: BTreeSet<_> = stages.filter_map(|stage| stage.split(' ').next()).collect();
    let mut command = Command::new("cargo");
    command.args(["test", "--all-features", "--no-run", "--message-format=json"]);
    for name in names {
        match name {
            "lib" => command.arg("--lib"),
            name => command.args(["--test", name]),
        };
    }
    command.current_dir(COPY).stderr(Stdio::inherit());
    let target = std::env::current_dir().map_err(|error| error.to_string())?;
    command.env("CARGO_TARGET_DIR", target.join("target/mutants/target"));
    command.env("CARGO_INCREMENTAL", "1");
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    let mut binaries = BTreeMap::new();
    let mut errors = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(path) = message["executable"].as_str() {
            let is_lib = message["target"]["kind"][0] == "lib";
            let name = message["target"]["name"].as_str().unwrap_or_default();
            binaries.insert(if is_lib { "lib" } else { name }.to_owned(), path.into());
        }
        let message = &message["message"];
        if message["level"] == "error" {
            let spans = message["spans"].as_array().into_iter().flatten();
            errors.extend(spans.filter(|span| span["is_primary"] == true).map(|span| {
                CompileError {
                    file: span["file_name"].as_str().unwrap_or_default().to_owned(),
                    at: number(&span["byte_start"]),
                    end: number(&span["byte_end"]),
                    message: message["rendered"].as_str().unwrap_or_default().to_owned(),
                }
            }));
        }
    }
    if errors.is_empty() && !output.status.success() {
        return Err("cargo failed in target/mutants/source: its messages are above".to_owned());
    }
    Ok((binaries, errors))
}

fn number(value: &Value) -> usize {
    value.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
}
