//! Parameters of a header field's value (RFC 9110, section 5.6.6), of which all parsers read the
//! same: `; name="value"; other=value`.

/// Reads parameters; `None` if parsers may differ.
pub(super) fn parse(mut text: &str) -> Option<Vec<(String, &str)>> {
    let mut parameters: Vec<(String, &str)> = Vec::new();
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
        let name = name.to_ascii_lowercase();
        if parameters.iter().any(|(known, _)| *known == name) {
            return None;
        }
        parameters.push((name, value));
    }
}

/// `true` if there are no parameters but these.
pub(super) fn are_only(parameters: &[(String, &str)], names: &[&str]) -> bool {
    parameters.iter().all(|(name, _)| names.contains(&name.as_str()))
}

/// Returns the value of a parameter.
pub(super) fn get<'a>(parameters: &[(String, &'a str)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
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
