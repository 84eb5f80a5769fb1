//! What lies in Redis may be malformed, lost or torn: who suffers, and that the totals come right
//! again.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, Accounts, ComputeTime, CreditMeter, MemoryLedger, Period, RedisLedger, Rejection,
    ledger::{Ledger, LedgerError},
};

use crate::support::{proxy::Proxy, redis_server::RedisServer, *};

type Body = Empty<Bytes>;

/// Every request takes a second, by its own word.
async fn asked(
    meter: &CreditMeter,
    user: &str,
    tier: &str,
) -> Response<tower_credits::meter::MeterBody<Body>> {
    let service = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(
            Response::builder().extension(ComputeTime(seconds(1))).body(Body::new()).unwrap(),
        )
    });
    ServiceBuilder::new()
        .layer(meter.clone())
        .service(service)
        .oneshot(request(user, tier, Body::new()))
        .await
        .unwrap()
}

async fn ask(meter: &CreditMeter, user: &str, tier: &str) -> StatusCode {
    asked(meter, user, tier).await.status()
}

async fn node(url: &str) -> CreditMeter {
    CreditMeter::new(
        plan(),
        RedisLedger::connect(url).await.unwrap(),
        tower_credits::identify::IdentityFromExtensions,
    )
}

fn month() -> Period {
    Period::containing(tower_credits::clock::UnixTime::now())
}

fn key(user: &str, rest: &str) -> String {
    format!("tc:{{user:{user}}}{rest}")
}

/// Ten ways to break a record, a book, its leases or its holds.
fn break_it(server: &RedisServer, user: &str, way: usize) {
    let month = month();
    let (record, book) = (key(user, ""), key(user, &format!(":{month}")));
    let (leases, holds) = (format!("{book}:l"), format!("{book}:h"));
    let command: &[&str] = match way % 10 {
        0 => &["HSET", &record, "grant:x", "5000000000"],
        1 => &["HSET", &record, "seats", "many"],
        2 => &["HSET", &record, "limit", "-1"],
        3 => &["HSET", &record, "closed", "soon"],
        4 => &["HSET", &record, "pledge:2026-11", "1 2 3"],
        5 => &["HSET", &book, "total", "1 2"],
        6 => &["SET", &leases, "no hash"],
        7 => &["HSET", &holds, "sum", "nan 0"],
        8 => &["SET", &record, "no hash"],
        _ => &["HSET", &book, "terms", "1 0 ? 1 1"],
    };
    server.command(command);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_accounts_are_their_own_trouble() {
    // The issue's crowd: `CROWD=1000 CROWD_SECONDS=60`.
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |number: String| number.parse().expect("a number"))
    };
    let (crowd, lasts) = (number("CROWD", 200), number("CROWD_SECONDS", 4));
    let server = RedisServer::start();
    // A busy machine's own delays are nobody's denial here.
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let identify = tower_credits::identify::IdentityFromExtensions;
    let meter =
        CreditMeter::builder(plan(), ledger, identify).ledger_timeout(seconds(5)).build().unwrap();
    for way in 0..10 {
        break_it(&server, &format!("bad-{way}"), way);
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(lasts as u64);
    let (mut served, mut denied) = (0, 0);
    while tokio::time::Instant::now() < until {
        for good in 0..crowd {
            assert_eq!(ask(&meter, &format!("good-{good}"), "pro").await, 200);
            served += 1;
            if good % 20 == 0 {
                assert_eq!(ask(&meter, &format!("bad-{}", denied % 10), "free").await, 503);
                denied += 1;
            }
        }
    }
    eprintln!("{served} served, {denied} of malformed accounts denied");
    assert!(denied >= 10);
    // They are mended by writing what is right.
    let accounts = meter.accounts();
    let bad = Account::user("bad-1").unwrap();
    accounts.set_seats(&bad, 1.try_into().unwrap()).await.unwrap();
    eventually(async || (ask(&meter, "bad-1", "free").await == 200).then_some(())).await;
    let error = accounts.statement(&Account::user("bad-0").unwrap(), month()).await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::Malformed(what) if what.contains("tc:{user:bad-0} grant:x")),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_named_with_key_and_field() {
    let server = RedisServer::start();
    let meter = node(&server.url()).await;
    assert_eq!(ask(&meter, "x", "pro").await, 200);
    let before = settled(&meter, "x", "pro", 1).await;
    server.command(&["HSET", &key("x", ""), "seats", "many"]);
    for _ in 0..3 {
        ask(&meter, "x", "pro").await;
    }
    let wrong = meter
        .accounts()
        .statement(&Account::user("x").unwrap(), month())
        .await
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("tc:{user:x} seats \"many\""), "{wrong}");
    server.command(&["HDEL", &key("x", ""), "seats"]);
    // What was used meanwhile within the outage's allowance is debited, once.
    let after = eventually(async || {
        let statement = meter.statement(&identity("x", "pro"), None).await.ok()?;
        (statement.held.is_zero() && meter.statement(&identity("x", "pro"), None).await.is_ok())
            .then_some(statement)
    })
    .await;
    assert!(after.used >= before.used);
    drop(meter.shutdown().await);
    let end = statement(&meter, "x", "pro").await;
    assert_eq!(end.used.as_nano_usd() % SLICE, 0, "whole requests");
    assert_eq!(end.used.as_nano_usd(), i64::try_from(end.requests()).unwrap() * SLICE);
}

/// The halves of what is known check each other: what one lost, or lost the latest of, comes back
/// from the other, and nothing is debited twice.
#[tokio::test]
async fn a_key_that_is_lost_loses_and_doubles_nothing() {
    let book = format!(":{}", month());
    for (lost, is_torn) in [":l", "", ":h"]
        .into_iter()
        .flat_map(|half| [(format!("{book}{half}"), false), (format!("{book}{half}"), true)])
    {
        let case = format!("{lost}, {}", if is_torn { "torn" } else { "gone" });
        let server = RedisServer::start();
        let meter = node(&server.url()).await;
        for count in 1..=3 {
            if count == 3 {
                server.command(&["COPY", &key("alice", &lost), "saved"]);
            }
            assert_eq!(ask(&meter, "alice", "pro").await, 200);
            settled(&meter, "alice", "pro", count).await;
        }
        server.command(&["DEL", &key("alice", &lost)]);
        if is_torn {
            server.command(&["COPY", "saved", &key("alice", &lost)]);
        }
        for _ in 0..2 {
            assert_eq!(ask(&meter, "alice", "pro").await, 200);
        }
        let statement = eventually(async || {
            let statement = statement(&meter, "alice", "pro").await;
            (statement.used.as_nano_usd() == 5 * SLICE && statement.held.is_zero())
                .then_some(statement)
        })
        .await;
        let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
        assert_eq!(lines, 5 * SLICE, "{case}");
        assert_eq!(meter.shutdown().await.unsettled, []);
        let statement = crate::support::statement(&meter, "alice", "pro").await;
        assert_eq!(
            (statement.used.as_nano_usd(), statement.held.as_nano_usd()),
            (5 * SLICE, 0),
            "{case}"
        );
    }
}

/// An account whose book is gone is on the list by what its leases account for; nobody is on it
/// twice.
#[tokio::test]
async fn a_list_has_everybody_once_whose_book_is_lost_too() {
    let server = RedisServer::start();
    let meter = node(&server.url()).await;
    let users: Vec<String> = (0..40).map(|user| format!("u{user}")).collect();
    for user in &users {
        assert_eq!(ask(&meter, user, "pro").await, 200);
        settled(&meter, user, "pro", 1).await;
    }
    for user in &users[..20] {
        server.command(&["DEL", &key(user, &format!(":{}", month()))]);
    }
    let (mut found, mut from) = (std::collections::BTreeMap::new(), None);
    loop {
        let page =
            meter.accounts().list(month(), from.as_ref(), 10.try_into().unwrap()).await.unwrap();
        for account in page.accounts {
            assert_eq!(account.used.as_nano_usd(), SLICE, "{account:?}");
            *found.entry(account.account.to_string()).or_insert(0) += 1;
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!((found.len(), found.values().max()), (40, Some(&1)), "{found:?}");
    drop(meter.shutdown().await);
}

/// `held` that is wrong is right again when holds are looked through.
#[tokio::test]
async fn what_is_wrongly_on_hold_is_found_out() {
    let server = RedisServer::start();
    let meter = node(&server.url()).await;
    assert_eq!(ask(&meter, "alice", "ten").await, 200);
    settled(&meter, "alice", "ten", 1).await;
    let holds = key("alice", &format!(":{}:h", month()));
    server.command(&["HSET", &holds, "sum", "999999999 1"]);
    assert_eq!(ask(&meter, "alice", "ten").await, 200);
    assert_eq!(settled(&meter, "alice", "ten", 2).await.held, nanos(0));
}

/// The file ends in the middle of a renewal, as after a crash of the machine.
#[tokio::test]
async fn a_torn_file_loses_and_doubles_nothing() {
    let mut torn = 0;
    for commands in 1..=16 {
        let mut server =
            RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        let meter = node(&server.url()).await;
        for count in 1..=3 {
            assert_eq!(ask(&meter, "alice", "pro").await, 200);
            settled(&meter, "alice", "pro", count).await;
        }
        server.kill();
        torn += usize::from(server.tear_log(commands));
        server.restart();
        // Once more: what was loaded is what is written now.
        eventually(async || (ask(&meter, "alice", "pro").await == 200).then_some(())).await;
        server.kill();
        server.restart();
        eventually(async || (ask(&meter, "alice", "pro").await == 200).then_some(())).await;
        eventually(async || {
            let statement = meter.statement(&identity("alice", "pro"), None).await.ok()?;
            statement.held.is_zero().then_some(())
        })
        .await;
        let settled_by_node = meter.shutdown().await;
        assert_eq!(settled_by_node.unsettled, []);
        let statement = meter.statement(&identity("alice", "pro"), None).await.unwrap();
        let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
        assert_eq!(
            (statement.used, lines),
            (settled_by_node.settled, settled_by_node.settled.as_nano_usd()),
            "without the last {commands} commands"
        );
        assert_eq!(statement.held, nanos(0));
    }
    assert!(torn >= 6, "renewals are torn: {torn}");
}

#[tokio::test]
async fn an_erased_account_is_gone_whatever_nodes_still_report() {
    let server = RedisServer::start();
    for (redis, ledger) in [(true, None), (false, Some(MemoryLedger::new()))] {
        let meter = match ledger {
            None => node(&server.url()).await,
            Some(ledger) => {
                CreditMeter::new(plan(), ledger, tower_credits::identify::IdentityFromExtensions)
            }
        };
        let accounts: Accounts = meter.accounts();
        let alice = Account::user("alice").unwrap();
        accounts.grant(&alice, "order-1".parse().unwrap(), nanos(5_000_000), None).await.unwrap();
        let running = asked(&meter, "alice", "pro").await;
        settled(&meter, "alice", "pro", 1).await;
        // Another is under way while the account goes.
        let service = service_fn(async |_: Request<Body>| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, Infallible>(Response::new(Body::new()))
        });
        let service = ServiceBuilder::new().layer(meter.clone()).service(service);
        let under_way = tokio::spawn(service.oneshot(request("alice", "pro", Body::new())));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(accounts.erase(&alice).await.unwrap());
        assert!(!accounts.erase(&alice).await.unwrap(), "it is gone already");
        drop((running, under_way.await.unwrap().unwrap()));
        // Within what it has on hold for a moment more.
        let denied = eventually(async || {
            let response = asked(&meter, "alice", "pro").await;
            (response.status() != 200).then_some(response)
        })
        .await;
        assert_eq!(
            (denied.status(), denied.extensions().get()),
            (StatusCode::FORBIDDEN, Some(&Rejection::AccountErased))
        );
        assert!(matches!(
            accounts.grant(&alice, "order-1".parse().unwrap(), nanos(1), None).await,
            Err(LedgerError::Refused(_))
        ));
        let statement = accounts.statement(&alice, month()).await.unwrap();
        assert_eq!(
            (statement.used, statement.held, statement.purchased_left),
            (nanos(0), nanos(0), nanos(0))
        );
        assert_eq!(ask(&meter, "bob", "pro").await, 200);
        assert_eq!(meter.shutdown().await.unsettled, []);
        if redis {
            let keys = server.command(&["KEYS", "tc:{user:alice}*"]);
            assert!(
                keys.starts_with("*1\r\n$15\r\ntc:{user:alice}\r\n"),
                "a mark is left, for a while: {keys}"
            );
            let lasts = server.command(&["PTTL", "tc:{user:alice}"]);
            assert!(!lasts.starts_with(":-"), "{lasts}");
        }
        assert!(
            accounts
                .list(month(), None, 10.try_into().unwrap())
                .await
                .unwrap()
                .accounts
                .iter()
                .all(|account| account.account != alice)
        );
    }
}

/// Grants that are used up leave the renewals' way, and their ids still count once.
#[tokio::test]
async fn spent_grants_are_put_aside() {
    let server = RedisServer::start();
    let meter = node(&server.url()).await;
    let (accounts, alice) = (meter.accounts(), Account::user("alice").unwrap());
    for order in 0..50 {
        let bought = accounts
            .grant(&alice, format!("order-{order}").parse().unwrap(), nanos(SLICE / 10), None)
            .await
            .unwrap();
        assert!(bought);
    }
    for count in 1..=6 {
        assert_eq!(ask(&meter, "alice", "none").await, if count <= 5 { 200 } else { 402 });
    }
    settled(&meter, "alice", "none", 5).await;
    eventually(async || {
        ask(&meter, "alice", "none").await;
        server.command(&["HLEN", &key("alice", ":spent")]).starts_with(":50\r").then_some(())
    })
    .await;
    let left = server.command(&["HKEYS", &key("alice", "")]);
    assert!(!left.contains("grant:"), "{left}");
    assert!(
        !accounts.grant(&alice, "order-7".parse().unwrap(), nanos(1), None).await.unwrap(),
        "it counts once"
    );
    // A refund gives back to them.
    accounts
        .refund(
            &alice,
            month(),
            "case-1".parse().unwrap(),
            nanos(SLICE / 2),
            "it was slow".parse().unwrap(),
        )
        .await
        .unwrap();
    let statement = accounts.statement(&alice, month()).await.unwrap();
    assert_eq!(
        (statement.purchased_left, statement.purchased_used),
        (nanos(SLICE / 2), nanos(5 * SLICE - SLICE / 2))
    );
}

#[tokio::test]
async fn a_full_server_is_connected_to_and_read() {
    let server = RedisServer::start();
    let meter = node(&server.url()).await;
    assert_eq!(ask(&meter, "alice", "pro").await, 200);
    settled(&meter, "alice", "pro", 1).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let statement =
        ledger.statement(&Account::user("alice").unwrap(), month(), None).await.unwrap();
    assert_eq!(statement.used, nanos(SLICE));
}

#[tokio::test]
async fn a_sentinel_is_named_at_connect() {
    let sentinel = RedisServer::start_sentinel();
    let error = RedisLedger::connect(sentinel.url()).await.unwrap_err().to_string();
    assert!(
        error.contains("a Redis Sentinel") && error.contains("write `redis+sentinel://.../master`"),
        "{error}"
    );
}

/// A connection that is being opened when the network has a hole is not waited for by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_swallowed_does_not_keep_others() {
    let server = RedisServer::start();
    let proxy = Proxy::before(
        server.url().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap(),
    )
    .await;
    let meter = node(&proxy.url()).await;
    assert_eq!(ask(&meter, "alice", "free").await, 200);
    // The connection ends, and what is opened in its place is swallowed.
    proxy.silence(true);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    for _ in 0..3 {
        ask(&meter, "alice", "free").await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    proxy.silence(false);
    let began = tokio::time::Instant::now();
    eventually(async || (ask(&meter, "alice", "free").await == 200).then_some(())).await;
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
}
