//! How a path may be read by whatever stands behind the layer.
//!
//! The layer decides by a path what a request costs, and the service what it runs. Servers, proxies
//! and frameworks do not read every path alike: some decode percent-escapes before they look for a
//! route, some resolve `..`, merge slashes, take `\` for `/`, drop what follows a `;`, or do not
//! mind case. So the rule, for every path that is not plain:
//!
//! 1. A path in which some reading finds a `.` or `..` segment, a `\`, `?`, `#` or a control
//!    character, is not classified: it is refused.
//! 2. Else every reading is classified: the path with its escapes decoded, without parameters
//!    (`;...`), with empty segments left out, and with all of that in any order, again and again.
//!    If they lead to different workloads, or if the path itself is free or metered and a reading
//!    leads to a route that is metered otherwise or refused, it is refused.
//! 3. What is free, plain or not, is refused if it is the path of a metered route, or of one that
//!    refuses, but for case and a slash at its end; what is metered is, if that route is metered
//!    otherwise. A path that a route writes out is that route's.
//!
//! Plain is what consists of segments of letters, digits and `-._~!$&'()*+,=:@` alone (RFC 3986,
//! section 3.3, without `;` and escapes).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The most readings of a path. One that has more is refused.
const MOST_READINGS: usize = 24;

/// How a path may be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In one way.
    Plain,
    /// In these ways, too.
    Ambiguous(Vec<String>),
    /// In a way that leads out of its route.
    Refused,
}

impl Spelling {
    pub(super) fn of(path: &str) -> Self {
        if is_plain(path) {
            return if has_dot_segment(path) { Self::Refused } else { Self::Plain };
        }
        // Every order in which escapes are decoded, parameters dropped and empty segments left out.
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
            if readings.len() > MOST_READINGS {
                return Self::Refused;
            }
            next += 1;
        }
        readings.remove(0);
        Self::Ambiguous(readings)
    }
}

/// The form in which paths are looked up that differ in case, or by a slash at the end.
pub(super) fn folded(path: &str) -> Cow<'_, str> {
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "" => Cow::Borrowed("/"),
        _ if trimmed.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Cow::Owned(trimmed.to_ascii_lowercase())
        }
        _ => Cow::Borrowed(trimmed),
    }
}

fn is_plain(path: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&byte);
    path.bytes().all(is_usual) && !path.contains("//")
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
    fn what_leads_out_of_its_route_in_some_reading_is_refused() {
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
            assert_eq!(Spelling::of(path), Spelling::Refused, "{path}");
        }
    }

    #[test]
    fn plain_paths_are_read_in_one_way_and_others_in_several() {
        for path in
            ["/", "/models/echo", "/a.b/...", "/models/acme:large@1", "/v1/chat/completions", ""]
        {
            assert_eq!(Spelling::of(path), Spelling::Plain, "{path}");
        }
        let Spelling::Ambiguous(readings) = Spelling::of("//models/acme%2Fx;v=1") else { panic!() };
        for reading in ["/models/acme/x", "//models/acme/x;v=1", "/models/acme%2Fx"] {
            assert!(readings.iter().any(|known| known == reading), "{reading}: {readings:?}");
        }
        assert_eq!((&*folded("/Models/M/"), &*folded("//")), ("/models/m", "/"));
    }
}
