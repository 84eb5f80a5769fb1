//! Normalization: the ways in which a service may read a path.
//!
//! The layer decides by a path what a request costs, and the service decides by it what to run.
//! Servers, proxies and frameworks normalize paths differently: some decode percent-escapes before
//! they look for a route, some resolve `..`, merge slashes, take `\` for `/`, drop what follows a
//! `;`, or ignore case. So this is the rule for every path that is not canonical:
//!
//! 1. A path is refused if one of its readings has a `.` or `..` segment, a `\`, `?` or `#`, or a
//!    control character.
//! 2. Otherwise every reading is classified: the path with its escapes decoded, without parameters
//!    (`;...`), without empty segments, and with all of that in any order, repeatedly. The path is
//!    refused if readings lead to different workloads. It is also refused if the path itself is
//!    free or metered, and a reading leads to a route that is metered otherwise or refused.
//! 3. A free path, canonical or not, is refused if it is the path of a metered or refused route but
//!    for case and a slash at its end. A metered path is refused if that route is metered
//!    otherwise. A path that a route writes out belongs to that route.
//!
//! A path is canonical if its segments consist of letters, digits and `-._~!$&'()*+,=:@` alone (RFC
//! 3986, section 3.3, without `;` and escapes).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The most readings of a path. A path with more is refused.
const MAX_READINGS: usize = 24;

/// The ways in which a path may be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalization {
    /// As it is written, and in no other way.
    Canonical,
    /// As it is written, and in these ways.
    Ambiguous(Vec<String>),
    /// In a way that leaves its route.
    Refused,
}

impl Normalization {
    pub(super) fn of(path: &str) -> Self {
        if is_canonical(path) {
            return if has_dot_segment(path) { Self::Refused } else { Self::Canonical };
        }
        // Every order in which escapes are decoded, and parameters and empty segments are dropped.
        let mut readings = vec![path.to_owned()];
        let mut next = 0;
        while let Some(text) = readings.get(next).cloned() {
            if has_dot_segment(&text)
                || text.contains(['\\', '?', '#', '\u{fffd}'])
                || text.chars().any(char::is_control)
            {
                return Self::Refused;
            }
            let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
            for reading in [decoded, without_parameters(&text), without_empty_segments(&text)] {
                if !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
            if readings.len() > MAX_READINGS {
                return Self::Refused;
            }
            next += 1;
        }
        readings.remove(0);
        Self::Ambiguous(readings)
    }
}

/// Returns the form in which paths are the same that differ in case, or in a slash at the end.
pub(super) fn fold_case_and_end_slash(path: &str) -> Cow<'_, str> {
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "" => Cow::Borrowed("/"),
        _ if trimmed.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Cow::Owned(trimmed.to_ascii_lowercase())
        }
        _ => Cow::Borrowed(trimmed),
    }
}

fn is_canonical(path: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&byte);
    path.bytes().all(is_allowed) && !path.contains("//")
}

fn has_dot_segment(path: &str) -> bool {
    path.contains('.') && path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<_> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

fn without_empty_segments(path: &str) -> String {
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_its_route_in_some_reading_is_refused() {
        for path in [
            r"/files/..\models\echo",
            "/files/..%2f",
            "/files/%2e%2e%2fmodels/echo",
            "/files/..%5cmodels",
            "/files/..;/models/echo",
            "/files/%252e%252e/models",
            "/files/.%00.",
            "/files/..;a=b;c/x",
            "/files/%2e",
            "/files/.",
            "/files/a%0a",
            "/files/%2525252525252e",
            "/models%3fx",
            "/files/a%23",
            "/files/%FF",
        ] {
            assert_eq!(Normalization::of(path), Normalization::Refused, "{path}");
        }
    }

    #[test]
    fn canonical_paths_are_read_in_one_way_and_others_in_several() {
        for path in
            ["/", "/models/echo", "/a.b/...", "/models/acme:large@1", "/v1/chat/completions", ""]
        {
            assert_eq!(Normalization::of(path), Normalization::Canonical, "{path}");
        }
        let Normalization::Ambiguous(readings) = Normalization::of("//models/acme%2Fx;v=1") else {
            panic!()
        };
        for reading in ["/models/acme/x", "//models/acme/x;v=1", "/models/acme%2Fx"] {
            assert!(readings.iter().any(|known| known == reading), "{reading}: {readings:?}");
        }
        assert_eq!(
            (&*fold_case_and_end_slash("/Models/M/"), &*fold_case_and_end_slash("//")),
            ("/models/m", "/")
        );
    }
}
