//! Tests of imports, of what hostile SQL can do, and of what a model is told.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use super::*;

fn studio() -> Studio {
    Studio::new().unwrap()
}

fn rows(sql: &str) -> Vec<Vec<Value>> {
    studio().query("me", sql).unwrap_or_else(|error| panic!("{sql}: {error}")).rows
}

fn uploaded(csv: &str) -> Result<Table, StudioError> {
    studio().put("me", "orders", csv.as_bytes())
}

fn refusal(csv: &str) -> String {
    uploaded(csv).unwrap_err().to_string()
}

#[test]
fn the_sample_is_everybodys_first_table() {
    let table = serde_json::to_value(studio().table("me")).unwrap();
    assert_eq!(table["name"], "sales");
    assert_eq!(table["columns"][3], serde_json::json!({ "name": "quantity", "type": "INTEGER" }));
    assert_eq!(table["columns"][4], serde_json::json!({ "name": "amount", "type": "REAL" }));
    assert_eq!(
        (table["row_count"].as_u64(), table["rows"].as_array().unwrap().len()),
        (Some(60), 8)
    );
    assert_eq!(table["rows"][0][1], "North");
    assert_eq!(rows("SELECT COUNT(*) FROM sales"), [[Value::from(60)]]);
}

#[test]
fn types_are_the_narrowest_that_hold_all_values() {
    let csv = "i,r,t,code,long,none,mixed\n-1,.5,a,007,12345678901234567890,,1\n2,1e3, b,1,1,,x\n,,,,,,\n";
    let table = uploaded(csv).unwrap();
    let kinds: Vec<_> = table.columns.iter().map(|column| column.kind).collect();
    use Kind::{Integer, Real, Text};
    assert_eq!(kinds, [Integer, Real, Text, Text, Text, Text, Text]);
    assert_eq!(
        table.rows[0][..5],
        serde_json::json!([-1, 0.5, "a", "007", "12345678901234567890"]).as_array().unwrap()[..]
    );
    assert!(table.rows[2].iter().all(Value::is_null), "empty is null: {:?}", table.rows[2]);
}

#[test]
fn names_need_no_quotes() {
    let studio = studio();
    let csv = "\u{feff}Unit Price (€),order,2nd,,order,sqlite_x,Größe,a-\"\"b\n1,2,3,4,5,6,7,8\n";
    let table = studio.put("me", "My table; DROP", csv.as_bytes()).unwrap();
    assert_eq!(table.name, "my_table_drop");
    let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(
        names,
        ["unit_price", "order_", "_2nd", "column_4", "order__2", "_sqlite_x", "gr_e", "a_b"]
    );
    let sql = format!("SELECT {} FROM {}", names.join(", "), table.name);
    assert_eq!(studio.query("me", &sql).unwrap().rows.len(), 1);
    for word in ["select", "table", "null", "current_date", "true", "values", "left", "rowid", ""] {
        let csv = format!("{word},x\n5,6\n");
        let table = studio.put("me", word, csv.as_bytes()).unwrap();
        let sql = format!("SELECT {} FROM {}", table.columns[0].name, table.name);
        let rows = studio.query("me", &sql).unwrap_or_else(|error| panic!("{sql}: {error}")).rows;
        assert_eq!(rows, [[Value::from(5)]], "{sql}");
    }
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_line() {
    assert_eq!(refusal(""), "The file is empty. Its first line must name the columns.");
    assert!(
        refusal("a,b\n1,2\n\"x\ny\",2\n1,2,3\n")
            .starts_with("Line 5: 3 values, but the first line names 2")
    );
    assert_eq!(refusal("a;b\n1;2\n"), "Line 1: the columns must be separated by commas.");
    assert_eq!(refusal(&["x"; 51].join(",")), "Line 1: 51 columns. At most 50 can be taken.");
    let latin = studio().put("me", "t", b"a,b\n1,caf\xe9\n").unwrap_err();
    assert_eq!(latin.to_string(), "Line 2: this is no UTF-8. Save the file as UTF-8.");
    assert!(refusal(&format!("a\n{}", "1\n".repeat(20_001))).contains("more than 20000 rows"));
    assert!(uploaded(&format!("a\n{}", "1\n".repeat(20_000))).is_ok());
    let large = uploaded(&"x".repeat((1 << 20) + 1)).unwrap_err();
    assert_eq!((large.status(), large.to_string().contains("1 MiB")), (413, true));
    assert!(
        refusal(&format!("a\n1\n{}\n", "x".repeat(200_000)))
            .starts_with("Line 3: the row has more")
    );
}

#[test]
fn a_refused_upload_leaves_the_table_as_it_was_and_others_have_their_own() {
    let studio = studio();
    studio.put("me", "orders", b"a\n1\n").unwrap();
    studio.put("me", "orders", b"a\n1,2\n").unwrap_err();
    assert_eq!(
        (studio.table("me").name, studio.table("you").name),
        ("orders".into(), "sales".into())
    );
    assert!(studio.query("me", "SELECT * FROM sales").is_err());
    assert!(studio.query("you", "SELECT * FROM orders").is_err());
}

#[test]
fn owners_are_bounded_and_uploads_stay_longer_than_copies_of_the_sample() {
    let studio = studio();
    studio.put("uploader", "orders", b"a\n1\n").unwrap();
    for owner in 0..2 * MOST_OWNERS {
        studio.query(&owner.to_string(), "SELECT 1").unwrap();
    }
    assert_eq!(studio.owners().by_name.len(), MOST_OWNERS);
    assert_eq!(studio.table("uploader").name, "orders");
    for owner in 0..MOST_OWNERS {
        studio.put(&owner.to_string(), "orders", b"a\n1\n").unwrap();
    }
    assert_eq!(studio.owners().by_name.len(), MOST_OWNERS);
    assert_eq!(studio.table("uploader").name, "sales");
}

#[test]
fn questions_that_people_ask_are_answered() {
    for sql in [
        "select region, sum(amount) from sales group by region order by 2 desc limit 1;  -- the best",
        "SELECT product, AVG(amount) FROM sales WHERE region LIKE 'n%' AND quantity BETWEEN 1 AND 99 GROUP BY product HAVING COUNT(*) > 1",
        "WITH by_day AS (SELECT date, SUM(amount) AS a FROM sales GROUP BY date) SELECT MAX(a), COUNT(*) FROM by_day",
        "WITH few AS (SELECT * FROM sales LIMIT 3) SELECT COUNT(*) FROM few",
        "SELECT strftime('%Y-%m', date) AS month, round(total(amount), 2) FROM sales GROUP BY month",
        "SELECT rank() OVER (ORDER BY amount DESC), upper(region), CAST(amount AS INTEGER) FROM sales",
        "SELECT DISTINCT region FROM sales UNION SELECT product FROM sales",
        "SELECT CASE WHEN quantity > 10 THEN 'many' ELSE 'few' END, COUNT(*) FROM sales GROUP BY 1",
        "SELECT a.region FROM sales a JOIN sales b USING (date) WHERE a.amount >= b.amount",
        "VALUES (1), (2)",
    ] {
        assert!(!rows(sql).is_empty(), "{sql}");
    }
}

#[test]
fn nothing_but_one_select_runs() {
    let studio = studio();
    for sql in [
        "INSERT INTO sales VALUES (1, 2, 3, 4, 5)",
        "UPDATE sales SET amount = 0",
        "DELETE FROM sales",
        "DROP TABLE sales",
        "CREATE TABLE t (a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "ATTACH 'file:x?mode=memory' AS x",
        "DETACH main",
        "VACUUM INTO 'stolen.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT x",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA table_info(sales)",
        "SELECT * FROM pragma_table_info('sales')",
        "SELECT COUNT(*) FROM pragma_hard_heap_limit(1)",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM sqlite_schema",
        "SELECT sql FROM sqlite_temp_master",
        "SELECT * FROM dbstat",
        "SELECT value FROM json_each('[1]')",
        "SELECT load_extension('/lib/x.so')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT format('%1000000000d', 1)",
        "SELECT replace(amount, '1', '2') FROM sales",
        "SELECT hex(amount) FROM sales",
        "SELECT sqlite_version()",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT * FROM sales",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE sales",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "SELECT ?1",
        "SELECT x FROM sales",
        "CHOOSE 1",
        "SELECT 'unfinished",
        "SELECT \u{0} 1",
        "",
        "-- only a comment",
        ";",
    ] {
        let error = studio.query("me", sql).expect_err(sql);
        assert!(!matches!(error, StudioError::Database(_)), "{sql}: {error:?}");
        println!("{sql:60} {} {error}", error.status());
    }
    assert_eq!(studio.query("me", "SELECT COUNT(*) FROM sales").unwrap().rows, [[Value::from(60)]]);
    let long = format!("SELECT {}", "1,".repeat(5_000));
    assert!(studio.query("me", &long).unwrap_err().to_string().contains("longer than 4096"));
}

/// Runs hostile SQL, which must end in time, and without much memory.
fn hurts(studio: &Studio, sql: &str) {
    let started = Instant::now();
    let answer = studio.query("me", sql);
    let took = started.elapsed();
    let said = answer.map(|rows| rows.rows.len()).map_err(|error| error.to_string());
    println!("{:>6} ms  {}  {said:?}", took.as_millis(), sql.chars().take(90).collect::<String>());
    assert!(took < Duration::from_secs(5), "{sql}: {took:?}");
    // The next one is not hurt by it.
    assert!(studio.query("me", "SELECT 1").is_ok());
}

#[test]
fn hostile_selects_end_in_time() {
    let studio = studio();
    let doubled = |times: usize| {
        let mut sql = "WITH t0 AS (SELECT 'aaaaaaaaaaaaaaaa' AS x)".to_owned();
        for level in 1..=times {
            let below = level - 1;
            let _ = write!(sql, ", t{level} AS (SELECT x || x AS x FROM t{below})");
        }
        sql
    };
    let text = doubled(12);
    let join = |count: usize| vec!["sales"; count].join(", ");
    for sql in [
        format!("SELECT COUNT(*) FROM {}", join(8)),
        format!("SELECT COUNT(*) FROM {}", join(60)),
        format!("SELECT * FROM {}", join(60)),
        "SELECT a.amount + b.amount FROM sales a, sales b, sales c, sales d, sales e ORDER BY 1".into(),
        "SELECT DISTINCT a.date || b.date || c.date || d.date FROM sales a, sales b, sales c, sales d".into(),
        "SELECT group_concat(a.date || b.date || c.date) FROM sales a, sales b, sales c".into(),
        format!("{text} SELECT length(x) FROM t12"),
        format!("{text} SELECT x LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b' FROM t12"),
        format!("{text} SELECT x GLOB '*a*a*a*a*a*a*a*a*a*a*a*a*a*a*ab' FROM t12"),
        format!("{text} SELECT x || a.amount || b.amount AS y FROM t12, sales a, sales b, sales c ORDER BY y"),
        format!("{text} SELECT DISTINCT x || a.amount || b.amount || c.amount FROM t12, sales a, sales b, sales c"),
        format!("{text} SELECT COUNT(*) FROM (SELECT x || a.amount AS y FROM t12, sales a, sales b, sales c GROUP BY y || b.amount || c.quantity)"),
        format!("{} SELECT x FROM t20", doubled(20)),
        format!("SELECT {}1{}", "(".repeat(1_500), ")".repeat(1_500)),
        format!("SELECT {}1", "- ".repeat(1_500)),
        format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(200)),
        format!("SELECT 1 {}", ";SELECT 1".repeat(400)),
        format!("SELECT 1 WHERE {}", "1 IN (SELECT 1 FROM sales WHERE ".repeat(60) + "1" + &")".repeat(60)),
        "SELECT lag(a.amount, 1) OVER (PARTITION BY a.region ORDER BY b.amount), SUM(a.amount) OVER (ORDER BY b.amount ROWS BETWEEN 9999 PRECEDING AND 9999 FOLLOWING) FROM sales a, sales b, sales c".into(),
        "SELECT strftime('%Y-%m-%d', amount * 1e300), date('now', '+999999999999 years'), -9223372036854775808 / -1, abs(-9223372036854775808) FROM sales".into(),
    ] {
        hurts(&studio, &sql);
    }
}

#[test]
fn an_answer_is_bounded_in_rows_and_bytes() {
    let studio = studio();
    let answer = studio.query("me", "SELECT a.* FROM sales a, sales b").unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (200, true));
    let answer = studio.query("me", "SELECT * FROM sales").unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (60, false));
    studio
        .put("me", "wide", format!("a\n{0}\n{0}\n{0}\n", "x".repeat(100_000)).as_bytes())
        .unwrap();
    let answer = studio.query("me", "SELECT a FROM wide").unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (2, true));
    assert!(serde_json::to_vec(&answer).unwrap().len() < 300_000);
}

#[test]
fn numbers_that_a_browser_would_round_are_texts() {
    let values =
        rows("SELECT 9007199254740993, 1e999, -1e999, NULL, x'00ff', CAST(x'ff' AS TEXT), 1.5");
    assert_eq!(
        values[0],
        *serde_json::json!(["9007199254740993", "inf", "-inf", null, "2 bytes", "\u{fffd}", 1.5])
            .as_array()
            .unwrap()
    );
}

#[test]
fn an_owner_runs_one_query_at_a_time() {
    let studio = studio();
    studio.put("me", "orders", b"a\n1\n").unwrap();
    let sheet = studio.owners().get("me").unwrap();
    let running = sheet.connection.lock().unwrap();
    assert!(matches!(studio.query("me", "SELECT 1"), Err(StudioError::Busy)));
    assert!(studio.query("you", "SELECT 1").is_ok());
    drop(running);
    assert!(studio.query("me", "SELECT 1").is_ok());
}

#[test]
fn parallel_hostile_queries_stay_within_the_memory_of_all() {
    let studio = studio();
    let sql = "WITH big AS (SELECT group_concat(a.date || b.date) AS x FROM sales a, sales b) \
        SELECT x || a.amount || b.amount || c.amount AS y FROM big, sales a, sales b, sales c ORDER BY y";
    thread::scope(|scope| {
        for owner in 0..4 {
            let studio = &studio;
            scope.spawn(move || {
                let error = studio.query(&owner.to_string(), sql).unwrap_err();
                assert!(matches!(error, StudioError::Slow | StudioError::LargeQuery), "{error:?}");
            });
        }
    });
    assert!(studio.query("me", "SELECT * FROM sales").is_ok());
}

#[test]
fn the_largest_upload_takes_little_memory() {
    let columns = vec!["c"; 50].join(",");
    let row = vec![".5"; 50].join(",") + "\n";
    let csv = format!("{columns}\n{}", row.repeat(((1 << 20) - 200) / row.len()));
    let studio = studio();
    studio.put("me", "t", csv.as_bytes()).unwrap();
    let sheet = studio.owners().get("me").unwrap();
    let connection = sheet.connection.lock().unwrap();
    // The pragma is not for queries, so the lock is opened.
    let mut connection = connection;
    connection.authorizer(None::<fn(rusqlite::hooks::AuthContext<'_>) -> _>).unwrap();
    let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    assert!(pages * 4_096 < 4 << 20, "{pages} pages");
}

#[test]
fn a_prompt_shows_the_examples_nearest_to_the_question() {
    let studio = studio();
    let prompt = prompt(&studio.table("me"), "Which region has the\nhighest total amount?");
    println!("{prompt}");
    assert!(
        prompt
            .starts_with("Table sales has the columns date, region, product, quantity, amount.\n")
    );
    assert_eq!(prompt.matches("\nSQL: SELECT ").count(), 4);
    assert!(prompt.ends_with("Question: Which region has the highest total amount?\nSQL: "));
    assert!(super::prompt(&studio.table("me"), &"x".repeat(100_000)).len() < 1_500);
}

#[test]
fn every_example_runs() {
    let studio = studio();
    let csvs = [
        "n\n1\n",
        "t\nx\n",
        "t,n\nO'Neil,1\n\"say \"\"x\"\" \\n\",2\n--,3\n",
        "long\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ];
    for csv in std::iter::once(None).chain(csvs.map(Some)) {
        if let Some(csv) = csv {
            studio.put("me", "t", csv.as_bytes()).unwrap();
        }
        let table = studio.table("me");
        for question in
            ["", "How many of Tea in the south by region?", "total quantity of o'neil by n"]
        {
            for line in prompt(&table, question).lines() {
                if let Some(sql) = line.strip_prefix("SQL: ").filter(|sql| !sql.is_empty()) {
                    assert!(studio.query("me", sql).is_ok(), "{csv:?}: {sql}");
                }
            }
        }
        let grammar = grammar(&table);
        assert!(grammar.starts_with("root ::= ") && !grammar.contains("::= \n"), "{grammar}");
        println!("{grammar}\n");
    }
}
