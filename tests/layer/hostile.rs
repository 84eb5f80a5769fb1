//! Hostile input: a clear answer, no panic, and nothing kept.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, BearerTokens, CreditMeter, Identity, Limits, MemoryLedger, Name, Period,
    clock::{TokioClock, UnixTime},
    identify::{Identify, Identifying, RequestHead},
    ledger::{LedgerError, MAX_LINES},
    plan::Classification,
};

use crate::support::{logs::Log, *};

async fn status(meter: &CreditMeter, request: Request<Empty<Bytes>>) -> u16 {
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        |_: Request<Empty<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    ));
    service.oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn credentials_of_any_bytes_are_unknown() {
    let meter = CreditMeter::new(
        plan(),
        MemoryLedger::new(),
        BearerTokens::new().with("s3cret", identity("alice", "pro")),
    );
    let long = [b"Bearer ".as_slice(), &[b'x'; 100 << 10]].concat();
    let values: [&[u8]; 6] = [
        &long,
        b"Bearer \xff\xfe\x80",
        b"Bearer",
        b"",
        b"\xc3\x28",
        b"Bearer s3cret\t\xe2\x80\x8b",
    ];
    for value in values {
        let request = Request::post("/models/echo")
            .header(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        assert_eq!(status(&meter, request.body(Empty::new()).unwrap()).await, 401);
    }
    let twice = Request::post("/models/echo")
        .header(AUTHORIZATION, "Bearer s3cret")
        .header(AUTHORIZATION, "Bearer s3cret");
    assert_eq!(status(&meter, twice.body(Empty::new()).unwrap()).await, 401);
}

#[tokio::test]
async fn names_that_clients_choose_are_found_or_not_and_never_kept() {
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), tokens);
    for number in 0..2_000 {
        for path in [
            format!("/models/model-{number}"),
            format!("/models/%00%0d%0a%7b{number}%7d"),
            format!("/{number}/{}", "x".repeat(2_000)),
        ] {
            let request = Request::post(path)
                .header(AUTHORIZATION, "Bearer s3cret")
                .body(Empty::new())
                .unwrap();
            assert_eq!(status(&meter, request).await, 404);
        }
    }
    assert!(statement(&meter, "alice", "pro").await.lines.is_empty());
    for id in ["a{b", "a}b", "a\r\nb", "a\0b", "", &"x".repeat(129)] {
        assert!(Account::user(id).is_err() && Account::org(id).is_err(), "{id:?}");
    }
    for name in ["", "a\nb", "a\tb", &"x".repeat(129)] {
        assert!(name.parse::<Name>().is_err(), "{name:?}");
    }
}

#[tokio::test]
async fn of_endless_paths_sixty_four_are_logged_with_advice_once_each() {
    let tokens = BearerTokens::new().with("s3cret", identity("alice", "pro"));
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), tokens);
    let (log, _guard) = Log::of_this_thread();
    let ask = async |path: String, token: &str| {
        let request = Request::post(path).header(AUTHORIZATION, format!("Bearer {token}"));
        status(&meter, request.body(Empty::new()).unwrap()).await
    };
    for number in 0..100 {
        assert_eq!(ask(format!("/stranger-{number}"), "guess").await, 401);
    }
    assert!(log.lines(&["denied: "]).is_empty(), "strangers choose nothing that is logged");
    for _ in 0..2 {
        for number in 0..500 {
            let path = if number % 2 == 0 { "/models/none" } else { "/elsewhere" };
            assert_eq!(ask(format!("{path}-{number}"), "s3cret").await, 404);
        }
    }
    let logged = log.lines(&["denied: "]);
    assert_eq!(logged.len(), 64);
    assert!((0..64).all(|number| logged[number].contains(&format!("-{number}\""))), "{logged:?}");
}

/// An owner sets them, or a host for its owners.
#[tokio::test]
async fn an_account_has_ten_thousand_limits_of_parts_and_no_more() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let (alice, accounts) = (Account::user("alice").unwrap(), meter.accounts());
    let limits = |limit: i64| Limits { per_month: Some(nanos(limit)), per_day: None };
    let set = async |part: usize, limits| {
        let part = format!("group-{part}").parse().unwrap();
        accounts.set_limits(&alice, Some(&part), limits).await
    };
    for part in 0..10_000 {
        set(part, limits(1)).await.unwrap();
    }
    let refused = set(10_000, limits(1)).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("too many parts"), "{refused}");
    assert_eq!(statement(&meter, "alice", "pro").await.parts.len(), 10_000);
    // What is there can be changed, and makes room when it is taken away.
    set(9_999, limits(2)).await.unwrap();
    set(0, Limits::NONE).await.unwrap();
    set(10_000, limits(1)).await.unwrap();
    assert!(set(0, limits(1)).await.is_err());
    // Its requests are served, and billed in parts that have no limit.
    let who = identity("alice", "pro").in_part("another".parse().unwrap());
    let asked = Request::post("/models/echo").extension(who).body(Empty::new()).unwrap();
    assert_eq!(status(&meter, asked).await, 200);
    settled(&meter, "alice", "pro", 1).await;
}

/// Nobody is protected from mistaking one for another; the ledger does not.
#[tokio::test]
async fn names_that_look_alike_are_accepted_and_billed_apart() {
    let meter = meter(MemoryLedger::new()).build().unwrap();
    let alike = [
        "caf\u{e9}",
        "cafe\u{301}",
        "CAF\u{c9}",
        "c\u{430}f\u{e9}",
        "caf\u{e9}\u{200b}",
        "caf\u{e9} ",
        "\u{202e}\u{e9}fac",
    ];
    for (at, name) in alike.iter().enumerate() {
        for _ in 0..=at {
            assert_eq!(status(&meter, request(name, "free", Empty::new())).await, 200, "{name:?}");
        }
    }
    for (at, name) in alike.iter().enumerate() {
        let statement = settled(&meter, name, "free", at as u64 + 1).await;
        assert_eq!(statement.account.as_str(), format!("user:{name}"), "{name:?}");
    }
}

/// Everybody is somebody new.
#[derive(Debug, Default)]
struct Strangers(std::sync::atomic::AtomicUsize);

impl Identify for Strangers {
    fn identify(&self, _: RequestHead<'_>) -> Identifying {
        let number = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = format!("stranger-{number}");
        Identifying::Ready(Ok(Arc::new(Identity::new(
            name.parse().unwrap(),
            Account::user(&name).unwrap(),
            "pro".parse().unwrap(),
        ))))
    }
}

#[tokio::test(start_paused = true)]
async fn endless_accounts_find_a_bound_and_leave_room_again() {
    let meter = CreditMeter::builder(plan(), MemoryLedger::new(), Strangers::default())
        .clock(TokioClock)
        .max_accounts(1_000.try_into().unwrap())
        .build()
        .unwrap();
    let ask = || Request::post("/models/echo").body(Empty::new()).unwrap();
    let mut busy = 0;
    for number in 0..3_000 {
        match status(&meter, ask()).await {
            200 => assert!(number < 1_000, "{number}"),
            503 => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(busy, 2_000);
    // Once their leases have said goodbye, others find room.
    eventually_in_an_hour(async || status(&meter, ask()).await == 200).await;
}

async fn eventually_in_an_hour(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..60 {
        if condition().await {
            return;
        }
        tokio::time::advance(seconds(60)).await;
        // Lets the worker do what became due.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
    }
    panic!("no room after an hour");
}

#[tokio::test]
async fn a_host_that_lets_clients_name_features_keeps_a_bounded_bill() {
    // Each request names its own feature: after so many lines, the rest goes to one.
    let number = std::sync::atomic::AtomicUsize::new(0);
    let meter = meter(MemoryLedger::new().max_lines(100.try_into().unwrap()))
        .classify(move |_, plan| {
            let feature =
                format!("feature-{}", number.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
            plan.workload("echo", &feature.parse().unwrap())
                .map_or(Classification::Unknown, Classification::Workload)
        })
        .build()
        .unwrap();
    for _ in 0..3_000 {
        assert_eq!(status(&meter, request("alice", "pro", Empty::new())).await, 200);
    }
    let statement = settled(&meter, "alice", "pro", 3_000).await;
    assert_eq!(statement.lines.len(), 101);
    let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
    assert_eq!(lines, statement.used.as_nano_usd());
}

/// The same at the bound that ledgers have by themselves, for which statement and page have room.
#[tokio::test(start_paused = true)]
async fn by_default_a_bill_has_twenty_thousand_lines_and_one_for_the_rest() {
    let number = std::sync::atomic::AtomicUsize::new(0);
    let meter = meter(MemoryLedger::new())
        .classify(move |_, plan| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            plan.workload("echo", &format!("feature-{number}").parse().unwrap())
                .map_or(Classification::Unknown, Classification::Workload)
        })
        .build()
        .unwrap();
    // A node that has not reported yet puts together what is beyond its own bound.
    for _ in 0..29 {
        for _ in 0..700 {
            assert_eq!(status(&meter, request("alice", "pro", Empty::new())).await, 200);
        }
        tokio::time::sleep(seconds(1)).await;
    }
    let statement = settled(&meter, "alice", "pro", 20_300).await;
    assert_eq!((MAX_LINES, statement.lines.len()), (20_000, 20_001));
    let lines: i64 = statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum();
    assert_eq!(lines, statement.used.as_nano_usd());
}

#[tokio::test]
async fn a_calendar_that_is_set_back_or_ahead_moves_no_bill() {
    let (clock, ledgers_clock) = (november(), november());
    let month = |text: &str| text.parse::<Period>().unwrap();
    ledgers_clock.advance(seconds(3_600));
    let ledger = MemoryLedger::with_clock(ledgers_clock);
    let meter = meter(ledger).clock(clock.clone()).build().unwrap();
    // By years, months and a minute, back and ahead; the ledger's clock says which month it is.
    let november = month("2026-11").begins();
    let months =
        ["2026-01", "2026-10", "2026-11", "2026-12", "2027-11"].map(|time| month(time).begins());
    let around = months.into_iter().chain([
        UnixTime::EPOCH,
        UnixTime::MAX,
        november - seconds(60),
        november,
    ]);
    let mut served = 0;
    for time in around {
        clock.set_unix_time(time);
        match status(&meter, request("alice", "free", Empty::new())).await {
            200 => served += 1,
            503 => {}
            other => panic!("{other} at {time:?}"),
        }
    }
    assert!(served > 0);
    clock.set_unix_time(november);
    assert_eq!(
        settled(&meter, "alice", "free", served).await.requests(),
        served,
        "all of it is November's"
    );
    for other in ["2026-10", "2026-12"] {
        let statement =
            meter.statement(&identity("alice", "free"), Some(month(other))).await.unwrap();
        assert_eq!((statement.requests(), statement.held.is_zero()), (0, true), "{other}");
    }
}
