//! Parameters of a header field's value (RFC 9110, section 5.6.6), of which all parsers read the
//! same: `; name="value"; other=value`.

/// Reads parameters, with their names as they are written; `None` if parsers may differ.
pub(super) fn parse(mut text: &str) -> Option<Vec<(&str, &str)>> {
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    loop {
        text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Some(parameters);
        }
        text = text.strip_prefix(';')?.trim_start_matches([' ', '\t']);
        let (name, rest) = text.split_once('=')?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        let value;
        (value, text) = if let Some(quoted) = rest.strip_prefix('"') {
            let (value, rest) = quoted.split_once('"')?;
            // Parsers differ in what a backslash before a quote means, and some split at every
            // semicolon.
            if value.ends_with('\\') || value.contains(';') {
                return None;
            }
            (value, rest)
        } else {
            let end = rest.find([';', ' ', '\t']).unwrap_or(rest.len());
            let (value, rest) = rest.split_at_checked(end)?;
            if value.is_empty() || !value.bytes().all(is_token) {
                return None;
            }
            (value, rest)
        };
        if get(&parameters, name).is_some() {
            return None;
        }
        parameters.push((name, value));
    }
}

/// `true` if there are no parameters but these, with their names written like this: only some
/// parsers read `NAME` as `name`.
pub(super) fn are_only(parameters: &[(&str, &str)], names: &[&str]) -> bool {
    parameters.iter().all(|(name, _)| names.contains(name))
}

/// Returns the value of a parameter. Its name may be in capitals.
pub(super) fn get<'a>(parameters: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    let found = parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| *value)
}

/// `true` for the characters of a token (RFC 9110, section 5.6.2).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
