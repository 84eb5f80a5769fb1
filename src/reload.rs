//! Follows a file: it is read again when its content has changed.
//!
//! A dedicated thread compares the content itself. Notifications of the file system would miss a
//! mounted configuration whose folder is replaced through a symbolic link, and the file's times are
//! not reliable there.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Interval at which the file is read.
const POLL_INTERVAL: Duration = Duration::from_millis(700);

/// Maximum size of a file, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Result of applying a change.
pub(crate) enum Applied {
    /// The change is in force, or was refused and logged.
    Done,
    /// The reader of the file is gone: stop following it.
    Stop,
}

/// Reads a file of up to [`MAX_FILE_BYTES`].
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    // A pipe or a device may be endless, whatever its metadata say.
    let size = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if size as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("the file is larger than 4 MiB: write a shorter one"));
    }
    Ok(text)
}

/// Starts a thread that calls `apply` with the content of the file, or the error of reading it,
/// each time that it has changed. `current` is the content at the start. The thread ends once
/// `is_alive` returns `false` or `apply` returns [`Applied::Stop`].
pub(crate) fn follow(
    path: PathBuf,
    current: &str,
    is_alive: impl Fn() -> bool + Send + 'static,
    apply: impl Fn(std::io::Result<String>) -> Applied + Send + 'static,
) -> std::io::Result<()> {
    let mut seen = fingerprint(&Ok(current.to_owned()));
    let watcher = thread::Builder::new().name("tower-credits-reload".to_owned());
    watcher.spawn(move || {
        let mut before = seen;
        while is_alive() {
            let now = read(&path);
            let found = fingerprint(&now);
            // The content must be the same twice in a row: a file that is being written may be
            // incomplete.
            if found != seen && found == before {
                seen = found;
                if matches!(apply(now), Applied::Stop) {
                    return;
                }
            }
            before = found;
            thread::park_timeout(POLL_INTERVAL);
        }
    })?;
    Ok(())
}

fn fingerprint(content: &std::io::Result<String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match content {
        Ok(text) => text.hash(&mut hasher),
        Err(error) => error.to_string().hash(&mut hasher),
    }
    hasher.finish()
}
