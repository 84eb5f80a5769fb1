//! The ledger and the tokens in a real Redis Cluster: what fails with one server fails for its
//! accounts only, and whatever moves, the debits arrive, exactly.

use std::time::Duration;

use http::StatusCode;
use http_body_util::Empty;
use tokio::task::spawn_blocking;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    Accounts, CreditMeter, Period, RedisLedger, RedisServer, RedisTokens,
    clock::UnixTime,
    identify::IdentityFromExtensions,
    ledger::{Ledger, LedgerError, contract},
};

use crate::{
    outages::{Load, under_load},
    support::{
        redis_cluster::{RedisCluster, until},
        redis_server::RedisServer as Server,
        *,
    },
};

/// Which of the eight users of [`under_load`] are on a server.
fn users_on(cluster: &RedisCluster, server: usize) -> [bool; 8] {
    std::array::from_fn(|user| {
        cluster.owner(cluster.slot_of(&format!("alice-{user}"))) == Some(server)
    })
}

async fn meter_on(cluster: &RedisCluster) -> CreditMeter {
    let ledger = RedisLedger::connect(cluster.url()).await.unwrap();
    CreditMeter::new(plan(), ledger, IdentityFromExtensions)
}

#[tokio::test]
async fn the_ledger_holds_the_contract_in_a_cluster() {
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    // One node is enough to find the others.
    let node = RedisServer::cluster([cluster.servers[1].url()]);
    let ledger = RedisLedger::connect(node).await.unwrap();
    contract::check(&ledger, None).await.unwrap();

    // All accounts are on the list, on pages of any size.
    let accounts = Accounts::new(ledger.clone());
    let period = Period::containing(UnixTime::now());
    let listed = async |page_size: usize| {
        let (mut listed, mut next) = (Vec::new(), None);
        loop {
            let page =
                accounts.list(period, next.as_ref(), page_size.try_into().unwrap()).await.unwrap();
            listed.extend(page.accounts.into_iter().map(|account| account.account));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        listed.sort();
        listed.dedup();
        listed
    };
    let meter = CreditMeter::new(plan(), ledger.clone(), IdentityFromExtensions);
    let service = meter.layer(service_fn(async |_| {
        Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
    }));
    let before = listed(1_000).await.len();
    for user in 0..60 {
        let request = request(&format!("bob-{user}"), "free", Empty::<bytes::Bytes>::new());
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), StatusCode::OK);
    }
    meter.shutdown().await;
    let all = listed(1_000).await;
    assert_eq!(all.len(), before + 60);
    assert_eq!(listed(7).await, all);
    for server in 0..3 {
        let keys: usize = cluster.ask(server, &["DBSIZE"]);
        assert!(keys > 0, "each server has some");
    }
    let other = tower_credits::ledger::Cursor::new("x");
    let refused = accounts.list(period, Some(&other), 7.try_into().unwrap());
    assert!(matches!(refused.await, Err(error) if error.to_string().contains("begin again")));
}

#[tokio::test]
async fn tokens_are_on_all_servers_of_a_cluster() {
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    let tokens = RedisTokens::connect(cluster.url()).await.unwrap();
    let alice = identity("alice", "free");
    let mut issued = Vec::new();
    for number in 0..12 {
        issued.push(tokens.issue(&alice, &format!("token {number}"), None).await.unwrap());
    }
    let listed = tokens.list(&alice.account).await.unwrap();
    assert_eq!(listed.len(), 12);
    // Another node, which has nothing in its cache.
    let other = RedisTokens::connect(cluster.url()).await.unwrap();
    assert_eq!(other.set_tier(&alice.account, &"pro".parse().unwrap()).await.unwrap(), 12);
    assert!(
        other.list(&alice.account).await.unwrap().iter().all(|token| token.tier.as_str() == "pro")
    );
    assert!(other.revoke(&alice.account, &issued[0].id).await.unwrap());
    assert!(other.revoke_secret(issued[1].secret()).await.unwrap());
    assert!(!other.revoke_secret(issued[1].secret()).await.unwrap());
    assert_eq!(other.list(&alice.account).await.unwrap().len(), 10);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn over_tls_all_servers_are_found_and_trusted_by_their_certificate() {
    let folder = folder::Folder::new("tls-cluster");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = folder.write("certificate.pem", &cert.pem());
    let key = folder.write("key.pem", &signing_key.serialize_pem());
    let files = [&certificate, &key].map(|path| path.to_str().unwrap().to_owned());
    let start = move || RedisCluster::start_tls(3, &files[0], &files[1]);
    let cluster = spawn_blocking(start).await.unwrap();
    let port = cluster.setting(1, "tls-port");
    // The provider that the library would choose is not there yet: connecting by URL chooses it.
    let error = RedisLedger::connect(format!("rediss+cluster://127.0.0.1:{port}/")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let root_cert = Some(cert.pem().into_bytes());
    let client = redis::Client::build_with_tls(
        format!("rediss://127.0.0.1:{port}/"),
        redis::TlsCertificates { client_tls: None, root_cert },
    );
    let ledger = RedisLedger::connect(RedisServer::cluster([client.unwrap()])).await.unwrap();
    contract::check(&ledger, None).await.unwrap();
    for server in 0..3 {
        let keys: usize = cluster.ask(server, &["DBSIZE"]);
        assert!(keys > 0, "each server has some");
    }
}

#[tokio::test]
async fn a_cluster_behind_another_kind_of_url_is_named_and_so_is_the_reverse() {
    let cluster = spawn_blocking(|| RedisCluster::start(1, false)).await.unwrap();
    let error = RedisLedger::connect(cluster.servers[0].url()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unfit(_)));
    assert!(error.to_string().contains("write `redis+cluster://`"), "{error}");

    let server = Server::start();
    let url = server.url().replace("redis://", "redis+cluster://");
    let error = RedisLedger::connect(&url).await.unwrap_err().to_string();
    assert!(error.contains("no node of a Redis Cluster: write `redis://`"), "{error}");

    let _: () = cluster.ask(0, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let error = RedisLedger::connect(cluster.url()).await.unwrap_err().to_string();
    assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
    let _: () = cluster.ask(0, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    let _: () = cluster.ask(0, &["SET", "tc:schema", "3"]);
    let error = RedisLedger::connect(cluster.url()).await.unwrap_err().to_string();
    assert!(error.contains("schema version 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_server_denies_its_own_accounts_at_once_and_nobody_elses() {
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    let meter = meter_on(&cluster).await;
    let on_first = users_on(&cluster, 0);
    assert!(on_first.contains(&true) && on_first.contains(&false), "{on_first:?}");
    let is_there = |user: usize| !on_first[user];
    under_load(&meter, async |load: &Load| {
        let denied_before = load.denied();
        cluster.servers[0].stop();
        load.until_denied().await;
        load.take_slowest();
        load.until_denied().await;
        load.until_these_are_served(is_there).await;
        let slowest = load.take_slowest();
        for user in (0..8).filter(|user| is_there(*user)) {
            assert_eq!(load.denied()[user], denied_before[user], "alice-{user} is elsewhere");
            assert!(slowest[user] < Duration::from_millis(150), "{slowest:?}");
        }
        for user in (0..8).filter(|user| !is_there(*user)) {
            // One at a time is tried, and waits for its deadline; the others are told at once.
            assert!(load.denied()[user] > denied_before[user]);
            assert!(slowest[user] < Duration::from_millis(300), "{slowest:?}");
        }
        cluster.servers[0].go_on();
        load.until_served().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_no_server_has_deny_only_their_accounts() {
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    let meter = meter_on(&cluster).await;
    let slot = cluster.slot_of("alice-3");
    let others = |user: usize| cluster.slot_of(&format!("alice-{user}")) != slot;
    let owner = cluster.owner(slot).unwrap();
    under_load(&meter, async |load: &Load| {
        let denied_before = load.denied();
        let delete = slot.to_string();
        let _: () = cluster.ask(owner, &["CLUSTER", "DELSLOTS", &delete]);
        load.until_denied().await;
        load.until_these_are_served(others).await;
        for user in (0..8).filter(|user| others(*user)) {
            assert_eq!(load.denied()[user], denied_before[user]);
        }
        for at in 0..3 {
            // The others may have heard that nobody has it, or not yet.
            let _ = cluster.try_ask::<()>(at, &["CLUSTER", "DELSLOTS", &delete]);
        }
        let _: () = cluster.ask(owner, &["CLUSTER", "ADDSLOTS", &delete]);
        load.until_served().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_slots_move_under_load_the_total_is_exact() {
    let cluster = spawn_blocking(|| RedisCluster::start(2, false)).await.unwrap();
    let meter = meter_on(&cluster).await;
    let slots: Vec<_> = (0..8).map(|user| cluster.slot_of(&format!("alice-{user}"))).collect();
    let cluster = std::sync::Arc::new(cluster);
    under_load(&meter, async |load: &Load| {
        for round in 0..3 {
            let (cluster, slots) = (cluster.clone(), slots.clone());
            spawn_blocking(move || {
                for slot in slots {
                    let to = 1 - cluster.owner(slot).unwrap();
                    // The last round is slow: an account's keys are in two places for a while.
                    cluster.move_slot(slot, to, Duration::from_millis(10 * (round / 2)));
                }
            })
            .await
            .unwrap();
            load.until_served().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_passes_and_the_master_that_comes_back_is_a_replica() {
    let mut cluster = spawn_blocking(|| RedisCluster::start(3, true)).await.unwrap();
    let meter = meter_on(&cluster).await;
    let slots: Vec<_> = (0..8).map(|user| cluster.slot_of(&format!("alice-{user}"))).collect();
    under_load(&meter, async |load: &Load| {
        // By an operator: the replica takes over without a break.
        let _: () = cluster.ask(3, &["CLUSTER", "FAILOVER"]);
        until("the replica took over", || slots.iter().all(|slot| cluster.owner(*slot) != Some(0)));
        load.until_served().await;
        // By a crash.
        cluster.servers[1].kill();
        until("its replica took over", || slots.iter().any(|slot| cluster.owner(*slot) == Some(4)));
        load.until_served().await;
        cluster.servers[1].restart();
        until("it is a replica", || {
            let role: String = cluster.try_ask(1, &["INFO", "replication"]).unwrap_or_default();
            role.contains("role:slave") && role.contains("master_link_status:up")
        });
        load.until_served().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_before_the_cluster_serves_once_that_is_there() {
    let mut cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    for server in &mut cluster.servers {
        server.kill();
    }
    let ledger = RedisLedger::builder(cluster.url()).connect_lazily().unwrap();
    let error = RedisLedger::connect(cluster.url()).await.unwrap_err().to_string();
    assert!(error.contains("Redis at 127.0.0.1:") && error.contains("refused"), "{error}");
    let alice = tower_credits::Account::user("alice").unwrap();
    let period = Period::containing(UnixTime::now());
    assert!(ledger.statement(&alice, period, None).await.unwrap_err().is_outage());
    // Two of three: what is theirs can be read.
    for at in [0, 1] {
        cluster.servers[at].restart();
    }
    let some = RedisLedger::connect(cluster.url()).await.unwrap();
    let accounts: Vec<_> = (0..12)
        .map(|user| tower_credits::Account::user(&format!("user-{user}")).unwrap())
        .collect();
    for account in &accounts {
        // "user:user-0" is in the braces of its keys.
        let name = &account.as_str()[5..];
        if cluster.slot_of(name) < 10_922 {
            eventually(async || some.statement(account, period, None).await.ok()).await;
        } else {
            let error = some.statement(account, period, None).await.unwrap_err();
            assert!(error.is_outage(), "{error}");
        }
    }
    cluster.servers[2].restart();
    eventually(async || ledger.statement(&alice, period, None).await.ok()).await;
    for account in &accounts {
        eventually(async || some.statement(account, period, None).await.ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_the_server_that_does_not_write_and_what_is_mended_counts() {
    let cluster = spawn_blocking(|| RedisCluster::start(3, false)).await.unwrap();
    // Nothing is written yet, so that the schema can be another one.
    let owner = cluster.owner(cluster.ask(0, &["CLUSTER", "KEYSLOT", "tc:schema"])).unwrap();
    let _: () = cluster.ask(owner, &["SET", "tc:schema", "3"]);
    let ledger = RedisLedger::builder(cluster.url()).connect_lazily().unwrap();
    let meter = CreditMeter::new(plan(), ledger, IdentityFromExtensions);
    let ready = async || meter.health().await;
    // On a busy machine a server may not answer in time at first.
    eventually(async || {
        let health = ready().await;
        assert!(!health.is_ready(), "{health}");
        health.to_string().contains("schema version 3").then_some(())
    })
    .await;
    let _: () = cluster.ask(owner, &["SET", "tc:schema", "4"]);
    eventually(async || ready().await.is_ready().then_some(())).await;

    cluster.servers[1].stop();
    let port = cluster.servers[1].port.to_string();
    eventually(async || {
        let health = ready().await;
        assert!(!health.is_ready(), "{health}");
        health.to_string().contains(&port).then_some(())
    })
    .await;
    cluster.servers[1].go_on();
    eventually(async || ready().await.is_ready().then_some(())).await;
    // It answers, and does not write.
    let _: () = cluster.ask(2, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    eventually(async || {
        let health = ready().await;
        (!health.is_ready() && health.to_string().contains("NOREPLICAS")).then_some(())
    })
    .await;
}
