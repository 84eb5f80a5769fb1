//! The prompt with which a model turns a question into SQL, and the grammar that it must keep to.
//!
//! The smallest models copy more than they think. So the prompt shows the four examples that are
//! nearest to the question, made of the table's own columns; and the grammar, which llama.cpp
//! enforces on every token, leaves only SQL that runs.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Column, Kind, Table};

const EXAMPLES: usize = 4;
const MAX_QUESTION_CHARS: usize = 300;

/// Words that mean the same, each with the word that stands for it.
const SYNONYMS: [(&str, &str); 8] = [
    ("highest", "most largest biggest greatest max maximum best top"),
    ("lowest", "fewest smallest least min minimum worst"),
    ("average", "mean"),
    ("many", "number count"),
    ("by", "per each"),
    ("over", "more greater above"),
    ("under", "less below fewer"),
    ("show", "list display"),
];
/// Words that say nothing about the SQL.
const FILLERS: &str =
    "the a an all is are was there what how of in with and for to have has do did we which than";

/// Returns a prompt for `/v1/completions`. The model's answer, at temperature 0 and with the
/// table's [`grammar`], is SQL and a line break.
pub(crate) fn prompt(table: &Table, question: &str) -> String {
    let question: String = question
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(MAX_QUESTION_CHARS)
        .collect();
    let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut text = format!("Table {} has the columns {}.\n\n", table.name, names.join(", "));
    for (question, sql) in nearest(table, &question) {
        let _ = write!(text, "Question: {question}\nSQL: {sql}\n");
    }
    let _ = write!(text, "Question: {}\nSQL: ", question.trim());
    text
}

/// Returns the examples that share most words with the question, the nearest one last.
fn nearest(table: &Table, question: &str) -> Vec<(String, String)> {
    let values: Vec<_> =
        categories(table).flat_map(|it| &it.categories).map(|it| plain(it)).collect();
    let meant = keywords(question, &values);
    let mut examples: Vec<_> = examples(table, &plain(question))
        .into_iter()
        .map(|example| {
            let words = keywords(&example.0, &values);
            let shared = words.intersection(&meant).count();
            // Parts of a million, because floating point has no order.
            (shared * 1_000_000 / words.union(&meant).count().max(1), example)
        })
        .collect();
    examples.sort_by_key(|(likeness, _)| *likeness);
    let others = examples.len().saturating_sub(EXAMPLES);
    examples.into_iter().skip(others).map(|(_, example)| example).collect()
}

fn categories(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(|column| !column.categories.is_empty())
}

/// Returns the lower-case words without their plural's s, between spaces.
fn plain(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|letter: char| !letter.is_alphanumeric()).filter(|it| !it.is_empty());
    words.fold(" ".to_owned(), |mut all, word| {
        let singular = if word.len() > 3 { word.strip_suffix('s').unwrap_or(word) } else { word };
        all.push_str(singular);
        all.push(' ');
        all
    })
}

/// Returns the words that say which SQL is asked for. Values of the table count as one word.
fn keywords(text: &str, values: &[String]) -> BTreeSet<String> {
    let mut text = plain(text);
    for value in values.iter().filter(|value| !value.trim().is_empty()) {
        text = text.replace(value.as_str(), " =value ");
    }
    let keyword = |word: &str| {
        if word.starts_with(|first: char| first.is_ascii_digit()) {
            return "#".to_owned();
        }
        let meaning = SYNONYMS.iter().find(|(_, others)| others.split(' ').any(|it| it == word));
        meaning.map_or(word, |(meaning, _)| meaning).to_owned()
    };
    let fillers: Vec<_> = FILLERS.split(' ').collect();
    text.split_whitespace().filter(|word| !fillers.contains(word)).map(keyword).collect()
}

/// Returns questions with their SQL, made of the columns that the question names, else of others.
fn examples(table: &Table, question: &str) -> Vec<(String, String)> {
    let t = &table.name;
    let mentioned = |text: &str| {
        let text = plain(text);
        !text.trim().is_empty() && question.contains(&text)
    };
    let named = |column: &&Column| mentioned(&column.name);
    // The column of a value that is mentioned is what to filter by, so it is not what to group by.
    let filter = categories(table).find(|column| column.categories.iter().any(|it| mentioned(it)));
    let is_other = |column: &&Column| filter.is_none_or(|filter| filter.name != column.name);
    let texts = || table.columns.iter().filter(|it| it.kind == Kind::Text).filter(is_other);
    let is_after_by = |column: &&Column| {
        let name = plain(&column.name);
        [" by", " per"].iter().any(|by| question.contains(&format!("{by}{name}")))
    };
    let group = (table.columns.iter().find(is_after_by))
        .or_else(|| texts().find(named))
        .or_else(|| categories(table).find(is_other))
        .or_else(|| texts().next())
        .or(filter);
    let is_summed = |column: &&Column| {
        column.kind != Kind::Text && group.is_none_or(|group| group.name != column.name)
    };
    let numbers = || table.columns.iter().filter(is_summed);
    let number = numbers().find(named).or_else(|| numbers().next_back());

    let mut all = Vec::new();
    let mut add = |question: String, sql: String| all.push((question, format!("SELECT {sql}")));
    add(format!("Show the {t}"), format!("* FROM {t} LIMIT 10"));
    add(format!("How many {t} are there?"), format!("COUNT(*) FROM {t}"));
    if let Some(Column { name: g, .. }) = group {
        let by = format!("FROM {t} GROUP BY {g}");
        add(
            format!("Which {g} has the fewest {t}?"),
            format!("{g}, COUNT(*) {by} ORDER BY 2 LIMIT 1"),
        );
        add(
            format!("Which {g} has the most {t}?"),
            format!("{g}, COUNT(*) {by} ORDER BY 2 DESC LIMIT 1"),
        );
        add(format!("Number of {t} by {g}"), format!("{g}, COUNT(*) {by}"));
        add(format!("How many {t} by {g}?"), format!("{g}, COUNT(*) {by}"));
    }
    let by_value = filter.or(group).and_then(|column| {
        let other = column.categories.iter().find(|it| !mentioned(it))?;
        Some((other, format!("{} = '{}'", column.name, other.replace('\'', "''"))))
    });
    if let Some((v, is_v)) = &by_value {
        add(format!("How many {t} of {v} are there?"), format!("COUNT(*) FROM {t} WHERE {is_v}"));
        add(format!("Show the {t} of {v}"), format!("* FROM {t} WHERE {is_v}"));
    }
    let Some(Column { name: n, .. }) = number else { return all };
    add(format!("Show the {t} with {n} over 100"), format!("* FROM {t} WHERE {n} > 100"));
    add(format!("Show the {t} with {n} under 10"), format!("* FROM {t} WHERE {n} < 10"));
    add(
        format!("Show the 10 largest {t} by {n}"),
        format!("* FROM {t} ORDER BY {n} DESC LIMIT 10"),
    );
    for (word, first, function) in [
        ("smallest", "Smallest", "MIN"),
        ("largest", "Largest", "MAX"),
        ("average", "Average", "AVG"),
        ("total", "Total", "SUM"),
    ] {
        let of = format!("{function}({n}) FROM {t}");
        add(format!("What is the {word} {n}?"), of.clone());
        if let Some((v, is_v)) = &by_value {
            add(format!("What is the {word} {n} of {v}?"), format!("{of} WHERE {is_v}"));
        }
        let Some(Column { name: g, .. }) = group else { continue };
        let by = format!("{g}, {of} GROUP BY {g}");
        add(format!("{first} {n} by {g}"), by.clone());
        if let (Some((v, is_v)), true) = (&by_value, filter.is_some()) {
            add(
                format!("{first} {n} by {g} for {v}"),
                format!("{g}, {of} WHERE {is_v} GROUP BY {g}"),
            );
        }
        if matches!(function, "AVG" | "SUM") {
            add(
                format!("Which {g} has the lowest {word} {n}?"),
                format!("{by} ORDER BY 2 LIMIT 1"),
            );
            add(
                format!("Which {g} has the highest {word} {n}?"),
                format!("{by} ORDER BY 2 DESC LIMIT 1"),
            );
            add(format!("Top 5 {g} by {word} {n}"), format!("{by} ORDER BY 2 DESC LIMIT 5"));
        }
    }
    all
}

/// Returns a grammar in llama.cpp's GBNF: one SELECT over this table and its columns, and a line
/// break, without which the model would not know where to end.
pub(crate) fn grammar(table: &Table) -> String {
    let t = &table.name;
    let quoted = |columns: Vec<&Column>| {
        let names: Vec<_> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        names.join(" | ")
    };
    let numbers: Vec<_> = table.columns.iter().filter(|it| it.kind != Kind::Text).collect();
    let has_numbers = !numbers.is_empty();
    // A rule for each column, so that what is selected is what is grouped by.
    let groups: Vec<_> = table
        .columns
        .iter()
        .map(|Column { name, .. }| {
            format!("\"{name}, \" aggregate \" FROM {t}\" where? \" GROUP BY {name}\" order?")
        })
        .collect();
    let conditions: Vec<_> = table.columns.iter().map(condition).collect();
    let sums = if has_numbers { " | (\"SUM(\" | \"AVG(\") number \")\"" } else { "" };
    let mut rules = vec![
        r#"root ::= "SELECT " (rows | total | group) "\n""#.to_owned(),
        format!("rows ::= \"* FROM {t}\" where? (\" ORDER BY \" column \" DESC\"?)? limit?"),
        format!("total ::= aggregate \" FROM {t}\" where?"),
        format!("group ::= {}", groups.join(" | ")),
        r#"order ::= " ORDER BY 2" " DESC"? limit?"#.to_owned(),
        format!("aggregate ::= \"COUNT(*)\" | (\"MIN(\" | \"MAX(\") column \")\"{sums}"),
        r#"where ::= " WHERE " condition (" AND " condition)?"#.to_owned(),
        format!("condition ::= {}", conditions.join(" | ")),
        r#"compare ::= " = " | " > " | " < " | " >= " | " <= ""#.to_owned(),
        r#"digits ::= "-"? [0-9]{1,9} ("." [0-9]{1,4})?"#.to_owned(),
        r#"string ::= "'" [^'\n]{1,40} "'""#.to_owned(),
        r#"limit ::= " LIMIT " [1-9] [0-9]?"#.to_owned(),
        format!("column ::= {}", quoted(table.columns.iter().collect())),
    ];
    if has_numbers {
        rules.push(format!("number ::= {}", quoted(numbers)));
    }
    rules.join("\n")
}

fn condition(column: &Column) -> String {
    let name = &column.name;
    if column.kind != Kind::Text {
        return format!("\"{name}\" compare digits");
    }
    if column.categories.is_empty() {
        return format!("\"{name}\" (compare | \" LIKE \") string");
    }
    let literals: Vec<_> = column
        .categories
        .iter()
        .map(|value| {
            let sql = value.replace('\'', "''");
            format!("\"'{}'\"", sql.replace('\\', r"\\").replace('"', "\\\""))
        })
        .collect();
    format!("\"{name} = \" ({})", literals.join(" | "))
}
