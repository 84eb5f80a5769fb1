//! One of many nodes tells the host.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::sync::Barrier;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{ComputeTime, Plan, RedisLedger, Threshold, clock::SystemClock};

use crate::support::{redis_server::RedisServer, *};

const NODES: usize = 3;
const CROWD: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_across_a_threshold_on_three_nodes_are_told_of_once() {
    let server = RedisServer::start();
    let heard: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    // A thousand requests of ten milliseconds are 100 % of what is included, to the nano-dollar;
    // more may follow.
    let plan =
        Plan::from_toml(&PLAN.replace("included = \"2.00\"", "included = \"0.0012\"")).unwrap();
    let mut meters = Vec::new();
    for _ in 0..NODES {
        let heard = Arc::clone(&heard);
        let thresholds = [
            Threshold::Included(80),
            Threshold::Included(100),
            Threshold::Included(101),
            Threshold::Limit(1),
        ];
        let built = meter(RedisLedger::connect(server.url()).await.unwrap())
            .clock(SystemClock)
            .ledger_timeout(seconds(5))
            .thresholds(thresholds, move |reached| {
                *heard
                    .lock()
                    .unwrap()
                    .entry(format!("{} {}", reached.account, reached.threshold))
                    .or_default() += 1;
            })
            .build()
            .unwrap();
        built.plan().replace(plan.clone());
        meters.push(built);
    }
    let together = Arc::new(Barrier::new(CROWD));
    let calls: Vec<_> = (0..CROWD)
        .map(|number| {
            let service = ServiceBuilder::new().layer(meters[number % NODES].clone()).service(
                service_fn(|_: Request<Empty<Bytes>>| {
                    let response = Response::builder()
                        .extension(ComputeTime(seconds(1) / 100))
                        .body(Empty::<Bytes>::new())
                        .unwrap();
                    std::future::ready(Ok::<_, Infallible>(response))
                }),
            );
            let together = Arc::clone(&together);
            tokio::spawn(async move {
                together.wait().await;
                assert_eq!(
                    service.oneshot(request("alice", "pro", Empty::new())).await.unwrap().status(),
                    200
                );
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(settled(&meters[0], "alice", "pro", CROWD as u64).await.used, nanos(1_200_000));
    // Each of them has seen the last state by then, and told of it.
    for meter in meters {
        assert!(meter.shutdown().await.unsettled.is_empty());
    }
    let once = |threshold: &str| (format!("user:alice {threshold}"), 1);
    assert_eq!(
        *heard.lock().unwrap(),
        BTreeMap::from([once("included 80 %"), once("included 100 %")])
    );
}
