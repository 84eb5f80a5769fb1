//! `credits` as a person and as a program use it: a process of its own, over a real Redis, with
//! usage that a meter debited there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![allow(missing_docs, reason = "tests")]

#[path = "../../tests/support/receivers.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod receivers;
#[path = "../../tests/support/redis_server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis_server;

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use serde_json::Value;
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    Account, Accounts, CreditMeter, Identity, Period, Plan, RedisLedger, clock::UnixTime,
    identify::IdentityFromExtensions, meter::ComputeTime,
};

use crate::{receivers::Receiver, redis_server::RedisServer};

const PLAN: &str = r#"
[hardware.gpu]
price_per_second = "0.001"

[models.echo]
hardware = "gpu"

[routes]
"/models/{model}" = { model = "{model}" }
"/health" = "free"

[tiers.free]
included = "0.10"
when_used_up = "block"

[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"
"#;

/// A Redis, and a meter that debits there.
struct Service {
    server: RedisServer,
    meter: CreditMeter,
    accounts: Accounts,
    folder: TempDir,
}

impl Service {
    async fn start() -> Self {
        let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
        let ledger = RedisLedger::connect(server.url()).await.unwrap();
        let plan = Plan::from_toml(PLAN).unwrap();
        let meter = CreditMeter::builder(plan, ledger.clone(), IdentityFromExtensions)
            .keep_costs(Duration::from_secs(3600))
            .report_within(Duration::from_millis(100))
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { server, meter, accounts: Accounts::new(ledger), folder }
    }

    /// Makes a request of a user, which computes for so long.
    async fn uses(&self, user: &str, millis: u64) {
        let identity = Identity::new(
            user.parse().unwrap(),
            Account::user(user).unwrap(),
            "pro".parse().unwrap(),
        );
        let request =
            Request::post("/models/echo").extension(identity).body(Empty::<Bytes>::new()).unwrap();
        let service = service_fn(async |_: Request<Empty<Bytes>>| {
            let time = ComputeTime(Duration::from_millis(millis));
            let response = Response::builder().extension(time).body(Empty::<Bytes>::new());
            Ok::<_, Infallible>(response.unwrap())
        });
        let response = self.meter.layer(service).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }

    /// Waits until the ledger has so many requests of a user.
    async fn settled(&self, user: &str, requests: u64) {
        let (account, month) = (Account::user(user).unwrap(), this_month());
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let statement = self.accounts.statement(&account, month).await.unwrap();
            if statement.requests() == requests && statement.held.is_zero() {
                return;
            }
            assert!(Instant::now() < limit, "{statement:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = credits(arguments);
        command.env("CREDITS_LEDGER", self.server.url());
        command
    }

    /// Runs a command that ends with an exit code; returns what it wrote.
    fn run(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        said(&output, code, arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        let text = self.run(0, &arguments);
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn this_month() -> Period {
    Period::containing(UnixTime::now())
}

fn credits(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_credits"));
    command.args(arguments).env_remove("CREDITS_LEDGER").stdin(Stdio::null());
    command
}

/// What a command wrote to both outputs.
fn said(output: &Output, code: i32, arguments: &[&str]) -> String {
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_changed_closed_and_erased() {
    let service = Service::start().await;
    for _ in 0..3 {
        service.uses("alice", 1_500).await;
    }
    service.settled("alice", 3).await;
    let shown = service.run(0, &["show", "user:alice"]);
    for expected in ["user:alice", "$0.0045 of $2.00", "4.5 s", "echo", "Requests"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let shown = service.json(&["show", "user:alice"]);
    assert_eq!((&shown["used_nano_usd"], &shown["requests"]), (&4_500_000.into(), &3.into()));

    let granted = service.run(0, &["grant", "user:alice", "10", "--id", "order-1"]);
    assert!(granted.contains("$10.00") && granted.contains("order-1"), "{granted}");
    let again = service.run(0, &["grant", "user:alice", "10", "--id", "order-1"]);
    assert!(again.contains("nothing was changed"), "{again}");
    let id = service.json(&["grant", "user:alice", "1", "--expires", "2999-12-31"]);
    assert!(id["id"].as_str().is_some_and(|id| id.len() == 36) && id["new"] == true);
    assert_eq!(
        service.json(&["show", "user:alice"])["purchased_left_nano_usd"],
        11_000_000_000_i64
    );

    service.run(0, &["refund", "user:alice", "0.0015", "--reason", "it failed", "--id", "r1"]);
    let refused = service.run(1, &["refund", "user:alice", "5", "--reason", "too much"]);
    assert!(refused.contains("the ledger refused"), "{refused}");
    let shown = service.json(&["show", "user:alice"]);
    assert_eq!(shown["refunds"][0]["reason"], "it failed");
    assert_eq!(shown["refunded_nano_usd"], 1_500_000);

    service.run(0, &["limit", "user:alice", "--per-month", "20"]);
    service.run(0, &["limit", "user:alice", "--part", "research/bob", "--per-month", "5"]);
    // The other limit stays.
    let limits = service.json(&["limit", "user:alice", "--part", "research/bob", "--per-day", "1"]);
    assert_eq!(limits["month_limit_nano_usd"], 5_000_000_000_i64);
    assert_eq!(limits["day_limit_nano_usd"], 1_000_000_000);
    let unset =
        service.json(&["limit", "user:alice", "--part", "research/bob", "--per-month", "unset"]);
    assert_eq!(unset["month_limit_nano_usd"], Value::Null);
    let shown = service.json(&["show", "user:alice"]);
    assert_eq!(shown["spending_limit_nano_usd"], 20_000_000_000_i64);
    assert_eq!(shown["parts"][0]["day_limit_nano_usd"], 1_000_000_000);
    service.run(0, &["seats", "user:alice", "3"]);
    assert_eq!(service.json(&["show", "user:alice"])["seats"], 3);

    let sound = service.run(0, &["audit"]);
    assert!(sound.contains("1 account of") && sound.contains("0 not"), "{sound}");
    assert_eq!(service.json(&["audit", "user:alice"])["sound"], true);

    // This month has not ended, and the last one has nothing.
    let early =
        service.run(1, &["close", "user:alice", "--period", &this_month().to_string(), "--yes"]);
    assert!(early.contains("has not ended"), "{early}");
    let unconfirmed = service.run(4, &["close", "user:alice"]);
    assert!(unconfirmed.contains("--yes"), "{unconfirmed}");
    assert_eq!(service.json(&["close", "user:alice", "--yes"])["closed"], 1);

    let token = service.json(&["tokens", "issue", "user:alice", "--tier", "pro"]);
    let refused = service.run(1, &["erase", "user:alice", "--yes"]);
    assert!(refused.contains("1 token that work") || refused.contains("revoke"), "{refused}");
    service.run(0, &["tokens", "revoke", "user:alice", token["id"].as_str().unwrap()]);
    assert!(service.run(4, &["erase", "user:alice"]).contains("nothing was changed"));
    assert!(service.run(0, &["erase", "user:alice", "--yes"]).contains("is erased"));
    assert_eq!(service.json(&["show", "user:alice"])["used_nano_usd"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_found_by_its_id() {
    let service = Service::start().await;
    service.uses("alice", 2_000).await;
    service.settled("alice", 1).await;
    let unknown = "01234567-89ab-7def-8123-456789abcdef";
    let found = service.run(3, &["costs", "user:alice", unknown]);
    assert!(found.contains("not known") && found.contains("keep_costs"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_listed_sorted_filtered_and_paged() {
    let service = Service::start().await;
    for (user, millis) in [("a", 300), ("b", 100), ("c", 200), ("team-d", 50)] {
        service.uses(user, millis).await;
        service.settled(user, 1).await;
    }
    let names = |arguments: &[&str]| -> Vec<String> {
        let text = service.run(0, &[&["list", "--json"], arguments].concat());
        let name = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            value["account"].as_str().unwrap().trim_start_matches("user:").to_owned()
        };
        text.lines().map(name).collect()
    };
    assert_eq!(names(&[]), ["a", "c", "b", "team-d"]);
    assert_eq!(names(&["--reverse"]), ["team-d", "b", "c", "a"]);
    assert_eq!(names(&["--sort", "account"]), ["a", "b", "c", "team-d"]);
    assert_eq!(names(&["--filter", "team"]), ["team-d"]);
    assert_eq!(names(&["--min-used", "0.0002"]), ["a", "c"]);
    let page = service.run(0, &["list", "--page-size", "3"]);
    assert!(page.contains("4 accounts") && page.contains("--page 2"), "{page}");
    assert!(page.contains("user:b") && !page.contains("team-d"), "{page}");
    let page = service.run(0, &["list", "--page-size", "3", "--page", "2"]);
    assert!(page.contains("team-d") && page.contains("shown: 4 to 4"), "{page}");
    // The reader may go at any time.
    let script = format!("{} list | head -n 1", env!("CARGO_BIN_EXE_credits"));
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]).env("CREDITS_LEDGER", service.server.url());
    said(&shell.output().unwrap(), 0, &["list | head"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_issued_listed_moved_and_revoked() {
    let service = Service::start().await;
    let issue = ["tokens", "issue", "user:alice", "--tier", "free", "--label", "laptop"];
    let output = service.command(&issue).output().unwrap();
    // The secret alone is on the standard output.
    let secret = String::from_utf8(output.stdout).unwrap();
    assert!(secret.trim().starts_with("tc_") && secret.lines().count() == 1, "{secret}");
    let other = [&issue[..], &["--lifetime", "30d", "--member-of", "acme=pro"]].concat();
    service.run(0, &other);
    let listed = service.run(0, &["tokens", "list", "user:alice"]);
    assert_eq!(listed.matches("laptop").count(), 2, "{listed}");
    assert!(listed.contains("never") && listed.contains("free"), "{listed}");
    let changed = service.json(&["tokens", "tier", "user:alice", "pro"]);
    assert_eq!(changed["changed"], 2);
    let mut revoke = service.command(&["tokens", "revoke", "--secret"]);
    let mut child =
        revoke.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap(), 0, &["tokens revoke"]);
    let id = service.json(&["tokens", "list", "user:alice"])["id"].as_str().unwrap().to_owned();
    service.run(0, &["tokens", "revoke", "user:alice", &id]);
    let gone = service.run(1, &["tokens", "revoke", "user:alice", &id]);
    assert!(gone.contains("no such token"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_found_and_has_its_exit_code() {
    let service = Service::start().await;
    service.uses("alice", 1_000).await;
    service.settled("alice", 1).await;
    let book = format!("tc:{{user:alice}}:{}", this_month());
    service.server.command(&["HSET", &book, "total", "1000005 0 0 0 0 1000000 0 1"]);
    let found = service.run(3, &["audit"]);
    assert!(found.contains("user:alice") && found.contains("1 not"), "{found}");
    let found = service.run(3, &["audit", "user:alice"]);
    assert!(found.contains("expected"), "{found}");
    service.server.command(&["HSET", &book, "total", "much"]);
    let found = service.run(3, &["audit", "user:alice"]);
    assert!(found.contains("cannot be read") && found.contains("much"), "{found}");
    // The others are listed, audited and exported all the same.
    service.uses("bob", 1_000).await;
    service.settled("bob", 1).await;
    assert!(service.run(0, &["list"]).contains("user:bob"));
    let found = service.run(3, &["audit"]);
    assert!(found.contains("user:alice: ") && found.contains("1 account of"), "{found}");
    let (file, state) = (service.file("usage.csv"), service.file("state"));
    let export = ["export", "csv", text(&file), "--state", text(&state), "--new-state"];
    let sent = service.run(3, &export);
    assert!(sent.contains("1 events sent") && sent.contains("not sent: user:alice"), "{sent}");
    assert!(fs::read_to_string(&file).unwrap().contains("user:bob"));
}

/// A user chose their name, and others wrote into the server.
#[tokio::test(flavor = "multi_thread")]
async fn no_escape_sequence_and_no_change_of_direction_reaches_the_terminal() {
    let service = Service::start().await;
    let obeyed = ['\u{1b}', '\u{9b}', '\u{7}', '\u{8}', '\r', '\u{202e}', '\u{2066}'];
    let hostile = obeyed.iter().collect::<String>() + "[2J]0;owned";
    let assert_shown = |code: i32, arguments: &[&str], text: &str| {
        let shown = service.run(code, arguments);
        assert!(shown.contains(text), "{arguments:?}: {shown:?}");
        assert!(!shown.contains(obeyed), "{arguments:?}: {shown:?}");
    };
    // A name can change the direction of text.
    let name = "al\u{202e}ecila\u{2066}";
    service.uses(name, 1_000).await;
    service.settled(name, 1).await;
    let (account, shown) = (format!("user:{name}"), "user:al\u{fffd}ecila\u{fffd}");
    assert_shown(0, &["list"], shown);
    assert_shown(0, &["show", &account], shown);
    assert_shown(0, &["audit", &account], "");

    let issue = ["tokens", "issue", "user:mallory", "--tier", "free", "--label", "laptop"];
    service.run(0, &issue);
    let tokens = "tc:{user:mallory}:tokens";
    let listed = service.server.command(&["HVALS", tokens]);
    let label = serde_json::to_string(&hostile).unwrap();
    let entry = listed.lines().find(|line| line.starts_with('{')).unwrap();
    let entry = entry.replace("\"laptop\"", &label);
    service.server.command(&["HSET", tokens, &hostile, &entry]);
    assert_shown(0, &["tokens", "list", "user:mallory"], "[2J]0;owned");
    let json = service.run(0, &["tokens", "list", "user:mallory", "--json"]);
    assert!(!json.contains(obeyed) && json.contains("\\u009b"), "{json:?}");
    let listed = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_there = |token: Value| token.to_string().contains('\u{202e}');
    assert!(listed.into_iter().any(is_there), "as it is, to a program: {json}");

    service.uses("bob", 1_000).await;
    service.settled("bob", 1).await;
    let book = format!("tc:{{user:bob}}:{}", this_month());
    service.server.command(&["HSET", &book, "total", &hostile]);
    for arguments in [&["show", "user:bob"][..], &["audit", "user:bob"], &["audit"]] {
        let code = if arguments[0] == "show" { 1 } else { 3 };
        assert_shown(code, arguments, "owned");
        let json = service.run(code, &[arguments, &["--json"]].concat());
        assert!(!json.contains(obeyed), "{json:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_would_lose_money() {
    let service = Service::start().await;
    let well = service.run(0, &["doctor"]);
    for expected in ["redis 7.", "noeviction", "appendonly yes", "Clock", "Script", "No problem"] {
        assert!(well.contains(expected), "{expected}: {well}");
    }
    service.server.command(&["CONFIG", "SET", "appendonly", "no"]);
    let ill = service.run(3, &["doctor"]);
    assert!(ill.contains("problem: ") && ill.contains("set `appendonly yes`"), "{ill}");
    service.server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let unfit = service.run(1, &["doctor"]);
    assert!(unfit.contains("set `maxmemory-policy noeviction`"), "{unfit}");
}

#[test]
fn every_error_has_a_remedy_and_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    fs::write(&plan, PLAN.replace("\"0.001\"", "\"-1\"")).unwrap();
    for (code, arguments, remedy) in [
        (2, &["show", "user:a"][..], "pass --ledger"),
        (2, &["show", "alice", "--ledger", "redis://127.0.0.1:1/"], "write `user:<id>`"),
        (2, &["grant", "user:a", "ten"], "ten"),
        (2, &["limit", "user:a"], "--per-month"),
        (2, &["show", "user:a", "--period", "November"], "2026-11"),
        (2, &["show", "user:a", "--timeout", "5"], "500ms"),
        (1, &["show", "user:a", "--ledger", "redis://127.0.0.1:1/"], "--ledger names another"),
        (1, &["show", "user:a", "--ledger", "nothing.redb"], "there is no file nothing.redb"),
        (1, &["show", "user:a", "--ledger", "http://127.0.0.1/"], "redis://"),
        (1, &["tokens", "list", "user:a", "--ledger", "credits.redb"], "pass --ledger with a URL"),
        (1, &["plan", "check", text(&plan)], "plan.toml:3: hardware `gpu`"),
        (1, &["plan", "check", "nowhere.toml"], "nowhere.toml"),
    ] {
        let output = credits(arguments).output().unwrap();
        let text = said(&output, code, arguments);
        assert!(text.contains(remedy), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let arguments = ["show", "user:a", "--json"];
    let output = credits(&arguments).output().unwrap();
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("no ledger"), "{error}");
}

#[test]
fn a_plan_is_shown_with_what_is_odd() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    fs::write(&plan, PLAN).unwrap();
    let check = |code, more: &[&str]| {
        let arguments = [&["plan", "check", text(&plan)], more].concat();
        said(&credits(&arguments).output().unwrap(), code, &arguments)
    };
    let shown = check(0, &["--path", "/models/echo"]);
    for expected in ["/models/{model}", "one of 1", "$0.001", "free", "denied", "is valid"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(shown.contains("/models/echo: echo on gpu: $0.001 a second"), "{shown}");
    let near = check(3, &["--path", "/Models/echo"]);
    assert!(near.contains("it nearly has route \"/models/{model}\""), "{near}");
    let unknown = check(3, &["--path", "/models/other"]);
    assert!(unknown.contains("[models.\"other\"]"), "{unknown}");
    let extra = "[hardware.idle]\nprice_per_second = \"1\"\n";
    fs::write(&plan, format!("{PLAN}\n{extra}")).unwrap();
    assert!(check(3, &[]).contains("nothing runs on hardware `idle`"));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let written = said(&credits(&["completions", shell]).output().unwrap(), 0, &[shell]);
        assert!(written.contains("tokens") && written.contains("doctor"), "{shell}");
    }
    let arguments = ["man", "--out", text(folder.path())];
    said(&credits(&arguments).output().unwrap(), 0, &arguments);
    let pages: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert!(pages.len() > 15, "{}", pages.len());
    let page = fs::read_to_string(folder.path().join("credits-export.1")).unwrap();
    assert!(page.contains("state file") || page.contains("\\-\\-state"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_who_spends() {
    let service = Service::start().await;
    service.uses("alice", 1_000).await;
    service.settled("alice", 1).await;
    let mut command = service.command(&[
        "watch",
        "--count",
        "2",
        "--every",
        "2s",
        "--json",
        "--metrics",
        "http://127.0.0.1:1/",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut look = || loop {
        let line = lines.next().expect("another look").unwrap();
        if let Ok(look) = serde_json::from_str::<Value>(&line) {
            break look;
        }
    };
    let first = look();
    service.uses("bob", 2_000).await;
    service.settled("bob", 1).await;
    let looks = [first, look()];
    let output = child.wait_with_output().unwrap();
    said(&output, 0, &["watch"]);
    let top = &looks[1]["top"][0];
    assert_eq!((&top["account"], &top["used_nano_usd"]), (&"user:bob".into(), &2_000_000.into()));
    assert!(looks[0]["silent_nodes"][0].as_str().unwrap().contains("127.0.0.1:1"));
}

/// An export that is killed at any moment a hundred times, while usage comes in, ends with the sums
/// of the ledger at every receiver.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_again_and_again_adds_up_to_the_ledger() {
    let service = Service::start().await;
    let users: Vec<String> = (0..6).map(|number| format!("u{number}")).collect();
    let (openmeter, stripe, lago) =
        (Receiver::openmeter().await, Receiver::stripe().await, Receiver::lago().await);
    for receiver in [&openmeter, &stripe, &lago] {
        receiver.fail_one_in(30);
    }
    let customers = service.file("customers.csv");
    let lines: String = users.iter().map(|user| format!("user:{user}, user:{user}\n")).collect();
    fs::write(&customers, lines).unwrap();
    let keys = [("stripe", "sk_test_1"), ("lago", "lago-key")].map(|(name, key)| {
        let file = service.file(&format!("{name}.key"));
        fs::write(&file, key).unwrap();
        file
    });
    let file = service.file("usage.jsonl");
    let targets: Vec<(&str, Vec<&str>)> = vec![
        ("file", vec!["json-lines", text(&file)]),
        ("openmeter", vec!["openmeter", &openmeter.url]),
        (
            "stripe",
            vec![
                "stripe",
                "inference",
                "--customers",
                text(&customers),
                "--key-file",
                text(&keys[0]),
                "--url",
                &stripe.url,
                "--calls-per-second",
                "5000",
            ],
        ),
        ("lago", vec!["lago", "inference", "--key-file", text(&keys[1]), "--url", &lago.url]),
    ];
    let arguments = |name: &str, target: &[&str]| -> Vec<String> {
        let state = service.file(&format!("{name}.state"));
        let mut all: Vec<String> =
            ["export"].iter().chain(target).map(ToString::to_string).collect();
        all.extend(["--state".to_owned(), text(&state).to_owned()]);
        if !state.exists() {
            all.push("--new-state".to_owned());
        }
        all
    };
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut killed, mut requests) = (0, HashMap::new());
    let mut round = 0;
    // How long each takes, so that it is killed at any of its steps.
    let mut durations = HashMap::new();
    for (name, target) in &targets {
        service.uses("u0", 1).await;
        *requests.entry("u0".to_owned()).or_insert(0) += 1;
        let arguments = arguments(name, target);
        let begin = Instant::now();
        service.run(0, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        durations.insert(*name, begin.elapsed());
    }
    while killed < 100 {
        assert!(round < 400, "an export ends before it can be killed: {killed}");
        // Something to send.
        for _ in 0..2 {
            let user = &users[rng.usize(0..users.len())];
            service.uses(user, rng.u64(1..5_000)).await;
            *requests.entry(user.clone()).or_insert(0) += 1;
        }
        let (name, target) = &targets[round % targets.len()];
        let arguments = arguments(name, target);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = service.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(durations[name].mul_f64(rng.f64())).await;
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        round += 1;
    }
    for receiver in [&openmeter, &stripe, &lago] {
        receiver.never_fail();
    }
    let mut sums = HashMap::new();
    for (user, requests) in requests {
        service.settled(&user, requests).await;
        let account = Account::user(&user).unwrap();
        let statement = service.accounts.statement(&account, this_month()).await.unwrap();
        sums.insert(account.to_string(), statement.used.as_nano_usd().unsigned_abs());
    }
    for (name, target) in &targets {
        let arguments = arguments(name, target);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        service.run(0, &arguments);
        // Nothing is left to send.
        let again = service.json(&arguments);
        assert_eq!((&again["events"], &again["repeated"]), (&0.into(), &0.into()), "{name}");
    }
    for receiver in [&openmeter, &stripe, &lago] {
        assert_eq!(receiver.received.lock().unwrap().wrong, Vec::<String>::new());
        assert_eq!(receiver.sums(), sums);
    }
    let mut events: HashMap<String, Value> = HashMap::new();
    for line in fs::read_to_string(&file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let before = events.insert(event["id"].as_str().unwrap().to_owned(), event);
        assert!(before.is_none(), "the file has an event twice");
    }
    let mut of_file = HashMap::new();
    for event in events.values() {
        *of_file.entry(event["account"].as_str().unwrap().to_owned()).or_default() +=
            event["costNanoUsd"].as_u64().unwrap();
    }
    assert_eq!(of_file, sums);
}

/// The script that a person can follow, with stand-ins of the systems that make invoices.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_day_ends_with_equal_sums_everywhere() {
    let (openmeter, stripe, lago) =
        (Receiver::openmeter().await, Receiver::stripe().await, Receiver::lago().await);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/operators-day");
    let mut day = Command::new(script);
    day.env("CREDITS", env!("CARGO_BIN_EXE_credits"))
        .env("OPENMETER_URL", &openmeter.url)
        .env("STRIPE_URL", &stripe.url)
        .env("LAGO_URL", &lago.url);
    let output = tokio::task::spawn_blocking(move || day.output()).await.unwrap().unwrap();
    let text = said(&output, 0, &["operators-day"]);
    let used = text.lines().find_map(|line| line.strip_prefix("used_nano_usd=")).unwrap();
    let used: u64 = used.parse().unwrap();
    assert!(used > 0, "{text}");
    assert_eq!(openmeter.sums(), HashMap::from([("user:alice".to_owned(), used)]));
    assert_eq!(stripe.sums(), HashMap::from([("cus_alice".to_owned(), used)]));
    assert_eq!(lago.sums(), HashMap::from([("user:alice".to_owned(), used)]));
}

/// On a terminal a person is asked, and types what it is about.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_person_types_what_cannot_be_undone() {
    let service = Service::start().await;
    let last = this_month().previous().to_string();
    let on_a_terminal = |command: &str, typed: &str, code: i32| {
        let command = format!("{} {command}", env!("CARGO_BIN_EXE_credits"));
        // A terminal of its own, whose keyboard is the input.
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &command, "/dev/null"]);
        terminal.env("CREDITS_LEDGER", service.server.url()).stdin(Stdio::piped());
        let mut child =
            terminal.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("script runs");
        child.stdin.take().unwrap().write_all(format!("{typed}\n").as_bytes()).unwrap();
        said(&child.wait_with_output().unwrap(), code, &[&command])
    };
    let asked = on_a_terminal("close user:alice", "no", 4);
    assert!(asked.contains(&format!("Type `{last}` to go on:")), "{asked}");
    assert!(on_a_terminal("close user:alice", &last, 0).contains("1 account of"));
    let asked = on_a_terminal("erase user:alice", "user:bob", 4);
    assert!(asked.contains("cannot be undone") && asked.contains("was not typed"), "{asked}");
    assert!(on_a_terminal("erase user:alice", "user:alice", 0).contains("is erased"));
}
