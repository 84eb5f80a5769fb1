//! Fields of a multipart form (RFC 7578), as browsers and HTTP clients write them.

use memchr::memmem;

use super::{BodyProblem, Found, parameters};

const LINE_END: &[u8] = b"\r\n";

/// The most parts of a form.
const MAX_PARTS: usize = 1_000;

pub(super) fn read(
    body: &[u8],
    boundary: &str,
    names: &[&str],
) -> Result<Vec<String>, BodyProblem> {
    let mut found = Found::new(names);
    let delimiter = format!("--{boundary}");
    let mut starts = memmem::find_iter(body, delimiter.as_bytes());
    let Some(mut start) = starts.next().filter(|start| *start == 0) else {
        return Err(BodyProblem::Multipart("it does not begin with its boundary"));
    };
    for (number, end) in starts.enumerate() {
        if number >= MAX_PARTS {
            return Err(BodyProblem::Multipart("it has more than 1 000 parts"));
        }
        // The boundary may stand nowhere else: parsers differ in what they take for one.
        let part = body.get(start + delimiter.len()..end).unwrap_or_default();
        let inner = part.strip_prefix(LINE_END).and_then(|part| part.strip_suffix(LINE_END));
        let part = Part::parse(inner.ok_or(BodyProblem::Multipart(
            "its boundary stands within a line, or a line does not end with CRLF",
        ))?)?;
        if let Some(at) = found.position(part.name) {
            let value = part.text().ok_or_else(|| found.not_text(at))?;
            found.add(at, part.name, true, value.to_owned())?;
        }
        start = end;
    }
    let after = body.get(start + delimiter.len()..).unwrap_or_default();
    if !matches!(after, b"--" | b"--\r\n") {
        return Err(BodyProblem::Multipart("it does not end with its boundary and `--`"));
    }
    found.finish()
}

/// A part of a form.
struct Part<'a> {
    name: &'a str,
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
                .filter(|(name, _)| http::HeaderName::from_bytes(name.as_bytes()).is_ok())
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
            .and_then(|(_, rest)| parameters::parse(rest))
            // Servers give others a meaning: `name*0`, for example.
            .filter(|found| parameters::are_only(found, &["name", "filename", "filename*"]));
        let name = parameters.as_ref().and_then(|found| parameters::get(found, "name"));
        let (Some(parameters), Some(name)) = (&parameters, name.filter(|name| is_plain(name)))
        else {
            return Err(BodyProblem::Multipart(
                "a part's `Content-Disposition` is not `form-data; name=\"<name>\"`, with a plain \
                 name and, for a file, a `filename`: write both words in lower case, and only \
                 ASCII letters, digits and `_-.[]` in a name",
            ));
        };
        is_file |= ["filename", "filename*"]
            .iter()
            .any(|filename| parameters::get(parameters, filename).is_some());
        Ok(Self { name, is_file, content: content.unwrap_or_default() })
    }

    /// Returns its content, if it is a text.
    fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.content).ok().filter(|_| !self.is_file)
    }
}

/// `true` for a name that every server reads as it is written: without escapes, encoded words and
/// spaces.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte))
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
