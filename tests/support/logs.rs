//! What is logged, for tests that look.

use std::sync::{Arc, Mutex, OnceLock};

use tracing::{
    Event, Level, Metadata, Subscriber,
    level_filters::LevelFilter,
    span,
    subscriber::{DefaultGuard, Interest},
};

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
        Self::of_all();
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.subscriber(level));
        (log, guard)
    }

    /// Errors of all threads of the process but those that have a log of their own.
    pub fn of_all() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            let errors = Undecided(log.subscriber(Level::ERROR));
            tracing::subscriber::set_global_default(errors).unwrap();
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

/// A subscriber that decides on each event when that comes. What others decide once for all is
/// kept by the whole process, and may be from just before a thread got its own log: an event that
/// two threads emit for the first time at that moment would not be in it.
struct Undecided<S>(S);

impl<S: Subscriber> Subscriber for Undecided<S> {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.0.new_span(span)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        self.0.record(span, values);
    }

    fn record_follows_from(&self, span: &span::Id, follows: &span::Id) {
        self.0.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.0.event(event);
    }

    fn enter(&self, span: &span::Id) {
        self.0.enter(span);
    }

    fn exit(&self, span: &span::Id) {
        self.0.exit(span);
    }

    fn clone_span(&self, span: &span::Id) -> span::Id {
        self.0.clone_span(span)
    }

    fn try_close(&self, span: span::Id) -> bool {
        self.0.try_close(span)
    }
}
