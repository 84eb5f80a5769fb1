//! Follows a file: what is read from it is read again when its content has changed.
//!
//! The content itself is compared, by a thread that does nothing else. Notifications of the file
//! system would miss a mounted configuration whose folder is replaced through a symbolic link, and
//! a file's times say little there.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(700);

/// The largest file that is read.
pub(crate) const LARGEST: u64 = 4 * 1024 * 1024;

/// What became of a change.
pub(crate) enum Applied {
    /// It counts now, or was refused and said so.
    Done,
    /// Nobody is interested any more.
    NobodyCares,
}

/// Reads a file that is not too large to be what it should be.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    // A pipe or a device may be endless, whatever length it states.
    let size = std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if size as u64 > LARGEST {
        return Err(std::io::Error::other("larger than 4 MiB: write a shorter one"));
    }
    Ok(text)
}

/// Calls `apply` with what is in the file, or why it cannot be read, each time that this is no
/// longer what it was; `current` is what it was at first. `is_alive` is asked every time.
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
            // Two looks in a row must find the same: a file that is just being written is half of
            // one.
            if found != seen && found == before {
                seen = found;
                if matches!(apply(now), Applied::NobodyCares) {
                    return;
                }
            }
            before = found;
            thread::park_timeout(EVERY);
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
