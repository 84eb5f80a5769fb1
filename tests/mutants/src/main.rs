//! Mutation tests of the files in tests/mutants.toml.
//!
//! cargo-mutants lists the mutants, but would compile the crate once for each. Here all are
//! compiled together, each behind a switch, and each run of a test binary turns one on. Works on a
//! copy under `target/mutants`. Arguments choose the mutants whose names contain one of them.

mod build;
mod config;
mod list;
mod run;
mod switches;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::ExitCode,
    sync::Mutex,
    thread,
};

use config::Config;
use list::Mutant;
use run::{Outcome, Runner};

fn main() -> ExitCode {
    match check() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Returns `true` if each mutant was caught or is equivalent.
fn check() -> Result<bool, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let config = Config::read(Path::new("tests/mutants.toml"))?;
    let files = config.groups.iter().flat_map(|group| &group.files).map(String::as_str);
    let mutants = list::mutants_of(files)?;
    config.check_equivalents(&mutants)?;
    let chosen = |mutant: &Mutant| {
        words.is_empty() || words.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    // Number 0 is the crate as it is.
    let numbered: Vec<(usize, &Mutant)> =
        mutants.iter().enumerate().map(|(n, m)| (n + 1, m)).collect();
    // All are built, whichever are chosen, so that another choice needs no other build.
    let built = build::build(&config, &numbered)?;
    let chosen: Vec<_> = numbered.iter().copied().filter(|(_, mutant)| chosen(mutant)).collect();
    println!("{} mutants, {} of them do not compile", numbered.len(), built.uncompilable.len());

    let mut baseline = BTreeMap::new();
    for stage in chosen.iter().flat_map(|(_, mutant)| config.stages(&mutant.file)) {
        if !baseline.contains_key(stage) {
            let runner = Runner { built: &built, baseline: &baseline };
            let (outcome, time) = runner.stage(0, stage);
            if let Some(outcome) = outcome {
                return Err(format!(
                    "{stage:?} fails without any mutant: {outcome}: mend the tests, or the stage in \
                     tests/mutants.toml"
                ));
            }
            println!("without a mutant, {stage}: {:.1} s", time.as_secs_f32());
            baseline.insert(stage.clone(), time);
        }
    }

    let switched = chosen.iter().filter(|(number, _)| built.switched.contains(number));
    let queue = Mutex::new(switched.collect::<Vec<_>>().into_iter());
    let outcomes = Mutex::new(BTreeMap::new());
    let runner = Runner { built: &built, baseline: &baseline };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((number, mutant)) = next else { break };
                    let outcome = runner.run(*number, config.stages(&mutant.file));
                    println!("{}: {outcome}", mutant.name);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.insert(*number, outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().map_err(|error| error.to_string())?;
    Ok(report(&config, &chosen, &built, &outcomes))
}

fn report(
    config: &Config,
    chosen: &[(usize, &Mutant)],
    built: &build::Built,
    outcomes: &BTreeMap<usize, Outcome>,
) -> bool {
    let mut left = Vec::new();
    println!("\n| file | mutants | caught by a test | crashed or timed out | equivalent | to do |");
    println!("|---|---|---|---|---|---|");
    for file in chosen.iter().map(|(_, mutant)| &mutant.file).collect::<BTreeSet<_>>() {
        let (mut all, mut failed, mut crashed, mut equivalent, mut to_do) = (0, 0, 0, 0, 0);
        for (number, mutant) in chosen.iter().filter(|(_, mutant)| mutant.file == *file) {
            if built.uncompilable.contains(number) {
                continue;
            }
            all += 1;
            match outcomes.get(number) {
                Some(Outcome::Failed(_)) => failed += 1,
                Some(Outcome::Crashed(_) | Outcome::TimedOut) => crashed += 1,
                _ if config.has_equivalent(mutant) => equivalent += 1,
                Some(Outcome::Survived) => {
                    to_do += 1;
                    left.push(format!("survived: {}", mutant.name));
                }
                None => {
                    to_do += 1;
                    left.push(format!("without a switch: {}", mutant.name));
                }
            }
        }
        println!("| {file} | {all} | {failed} | {crashed} | {equivalent} | {to_do} |");
    }
    println!();
    for line in &left {
        println!("{line}");
    }
    let _ = fs::write("target/mutants/left.txt", left.join("\n"));
    left.is_empty()
}
