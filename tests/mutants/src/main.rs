//! Runs mutants of the files that money depends on, as tests/mutants.toml says: which files, and
//! which tests are to catch each of their mutants.
//!
//! cargo-mutants lists them, but compiles the crate once for each. Here one build has all of them
//! behind switches, and each run of a test binary turns one on, so that thousands take an hour.
//! Works on a copy under `target/mutants`. Words as arguments choose the mutants whose names contain
//! one of them.

mod build;
mod list;
mod plan;
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

use list::Mutant;
use plan::Plan;
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

/// Returns true if each mutant was caught or is explained.
fn check() -> Result<bool, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let plan = Plan::read(Path::new("tests/mutants.toml"))?;
    let files = plan.groups.iter().flat_map(|group| &group.files).map(String::as_str);
    let mutants = list::mutants_of(files)?;
    let chosen = |mutant: &Mutant| {
        words.is_empty() || words.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    // Number 0 is the crate as it is.
    let numbered: Vec<(usize, &Mutant)> =
        mutants.iter().enumerate().map(|(n, m)| (n + 1, m)).collect();
    // All are built, whichever are chosen, so that another choice needs no other build.
    let built = build::build(&plan, &numbered)?;
    let chosen: Vec<_> = numbered.iter().copied().filter(|(_, mutant)| chosen(mutant)).collect();
    println!("{} mutants, {} of them do not compile", numbered.len(), built.uncompilable.len());

    let mut baseline = BTreeMap::new();
    for stage in chosen.iter().flat_map(|(_, mutant)| plan.stages(&mutant.file)) {
        if !baseline.contains_key(stage) {
            let runner = Runner { built: &built, baseline: &baseline };
            let (outcome, time) = runner.stage(0, stage);
            if let Some(outcome) = outcome {
                return Err(format!("without a mutant, {stage}: {outcome:?}"));
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
                    let outcome = runner.run(*number, plan.stages(&mutant.file));
                    println!("{}: {outcome}", mutant.name);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.insert(*number, outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().map_err(|error| error.to_string())?;
    Ok(report(&plan, &chosen, &built, &outcomes))
}

fn report(
    plan: &Plan,
    chosen: &[(usize, &Mutant)],
    built: &build::Built,
    outcomes: &BTreeMap<usize, Outcome>,
) -> bool {
    let mut left = Vec::new();
    println!("\n| file | mutants | caught by a test | never ended | explained | left |");
    println!("|---|---|---|---|---|---|");
    for file in chosen.iter().map(|(_, mutant)| &mutant.file).collect::<BTreeSet<_>>() {
        let (mut all, mut failed, mut endless, mut explained, mut survived) = (0, 0, 0, 0, 0);
        for (number, mutant) in chosen.iter().filter(|(_, mutant)| mutant.file == *file) {
            if built.uncompilable.contains(number) {
                continue;
            }
            all += 1;
            match outcomes.get(number) {
                Some(Outcome::Failed(_)) => failed += 1,
                Some(Outcome::NeverEnded) => endless += 1,
                _ if plan.explains(mutant) => explained += 1,
                Some(Outcome::Survived) => {
                    survived += 1;
                    left.push(format!("survived: {}", mutant.name));
                }
                None => {
                    survived += 1;
                    left.push(format!("without a switch: {}", mutant.name));
                }
            }
        }
        println!("| {file} | {all} | {failed} | {endless} | {explained} | {survived} |");
    }
    println!();
    for line in &left {
        println!("{line}");
    }
    let _ = fs::write("target/mutants/left.txt", left.join("\n"));
    left.is_empty()
}
