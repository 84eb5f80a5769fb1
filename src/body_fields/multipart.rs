//! Fields of a multipart form (RFC 7578), as browsers and HTTP clients write them.

use memchr::memmem;
use percent_encoding::percent_decode_str;

use super::{BodyProblem, Found, fold, parameters};

const LINE_END: &[u8] = b"\r\n";

pub(super) fn read(
    body: &[u8],
    boundary: &str,
    names: &[&str],
) -> Result<Vec<String>, BodyProblem> {
    let mut found = Found::new(names);
    for part in parts(body, boundary)? {
        let part = Part::parse(part?)?;
        let Some(at) = found.position(&part.name) else { continue };
        let value =
            part.text().ok_or_else(|| BodyProblem::NotText(fold(&part.name).into_owned()))?;
        found.add(at, &part.name, part.is_plain, value.to_owned())?;
    }
    found.finish()
}

/// Splits a form at its boundary. The boundary may stand nowhere else: parsers differ in what they
/// take for one.
fn parts<'a>(
    body: &'a [u8],
    boundary: &str,
) -> Result<impl Iterator<Item = Result<&'a [u8], BodyProblem>>, BodyProblem> {
    let delimiter = format!("--{boundary}");
    let starts: Vec<_> = memmem::find_iter(body, delimiter.as_bytes()).collect();
    let after = |start: usize| body.get(start + delimiter.len()..).unwrap_or_default();
    let (Some(0), Some(last)) = (starts.first(), starts.last()) else {
        return Err(BodyProblem::Multipart("it does not begin with its boundary"));
    };
    if !matches!(after(*last), b"--" | b"--\r\n") {
        return Err(BodyProblem::Multipart("it does not end with its boundary and `--`"));
    }
    let ends = starts.clone().into_iter().skip(1);
    let ranges = starts.clone().into_iter().zip(ends);
    let length = delimiter.len();
    Ok(ranges.map(move |(start, end)| {
        let part = body.get(start + length..end).unwrap_or_default();
        let inner = part.strip_prefix(LINE_END).and_then(|part| part.strip_suffix(LINE_END));
        inner.ok_or(BodyProblem::Multipart(
            "its boundary stands within a line, or a line does not end with CRLF",
        ))
    }))
}

/// A part of a form.
struct Part<'a> {
    name: String,
    /// The name is written without escapes.
    is_plain: bool,
    /// It is a file, or is encoded.
    is_file: bool,
    content: &'a [u8],
}

impl<'a> Part<'a> {
    fn parse(part: &'a [u8]) -> Result<Self, BodyProblem> {
        let head_end = memmem::find(part, b"\r\n\r\n")
            .ok_or(BodyProblem::Multipart("a part has no empty line after its header fields"))?;
        let (head, content) = (part.get(..head_end), part.get(head_end + 4..));
        let head = std::str::from_utf8(head.unwrap_or_default())
            .map_err(|_| BodyProblem::Multipart("a part's header fields are not UTF-8"))?;
        let (mut disposition, mut is_file) = (None, false);
        for line in head.split("\r\n") {
            if line.contains(|c: char| c.is_control() && c != '\t') {
                return Err(BodyProblem::Multipart(
                    "a part's header fields have control characters",
                ));
            }
            let (name, value) = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty() && !name.contains([' ', '\t']))
                .ok_or(BodyProblem::Multipart("a part has a line that is no header field"))?;
            match name.to_ascii_lowercase().as_str() {
                "content-disposition" if disposition.is_some() => {
                    return Err(BodyProblem::Multipart("a part has two `Content-Disposition`"));
                }
                "content-disposition" => disposition = Some(value.trim_matches([' ', '\t'])),
                "content-type" => is_file |= !is_plain_text(value),
                "content-transfer-encoding" | "content-encoding" => is_file = true,
                _ => {}
            }
        }
        let parameters = disposition
            .and_then(|value| value.split_at_checked("form-data".len()))
            .filter(|(kind, _)| kind.eq_ignore_ascii_case("form-data"))
            .and_then(|(_, rest)| parameters::parse(rest));
        let name = parameters.as_ref().and_then(|parameters| {
            // The extended form of a name is forbidden (RFC 7578, section 5.1), and some read it.
            let has_other = parameters::get(parameters, "name*").is_some();
            parameters::get(parameters, "name").filter(|_| !has_other)
        });
        let (Some(parameters), Some(name)) = (&parameters, name) else {
            return Err(BodyProblem::Multipart(
                "a part's `Content-Disposition` is not `form-data; name=\"<name>\"`",
            ));
        };
        is_file |= ["filename", "filename*"]
            .iter()
            .any(|filename| parameters::get(parameters, filename).is_some());
        let decoded = percent_decode_str(&name.replace('\\', "")).decode_utf8_lossy().into_owned();
        let is_plain = decoded == name;
        Ok(Self { name: decoded, is_plain, is_file, content: content.unwrap_or_default() })
    }

    /// Returns its content, if it is a text.
    fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.content).ok().filter(|_| !self.is_file)
    }
}

/// `true` for a text in UTF-8, or one whose charset is not stated.
fn is_plain_text(content_type: &str) -> bool {
    let (essence, rest) =
        content_type.split_at(content_type.find(';').unwrap_or(content_type.len()));
    let charset = parameters::parse(rest)
        .map(|parameters| parameters::get(&parameters, "charset").unwrap_or("utf-8").to_owned());
    essence.trim().eq_ignore_ascii_case("text/plain")
        && charset.is_some_and(|charset| charset.eq_ignore_ascii_case("utf-8"))
}
