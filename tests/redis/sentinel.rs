//! The ledger on a master that real Sentinels watch: it is found again after a failover.

use tokio::task::spawn_blocking;
use tower_credits::{
    CreditMeter, RedisLedger, RedisServer, RedisTokens, identify::IdentityFromExtensions,
    ledger::contract,
};

use crate::{
    outages::{Load, under_load},
    support::{
        folder,
        redis_cluster::until,
        redis_sentinel::{PASSWORD, Watched},
        redis_server::RedisServer as Server,
        *,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_new_master_is_found_and_the_total_is_exact() {
    let mut watched = spawn_blocking(Watched::start).await.unwrap();
    let ledger = RedisLedger::connect(watched.url()).await.unwrap();
    contract::check(&ledger, None).await.unwrap();
    let sentinels = watched.sentinels.iter().map(|server| {
        RedisServer::from(format!("redis://127.0.0.1:{}/", server.port)).password("watch")
    });
    let by_builder = RedisServer::sentinel(sentinels, "mymaster").password(PASSWORD);
    RedisTokens::connect(by_builder).await.unwrap();

    let meter = CreditMeter::new(plan(), ledger, IdentityFromExtensions);
    under_load(&meter, async |load: &Load| {
        // A Sentinel that is away is not asked for long.
        watched.sentinels[0].stop();
        watched.servers[0].kill();
        // Nobody need be denied: what was left of the last holds may last until the failover. So
        // the Sentinels are asked.
        let second = watched.servers[1].port.to_string();
        for sentinel in [1, 2] {
            let words = ["GET-MASTER-ADDR-BY-NAME", "mymaster"];
            until("the second is the master", || {
                let master = watched.ask_sentinel::<Vec<String>>(sentinel, &words);
                master.is_ok_and(|master| master.get(1) == Some(&second))
            });
        }
        load.until_served().await;
        assert!(watched.role(1).contains("role:master"));
        watched.servers[0].restart();
        watched.until_replicated();
        load.until_served().await;
        watched.sentinels[0].go_on();
        // By an operator, back again.
        let failovers = watched.failovers(1);
        until("an operator's failover begins", || {
            watched.ask_sentinel::<()>(1, &["FAILOVER", "mymaster"]).is_ok()
        });
        until("it is done", || watched.failovers(1) > failovers);
        // What the master before still took is repaired by what is spent from then on.
        watched.until_replicated();
        load.until_served().await;
    })
    .await;
}

#[tokio::test]
async fn what_sentinels_cannot_say_is_named() {
    let sentinel = Server::start_sentinel();
    let url = format!("redis+sentinel://127.0.0.1:{}/mymaster", sentinel.port);
    let error = RedisLedger::connect(&url).await.unwrap_err().to_string();
    assert!(error.contains("does not know a master `mymaster`: check its name"), "{error}");
    let server = Server::start();
    let url = format!("redis+sentinel://127.0.0.1:{}/mymaster", server.port);
    let error = RedisLedger::connect(&url).await.unwrap_err().to_string();
    assert!(error.contains("is no Sentinel: name Sentinels, or write `redis://"), "{error}");
    let by_redis = RedisLedger::connect(format!("redis://127.0.0.1:{}/", sentinel.port)).await;
    let error = by_redis.unwrap_err().to_string();
    assert!(error.contains("redis+sentinel://"), "{error}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn over_tls_sentinels_and_their_master_are_trusted_by_their_certificate() {
    let folder = folder::Folder::new("tls-sentinel");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = folder.write("certificate.pem", &cert.pem());
    let key = folder.write("key.pem", &signing_key.serialize_pem());
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
    let files = [("tls-cert-file", certificate), ("tls-key-file", key)];
    let trust = [("tls-ca-cert-file", certificate), ("tls-auth-clients", "no")];
    let settings = [files, trust].concat();
    let (port, sentinel_port) = (Server::free_port().to_string(), Server::free_port().to_string());
    let mut options = vec!["--tls-port".to_owned(), port.clone()];
    options
        .extend(settings.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).into()]));
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let master = Server::start_with(&options);
    let mut lines: Vec<_> =
        settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    lines.push(format!("tls-port {sentinel_port}"));
    lines.push("tls-replication yes".to_owned());
    lines.push(format!("sentinel monitor mymaster 127.0.0.1 {port} 1"));
    let _sentinel = Server::start_sentinel_of(&lines);

    let url = format!("rediss+sentinel://127.0.0.1:{sentinel_port}/mymaster");
    let error = RedisLedger::connect(url).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let client = redis::Client::build_with_tls(
        format!("rediss://127.0.0.1:{sentinel_port}/"),
        redis::TlsCertificates { client_tls: None, root_cert: Some(cert.pem().into_bytes()) },
    );
    let watched = RedisServer::sentinel([client.unwrap()], "mymaster");
    // Within a second, which a busy machine may need for keys alone.
    let ledger = eventually(async || RedisLedger::connect(watched.clone()).await.ok()).await;
    contract::check(&ledger, None).await.unwrap();
    assert_ne!(master.command(&["DBSIZE"]).trim(), ":0", "the master has it");
}
