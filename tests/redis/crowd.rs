//! Parallel requests cannot overspend.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::sync::{Barrier, watch};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    HoldAhead, Period, RedisLedger,
    clock::{ManualClock, UnixTime},
};

use crate::support::{redis_server::RedisServer, *};

/// A clock that stands at this moment, which is in the server's month.
pub(crate) fn standing_clock() -> ManualClock {
    let now = UnixTime::now();
    let clock = ManualClock::at(Period::containing(now));
    clock.set_unix_time(now);
    clock
}

async fn crowd(ahead: Option<HoldAhead>) {
    const CROWD: usize = 1_000;
    let server = RedisServer::start();
    let clock = standing_clock();
    let running = Arc::new(AtomicUsize::new(0));
    let (release, released) = watch::channel(false);
    let mut meters = Vec::new();
    for _ in 0..2 {
        let ledger = RedisLedger::connect(server.url()).await.unwrap();
        // A deadline long enough for a thousand to be answered on a busy machine: here nobody is to
        // be denied for lateness.
        let builder = meter(ledger).clock(clock.clone()).ledger_timeout(seconds(5));
        // Which would make a hold of 20 s: the price of a slice stays a second's by giving the tier
        // twenty times as much.
        let builder = match ahead {
            Some(ahead) => builder.hold_ahead(ahead),
            None => builder,
        };
        meters.push(builder.build().unwrap());
    }
    let plan = tower_credits::Plan::from_toml(&PLAN.replace("\"0.0012\"", "\"0.024\"")).unwrap();
    let limit = 20 * 10 * SLICE;
    for meter in &meters {
        meter.plan().replace(plan.clone());
    }
    let services: Vec<_> = meters
        .iter()
        .map(|meter| {
            let (running, released) = (running.clone(), released.clone());
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
    let denials = Arc::new(std::sync::Mutex::new(HashMap::<u16, usize>::new()));
    let calls: Vec<_> = (0..CROWD)
        .map(|number| {
            let (service, together, denials) =
                (services[number % 2].clone(), together.clone(), denials.clone());
            tokio::spawn(async move {
                together.wait().await;
                let status = service
                    .oneshot(request("alice", "ten", Empty::new()))
                    .await
                    .unwrap()
                    .status()
                    .as_u16();
                *denials.lock().unwrap().entry(status).or_default() += 1;
            })
        })
        .collect();

    let denied = eventually(async || {
        let denied = denials.lock().unwrap().values().sum::<usize>();
        (denied + running.load(Ordering::SeqCst) == CROWD).then_some(denied)
    })
    .await;
    assert_eq!(
        *denials.lock().unwrap(),
        HashMap::from([(429, denied)]),
        "while some run, the others are told to wait"
    );
    let ran = CROWD - denied;
    if ahead.is_none() {
        assert_eq!(ran, 10);
    } else {
        // A surplus is no whole number of slices, and its rest admits a request too.
        assert!((10..40).contains(&ran), "{ran}");
    }
    let statement = statement(&meters[0], "alice", "ten").await;
    assert_eq!((statement.used, statement.held), (nanos(0), nanos(limit)));

    clock.advance(seconds(20));
    release.send(true).unwrap();
    for call in calls {
        call.await.unwrap();
    }
    let statement = settled(&meters[0], "alice", "ten", ran as u64).await;
    assert_eq!(statement.used, nanos(limit));
    for service in services {
        let denied = service.oneshot(request("alice", "ten", Empty::new())).await.unwrap();
        assert_eq!(denied.status(), 402, "now the credits are used up");
    }
    assert_eq!(running.load(Ordering::SeqCst), ran);
    for meter in meters {
        assert!(meter.shutdown().await.unsettled.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_at_once_exactly_those_run_that_can_pay() {
    crowd(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_with_leases_that_hold_ahead() {
    crowd(Some(HoldAhead::default())).await;
}
