//! A lease's name that two processes use.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::ComputeTime;

use crate::support::{switched::Switched, *};

type Body = Empty<Bytes>;

#[tokio::test(start_paused = true)]
async fn a_superseded_lease_goes_on_under_another_name_and_every_request_is_billed_once() {
    let ledger = Switched::default();
    let meter = meter(ledger.clone()).build().unwrap();
    let service =
        ServiceBuilder::new().layer(meter.clone()).service(service_fn(async |_: Request<Body>| {
            let response = Response::builder().extension(ComputeTime(seconds(1)));
            Ok::<_, Infallible>(response.body(Body::new()).unwrap())
        }));
    for round in 0..6 {
        if round == 2 || round == 4 {
            ledger.use_name_twice();
        }
        let asked = service.clone().oneshot(request("alice", "free", Body::new())).await.unwrap();
        assert_eq!(asked.status(), StatusCode::OK, "round {round}");
        drop(asked);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let statement = settled(&meter, "alice", "free", 6).await;
    assert_eq!(statement.used, nanos(6 * SLICE));
    assert_eq!(ledger.leases().0, 3, "each time it took another name");
    meter.shutdown().await;
}
