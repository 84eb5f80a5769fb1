//! Import of a CSV file into a database of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use rusqlite::{Connection, ErrorCode, params_from_iter, types::Value as Cell};
use serde::Serialize;

use super::{Sheet, StudioError, Table, query};

const MAX_BYTES: usize = 1 << 20;
const MAX_COLUMNS: usize = 50;
const MAX_ROWS: usize = 20_000;
const MAX_NAME_BYTES: usize = 40;
const SHOWN_ROWS: usize = 8;
/// A column with at most so many different values is a category: a model is told all of them.
const MAX_CATEGORIES: usize = 12;
const MAX_CATEGORY_BYTES: usize = 30;

/// A column. The type is inferred from all of its values.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// All values, if it is a text of few different ones.
    #[serde(skip)]
    pub(super) categories: Vec<String>,
}

/// A type of SQLite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Kind {
    Integer,
    Real,
    Text,
}

impl Kind {
    fn sql(self) -> &'static str {
        match self {
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
            Self::Text => "TEXT",
        }
    }

    /// Returns the narrowest type that holds all of these texts.
    fn of<'a>(mut texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        if texts.clone().next().is_none() {
            Self::Text
        } else if texts.clone().all(|text| integer(text).is_some()) {
            Self::Integer
        } else if texts.all(|text| real(text).is_some()) {
            Self::Real
        } else {
            Self::Text
        }
    }

    fn cell(self, text: &str) -> Cell {
        let number = match self {
            _ if text.is_empty() => return Cell::Null,
            Self::Integer => integer(text.trim()).map(Cell::Integer),
            Self::Real => real(text.trim()).map(Cell::Real),
            Self::Text => None,
        };
        number.unwrap_or_else(|| Cell::Text(text.to_owned()))
    }
}

/// Numbers that begin with a zero are codes, like postcodes: a number would lose the zero.
fn is_code(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

fn integer(text: &str) -> Option<i64> {
    if is_code(text) || text.starts_with('+') { None } else { text.parse().ok() }
}

fn real(text: &str) -> Option<f64> {
    let is_number = text.bytes().all(|byte| b"0123456789.-+eE".contains(&byte));
    // More digits than an integer has would be lost.
    let is_long = text.len() > 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_code(text) || !is_number || is_long {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

struct Row {
    line: u64,
    record: StringRecord,
}

pub(super) fn import(name: &str, csv: &[u8]) -> Result<Sheet, StudioError> {
    if csv.len() > MAX_BYTES {
        return Err(StudioError::LargeFile);
    }
    let mut rows = read(csv.strip_prefix(b"\xef\xbb\xbf").unwrap_or(csv))?.into_iter();
    let header = rows.next().ok_or_else(|| {
        StudioError::Csv("The file is empty. Its first line must name the columns.".into())
    })?;
    let rows: Vec<Row> = rows.collect();
    check(&header, &rows)?;

    let mut connection = Connection::open_in_memory().map_err(failure)?;
    query::bound_memory(&connection).map_err(failure)?;
    let name = usable(&connection, &sanitised(name, "data"));
    let columns = columns(&connection, &header.record, &rows);
    fill(&mut connection, &name, &columns, &rows)?;
    query::confine(&mut connection, &name).map_err(failure)?;

    let shown = rows.iter().take(SHOWN_ROWS).map(|row| {
        let cells = columns.iter().zip(&row.record).map(|(column, text)| column.kind.cell(text));
        cells.map(|cell| query::json((&cell).into())).collect()
    });
    let table = Table { name, rows: shown.collect(), row_count: rows.len(), columns };
    Ok(Sheet { table: Arc::new(table), connection: Mutex::new(connection) })
}

fn read(csv: &[u8]) -> Result<Vec<Row>, StudioError> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(csv);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(1, csv::Position::line);
            let problem = match error.kind() {
                ErrorKind::Utf8 { .. } => "this is no UTF-8. Save the file as UTF-8.".into(),
                _ => error.to_string(),
            };
            StudioError::Line { line, problem }
        })?;
        // Checked here, so that a long file is not read to its end.
        if rows.len() > MAX_ROWS {
            return Err(StudioError::Csv(format!(
                "The file has more than {MAX_ROWS} rows. Upload a part of it."
            )));
        }
        let line = record.position().map_or(1, csv::Position::line);
        rows.push(Row { line, record });
    }
    Ok(rows)
}

fn check(header: &Row, rows: &[Row]) -> Result<(), StudioError> {
    let count = header.record.len();
    let at_header = |problem| Err(StudioError::Line { line: header.line, problem });
    if count > MAX_COLUMNS {
        return at_header(format!("{count} columns. At most {MAX_COLUMNS} can be taken."));
    }
    if count == 1 && header.record.iter().any(|name| name.contains([';', '\t'])) {
        return at_header("the columns must be separated by commas.".into());
    }
    match rows.iter().find(|row| row.record.len() != count) {
        None => Ok(()),
        Some(row) => Err(StudioError::Line {
            line: row.line,
            problem: format!(
                "{}, but the first line names {}. Quote values that have commas in them.",
                counted(row.record.len(), "value"),
                counted(count, "column")
            ),
        }),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns a name of `[a-z_][a-z0-9_]*`.
fn sanitised(name: &str, otherwise: &str) -> String {
    let mut clean = String::new();
    for letter in name.trim().chars().map(|letter| letter.to_ascii_lowercase()) {
        if letter.is_ascii_alphanumeric() {
            clean.push(letter);
        } else if !clean.is_empty() && !clean.ends_with('_') {
            clean.push('_');
        }
    }
    clean.truncate(MAX_NAME_BYTES);
    let clean = clean.trim_end_matches('_');
    if clean.is_empty() {
        otherwise.to_owned()
    } else if clean.starts_with(|first: char| first.is_ascii_digit()) || clean.starts_with("sqlite")
    {
        // SQLite keeps `sqlite_` to itself.
        format!("_{clean}")
    } else {
        clean.to_owned()
    }
}

/// Appends `_` to a word of SQL's that cannot be used as a name without quotes, like `order`.
fn usable(connection: &Connection, name: &str) -> String {
    let probe = format!("SELECT {name} FROM (SELECT 'x' AS {name})");
    let is_name = connection.query_row(&probe, [], |row| row.get::<_, String>(0));
    if is_name.is_ok_and(|text| text == "x") { name.to_owned() } else { format!("{name}_") }
}

fn columns(connection: &Connection, header: &StringRecord, rows: &[Row]) -> Vec<Column> {
    let mut taken = BTreeSet::new();
    let mut unique = |index: usize, name: &str| {
        let name = usable(connection, &sanitised(name, &format!("column_{}", index + 1)));
        let again = (2..).map(|count| format!("{name}_{count}"));
        let free = std::iter::once(name.clone()).chain(again).find(|name| !taken.contains(name));
        let name = free.unwrap_or(name);
        taken.insert(name.clone());
        name
    };
    let named = header.iter().enumerate().map(|(index, name)| {
        let texts = rows.iter().filter_map(|row| row.record.get(index));
        let texts = texts.filter(|text| !text.is_empty());
        let kind = Kind::of(texts.clone().map(str::trim));
        let categories = if kind == Kind::Text { categories(texts) } else { Vec::new() };
        Column { name: unique(index, name), kind, categories }
    });
    named.collect()
}

/// Returns the different values, the most frequent ones first; none if there are too many.
fn categories<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in texts {
        if text.len() > MAX_CATEGORY_BYTES || text.contains(char::is_control) {
            return Vec::new();
        }
        *counts.entry(text).or_default() += 1;
        if counts.len() > MAX_CATEGORIES {
            return Vec::new();
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(text, _)| text.to_owned()).collect()
}

fn fill(
    connection: &mut Connection,
    name: &str,
    columns: &[Column],
    rows: &[Row],
) -> Result<(), StudioError> {
    let transaction = connection.transaction().map_err(failure)?;
    let list: Vec<_> =
        columns.iter().map(|it| format!("\"{}\" {}", it.name, it.kind.sql())).collect();
    let create = format!("CREATE TABLE \"{name}\" ({})", list.join(", "));
    transaction.execute(&create, []).map_err(failure)?;
    let marks = vec!["?"; columns.len()].join(", ");
    {
        let insert = format!("INSERT INTO \"{name}\" VALUES ({marks})");
        let mut insert = transaction.prepare(&insert).map_err(failure)?;
        for row in rows {
            let cells = columns.iter().zip(&row.record).map(|(it, text)| it.kind.cell(text));
            insert.execute(params_from_iter(cells)).map_err(|error| {
                match error.sqlite_error_code() {
                    Some(ErrorCode::TooBig) => StudioError::Line {
                        line: row.line,
                        problem: "the row has more than 128 KiB. Shorten its texts.".into(),
                    },
                    _ => failure(error),
                }
            })?;
        }
    }
    transaction.commit().map_err(failure)
}

fn failure(error: rusqlite::Error) -> StudioError {
    match error.sqlite_error_code() {
        Some(ErrorCode::OutOfMemory) => StudioError::Full,
        _ => StudioError::Database(error),
    }
}
