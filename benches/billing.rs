//! What account holders and operators wait for: the page of an account with as many lines as are
//! kept apart, and the list of ten thousand accounts. `cargo bench -p benches --bench billing`.
//!
//! Everything is read from a Redis server of the bench's own. Figures that are compared are taken
//! in turns.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "the tests' own server")]
mod redis_server;

use std::time::{Duration, Instant};

use axum::{Router, body::Body};
use futures_util::stream::{StreamExt, iter};
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_credits::{
    Account, Accounts, BearerTokens, CreditMeter, Credits, Period, RedisLedger, billing,
    clock::UnixTime,
    ledger::{Cursor, LeaseId, Ledger, LineKey, MAX_LINES, Renewal, Terms, Usage, UsageLine},
};

use self::redis_server::RedisServer;

const WITHIN: Duration = Duration::from_secs(5);

/// A batch of lines, of a nano-dollar each, is as long as a node sends.
const BATCH: usize = 2_000;

/// The batches that settle `lines` lines, one after the other.
fn settles(lines: usize) -> Vec<Renewal> {
    (0..lines.div_ceil(BATCH))
        .map(|batch| settles_from(batch as u64 + 1, batch * BATCH, lines.min((batch + 1) * BATCH)))
        .collect()
}

/// The batch that settles lines `from` to `to`, where those before are settled.
fn settles_from(batch: u64, from: usize, to: usize) -> Renewal {
    let line = |number: usize| UsageLine {
        key: LineKey::Of {
            day: 1 + u8::try_from(number % 28).unwrap(),
            model: format!("model-{}", number % 500).parse().unwrap(),
            hardware: "gpu-small".parse().unwrap(),
            feature: ["api", "widget"][number % 2].parse().unwrap(),
            subject: format!("member-{}", number / 500).parse().unwrap(),
        },
        usage: Usage { requests: 1, compute_micros: 10, cost: Credits::from_nano_usd(1).unwrap() },
    };
    let nothing = Credits::ZERO;
    Renewal {
        lease: LeaseId::from_bits(1),
        seq: batch,
        batch,
        settled: Credits::from_nano_usd(i64::try_from(to).unwrap()).unwrap(),
        reported: Credits::from_nano_usd(i64::try_from(from).unwrap()).unwrap(),
        lines: (from..to).map(line).collect(),
        keep: nothing,
        refill: nothing,
        need: nothing,
        extra: nothing,
        terms: Terms {
            included: nothing,
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::MAX,
        },
        terms_at: UnixTime::EPOCH,
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    }
}

fn this_month() -> Period {
    Period::containing(UnixTime::now())
}

/// Asks for a bill; answers how long that took, and how many bytes came.
async fn asks(app: &Router, path: &str, token: &str) -> (Duration, usize) {
    let request = Request::get(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let began = Instant::now();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let size = response.into_body().collect().await.unwrap().to_bytes().len();
    (began.elapsed(), size)
}

async fn pages(server: &RedisServer) {
    const ROUNDS: usize = 51;
    let ledger = RedisLedger::builder(server.url()).prefix("pages").connect().await.unwrap();
    let mut tokens = BearerTokens::new();
    for (token, lines) in [("one", 1), ("most", MAX_LINES)] {
        for renewal in settles(lines) {
            ledger
                .renew(&Account::user(token).unwrap(), this_month(), &renewal, WITHIN)
                .await
                .unwrap();
        }
        tokens = tokens.with(token, benches::identity(token, "pro"));
    }
    let meter = CreditMeter::new(benches::plan(), ledger.clone(), tokens);
    let app = billing::router(&meter);
    println!(
        "\n## A bill of {MAX_LINES} lines, beside one of a line: read from Redis and written, medians of {ROUNDS}\n"
    );
    println!("| what | 1 line | {MAX_LINES} lines | ratio | bytes |");
    println!("|---|---|---|---|---|");
    for path in ["/billing", "/billing.json", "/billing.csv"] {
        let (mut one, mut most, mut size) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            one.push(asks(&app, path, "one").await.0);
            let (took, bytes) = asks(&app, path, "most").await;
            most.push(took);
            size = bytes;
        }
        one.sort();
        most.sort();
        let (one, most) = (one[ROUNDS / 2], most[ROUNDS / 2]);
        println!(
            "| `{path}` | {one:.2?} | {most:.2?} | {:.1} | {size} |",
            most.as_secs_f64() / one.as_secs_f64()
        );
    }
    // A renewal that adds to one line of them.
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..10 * ROUNDS {
        for (took, (token, lines)) in took.iter_mut().zip([("one", 1), ("most", MAX_LINES)]) {
            let batch = (lines.div_ceil(BATCH) + round + 1) as u64;
            let renewal = Renewal {
                lines: settles_from(1, 0, 1).lines,
                ..settles_from(batch, lines + round, lines + round + 1)
            };
            let began = Instant::now();
            ledger
                .renew(&Account::user(token).unwrap(), this_month(), &renewal, WITHIN)
                .await
                .unwrap();
            took.push(began.elapsed());
        }
    }
    let [one, most] = took.map(|mut took| {
        took.sort();
        took[took.len() / 2]
    });
    println!(
        "| a renewal | {one:.2?} | {most:.2?} | {:.2} | |",
        most.as_secs_f64() / one.as_secs_f64()
    );
}

async fn lists(server: &RedisServer) {
    const PAGE: usize = 100;
    println!("\n## The list of accounts, on pages of {PAGE}\n");
    println!("| accounts | keys | pages | all pages | longest page | largest page |");
    println!("|---|---|---|---|---|---|");
    for many in [1_000, 10_000_u32] {
        let ledger = &RedisLedger::builder(server.url())
            .prefix(format!("list-{many}"))
            .connect()
            .await
            .unwrap();
        let renewals = iter(0..many).for_each_concurrent(100, async |number| {
            let account = Account::user(&format!("user-{number}")).unwrap();
            ledger.renew(&account, this_month(), &settles_from(1, 0, 1), WITHIN).await.unwrap();
        });
        renewals.await;
        let keys = server.command(&["DBSIZE"]);
        let keys = keys.trim_start_matches(':').split('\r').next().unwrap().to_owned();
        let accounts = Accounts::new(ledger.clone());
        let (mut from, mut count, mut found, mut longest, mut largest) =
            (None::<Cursor>, 0, 0, Duration::ZERO, 0);
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let page =
                accounts.list(this_month(), from.as_ref(), PAGE.try_into().unwrap()).await.unwrap();
            longest = longest.max(asked.elapsed());
            (count, found, largest) =
                (count + 1, found + page.accounts.len(), largest.max(page.accounts.len()));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert!(found >= many as usize);
        println!(
            "| {many} | {keys} | {count} | {:.1?} | {longest:.1?} | {largest} |",
            began.elapsed()
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    pages(&server).await;
    lists(&server).await;
}
