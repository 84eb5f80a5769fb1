//! Events in a file: lines of JSON, or a table.

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, ReceiverFuture},
};
use crate::csv_field;

/// Heads of a table's columns.
const HEAD: &str = "id,account,period,day,model,hardware,feature,subject,time,requests,\
                    compute_microseconds,cost_nano_usd\r\n";

/// [Receiver] that appends events to a file: as lines of JSON, or as a table (RFC 4180).
///
/// A delivery is acknowledged when it is on the disk. One that is repeated after a crash goes on
/// where the file ends, so the file has each event once. Move the file only after an export that
/// ended without an error.
pub struct EventFile {
    path: PathBuf,
    format: Format,
}

#[derive(Clone, Copy)]
enum Format {
    JsonLines,
    Csv,
}

impl EventFile {
    /// Returns a receiver that appends [events](UsageEvent) as lines of JSON to a file, which is
    /// made if it is not there.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the file cannot be opened, if another process has it, or if its folder is
    /// not there.
    pub fn json_lines(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(path.as_ref(), Format::JsonLines)
    }

    /// Returns a receiver that appends [events](UsageEvent) as rows to a file, which is made with a
    /// row of heads if it is not there.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the file cannot be opened, if another process has it, or if its folder is
    /// not there.
    pub fn csv(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(path.as_ref(), Format::Csv)
    }

    fn new(path: &Path, format: Format) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            let reason = format!("{} is no name of a file", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // The same file by whatever path it is named.
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().map_err(|error| {
            let reason = format!("the folder of {}: {error}: make it first", path.display());
            io::Error::new(error.kind(), reason)
        })?;
        let path = folder.join(name);
        if path.exists() {
            drop(open(&path)?);
        }
        Ok(Self { path, format })
    }
}

/// Opens the file for one delivery. Until then somebody may have moved it.
fn open(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("another process writes {}: name a file for each", path.display()),
        ),
        TryLockError::Error(error) => error,
    })?;
    if let Some(folder) = path.parent().filter(|_| is_new) {
        // So that the file is there after a loss of power.
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

impl Receiver for EventFile {
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a> {
        Box::pin(async move {
            let text = match self.format {
                Format::JsonLines => lines(events).map_err(|error| {
                    ReceiverError::denied(format!("an event cannot be written: {error}"))
                })?,
                Format::Csv => rows(events),
            };
            let (path, format) = (self.path.clone(), self.format);
            let writing = tokio::task::spawn_blocking(move || {
                let mut file = open(&path)?;
                if matches!(format, Format::Csv) {
                    begin_table(&mut file)?;
                }
                append(&mut file, text.as_bytes())
            });
            match writing.await {
                Ok(Ok(())) => Ok(Vec::new()),
                Ok(Err(error)) => Err(ReceiverError::unavailable(error.to_string())),
                Err(error) => Err(ReceiverError::unavailable(error.to_string())),
            }
        })
    }

    fn name(&self) -> String {
        let format = match self.format {
            Format::JsonLines => "JSON lines",
            Format::Csv => "CSV",
        };
        format!("file {}, {format}", self.path.display())
    }

    fn batch_size(&self) -> usize {
        1_000
    }
}

fn lines(events: &[UsageEvent]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for event in events {
        text.push_str(&serde_json::to_string(event)?);
        text.push('\n');
    }
    Ok(text)
}

fn rows(events: &[UsageEvent]) -> String {
    let mut text = String::new();
    for event in events {
        let UsageEvent { id, account, period, day, model, hardware, feature, subject, .. } = event;
        let day = day.map(|day| format!("{period}-{day:02}")).unwrap_or_default();
        let subject = subject.as_ref().map_or("", |subject| subject.as_str());
        let (period, time) = (period.to_string(), event.time.to_string());
        let names = [
            id,
            account.as_str(),
            &period,
            &day,
            model.as_str(),
            hardware.as_str(),
            feature.as_str(),
            subject,
            &time,
        ];
        for name in names {
            csv_field::write(&mut text, name);
            text.push(',');
        }
        let UsageEvent { requests, compute_micros, cost, .. } = event;
        // Writing to a string cannot fail.
        let _ = write!(text, "{requests},{compute_micros},{}\r\n", cost.as_nano_usd());
    }
    text
}

/// Writes the heads of the columns if they are not there in full.
fn begin_table(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length >= HEAD.len() as u64 {
        return Ok(());
    }
    let mut begun = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut begun)?;
    if HEAD.as_bytes().starts_with(&begun) {
        file.write_all(HEAD.as_bytes().get(begun.len()..).unwrap_or_default())?;
    }
    Ok(())
}

/// Appends a text, of which the end of the file may have a part already.
fn append(file: &mut File, text: &[u8]) -> io::Result<()> {
    let length = file.metadata()?.len();
    let read = (text.len() as u64).min(length);
    file.seek(SeekFrom::Start(length - read))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let written = (0..=end.len()).rev().find(|have| end.ends_with(&text[..*have])).unwrap_or(0);
    if written == 0 && end.last().is_some_and(|last| *last != b'\n') {
        // A torn line of something else.
        file.write_all(b"\n")?;
    }
    file.write_all(&text[written..])?;
    file.sync_data()
}

impl fmt::Debug for EventFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventFile").field(&self.path).finish()
    }
}
