//! How a path may be read by whatever stands behind the layer.
//!
//! The layer decides by a path what a request costs, and the service what it runs. Servers, proxies and frameworks do not read every path alike: some
//! decode percent-escapes before they look for a route, some resolve `..`, merge slashes, take `\` for `/`, drop what follows a `;`, or do not mind
//! case. So the rule, for every path that is not plain:
//!
//! 1. A path in which some reading finds a `.` or `..` segment, a `\`, or a control character, is not classified: it is refused.
//! 2. Else every reading is classified: the path with its escapes decoded, up to four times; each of those without parameters (`;...`); and each of those
//!    with empty segments left out. Where they lead to different workloads, or where the path itself is free and a reading is metered, it is refused.
//! 3. What is free, plain or not, is refused if it is the path of a metered route but for case and a slash at its end.
//!
//! Plain is what consists of segments of letters, digits and `-._~!$&'()*+,=:@` alone (RFC 3986, section 3.3, without `;` and escapes).

use percent_encoding::percent_decode_str;

/// How often escapes are decoded. A path that still changes then is refused.
const MOST_DECODED: usize = 4;

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
        let mut readings: Vec<String> = Vec::new();
        let mut text = path.to_owned();
        for _ in 0..MOST_DECODED {
            for reading in [without_parameters(&text), text.clone()] {
                if has_dot_segment(&reading) || reading.contains(['\\', '\u{fffd}']) || reading.chars().any(char::is_control) {
                    return Self::Refused;
                }
                let merged = without_empty_segments(&reading);
                for reading in [reading, merged] {
                    if reading != path && !readings.contains(&reading) {
                        readings.push(reading);
                    }
                }
            }
            let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
            if decoded == text {
                return Self::Ambiguous(readings);
            }
            text = decoded;
        }
        Self::Refused
    }
}

/// The form in which paths are looked up that differ in case, or by a slash at the end.
pub(super) fn folded(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_ascii_lowercase() }
}

fn is_plain(path: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&byte);
    path.bytes().all(is_usual) && !path.contains("//")
}

fn has_dot_segment(path: &str) -> bool {
    path.contains('.') && path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
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
            "/files/%FF",
        ] {
            assert_eq!(Spelling::of(path), Spelling::Refused, "{path}");
        }
    }

    #[test]
    fn plain_paths_are_read_in_one_way_and_others_in_several() {
        for path in ["/", "/models/echo", "/a.b/...", "/models/acme:large@1", "/v1/chat/completions", ""] {
            assert_eq!(Spelling::of(path), Spelling::Plain, "{path}");
        }
        let Spelling::Ambiguous(readings) = Spelling::of("//models/acme%2Fx;v=1") else { panic!() };
        for reading in ["/models/acme/x", "//models/acme/x;v=1", "/models/acme%2Fx"] {
            assert!(readings.iter().any(|known| known == reading), "{reading}: {readings:?}");
        }
        assert_eq!((folded("/Models/M/").as_str(), folded("//").as_str()), ("/models/m", "/"));
    }
}
