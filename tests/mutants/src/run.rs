//! Runs of test binaries, each with one mutant.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::build::Built;

/// Limit of a test process's memory, in KiB: a mutant may loop and allocate.
const MAX_MEMORY_KIB: &str = "6000000";

#[derive(Debug)]
pub(crate) enum Outcome {
    /// With the test that failed first.
    Failed(String),
    /// The process ended without naming a test that failed: it aborted, or was out of memory.
    Crashed(String),
    TimedOut,
    Survived,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(test) => write!(formatter, "caught by {test}"),
            Self::Crashed(how) => write!(formatter, "caught by a crash: {how}"),
            Self::TimedOut => formatter.write_str("caught by a time-out"),
            Self::Survived => formatter.write_str("SURVIVED"),
        }
    }
}

pub(crate) struct Runner<'a> {
    pub(crate) built: &'a Built,
    /// How long each stage takes without a mutant.
    pub(crate) baseline: &'a BTreeMap<String, Duration>,
}

impl Runner<'_> {
    pub(crate) fn run(&self, number: usize, stages: &[String]) -> Outcome {
        let mut outcomes = stages.iter().filter_map(|stage| {
            let outcome = self.stage(number, stage).0?;
            // A busy machine may fail a test, too. The test must tell the mutant from the original.
            let Outcome::Failed(test) = &outcome else { return Some(outcome) };
            let binary = stage.split(' ').next().unwrap_or_default();
            let alone = format!("{binary} --exact {test}");
            let tells = self.stage(0, &alone).0.is_none() && self.stage(number, &alone).0.is_some();
            tells.then_some(outcome)
        });
        outcomes.next().unwrap_or(Outcome::Survived)
    }

    /// Runs one stage. Returns nothing if all its tests passed, and how long it took.
    pub(crate) fn stage(&self, number: usize, stage: &str) -> (Option<Outcome>, Duration) {
        let began = Instant::now();
        let mut words = stage.split(' ');
        let binary = words.next().and_then(|name| self.built.binaries.get(name));
        let Some(binary) = binary else {
            let outcome = Outcome::Crashed(format!("no test binary for {stage:?}"));
            return (Some(outcome), began.elapsed());
        };
        let most = self.baseline.get(stage).map_or(Duration::from_secs(600), |time| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            let slower = 5 * u32::try_from(cores).unwrap_or(1);
            time.saturating_mul(slower).saturating_add(Duration::from_secs(20))
        });
        let outcome = match start(binary, number, words) {
            Ok(child) => watch(child, began + most),
            Err(error) => Some(Outcome::Crashed(error.to_string())),
        };
        (outcome, began.elapsed())
    }
}

fn start<'a>(
    binary: &Path,
    number: usize,
    words: impl Iterator<Item = &'a str>,
) -> std::io::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v "$1"; shift; exec "$@""#, "sh", MAX_MEMORY_KIB]).arg(binary);
    command.args(words).env("MUTANT", number.to_string()).env("SIMULATION_SEEDS", "10");
    command.env("HISTORIES", "300").env("BOLERO_RANDOM_TEST_TIME_MS", "300");
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    command.current_dir("target/mutants/source").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// Waits for the first failure or the end.
fn watch(mut child: Child, until: Instant) -> Option<Outcome> {
    let (sender, lines) = mpsc::channel();
    let output = child.stdout.take();
    thread::spawn(move || {
        for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let outcome = loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let name =
                    line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
                if let Some(name) = name {
                    break Some(Outcome::Failed(name.to_owned()));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break Some(Outcome::TimedOut),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return match child.wait() {
                    Ok(status) if status.success() => None,
                    Ok(status) => Some(Outcome::Crashed(status.to_string())),
                    Err(error) => Some(Outcome::Crashed(error.to_string())),
                };
            }
        }
    };
    // With the servers that its tests started.
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _ = child.wait();
    outcome
}
