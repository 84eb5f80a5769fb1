//! Fields of a request's body: what the plan's `{body:model}` stands for.
//!
//! The layer decides by such a field what a request costs, and the service decides by it what to
//! run. So a field counts only if every parser reads the same value. All else is refused: two
//! fields of one name, a name in another case or written with escapes, a body that only lenient
//! parsers accept, an encoding that has to be decoded first.
//!
//! Bodies are JSON objects or multipart forms. Nothing is changed: the service gets the bytes that
//! came.

mod content_type;
mod error;
#[cfg(test)]
mod fuzz;
mod json;
mod multipart;
mod parameters;

use std::borrow::Cow;

use http::{HeaderMap, header::CONTENT_ENCODING};

use self::content_type::ContentType;
pub use self::error::BodyProblem;

/// Returns the values of these fields, in this order.
pub(crate) fn read(
    headers: &HeaderMap,
    body: &[u8],
    names: &[&str],
) -> Result<Vec<String>, BodyProblem> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(BodyProblem::Encoded);
    }
    match ContentType::of(headers)? {
        ContentType::Json => json::read(body, names),
        ContentType::Multipart { boundary } => multipart::read(body, &boundary, names),
    }
}

/// The fields that were found so far.
struct Found<'a> {
    names: &'a [&'a str],
    values: Vec<Option<String>>,
}

impl<'a> Found<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        Self { names, values: vec![None; names.len()] }
    }

    /// Returns the number of the field that has this name, or that some parser takes it for.
    fn position(&self, name: &str) -> Option<usize> {
        let folded = fold(name);
        self.names.iter().position(|known| fold(known) == folded)
    }

    /// The problem of a field that is no text.
    fn not_text(&self, at: usize) -> BodyProblem {
        BodyProblem::NotAString(self.names.get(at).copied().unwrap_or_default().to_owned())
    }

    /// Adds a field. `is_plain` if its name is written without escapes.
    fn add(
        &mut self,
        at: usize,
        name: &str,
        is_plain: bool,
        value: String,
    ) -> Result<(), BodyProblem> {
        let Some((known, slot)) = self.names.get(at).zip(self.values.get_mut(at)) else {
            return Ok(());
        };
        if slot.is_some() {
            return Err(BodyProblem::Repeated((*known).to_owned()));
        }
        if name != *known || !is_plain {
            return Err(BodyProblem::Similar((*known).to_owned()));
        }
        *slot = Some(value);
        Ok(())
    }

    fn finish(self) -> Result<Vec<String>, BodyProblem> {
        let missing = |name: &str| BodyProblem::Missing(name.to_owned());
        let values = self.names.iter().zip(self.values);
        values.map(|(name, value)| value.ok_or_else(|| missing(name))).collect()
    }
}

/// Returns the form in which names are the same that some parser takes for each other: those that
/// ignore case, that end a string at a zero byte, or that take `name[]` or `[name]` for a list.
fn fold(name: &str) -> Cow<'_, str> {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.split(['\0', '[']).next().unwrap_or_default();
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let folded = name.chars().flat_map(char::to_lowercase).filter_map(|c| match c {
        // Letters whose upper case is ASCII.
        'ſ' => Some('s'),
        'ı' => Some('i'),
        // The rest of `İ` in lower case.
        '\u{307}' => None,
        c => Some(c),
    });
    Cow::Owned(folded.collect())
}

#[cfg(test)]
mod tests;
