//! Tokens in files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{BearerTokens, TokensError, document, table::TokenTable};
use crate::{
    observe,
    reload::{self, Applied},
};

impl BearerTokens {
    /// Reads tokens from a file. [`watch`](Self::watch) also follows its changes.
    ///
    /// # Errors
    ///
    /// [`TokensError`] if the file cannot be read, or with its wrong line and what to write
    /// instead.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokensError> {
        let path = path.as_ref();
        parse(path, reload::read(path)).map(Self::from_table)
    }

    /// Reads tokens from TOML, as in a file.
    ///
    /// # Errors
    ///
    /// [`TokensError`] with the wrong line, and what to write instead.
    pub fn from_toml(text: &str) -> Result<Self, TokensError> {
        document::read(text).map(Self::from_table)
    }

    /// Reads tokens from a file and follows its changes: a token that is removed from it stops
    /// working within two seconds.
    ///
    /// A file that became wrong changes nothing; its line and what to write instead are logged. So
    /// is a file without tokens, unless it says `tokens = []`.
    ///
    /// Starts a thread that reads the file more than once a second. The thread ends when the last
    /// clone is dropped.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file); also if no thread can be started.
    pub fn watch(path: impl Into<PathBuf>) -> Result<Self, TokensError> {
        let path = path.into();
        let text = reload::read(&path).map_err(|error| unreadable(&path, error))?;
        let tokens = Self::from_table(parse(&path, Ok(text.clone()))?);
        let (alive, watched) = (Arc::downgrade(tokens.live()), Arc::downgrade(tokens.live()));
        let file = path.clone();
        let apply = move |content: io::Result<String>| {
            let Some(live) = watched.upgrade() else { return Applied::Stop };
            match parse(&file, content) {
                Ok(table) => observe::reloaded("tokens", &file, Some(live.replace(table))),
                Err(error) => {
                    observe::not_reloaded("tokens", &error);
                    live.set_refused(Some(error.to_string()));
                }
            }
            Applied::Done
        };
        reload::follow(path.clone(), &text, move || alive.strong_count() > 0, apply).map_err(
            |source| TokensError {
                file: Some(path),
                line: None,
                reason: "cannot be watched: no thread could be started".to_owned(),
                source: Some(source),
            },
        )?;
        Ok(tokens)
    }
}

fn parse(path: &Path, content: io::Result<String>) -> Result<TokenTable, TokensError> {
    let text = content.map_err(|error| unreadable(path, error))?;
    document::read(&text).map_err(|error| error.in_file(path))
}

fn unreadable(path: &Path, source: io::Error) -> TokensError {
    TokensError {
        file: Some(path.to_owned()),
        line: None,
        reason: format!("cannot be read: {source}"),
        source: Some(source),
    }
}
