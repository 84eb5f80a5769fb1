//! One contract, run against every ledger.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tower_credits::{
    Account, Credits, MemoryLedger, Period, RedisLedger,
    ledger::{
        Amendment, Answer, LeaseId, Ledger, LedgerError, LineKey, Outcome, Renewal, Terms, Usage,
        UsageLine,
    },
};

use crate::support::{redis_server::RedisServer, *};

const WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

fn renewal(lease: u128, seq: u64, settled: i64, keep: i64, need: i64) -> Renewal {
    Renewal {
        lease: LeaseId::from_bits(lease),
        seq,
        batch: seq,
        settled: nanos(settled),
        reported: Credits::ZERO,
        lines: [].into(),
        keep: nanos(keep),
        refill: Credits::ZERO,
        need: nanos(need),
        extra: Credits::ZERO,
        terms: Terms { included: nanos(1_000), per_seat: false, pay_as_you_go: Credits::ZERO },
        said: std::time::Duration::ZERO,
        ttl: seconds(600),
        forget: false,
    }
}

fn hold(answer: Result<Answer, LedgerError>) -> i64 {
    match answer.unwrap().outcome {
        Outcome::Renewed { hold, .. } => hold.as_nano_usd(),
        other => panic!("{other:?}"),
    }
}

async fn keeps_the_contract(ledger: impl Ledger) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let period = Period::containing(now);
    let account = Account::user("ü x:y").unwrap();
    let terms = renewal(1, 1, 0, 0, 0).terms;
    let renew = async |renewal: Renewal| ledger.renew(&account, period, &renewal, WITHIN).await;

    let empty = ledger.statement(&account, period, Some(terms)).await.unwrap();
    assert_eq!(
        (empty.used, empty.held, empty.included, empty.lines.len()),
        (nanos(0), nanos(0), nanos(1_000), 0)
    );

    assert_eq!(hold(renew(renewal(1, 1, 0, 0, 700)).await), 700);
    assert_eq!(hold(renew(renewal(1, 1, 0, 0, 700)).await), 700, "a repeat changes nothing");
    assert_eq!(hold(renew(renewal(2, 1, 0, 0, 700)).await), 300, "what is left");

    let line = UsageLine {
        key: LineKey::Of {
            day: 1,
            model: "m".parse().unwrap(),
            hardware: "h".parse().unwrap(),
            feature: "f".parse().unwrap(),
            subject: "s".parse().unwrap(),
        },
        usage: Usage { requests: 2, compute_micros: 5, cost: nanos(400) },
    };
    let settle = Renewal { lines: Arc::new([line.clone()]), ..renewal(1, 2, 400, 100, 0) };
    assert_eq!(hold(renew(settle.clone()).await), 100);
    assert_eq!(
        hold(renew(Renewal { seq: 3, ..settle }).await),
        100,
        "a batch that is sent again is debited once"
    );
    assert_eq!(renew(renewal(1, 2, 400, 0, 0)).await.unwrap().outcome, Outcome::Superseded);
    // A settled total without its lines: a failover forgot them.
    assert_eq!(hold(renew(renewal(1, 4, 450, 0, 0)).await), 0);
    let too_much = Renewal { lines: Arc::new([line]), ..renewal(1, 5, 451, 0, 0) };
    assert!(matches!(renew(too_much).await, Err(LedgerError::Refused(_))));
    assert!(matches!(
        renew(renewal(1, 5, Credits::MAX.as_nano_usd(), 0, 0)).await.map(|_| ()),
        Ok(())
    ));
    let full = renew(renewal(3, 1, 1, 0, 10)).await.unwrap();
    let Outcome::Renewed { hold: none, standing } = full.outcome else { panic!("{full:?}") };
    assert_eq!(
        (none, standing.used),
        (Credits::ZERO, Credits::MAX),
        "there is no room for more, and nothing to try again"
    );

    let statement = ledger.statement(&account, period, Some(terms)).await.unwrap();
    let lines = statement.lines.iter().fold(0, |sum, line| sum + line.usage.cost.as_nano_usd());
    assert_eq!((statement.used, lines), (Credits::MAX, Credits::MAX.as_nano_usd()));
    assert_eq!((statement.held, statement.requests()), (nanos(300), 2));
    assert_eq!(statement.lines.last().unwrap().model.as_str(), "recovered");

    assert_eq!(hold(renew(renewal(2, 2, 0, 0, 0)).await), 0);
    assert_eq!(
        renew(Renewal { forget: true, ..renewal(2, 3, 0, 0, 0) }).await.unwrap().outcome,
        Outcome::Forgotten
    );
    assert_eq!(
        renew(Renewal { forget: true, ..renewal(2, 3, 0, 0, 0) }).await.unwrap().outcome,
        Outcome::Forgotten,
        "again"
    );

    let next = ledger
        .renew(&account, period.next().next(), &renewal(9, 1, 0, 0, 1), WITHIN)
        .await
        .unwrap();
    assert_eq!(next.outcome, Outcome::NotBegun);
    let past = "2020-01".parse().unwrap();
    assert_eq!(
        ledger.renew(&account, past, &renewal(9, 1, 0, 0, 1), WITHIN).await.unwrap().outcome,
        Outcome::Closed
    );

    let bob = Account::user("bob").unwrap();
    let grant =
        Amendment::Grant { id: "order 1".parse().unwrap(), amount: nanos(50), expires: None };
    assert!(ledger.amend(&bob, grant.clone()).await.unwrap());
    assert!(!ledger.amend(&bob, grant).await.unwrap(), "one id grants once");
    assert!(ledger.amend(&bob, Amendment::Seats(3.try_into().unwrap())).await.unwrap());
    let seats = Terms { per_seat: true, ..terms };
    let asked = Renewal { terms: seats, ..renewal(1, 1, 0, 0, 10_000) };
    assert_eq!(hold(ledger.renew(&bob, period, &asked, WITHIN).await), 3_050);
    assert!(ledger.amend(&bob, Amendment::SpendingLimit(Some(nanos(7)))).await.unwrap());
    let asked = Renewal {
        terms: Terms { pay_as_you_go: Credits::MAX, ..seats },
        ..renewal(1, 2, 3_055, 0, 10_000)
    };
    let answer = ledger.renew(&bob, period, &asked, WITHIN).await.unwrap();
    let Outcome::Renewed { hold, standing } = answer.outcome else { panic!("{answer:?}") };
    assert_eq!((hold, standing.limited_by_owner), (nanos(2), true));
    let statement = ledger.statement(&bob, period, Some(asked.terms)).await.unwrap();
    assert_eq!((statement.purchased_used, statement.pay_as_you_go), (nanos(50), nanos(5)));
}

#[tokio::test]
async fn the_memory_ledger() {
    keeps_the_contract(MemoryLedger::new()).await;
}

#[tokio::test]
async fn the_redis_ledger() {
    let server = RedisServer::start();
    keeps_the_contract(RedisLedger::connect(server.url()).await.unwrap()).await;
    let ttl = |key: &str| -> i64 {
        server.command(&["TTL", key]).lines().next().unwrap()[1..].parse().unwrap()
    };
    let period = Period::containing(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let days = |part: &str| ttl(&format!("tc:{{user:ü x:y}}:{period}{part}")) / 86_400;
    assert!((62..=93).contains(&days(":l")), "leases are kept for 62 days after the period's end");
    assert!((395..=428).contains(&days("")), "the rest for 13 months");
    assert_eq!(ttl("tc:{user:bob}"), -1, "an account's record does not expire");
}
