//! The contract of ledgers, on Redis, and how long its keys last.

use tower_credits::{
    Account, Accounts, Period, RedisLedger, RequestId,
    clock::UnixTime,
    ledger::{LeaseId, Ledger, Renewal, RequestCost, Terms, contract},
};

use crate::support::{redis_server::RedisServer, *};

#[tokio::test]
async fn the_redis_ledger_holds_the_contract() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    contract::check(&ledger, None).await.unwrap();
}

/// Costs go when they were kept for long enough, with keys of five minutes each, and none is kept
/// for less time because another node keeps them for a shorter one.
#[tokio::test]
async fn costs_of_requests_are_in_small_keys_that_expire() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let account = Account::user("alice").unwrap();
    let now = UnixTime::now();
    let id = |ago: u64| -> RequestId {
        let millis = (now - seconds(ago)).as_millis();
        let (high, low) = (millis >> 16, millis & 0xffff);
        format!("{high:08x}-{low:04x}-7000-8000-{ago:012x}").parse().unwrap()
    };
    let mut costs: Vec<_> =
        (0..1_500).map(|at| RequestCost { id: id(at), cost: nanos(at as i64) }).collect();
    costs.push(RequestCost { id: "order-17".parse().unwrap(), cost: nanos(17) });
    let calls = server.calls("evalsha");
    ledger.keep_costs(&account, &costs, seconds(7_200)).await.unwrap();
    assert_eq!(server.calls("evalsha") - calls, 2, "a thousand costs a call");
    // A second node keeps the last ones for longer, and a third for a shorter time.
    ledger.keep_costs(&account, &costs[..1], seconds(86_400)).await.unwrap();
    ledger.keep_costs(&account, &costs[..1], seconds(60)).await.unwrap();
    let ids: Vec<_> = costs.iter().map(|cost| cost.id.clone()).collect();
    let mut found = ledger.costs(&account, &ids).await.unwrap();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    costs.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(found, costs);
    let keys = server.command(&["KEYS", "tc:{user:alice}:costs:*"]);
    let keys: Vec<_> = keys.lines().filter(|line| line.starts_with("tc:")).collect();
    assert!((6..=8).contains(&keys.len()), "25 minutes, and one of another id: {keys:?}");
    let mut longest = 0;
    for key in keys {
        let number = |command: &str| -> i64 {
            server.command(&[command, key]).lines().next().unwrap()[1..].parse().unwrap()
        };
        assert!(number("HLEN") <= 300);
        assert!((7_190..=86_400).contains(&number("TTL")));
        longest = longest.max(number("TTL"));
    }
    assert!(longest > 86_390);
    Accounts::new(ledger.clone()).erase(&account).await.unwrap();
    assert_eq!(ledger.costs(&account, &ids).await.unwrap(), []);
    let left = server.command(&["KEYS", "tc:{user:alice}:costs:*"]);
    assert!(!left.contains("costs"), "{left}");
}

#[tokio::test]
async fn leases_expire_after_62_days_books_after_13_months_and_records_do_not() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let (account, period) = (Account::user("ü x:y").unwrap(), Period::containing(UnixTime::now()));
    let renewal = Renewal {
        lease: LeaseId::from_bits(1),
        seq: 1,
        batch: 1,
        settled: nanos(400),
        reported: nanos(0),
        lines: [].into(),
        keep: nanos(0),
        refill: nanos(0),
        need: nanos(0),
        extra: nanos(0),
        terms: Terms {
            included: nanos(1_000),
            included_per_day: nanos(0),
            per_seat: false,
            pay_as_you_go: nanos(0),
        },
        terms_at: UnixTime::EPOCH,
        ttl: seconds(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    };
    ledger.renew(&account, period, &renewal, seconds(2)).await.unwrap();
    let accounts = Accounts::new(ledger);
    accounts.set_seats(&account, 3.try_into().unwrap()).await.unwrap();
    let ttl = |key: &str| -> i64 {
        server.command(&["TTL", key]).lines().next().unwrap()[1..].parse().unwrap()
    };
    let days = |part: &str| ttl(&format!("tc:{{user:ü x:y}}:{period}{part}")) / 86_400;
    assert!((62..=93).contains(&days(":l")), "leases are stored for 62 days after the period");
    assert!((395..=428).contains(&days("")), "the rest for 13 months");
    assert_eq!(ttl("tc:{user:ü x:y}"), -1, "an account's record does not expire");
}
