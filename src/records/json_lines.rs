//! Records as lines of JSON, in a file that rotates or on the standard output.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    record::UsageRecord,
    sink::{RecordSink, SinkError, SinkFuture},
};

/// The size at which a file is rotated, and the number of files that are kept, by default.
const MAX_BYTES: u64 = 100 << 20;
const MAX_FILES: usize = 10;

/// A block of the search for the end of a file's last whole line.
const BLOCK: u64 = 64 << 10;

/// [Sink](RecordSink) that writes each record as a line of JSON (RFC 8259; the lines are separated
/// as in JSON Lines): to a file, or to the standard output.
///
/// A file that a batch would make larger than [`max_bytes`](Self::max_bytes) is renamed first:
/// `usage.jsonl` becomes `usage.jsonl.1`, that becomes `usage.jsonl.2`, and so on;
/// [`max_files`](Self::max_files) of them are kept. The file is locked: each process needs one of
/// its own. If somebody else moves it or cuts it off, the next batch begins a new one.
///
/// A batch is taken once the operating system has it. After a loss of power the last ones may be
/// missing. Half of a line, left by such a loss or by a full disk, is removed before the next one
/// is written.
///
/// ```
/// use tower_credits::records::JsonLines;
///
/// # fn example() -> std::io::Result<()> {
/// let file = JsonLines::file("usage.jsonl")?.max_bytes(1 << 30).max_files(30);
/// let output = JsonLines::stdout();
/// # Ok(())
/// # }
/// ```
pub struct JsonLines {
    target: Arc<Mutex<Target>>,
    name: String,
}

enum Target {
    Stdout,
    File(Rotating),
}

/// A file that is rotated by size.
struct Rotating {
    path: PathBuf,
    /// `None` after a failure: it is opened again.
    open: Option<(File, u64)>,
    max_bytes: u64,
    max_files: usize,
}

impl JsonLines {
    /// Returns a sink that appends to a file, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the file cannot be opened for writing, or if another process has it.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let name = format!("file {}", path.display());
        let mut file = Rotating { path, open: None, max_bytes: MAX_BYTES, max_files: MAX_FILES };
        file.open()?;
        Ok(Self { target: Arc::new(Mutex::new(Target::File(file))), name })
    }

    /// Returns a sink that writes to the standard output.
    pub fn stdout() -> Self {
        Self { target: Arc::new(Mutex::new(Target::Stdout)), name: "standard output".to_owned() }
    }

    /// Sets the size in bytes above which the file is rotated. Default 100 MiB. A larger batch gets
    /// a file of its own.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.with_file(|file| file.max_bytes = bytes)
    }

    /// Sets how many files are kept, the current one included: 1 or more. Default 10.
    #[must_use]
    pub fn max_files(self, files: usize) -> Self {
        self.with_file(|file| file.max_files = files.max(1))
    }

    fn with_file(self, set: impl FnOnce(&mut Rotating)) -> Self {
        if let Target::File(file) = &mut *self.target.lock().unwrap_or_else(PoisonError::into_inner)
        {
            set(file);
        }
        self
    }
}

impl RecordSink for JsonLines {
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
        Box::pin(async move {
            let mut lines = Vec::with_capacity(records.len() * 400);
            for record in records {
                serde_json::to_writer(&mut lines, &**record)
                    .map_err(|error| SinkError::Refused(error.to_string()))?;
                lines.push(b'\n');
            }
            let target = Arc::clone(&self.target);
            let writing = tokio::task::spawn_blocking(move || {
                match &mut *target.lock().unwrap_or_else(PoisonError::into_inner) {
                    Target::Stdout => {
                        let mut output = io::stdout().lock();
                        output.write_all(&lines).and_then(|()| output.flush())
                    }
                    Target::File(file) => file.append(&lines),
                }
            });
            match writing.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(SinkError::Unavailable(error.to_string())),
                Err(error) => Err(SinkError::Unavailable(error.to_string())),
            }
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Rotating {
    /// Opens the file at the end of its last whole line, unless it is open and as this process left
    /// it.
    fn open(&mut self) -> io::Result<(&mut File, &mut u64)> {
        let is_as_left = |(_, length): &(File, u64)| {
            // Somebody may have moved it or cut it off.
            fs::metadata(&self.path).is_ok_and(|found| found.len() == *length)
        };
        let (file, length) = match self.open.take().filter(is_as_left) {
            Some(open) => open,
            None => {
                let mut file =
                    OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
                file.try_lock().map_err(|error| match error {
                    TryLockError::WouldBlock => io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        format!(
                            "another process, or another sink, writes {}: name a file for each",
                            self.path.display()
                        ),
                    ),
                    TryLockError::Error(error) => error,
                })?;
                let length = end_of_lines(&mut file)?;
                file.set_len(length)?;
                (file, length)
            }
        };
        let (file, length) = self.open.insert((file, length));
        Ok((file, length))
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let max_bytes = self.max_bytes;
        let (_, length) = self.open()?;
        if *length > 0 && *length + lines.len() as u64 > max_bytes {
            self.rotate()?;
        }
        let (file, length) = self.open()?;
        if let Err(error) = file.write_all(lines) {
            // The same lines come again: what was written of them must go. If that fails, too, the
            // file is opened again, which removes at least a torn line.
            if file.set_len(*length).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        *length += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let numbered = |number: usize| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        if self.max_files == 1 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.max_files - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }
}

/// Returns the length of a file without what follows its last line end.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        block.clear();
        Read::by_ref(file).take(end - begin).read_to_end(&mut block)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsonLines").field(&self.name).finish()
    }
}
