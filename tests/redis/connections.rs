//! Every way to say where the server is: URL, client, the host's own connection, users and
//! passwords, TLS.

use std::{io::Write, time::Duration};

use redis::aio::ConnectionManager;
use tower_credits::{
    RedisLedger, RedisServer, RedisTokens,
    ledger::{Amendment, Ledger, LedgerError, RequestCost, Terms},
};

use crate::support::{redis_server::RedisServer as Server, *};

/// Writes with one ledger and reads it with another.
async fn works(ledger: &RedisLedger, reader: &RedisLedger) {
    let alice = tower_credits::Account::user("alice").unwrap();
    let amount = nanos(1_000);
    let id = uuid_like();
    assert!(
        ledger
            .amend(&alice, Amendment::Grant { id: id.parse().unwrap(), amount, expires: None })
            .await
            .unwrap()
    );
    assert!(
        !reader
            .amend(&alice, Amendment::Grant { id: id.parse().unwrap(), amount, expires: None })
            .await
            .unwrap(),
        "the same keys"
    );
    let terms = Terms {
        included: nanos(0),
        included_per_day: nanos(0),
        per_seat: false,
        pay_as_you_go: nanos(0),
    };
    ledger.statement(&alice, "2026-11".parse().unwrap(), Some(terms)).await.unwrap();
}

fn uuid_like() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[tokio::test]
async fn a_url_a_client_and_the_hosts_own_connections_are_one_ledger() {
    let server = Server::start();
    let by_url = RedisLedger::connect(server.url()).await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    works(&RedisLedger::connect(&client).await.unwrap(), &by_url).await;
    works(&RedisLedger::connect(client.get_connection_info().clone()).await.unwrap(), &by_url)
        .await;
    let multiplexed = client.get_multiplexed_async_connection().await.unwrap();
    works(&RedisLedger::connect(RedisServer::from_connection(multiplexed)).await.unwrap(), &by_url)
        .await;
    let manager = ConnectionManager::new(client).await.unwrap();
    let server_of_the_host = RedisServer::from_connection(manager);
    let by_manager = RedisLedger::builder(server_of_the_host.clone())
        .timeout(Duration::from_millis(500))
        .connect()
        .await
        .unwrap();
    works(&by_manager, &by_url).await;

    let error =
        RedisLedger::connect(server_of_the_host.password("s3cret")).await.unwrap_err().to_string();
    assert!(error.contains("logged in already: leave username and password out"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_the_hosts_manager_an_outage_passes_and_nothing_is_lost() {
    let mut server = Server::start();
    let manager = ConnectionManager::new(redis::Client::open(server.url()).unwrap()).await.unwrap();
    let ledger = RedisLedger::connect(RedisServer::from_connection(manager)).await.unwrap();
    let meter = tower_credits::CreditMeter::new(
        plan(),
        ledger,
        tower_credits::identify::IdentityFromExtensions,
    );
    let served = crate::outages::under_load(&meter, async |load| {
        server.kill();
        load.until_denied().await;
        server.restart();
    })
    .await;
    assert!(served > 0);
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_showing_its_password() {
    for (url, expected) in [
        ("http://:s3cret@127.0.0.1/", "the Redis URL has a scheme that is not supported: write"),
        ("redis//:s3cret@127.0.0.1", "the Redis URL has no scheme: write `redis://"),
        ("redis://:s3cret@127.0.0.1:x/", "the Redis URL cannot be read (Redis URL did not parse"),
        ("redis://:s3cret@127.0.0.1/first", "Invalid database number"),
        ("", "the Redis URL is empty: write `redis://"),
    ] {
        let error = RedisLedger::connect(url).await.unwrap_err();
        assert!(matches!(error, LedgerError::Unfit(_)), "{url}: {error}");
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains("s3cret"), "{url}: {error}");
    }
    let nobody = RedisServer::from("redis://127.0.0.1/").username("credits");
    let error = RedisLedger::connect(nobody).await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::Unfit(reason) if reason.contains("without a password")),
        "{error}"
    );
    let server =
        RedisServer::from("redis://:s3cret@127.0.0.1/").username("credits").password("s3cret");
    let shown = format!("{server:?} {:?}", RedisLedger::builder(server.clone()));
    assert!(shown.contains("credits") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn a_user_of_an_acl_needs_no_more_than_the_keys_of_the_prefix() {
    let server = Server::start();
    let open = RedisLedger::builder(server.url()).prefix("bill").connect().await.unwrap();
    // The page for operators says which commands it needs.
    let page = include_str!("../../docs/production.md");
    let sentence = page.split_once("it needs ").unwrap().1.split_once(" on keys").unwrap().0;
    let rules: Vec<_> = sentence
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|command| format!("+{}", command.to_lowercase()))
        .collect();
    assert!(rules.len() > 10, "{rules:?}");
    let mut acl = vec!["ACL", "SETUSER", "credits", "on", ">s3cret", "~bill:*"];
    acl.extend(rules.iter().map(String::as_str));
    let answer = server.command(&acl);
    assert!(answer.starts_with("+OK"), "{answer}");

    let named = RedisServer::from(server.url()).username("credits").password("s3cret");
    let ledger = RedisLedger::builder(named.clone()).prefix("bill").connect().await.unwrap();
    works(&ledger, &open).await;
    let other =
        RedisServer::from(format!("{}1", server.url())).username("credits").password("s3cret");
    RedisLedger::builder(other).prefix("bill").connect().await.unwrap();
    let tokens = RedisTokens::builder(named.clone()).prefix("bill").connect().await.unwrap();
    let (alice, expires) = (identity("alice", "free"), Some(seconds(3600)));
    let token = tokens.issue(&alice, "", expires).await.unwrap();
    assert_eq!(tokens.set_tier(&alice.account, &"pro".parse().unwrap()).await.unwrap(), 1);
    assert!(tokens.revoke(&alice.account, &token.id).await.unwrap());
    let bob = tower_credits::Account::user("bob").unwrap();
    let cost = RequestCost { id: "order-17".parse().unwrap(), cost: nanos(1) };
    ledger.keep_costs(&bob, &[cost], seconds(3600)).await.unwrap();
    assert_eq!(ledger.costs(&bob, &["order-17".parse().unwrap()]).await.unwrap().len(), 1);
    assert!(tower_credits::Accounts::new(ledger.clone()).erase(&bob).await.unwrap());
    let meter = meter(ledger).build().unwrap();
    let served = crate::outages::under_load(&meter, async |_| ()).await;
    assert!(served > 0, "a restricted user can do all that metering needs");

    let error =
        RedisLedger::connect(RedisServer::from(server.url()).username("credits").password("wrong"))
            .await
            .unwrap_err();
    assert!(
        matches!(error, LedgerError::Unreachable { .. })
            && error.to_string().contains("check username and password"),
        "{error}"
    );
    let error = RedisLedger::builder(named).prefix("others").connect().await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("permission"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_rotated_is_read_again_from_its_file() {
    let server = Server::start_with(&["--requirepass", "first"]);
    let mut file = tempfile();
    let write = |file: &mut (std::path::PathBuf, std::fs::File), password: &str| {
        file.1 = std::fs::File::create(&file.0).unwrap();
        writeln!(file.1, "{password}").unwrap();
    };
    write(&mut file, "first");
    let at = RedisServer::from(server.url()).password_file(&file.0);
    let ledger = RedisLedger::connect(at).await.unwrap();
    let meter = tower_credits::CreditMeter::new(
        plan(),
        ledger,
        tower_credits::identify::IdentityFromExtensions,
    );
    let served = crate::outages::under_load(&meter, async |load| {
        let rotated = server.command_as("first", &["CONFIG", "SET", "requirepass", "second"]);
        assert!(rotated.contains("+OK"), "{rotated}");
        server.command_as("second", &["CLIENT", "KILL", "TYPE", "normal"]);
        load.until_denied().await;
        write(&mut file, "second");
    })
    .await;
    assert!(served > 0);

    let missing = RedisServer::from(server.url()).password_file("/does/not/exist");
    let error = RedisLedger::connect(missing).await.unwrap_err().to_string();
    assert!(error.contains("the password file /does/not/exist cannot be read"), "{error}");
    write(&mut file, "");
    let empty = RedisServer::from(server.url()).password_file(&file.0);
    let error = RedisLedger::connect(empty).await.unwrap_err().to_string();
    assert!(error.contains("is empty: write the password into it"), "{error}");
    std::fs::remove_file(&file.0).unwrap();
}

fn tempfile() -> (std::path::PathBuf, std::fs::File) {
    let path = std::env::temp_dir().join(format!(
        "tower-credits-password-{}-{}",
        std::process::id(),
        fastrand::u64(..)
    ));
    let file = std::fs::File::create(&path).unwrap();
    (path, file)
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn over_tls_a_server_is_trusted_by_its_certificate() {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (tempfile().0, tempfile().0);
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let tls_port = Server::free_port().to_string();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (certificate_file, key_file) = (path(&certificate), path(&key));
    let server = Server::start_with(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &certificate_file,
        "--tls-key-file",
        &key_file,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{tls_port}/");
    let root_cert = Some(std::fs::read(&certificate).unwrap());
    // The provider that the library would choose is not there yet: connecting by URL chooses it.
    let error = RedisLedger::connect(&*url).await.unwrap_err();
    assert!(
        matches!(error, LedgerError::Unreachable { .. })
            && error.to_string().contains("certificate"),
        "{error}"
    );
    let client =
        redis::Client::build_with_tls(url, redis::TlsCertificates { client_tls: None, root_cert })
            .unwrap();
    let ledger = RedisLedger::connect(client).await.unwrap();
    works(&ledger, &RedisLedger::connect(server.url()).await.unwrap()).await;
    for file in [certificate, key] {
        std::fs::remove_file(file).unwrap();
    }
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn without_the_feature_a_tls_url_names_it() {
    let error = RedisLedger::connect("rediss://localhost/").await.unwrap_err().to_string();
    assert!(error.contains("feature `tls`"), "{error}");
}
