//! Output: tables for people, JSON for programs.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde::Serialize;
use tower_credits::Credits;

/// Writes a line to the standard output. An error if the reader is gone.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_ref().as_bytes())?;
    output.write_all(b"\n")
}

/// Writes a value as JSON: one line for each value. Characters that a terminal obeys are escaped:
/// outside of strings JSON has none.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    let escape = |c: char| match is_obeyed(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    line(if text.contains(is_obeyed) { text.chars().map(escape).collect() } else { text })
}

/// Returns a table with these heads. Those that begin with `>` are of numbers, on the right.
pub(crate) fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(heads.iter().map(|head| head.trim_start_matches('>')));
    for (index, head) in heads.iter().enumerate() {
        if head.starts_with('>')
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Returns a table of names and values.
pub(crate) fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    for (name, value) in facts {
        table.add_row([Cell::new(name), Cell::new(printable(&value))]);
    }
    table
}

/// Returns the lines of a table, without the white space at their ends.
pub(crate) fn lines(table: &Table) -> String {
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Returns a number with the name of what is counted.
pub(crate) fn counted(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Returns a text without control characters, and without those that change the direction of text:
/// names come from clients, and a terminal obeys them.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || changes_direction(c)
}

/// `true` for `Bidi_Control` (Unicode Standard Annex 9, section 2).
const fn changes_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}')
}

/// Returns an amount, or `no limit`.
pub(crate) fn amount(credits: Credits) -> String {
    if credits == Credits::MAX { "no limit".to_owned() } else { credits.to_string() }
}

/// Returns a limit that may not be set.
pub(crate) fn limit(limit: Option<Credits>) -> String {
    limit.map_or_else(|| "-".to_owned(), amount)
}

/// Returns compute time in seconds, exactly.
pub(crate) fn seconds(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
    let digits = format!("{rest:06}");
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() { format!("{whole} s") } else { format!("{whole}.{digits} s") }
}

/// Returns a duration in milliseconds with three digits.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1_000.0)
}

/// `true` if the standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
