//! Limits at three levels, by many members at once on several nodes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::sync::{Barrier, watch};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{Account, Accounts, Identity, Limits, Plan, RedisLedger, ledger::LedgerError};

use crate::{
    crowd::standing_clock,
    support::{redis_server::RedisServer, *},
};

/// What a request holds and costs: its ledger timeout of 5 s makes its hold 20 s.
const UNIT: i64 = 20 * SLICE;

/// What may run at once: of a key, of a member with two of them, of a group with five members, and
/// of the account with two groups.
const LIMITS: [i64; 4] = [3, 5, 15, 28];

fn key(number: usize) -> Identity {
    let (group, member, key) = (number / 10, number / 2, number % 2);
    let acme = Account::org("acme").unwrap();
    Identity::new(format!("m{member}").parse().unwrap(), acme, "ten".parse().unwrap())
        .in_part(format!("g{group}/m{member}/k{key}").parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_by_ten_members_on_three_nodes_exactly_those_run_that_fit() {
    const CROWD: usize = 1_000;
    let server = RedisServer::start();
    let clock = standing_clock();
    let included = tower_credits::Credits::from_nano_usd(LIMITS[3] * UNIT).unwrap();
    let included = format!("\"{}\"", included.to_string().trim_start_matches('$'));
    let plan = Plan::from_toml(&PLAN.replace("\"0.0012\"", &included)).unwrap();
    let (running, denials) = (counter(), Arc::new(Mutex::new(HashMap::<u16, usize>::new())));
    let (release, released) = watch::channel(false);
    let mut meters = Vec::new();
    for _ in 0..3 {
        let ledger = RedisLedger::connect(server.url()).await.unwrap();
        let builder = meter(ledger).clock(clock.clone()).ledger_timeout(seconds(5));
        let meter = builder.build().unwrap();
        meter.plan().replace(plan.clone());
        meters.push(meter);
    }
    let accounts = meters[0].accounts();
    let acme = Account::org("acme").unwrap();
    let parts: BTreeSet<_> =
        (0..20).flat_map(|number| key(number).part.unwrap().path().collect::<Vec<_>>()).collect();
    for part in parts {
        let level = 2 - part.as_str().matches('/').count();
        let limits = Limits { per_month: Some(nanos(LIMITS[level] * UNIT)), per_day: None };
        accounts.set_limits(&acme, Some(&part), limits).await.unwrap();
    }
    let services: Vec<_> = meters
        .iter()
        .map(|meter| {
            let (running, released): (Arc<AtomicUsize>, _) = (running.clone(), released.clone());
            ServiceBuilder::new().layer(meter.clone()).service(service_fn(
                move |_: Request<Empty<Bytes>>| {
                    let (running, mut released) = (running.clone(), released.clone());
                    async move {
                        running.fetch_add(1, Ordering::SeqCst);
                        released.wait_for(|released| *released).await.unwrap();
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }
                },
            ))
        })
        .collect();
    let together = Arc::new(Barrier::new(CROWD));
    let calls: Vec<_> = (0..CROWD)
        .map(|number| {
            let (service, together) = (services[number % 3].clone(), together.clone());
            let (denials, key) = (denials.clone(), key(number % 20));
            tokio::spawn(async move {
                together.wait().await;
                let request = Request::post("/models/echo").extension(key).body(Empty::new());
                let answer = service.oneshot(request.unwrap()).await.unwrap();
                *denials.lock().unwrap().entry(answer.status().as_u16()).or_default() += 1;
            })
        })
        .collect();
    let denied = eventually(async || {
        let denied = denials.lock().unwrap().values().sum::<usize>();
        (denied + running.load(Ordering::SeqCst) == CROWD).then_some(denied)
    })
    .await;
    assert_eq!(*denials.lock().unwrap(), HashMap::from([(429, denied)]), "on hold, not used up");
    assert_eq!(i64::try_from(CROWD - denied).unwrap(), LIMITS[3], "exactly what fits");

    clock.advance(seconds(20));
    release.send(true).unwrap();
    for call in calls {
        call.await.unwrap();
    }
    let statement = eventually(async || {
        let statement = meters[0].statement(&key(0), None).await.ok()?;
        let is_settled = statement.held.is_zero()
            && statement.requests() == LIMITS[3].unsigned_abs()
            && statement.parts.iter().all(|part| part.held.is_zero());
        is_settled.then_some(statement)
    })
    .await;
    assert_eq!(statement.used, nanos(LIMITS[3] * UNIT));
    let mut sums = BTreeMap::<usize, i64>::new();
    for part in &statement.parts {
        let level = 2 - part.part.as_str().matches('/').count();
        let used = part.used.as_nano_usd();
        assert!(used <= LIMITS[level] * UNIT, "{}: {used}", part.part);
        *sums.entry(level).or_default() += used;
    }
    let all = LIMITS[3] * UNIT;
    assert_eq!(sums, BTreeMap::from([(0, all), (1, all), (2, all)]));
    let audit = accounts.audit(&acme, statement.period).await.unwrap();
    assert!(audit.is_sound(), "{audit}");
    for meter in meters {
        assert!(meter.shutdown().await.unsettled.is_empty());
    }
}

/// The limits of parts that an owner sets, on a real server: as many as in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_ten_thousand_limits_of_parts_and_no_more() {
    let server = RedisServer::start();
    let accounts = Accounts::new(RedisLedger::connect(server.url()).await.unwrap());
    let acme = Account::org("acme").unwrap();
    let set = async |part: usize, limits: Limits| {
        let part = format!("group-{part}").parse().unwrap();
        accounts.set_limits(&acme, Some(&part), limits).await
    };
    let limits = |limit| Limits { per_month: Some(nanos(limit)), per_day: None };
    for hundred in 0..100 {
        let all = (0..100).map(|part| set(100 * hundred + part, limits(1)));
        futures_util::future::try_join_all(all).await.unwrap();
    }
    let refused = set(10_000, limits(1)).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("too many parts"), "{refused}");
    assert_eq!(server.command(&["HLEN", "tc:{org:acme}:parts"]).lines().next(), Some(":10000"));
    // What is there can be changed, and makes room when it is taken away.
    set(9_999, limits(2)).await.unwrap();
    set(0, Limits::NONE).await.unwrap();
    set(10_000, limits(1)).await.unwrap();
    assert!(set(0, limits(1)).await.is_err());
}
