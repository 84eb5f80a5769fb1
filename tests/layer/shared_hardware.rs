//! Hardware that runs several requests at a time: they share its second.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    CreditMeter, MemoryLedger, Plan, clock::TokioClock, identify::IdentityFromExtensions,
};

use crate::support::{bodies::Fed, *};

fn shared_meter() -> CreditMeter {
    let plan = Plan::from_toml(&PLAN.replace(
        "price_per_second = \"0.00012\"",
        "price_per_second = \"0.00012\"\nshared = true",
    ));
    CreditMeter::builder(plan.unwrap(), MemoryLedger::new(), IdentityFromExtensions)
        .clock(TokioClock)
        .build()
        .unwrap()
}

/// Runs a request whose service waits before it answers, and then streams frames.
async fn run(
    meter: CreditMeter,
    user: String,
    tier: &'static str,
    starts_after: Duration,
    frames: u64,
    gap: Duration,
) -> Result<Vec<u8>, StatusCode> {
    tokio::time::sleep(starts_after).await;
    let service = meter.layer(service_fn(move |_: Request<Empty<Bytes>>| async move {
        let (feed, body) = Fed::new();
        tokio::spawn(async move {
            for _ in 0..frames {
                tokio::time::sleep(gap).await;
                if feed.send(Bytes::from_static(b"token ")).await.is_err() {
                    break;
                }
            }
        });
        Ok::<_, Infallible>(Response::new(body))
    }));
    let response = service.oneshot(request(&user, tier, Empty::new())).await.unwrap();
    if response.status() != StatusCode::OK {
        return Err(response.status());
    }
    read(response).await.map_err(|_| StatusCode::PAYMENT_REQUIRED)
}

/// The compute seconds and nano-dollars that users were billed.
async fn billed(meter: &CreditMeter, users: &[(String, &str)]) -> (f64, i64) {
    let (mut seconds, mut cost) = (0.0, 0);
    for (user, tier) in users {
        let statement = settled(meter, user, tier, 1).await;
        let micros: u64 = statement.lines.iter().map(|line| line.usage.compute_micros).sum();
        seconds += micros as f64 / 1e6;
        cost += statement.used.as_nano_usd();
    }
    (seconds, cost)
}

#[tokio::test(start_paused = true)]
async fn sixteen_streams_pay_the_time_in_which_the_hardware_was_busy() {
    let meter = shared_meter();
    let users: Vec<_> = (0..16).map(|number| (format!("user-{number}"), "pro")).collect();
    let began = tokio::time::Instant::now();
    let streams: Vec<_> = users
        .iter()
        .map(|(user, tier)| {
            let (gap, at_once) = (Duration::from_millis(100), Duration::ZERO);
            tokio::spawn(run(meter.clone(), user.clone(), tier, at_once, 100, gap))
        })
        .collect();
    for stream in streams {
        assert_eq!(stream.await.unwrap().unwrap().len(), 600);
    }
    let busy = began.elapsed().as_secs_f64();
    let (seconds, cost) = billed(&meter, &users).await;
    assert!((seconds / busy - 1.0).abs() < 0.01, "{seconds} s were billed of {busy} s");
    assert!((cost as f64 / (busy * 120_000.0) - 1.0).abs() < 0.01, "{cost}");
    for (user, tier) in &users {
        let share = settled(&meter, user, tier, 1).await.used.as_nano_usd() as f64;
        assert!((share * 16.0 / cost as f64 - 1.0).abs() < 0.05, "{user} paid {share} of {cost}");
    }
}

/// Three share: each may run three times as long as its credits pay for alone, and ends at zero.
#[tokio::test(start_paused = true)]
async fn a_share_is_cut_off_exactly_where_the_credits_end() {
    let meter = shared_meter();
    let users: Vec<_> = (0..3).map(|number| (format!("user-{number}"), "quick")).collect();
    let began = tokio::time::Instant::now();
    let streams: Vec<_> = users
        .iter()
        .map(|(user, tier)| {
            let gap = Duration::from_millis(10);
            tokio::spawn(run(meter.clone(), user.clone(), tier, Duration::ZERO, 1_000, gap))
        })
        .collect();
    for stream in streams {
        assert_eq!(stream.await.unwrap(), Err(StatusCode::PAYMENT_REQUIRED));
    }
    let ran = began.elapsed();
    assert!((850..=1_000).contains(&ran.as_millis()), "300 ms for each of three: {ran:?}");
    for (user, tier) in &users {
        assert_eq!(settled(&meter, user, tier, 1).await.used, nanos(36_000));
    }
}

/// One that leaves early, and one that is dropped before its head, leave the time to the others.
#[tokio::test(start_paused = true)]
async fn who_leaves_shares_no_longer() {
    let meter = shared_meter();
    let gap = Duration::from_millis(100);
    let long = tokio::spawn(run(meter.clone(), "long".to_owned(), "pro", Duration::ZERO, 100, gap));
    let short = run(meter.clone(), "short".to_owned(), "pro", Duration::ZERO, 1_000, gap);
    assert!(tokio::time::timeout(seconds(4), short).await.is_err());
    long.await.unwrap().unwrap();
    let (total, _) =
        billed(&meter, &[("long".to_owned(), "pro"), ("short".to_owned(), "pro")]).await;
    assert!((total - 10.0).abs() < 0.1, "{total} s");
    let (short, _) = billed(&meter, &[("short".to_owned(), "pro")]).await;
    assert!((short - 2.0).abs() < 0.05, "{short} s");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However streams overlap, what is billed adds up to the busy time.
    #[test]
    fn what_is_billed_adds_up(
        streams in proptest::collection::vec((0u64..5_000, 1u64..40, 5u64..200), 1..10)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let busy = {
            let mut spans: Vec<_> = streams
                .iter()
                .map(|(starts, frames, gap)| (*starts, starts + frames * gap))
                .collect();
            spans.sort_unstable();
            let mut until = 0;
            spans.iter().fold(0, |busy, (from, to)| {
                let more = to.saturating_sub(until.max(*from));
                until = until.max(*to);
                busy + more
            })
        } as f64 / 1e3;
        let (seconds, _) = runtime.block_on(async {
            let meter = shared_meter();
            let mut users = Vec::new();
            let mut running = Vec::new();
            for (number, (starts, frames, gap)) in streams.iter().enumerate() {
                let user = format!("user-{number}");
                users.push((user.clone(), "pro"));
                let (starts, gap) = (Duration::from_millis(*starts), Duration::from_millis(*gap));
                running.push(tokio::spawn(run(meter.clone(), user, "pro", starts, *frames, gap)));
            }
            for stream in running {
                stream.await.unwrap().unwrap();
            }
            billed(&meter, &users).await
        });
        // Paused time moves in steps of a millisecond.
        let off = (seconds - busy).abs();
        prop_assert!(off <= busy * 0.01 + 0.002 * streams.len() as f64, "{seconds} of {busy}");
    }
}
