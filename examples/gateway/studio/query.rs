//! Bounds of a query: what it may do, and how much time, memory and answer it may use.
//!
//! * An authorizer allows SELECT, reads of the table, and the functions in [`FUNCTIONS`].
//!   Everything else is refused before it runs: writes, ATTACH, PRAGMA, recursion, other tables.
//! * A progress handler stops the query after a second. It runs between the steps of SQLite's
//!   machine, so no single step may be long: hence short texts, and no function whose time grows
//!   faster than its input, like `replace`.
//! * Texts are bounded for each connection, and the memory of all connections together.

use std::time::{Duration, Instant};

use rusqlite::{
    Connection, Error, ErrorCode,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};
use serde::Serialize;
use serde_json::Value;

use super::StudioError;

const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_ROWS: usize = 200;
/// Bytes of an answer's rows, as JSON.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Bytes of a text, and of a row. An import says it in words, too.
const MAX_TEXT_BYTES: i32 = 128 << 10;
/// Bytes of all databases and queries of this process. Nothing else bounds the planning of nested
/// subqueries, whose expressions can double with each level.
const MAX_MEMORY_BYTES: i64 = 256 << 20;
const MAX_SQL_BYTES: usize = 4_096;
/// Steps between two looks at the clock: about 20 microseconds.
const STEPS: i32 = 1_000;

/// Functions that a query may call. Each takes time and memory in proportion to its input.
const FUNCTIONS: [&str; 49] = [
    "abs",
    "avg",
    "ceil",
    "ceiling",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "date",
    "datetime",
    "dense_rank",
    "first_value",
    "floor",
    "glob",
    "group_concat",
    "ifnull",
    "iif",
    "julianday",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "lower",
    "max",
    "median",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "percent_rank",
    "pow",
    "power",
    "rank",
    "round",
    "row_number",
    "sign",
    "sqrt",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "time",
    "total",
    "typeof",
    "unixepoch",
    "upper",
];

/// An answer to a query.
#[derive(Debug, Serialize)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
    /// `true` if there are more rows.
    pub(crate) truncated: bool,
    pub(crate) milliseconds: u64,
}

/// Bounds what the connection uses. The sum is the process's, and stays as the first call set it.
pub(super) fn bound_memory(connection: &Connection) -> Result<(), Error> {
    connection.pragma_update(None, "hard_heap_limit", MAX_MEMORY_BYTES)?;
    // Sorting counts as memory, too, and never writes to a disk.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_TEXT_BYTES)?;
    Ok(())
}

/// Confines the connection to reading this table.
pub(super) fn confine(connection: &mut Connection, table: &str) -> Result<(), Error> {
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 50),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 10),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 20),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    let table = table.to_owned();
    connection.authorizer(Some(move |context: AuthContext<'_>| match context.action {
        AuthAction::Select => Authorization::Allow,
        // Without a column it counts the rows of a subquery.
        AuthAction::Read { table_name, column_name } => {
            if table_name == table || column_name.is_empty() {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }
        AuthAction::Function { function_name } if FUNCTIONS.contains(&function_name) => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }))
}

pub(super) fn run(connection: &mut Connection, sql: &str) -> Result<Rows, StudioError> {
    let started = Instant::now();
    let is_late = move || started.elapsed() > MAX_TIME;
    connection.progress_handler(STEPS, Some(is_late)).map_err(StudioError::Database)?;
    let mut answer = read(connection, sql)?;
    answer.milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(answer)
}

fn read(connection: &Connection, sql: &str) -> Result<Rows, StudioError> {
    if sql.len() > MAX_SQL_BYTES {
        return Err(StudioError::Sql(format!("it is longer than {MAX_SQL_BYTES} bytes")));
    }
    let mut statement = connection.prepare(sql).map_err(refusal)?;
    // The authorizer has refused most of these. It is not asked about a REINDEX without indexes.
    let is_select = statement.column_count() > 0 && statement.is_explain() == 0;
    if !statement.readonly() || !is_select {
        return Err(StudioError::Forbidden("this is another statement".into()));
    }
    let columns: Vec<_> = statement.column_names().map(str::to_owned).collect();
    let mut answer = Rows { columns, rows: Vec::new(), truncated: false, milliseconds: 0 };
    let mut bytes = 0;
    let mut rows = statement.query([]).map_err(refusal)?;
    while let Some(row) = rows.next().map_err(refusal)? {
        let cells = (0..answer.columns.len()).map(|index| row.get_ref(index).map(json));
        let cells = cells.collect::<Result<Vec<_>, _>>().map_err(refusal)?;
        bytes += serde_json::to_vec(&cells).map_or(MAX_ANSWER_BYTES, |json| json.len());
        if answer.rows.len() == MAX_ROWS || bytes > MAX_ANSWER_BYTES {
            answer.truncated = true;
            break;
        }
        answer.rows.push(cells);
    }
    Ok(answer)
}

/// Returns a value that browsers read without loss.
pub(super) fn json(value: ValueRef<'_>) -> Value {
    /// Up to here, a browser's number is exact.
    const MAX_EXACT: u64 = 1 << 53;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) if number.unsigned_abs() > MAX_EXACT => {
            Value::from(number.to_string())
        }
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) if number.is_finite() => Value::from(number),
        ValueRef::Real(number) => Value::from(number.to_string()),
        ValueRef::Text(bytes) => Value::from(String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) => Value::from(format!("{} bytes", bytes.len())),
    }
}

fn refusal(error: Error) -> StudioError {
    let message = match &error {
        Error::SqlInputError { msg, .. } | Error::SqliteFailure(_, Some(msg)) => msg.clone(),
        Error::MultipleStatement => {
            return StudioError::Forbidden("there are several statements".into());
        }
        Error::Empty => "there is no statement".into(),
        _ => String::new(),
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => StudioError::Slow,
        Some(ErrorCode::TooBig | ErrorCode::OutOfMemory) => StudioError::LargeQuery,
        Some(ErrorCode::AuthorizationForStatementDenied) => StudioError::Forbidden(message),
        // SQLite gives a function that is not allowed the code of any error.
        _ if message.starts_with("not authorized") => StudioError::Forbidden(message),
        _ if message.is_empty() => StudioError::Database(error),
        _ => StudioError::Sql(message),
    }
}
