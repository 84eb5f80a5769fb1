//! Fields of tables of comma-separated values (RFC 4180).

/// Writes a text in quotation marks, since some spreadsheets separate fields by semicolons. A text
/// that a spreadsheet would take for a formula gets an apostrophe, since names come from clients.
pub(crate) fn write(table: &mut String, text: &str) {
    table.push('"');
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠']) {
        table.push('\'');
    }
    table.push_str(&text.replace('"', "\"\""));
    table.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_never_formulas() {
        for (text, written) in [
            ("rnnoise", "\"rnnoise\""),
            ("a;=1+1", "\"a;=1+1\""),
            ("＝1+1", "\"'＝1+1\""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("", "\"\""),
        ] {
            let mut table = String::new();
            write(&mut table, text);
            assert_eq!(table, written);
        }
    }
}
