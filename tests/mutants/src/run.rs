//! Runs of test binaries, each with one mutant.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::build::Built;

/// A mutant that never ends may take memory for as long as it runs. In KiB.
const MAX_MEMORY: &str = "6000000";

#[derive(Debug)]
pub(crate) enum Outcome {
    /// With what failed first: a test, or the process.
    Failed(String),
    NeverEnded,
    Survived,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(by) => write!(formatter, "caught by {by}"),
            Self::NeverEnded => formatter.write_str("caught by a test that never ended"),
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
        let mut outcomes = stages.iter().filter_map(|stage| self.stage(number, stage).0);
        outcomes.next().unwrap_or(Outcome::Survived)
    }

    /// Runs one stage. Returns nothing if all its tests passed, and how long it took.
    pub(crate) fn stage(&self, number: usize, stage: &str) -> (Option<Outcome>, Duration) {
        let began = Instant::now();
        let mut words = stage.split(' ');
        let binary = words.next().and_then(|name| self.built.binaries.get(name));
        let Some(binary) = binary else {
            let outcome = Outcome::Failed(format!("no test binary for {stage:?}"));
            return (Some(outcome), began.elapsed());
        };
        let most = self.baseline.get(stage).map_or(Duration::from_secs(600), |time| {
            time.saturating_mul(5).saturating_add(Duration::from_secs(20))
        });
        let outcome = match start(binary, number, words) {
            Ok(child) => watch(child, began + most),
            Err(error) => Some(Outcome::Failed(error.to_string())),
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
    command.args(["-c", r#"ulimit -v "$1"; shift; exec "$@""#, "sh", MAX_MEMORY]).arg(binary);
    command.args(words).env("MUTANT", number.to_string()).env("SIMULATION_SEEDS", "10");
    command.env("HISTORIES", "300").env("BOLERO_RANDOM_TEST_TIME_MS", "300");
    command.current_dir("target/mutants/source");
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
            Err(mpsc::RecvTimeoutError::Timeout) => break Some(Outcome::NeverEnded),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return match child.wait() {
                    Ok(status) if status.success() => None,
                    Ok(status) => Some(Outcome::Failed(format!("the process: {status}"))),
                    Err(error) => Some(Outcome::Failed(error.to_string())),
                };
            }
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    outcome
}
