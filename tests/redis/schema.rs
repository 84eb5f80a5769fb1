//! The worked example of docs/redis-schema.md is what a server has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tower_credits::{
    Account, Accounts, Credits, Period, RedisLedger,
    clock::UnixTime,
    ledger::{LeaseId, Ledger, LineKey, Renewal, Terms, Usage, UsageLine},
};

use crate::support::{redis_server::RedisServer, *};

/// The example's keys, and the fields and values of each.
fn documented() -> BTreeMap<String, BTreeMap<String, String>> {
    let page = include_str!("../../docs/redis-schema.md");
    let of_key = |block: &str| {
        let (key, rest) = block.split_once("'\n").unwrap();
        let shown = rest.split("```").next().unwrap();
        let texts: Vec<_> = shown
            .lines()
            .map(|line| line.split_once(") \"").unwrap().1.strip_suffix('"').unwrap())
            .map(|text| masked(&text.replace("\\t", "\t")))
            .collect();
        let pairs = texts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        (key.to_owned(), pairs.collect())
    };
    page.split("$ redis-cli --no-raw HGETALL '").skip(1).map(of_key).collect()
}

/// Moments, in seconds or milliseconds, are other ones each time.
fn masked(text: &str) -> String {
    let is_moment = |word: &str| {
        [10, 13].contains(&word.len())
            && word.starts_with('1')
            && word.bytes().all(|byte| byte.is_ascii_digit())
    };
    let words = text.split(' ').map(|word| if is_moment(word) { "(moment)" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

async fn plays_the_example(ledger: RedisLedger, alice: &Account, month: Period) {
    let nothing = Credits::ZERO;
    let renewal = Renewal {
        lease: LeaseId::from_bits(7),
        seq: 1,
        batch: 1,
        settled: nothing,
        reported: nothing,
        lines: Arc::default(),
        keep: nothing,
        refill: nothing,
        need: nanos(1_200_000),
        extra: nothing,
        terms: Terms {
            included: "2.00".parse().unwrap(),
            included_per_day: Credits::ZERO,
            per_seat: false,
            pay_as_you_go: Credits::MAX,
        },
        terms_at: UnixTime::now(),
        ttl: seconds(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    };
    let name = |text: &str| text.parse().unwrap();
    let line = UsageLine {
        key: LineKey::Of {
            day: 28,
            model: name("rnnoise"),
            hardware: name("gpu-small"),
            feature: name("api"),
            subject: "alice".parse().unwrap(),
        },
        usage: Usage { requests: 1, compute_micros: 10_000_000, cost: nanos(1_200_000) },
    };
    let settles = Renewal {
        seq: 2,
        batch: 2,
        settled: nanos(1_200_000),
        lines: Arc::new([line]),
        need: nanos(120_000),
        ..renewal.clone()
    };
    let accounts = Accounts::new(ledger.clone());
    let (bought, limit) = ("10.00".parse().unwrap(), "5.00".parse().unwrap());
    accounts.grant(alice, "order-17".parse().unwrap(), bought, None).await.unwrap();
    accounts.set_spending_limit(alice, Some(limit)).await.unwrap();
    ledger.renew(alice, month, &renewal, seconds(2)).await.unwrap();
    ledger.renew(alice, month, &settles, seconds(2)).await.unwrap();
    let (id, reason) = ("case-4711".parse().unwrap(), "it was slow".parse().unwrap());
    accounts.refund(alice, month, id, nanos(200_000), reason).await.unwrap();
    ledger.claim(alice, month, name("included 80"), LeaseId::from_bits(7)).await.unwrap();
}

#[tokio::test]
async fn the_worked_example_of_the_docs_is_what_the_server_has() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let (alice, month) = (Account::user("alice").unwrap(), Period::containing(UnixTime::now()));
    plays_the_example(ledger, &alice, month).await;

    let client = redis::Client::open(server.url()).unwrap();
    // A busy machine may need longer than the half second that is the default.
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let mut link = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("tc:*").query_async(&mut link).await.unwrap();
    let mut found = BTreeMap::new();
    for key in keys.iter().filter(|key| *key != "tc:schema") {
        let fields: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(key).query_async(&mut link).await.unwrap();
        let fields = fields.into_iter().map(|(field, value)| (field, masked(&value))).collect();
        found.insert(key.replace(&month.to_string(), "2026-11"), fields);
    }
    assert_eq!(found, documented());
}
