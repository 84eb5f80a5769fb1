//! The contract of ledgers, on Redis, and how long its keys last.

use tower_credits::{
    Account, Accounts, Period, RedisLedger,
    clock::UnixTime,
    ledger::{LeaseId, Ledger, Renewal, Terms, contract},
};

use crate::support::{redis_server::RedisServer, *};

#[tokio::test]
async fn the_redis_ledger_holds_the_contract() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    contract::check(&ledger, None).await.unwrap();
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
