//! Limits of concurrent requests: over all nodes, and on each.

use std::{convert::Infallible, sync::atomic::Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{Accounts, CreditMeter, Identity};

use crate::{
    parts::{World, of, two_nodes},
    support::{fair::on_a_fair_machine, *},
};

/// Requests that run until they are released.
struct Held {
    release: watch::Sender<bool>,
    started: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    running: JoinSet<u16>,
}

impl Held {
    fn new() -> Self {
        Self { release: watch::channel(false).0, started: counter(), running: JoinSet::new() }
    }

    fn begin(&mut self, meter: &CreditMeter, who: &Identity) {
        let (released, started) = (self.release.subscribe(), self.started.clone());
        let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
            move |_: Request<Empty<Bytes>>| {
                let mut released = released.clone();
                started.fetch_add(1, Ordering::SeqCst);
                async move {
                    released.wait_for(|released| *released).await.unwrap();
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            },
        ));
        let request = of(who, "echo");
        self.running
            .spawn(async move { service.oneshot(request).await.unwrap().status().as_u16() });
    }

    async fn until_started(&self, requests: usize) {
        let started = async || (self.started.load(Ordering::SeqCst) == requests).then_some(());
        eventually(started).await;
    }
}

async fn asks(meter: &CreditMeter, who: &Identity) -> (u16, Value) {
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())),
    ));
    let response = service.oneshot(of(who, "echo")).await.unwrap();
    let status = response.status().as_u16();
    let body = Box::pin(response.into_body()).collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn no_more_run_over_all_nodes_than_may_and_each_end_makes_room() {
    let nodes = two_nodes("");
    let who = identity("alice", "narrow");
    let mut held = Held::new();
    held.begin(&nodes[0], &who);
    held.begin(&nodes[1], &who);
    held.until_started(2).await;
    for node in &nodes {
        let (status, problem) = asks(node, &who).await;
        assert_eq!((status, &problem["reason"]), (429, &"TOO_MANY_RUNNING".into()));
    }
    // They run on for longer than a share lasts that is not renewed.
    for _ in 0..12 {
        tokio::time::sleep(seconds(5)).await;
        assert_eq!(asks(&nodes[0], &who).await.0, 429);
        assert_eq!(asks(&nodes[1], &who).await.0, 429);
    }
    assert_eq!(asks(&nodes[1], &identity("bob", "narrow")).await.0, 200, "another account");
    held.release.send_replace(true);
    while let Some(status) = held.running.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    // Each of both nodes has room for two, whichever had it before.
    for node in &nodes {
        let mut held = Held::new();
        eventually(async || (asks(node, &who).await.0 == 200).then_some(())).await;
        tokio::time::sleep(seconds(1)).await;
        held.begin(node, &who);
        held.begin(node, &who);
        held.until_started(2).await;
        assert_eq!(asks(node, &who).await.0, 429);
        held.release.send_replace(true);
        join_all(held.running.join_all().await.into_iter().map(async |status| {
            assert_eq!(status, 200);
        }))
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_node_counts_for_itself_if_the_plan_says_so() {
    let nodes = two_nodes("");
    let who = identity("alice", "narrow-nodes");
    let mut held = Held::new();
    for node in &nodes {
        held.begin(node, &who);
        held.begin(node, &who);
    }
    held.until_started(4).await;
    for node in &nodes {
        assert_eq!(asks(node, &who).await.0, 429);
    }
    held.release.send_replace(true);
    assert_eq!(held.running.join_all().await, [200; 4]);
}

/// Requests that are denied for credits do not use up the account's rate.
#[tokio::test]
async fn a_request_that_is_denied_for_credits_uses_no_permit() {
    // Permits that a node does not use lapse after 200 ms.
    on_a_fair_machine(deny_for_credits).await;
}

async fn deny_for_credits() -> Result<(), String> {
    let world = World::new();
    let alice = identity("alice", "empty");
    for _ in 0..10 {
        assert_eq!(world.runs(&alice, "echo").await, 402);
    }
    let accounts: &Accounts = &world.accounts;
    accounts
        .grant(&alice.account, "order-1".parse().unwrap(), nanos(9 * SLICE), None)
        .await
        .unwrap();
    for status in [200, 200, 429] {
        let found = world.call_for(of(&alice, "echo"), 0).await.status();
        if found != status {
            return Err(format!("{found} instead of {status}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn while_the_ledger_is_away_a_node_counts_for_itself_and_says_so() {
    let world = World::new();
    let alice = identity("alice", "alone");
    world.way.off(true);
    let mut held = Held::new();
    held.begin(&world.meter, &alice);
    held.until_started(1).await;
    assert_eq!(asks(&world.meter, &alice).await.1["reason"], "TOO_MANY_RUNNING");
    held.release.send_replace(true);
    assert_eq!(held.running.join_all().await, [200]);
    for (status, left) in [(200, "r=1"), (200, "r=0"), (429, "r=0")] {
        let response = world.call(of(&alice, "echo")).await;
        assert_eq!(response.status(), status);
        let field = response.headers()["ratelimit"].to_str().unwrap().to_owned();
        assert!(field.contains(left), "{field}");
    }
}
