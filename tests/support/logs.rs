//! What is logged, for tests that look.

use std::sync::{Arc, Mutex, OnceLock};

use tracing::{Level, Subscriber, subscriber::DefaultGuard};

/// What was logged so far. Clones are the same log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Warnings and errors of this thread, for as long as the guard is kept.
    pub fn of_this_thread() -> (Self, DefaultGuard) {
        Self::from(Level::WARN)
    }

    /// What this thread logs from a level on, for as long as the guard is kept.
    pub fn from(level: Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.subscriber(level));
        (log, guard)
    }

    /// Errors of all threads of the process but those that have a log of their own.
    pub fn of_all() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            tracing::subscriber::set_global_default(log.subscriber(Level::ERROR)).unwrap();
            log
        };
        LOG.get_or_init(start).clone()
    }

    fn subscriber(&self, level: Level) -> impl Subscriber + Send + Sync + 'static {
        let writer = self.clone();
        let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        log.with_writer(move || writer.clone()).finish()
    }

    /// The lines that hold all of these words.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let holds_all = |line: &&str| words.iter().all(|word| line.contains(word));
        text.lines().filter(holds_all).map(str::to_owned).collect()
    }
}
