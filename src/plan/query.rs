//! Parts of a query, of which all servers read the same.

use percent_encoding::percent_decode_str;

/// Returns the value of a query's part. `None` if there is none, or if servers read it differently:
/// if it is there twice, its name differs in case or has a suffix, or the query has a `;`, which
/// some take for `&`.
pub(super) fn value(query: &str, name: &str) -> Option<String> {
    if query.contains(';') {
        return None;
    }
    let mut found = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decode_str(key).decode_utf8_lossy();
        let similar = decoded.trim_start_matches(['[', '+', ' ']);
        let similar = similar.split(['\0', '[', ']', '.']).next().unwrap_or_default();
        if !similar.trim_end_matches(['+', ' ']).eq_ignore_ascii_case(name) {
            continue;
        }
        // A plus sign stands for itself or for a space.
        if found.is_some() || key != name || value.contains('+') {
            return None;
        }
        found = Some(percent_decode_str(value).decode_utf8().ok()?.into_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_if_every_server_reads_it_alike() {
        for (query, read) in [
            ("model=m", Some("m")),
            ("a=1&model=org%2Fm&b", Some("org/m")),
            ("model=", Some("")),
            ("models=x&model=m", Some("m")),
            ("", None),
            ("model=a&model=b", None),
            ("model=a&Model=b", None),
            ("MODEL=a", None),
            ("mod%65l=a", None),
            ("model=a&model%5B%5D=b", None),
            ("model=a&model%00=b", None),
            ("model=a;model=b", None),
            ("model=a&[model]=b", None),
            ("model=a&%5Bmodel%5D=b", None),
            ("model=a&+model=b", None),
            ("model=a+b", None),
            ("model=%ff", None),
        ] {
            assert_eq!(value(query, "model").as_deref(), read, "{query}");
        }
    }
}
