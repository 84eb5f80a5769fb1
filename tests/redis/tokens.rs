//! Tokens kept in Redis: issued, listed, revoked, cached.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    Account, CreditMeter, Identity, MemoryLedger, RedisTokens,
    identify::{Identify, IdentifyError, Identifying, RedisTokensError, RequestHead},
};

use crate::support::{redis_server::RedisServer, *};

fn bearing(token: &str) -> Request<Empty<Bytes>> {
    Request::post("/models/echo")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::new())
        .unwrap()
}

async fn who(tokens: &RedisTokens, token: &str) -> Result<Arc<Identity>, IdentifyError> {
    match tokens.identify(RequestHead::from(&bearing(token))) {
        Identifying::Ready(answer) => answer,
        Identifying::Later(answer) => answer.await,
    }
}

/// What is answered here and now, without asking the server.
fn cached(tokens: &RedisTokens, token: &str) -> Option<Result<Arc<Identity>, IdentifyError>> {
    match tokens.identify(RequestHead::from(&bearing(token))) {
        Identifying::Ready(answer) => Some(answer),
        Identifying::Later(_) => None,
    }
}

#[tokio::test]
async fn a_token_is_issued_listed_without_its_secret_and_revoked() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    let laptop = tokens.issue(&alice, "laptop", None).await.unwrap();
    let phone = tokens.issue(&alice, "phone", Some(seconds(3600))).await.unwrap();
    assert_ne!(laptop.secret(), phone.secret());
    assert_eq!(*who(&tokens, laptop.secret()).await.unwrap(), alice);
    assert_eq!(*who(&tokens, phone.secret()).await.unwrap(), alice);

    let listed = tokens.list(&alice.account).await.unwrap();
    let mut labels: Vec<_> = listed
        .iter()
        .map(|token| (token.label.as_str(), token.expires_at.is_some(), token.tier.as_str()))
        .collect();
    labels.sort_unstable();
    assert_eq!(labels, [("laptop", false, "free"), ("phone", true, "free")]);
    // Neither a list, nor Debug, nor the server knows a secret.
    let dump = server.command(&[
        "EVAL",
        "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do all[#all + 1] = key \
        local kind = redis.call('TYPE', key).ok all[#all + 1] = kind == 'string' and redis.call('GET', key) or \
        cjson.encode(redis.call('HGETALL', key)) end return table.concat(all, '|')",
        "0",
    ]);
    assert!(dump.contains("laptop"), "{dump}");
    let shown = format!("{listed:?} {tokens:?} {laptop:?} {dump}");
    for secret in [laptop.secret(), phone.secret()] {
        assert!(!shown.contains(secret) && !shown.contains(&secret[3..51]), "{shown}");
    }

    assert!(tokens.revoke(&alice.account, &laptop.id).await.unwrap());
    assert!(!tokens.revoke(&alice.account, &laptop.id).await.unwrap());
    assert!(
        matches!(who(&tokens, laptop.secret()).await, Err(IdentifyError::Invalid)),
        "here at once"
    );
    assert!(
        !tokens.revoke(&Account::user("bob").unwrap(), &phone.id).await.unwrap(),
        "nobody revokes another's token"
    );
    assert!(who(&tokens, phone.secret()).await.is_ok());
    assert!(tokens.revoke_secret(phone.secret()).await.unwrap());
    assert!(!tokens.revoke_secret("never issued").await.unwrap());
    assert!(matches!(who(&tokens, phone.secret()).await, Err(IdentifyError::Invalid)));
    assert_eq!(tokens.list(&alice.account).await.unwrap(), []);
}

#[tokio::test]
async fn a_token_revoked_elsewhere_works_on_no_longer_than_the_cache() {
    let server = RedisServer::start();
    let here = RedisTokens::builder(server.url())
        .cache_for(Duration::from_millis(300))
        .connect()
        .await
        .unwrap();
    let elsewhere = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    let token = elsewhere.issue(&alice, "", None).await.unwrap();
    assert!(cached(&here, token.secret()).is_none());
    who(&here, token.secret()).await.unwrap();
    assert!(cached(&here, token.secret()).is_some(), "the second time costs no round trip");
    assert!(elsewhere.revoke(&alice.account, &token.id).await.unwrap());
    let revoked_at = Instant::now();
    eventually(async || who(&here, token.secret()).await.is_err().then_some(())).await;
    assert!(revoked_at.elapsed() < seconds(5), "took {:?}", revoked_at.elapsed());
    assert!(
        matches!(cached(&here, token.secret()), Some(Err(IdentifyError::Invalid))),
        "that it is unknown is remembered"
    );
}

#[tokio::test]
async fn a_changed_tier_counts_and_brings_back_nothing() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    let lasting = tokens.issue(&alice, "lasting", None).await.unwrap();
    let brief = tokens.issue(&alice, "brief", Some(Duration::from_millis(400))).await.unwrap();
    let revoked = tokens.issue(&alice, "revoked", None).await.unwrap();
    assert!(tokens.revoke(&alice.account, &revoked.id).await.unwrap());
    assert_eq!(tokens.set_tier(&alice.account, &"pro".parse().unwrap()).await.unwrap(), 2);
    assert_eq!(who(&tokens, lasting.secret()).await.unwrap().tier.as_str(), "pro");
    assert!(who(&tokens, revoked.secret()).await.is_err());
    // What had an end still has it.
    eventually(async || (tokens.list(&alice.account).await.unwrap().len() == 1).then_some(()))
        .await;
    let other_node = RedisTokens::connect(server.url()).await.unwrap();
    assert!(who(&other_node, brief.secret()).await.is_err());
    assert_eq!(
        server.command(&["HLEN", "tc:{user:alice}:tokens"]).lines().next(),
        Some(":1"),
        "the list forgets what expired"
    );
    assert_eq!(
        tokens.set_tier(&Account::user("nobody").unwrap(), &"pro".parse().unwrap()).await.unwrap(),
        0
    );
}

#[tokio::test]
async fn while_the_server_is_away_known_tokens_work_as_long_as_was_said() {
    let mut server = RedisServer::start();
    let strict = RedisTokens::builder(server.url())
        .cache_for(Duration::from_millis(50))
        .connect()
        .await
        .unwrap();
    let lenient = RedisTokens::builder(server.url())
        .cache_for(Duration::from_millis(50))
        .stale_if_error(seconds(3600))
        .connect()
        .await
        .unwrap();
    let token = strict.issue(&identity("alice", "free"), "", None).await.unwrap();
    let unseen = strict.issue(&identity("bob", "free"), "", None).await.unwrap();
    for tokens in [&strict, &lenient] {
        who(tokens, token.secret()).await.unwrap();
    }
    server.kill();
    let error = eventually(async || who(&strict, token.secret()).await.err()).await;
    assert!(matches!(&error, IdentifyError::Unavailable(_)), "{error}");
    assert_eq!(who(&lenient, token.secret()).await.unwrap().subject.as_str(), "alice");
    assert!(matches!(who(&lenient, unseen.secret()).await, Err(IdentifyError::Unavailable(_))));

    // Through the layer: a denial that says so, and not one that blames the token.
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), strict);
    let service = ServiceBuilder::new()
        .layer(meter)
        .service(service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))));
    assert_eq!(
        service.clone().oneshot(bearing(token.secret())).await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    server.restart();
    eventually(async || {
        (service.clone().oneshot(bearing(token.secret())).await.unwrap().status() == StatusCode::OK)
            .then_some(())
    })
    .await;
    assert_eq!(
        service.oneshot(bearing("tc_unknown")).await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn an_answer_from_before_a_revocation_is_not_kept_after_it() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    for change in ["revoke", "revoke_secret", "set_tier"] {
        let token = tokens.issue(&alice, "", None).await.unwrap();
        let Identifying::Later(mut asking) =
            tokens.identify(RequestHead::from(&bearing(token.secret())))
        else {
            panic!("it is cached")
        };
        // The question is sent, and its answer not looked at before the change is done.
        assert!((&mut asking).now_or_never().is_none());
        match change {
            "revoke" => assert!(tokens.revoke(&alice.account, &token.id).await.unwrap()),
            "revoke_secret" => assert!(tokens.revoke_secret(token.secret()).await.unwrap()),
            _ => assert_eq!(
                tokens.set_tier(&alice.account, &"pro".parse().unwrap()).await.unwrap(),
                1
            ),
        }
        asking.await.unwrap();
        assert!(cached(&tokens, token.secret()).is_none(), "{change}");
        let now = who(&tokens, token.secret()).await;
        assert!(
            now.as_ref().map_or(change != "set_tier", |identity| identity.tier.as_str() == "pro"),
            "{change}: {now:?}"
        );
    }
}

#[tokio::test]
async fn a_token_ends_when_it_was_to_end_and_not_with_the_cache() {
    let mut server = RedisServer::start();
    let tokens =
        RedisTokens::builder(server.url()).stale_if_error(seconds(3600)).connect().await.unwrap();
    let lifetime = Duration::from_millis(500);
    let token = tokens.issue(&identity("alice", "free"), "", Some(lifetime)).await.unwrap();
    who(&tokens, token.secret()).await.unwrap();
    assert!(matches!(cached(&tokens, token.secret()), Some(Ok(_))));
    server.kill();
    // Answers are kept for 30 s, and for an hour while the server is away.
    eventually(async || {
        matches!(cached(&tokens, token.secret()), Some(Err(IdentifyError::Invalid))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_denies_nobody() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    for number in 0..5 {
        let token = tokens.issue(&identity("alice", "free"), "", None).await.unwrap();
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(who(&tokens, token.secret()).await.is_ok(), "{number}");
    }
}

#[tokio::test]
async fn in_an_outage_a_stale_answer_costs_one_deadline_and_not_each_request_one() {
    let server = RedisServer::start();
    let proxy = crate::support::proxy::Proxy::before(server.port).await;
    let tokens = RedisTokens::builder(proxy.url())
        .cache_for(Duration::from_millis(50))
        .stale_if_error(seconds(3600))
        .timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    let token = tokens.issue(&identity("alice", "free"), "", None).await.unwrap();
    who(&tokens, token.secret()).await.unwrap();
    proxy.silence(true);
    eventually(async || cached(&tokens, token.secret()).is_none().then_some(())).await;
    who(&tokens, token.secret()).await.unwrap();
    assert!(matches!(cached(&tokens, token.secret()), Some(Ok(_))), "the next one does not wait");
    eventually(async || cached(&tokens, token.secret()).is_none().then_some(())).await;
    proxy.silence(false);
    who(&tokens, token.secret()).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_blocks_no_other() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    let good = tokens.issue(&alice, "good", None).await.unwrap();
    let bad = tokens.issue(&alice, "bad", None).await.unwrap();
    let keys = server.command(&["KEYS", "tc:token:*"]);
    let key = keys.lines().find(|key| key.starts_with(&format!("tc:token:{}", bad.id))).unwrap();
    server.command(&["SET", key, "{}"]);
    server.command(&["HSET", "tc:{user:alice}:tokens", "nonsense", "x"]);
    server.command(&[
        "HSET",
        "tc:{user:alice}:tokens",
        "short",
        r#"{"digest":"00","label":"","issued_at":0,"expires_at":null}"#,
    ]);
    let listed = tokens.list(&alice.account).await.unwrap();
    assert_eq!(listed.iter().map(|token| &token.id).collect::<Vec<_>>(), [&good.id]);
    assert_eq!(tokens.set_tier(&alice.account, &"pro".parse().unwrap()).await.unwrap(), 1);
    assert!(matches!(who(&tokens, bad.secret()).await, Err(IdentifyError::Unavailable(_))));
}

#[tokio::test]
async fn what_was_never_issued_costs_the_server_nothing() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let issued = tokens.issue(&identity("alice", "free"), "", None).await.unwrap();
    let before = server.calls("get");
    let secret = issued.secret().to_owned();
    let mut altered = secret.clone().into_bytes();
    altered[10] = if altered[10] == b'0' { b'1' } else { b'0' };
    let altered = String::from_utf8(altered).unwrap();
    let long = secret.repeat(1000);
    for wrong in [
        "",
        "tc_",
        "x",
        altered.as_str(),
        &secret[1..],
        &secret[..58],
        &long,
        &secret.to_uppercase(),
        "tc_é",
        &"é".repeat(30),
    ] {
        assert!(matches!(cached(&tokens, wrong), Some(Err(IdentifyError::Invalid))), "{wrong}");
    }
    assert_eq!(server.calls("get"), before);
}

#[tokio::test]
async fn bounds_and_bad_labels_are_told() {
    let server = RedisServer::start();
    let tokens = RedisTokens::connect(server.url()).await.unwrap();
    let alice = identity("alice", "free");
    for label in ["a\nb", &"x".repeat(129)] {
        let error = tokens.issue(&alice, label, None).await.unwrap_err();
        assert!(matches!(error, RedisTokensError::Label), "{error}");
    }
    for _ in 0..1_000 {
        tokens.issue(&alice, "", None).await.unwrap();
    }
    let error = tokens.issue(&alice, "", None).await.unwrap_err();
    assert!(
        matches!(&error, RedisTokensError::Full(account) if account.as_str() == "user:alice"),
        "{error}"
    );
    tokens.issue(&identity("bob", "free"), "", None).await.unwrap();
    server.command(&["SET", "tc:{user:carol}:tokens", "x"]);
    let error = tokens.list(&Account::user("carol").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
}

#[tokio::test]
async fn a_browser_may_keep_it_in_a_cookie() {
    let server = RedisServer::start();
    let tokens = RedisTokens::builder(server.url())
        .or_cookie("credits".parse().unwrap())
        .connect()
        .await
        .unwrap();
    let issued = tokens.issue(&identity("alice", "free"), "", None).await.unwrap();
    let ask = async |site: &str| {
        let cookie = format!("credits={}", issued.secret());
        let request = Request::post("/")
            .header("cookie", cookie)
            .header("sec-fetch-site", site)
            .body(())
            .unwrap();
        match tokens.identify(RequestHead::from(&request)) {
            Identifying::Ready(answer) => answer,
            Identifying::Later(answer) => answer.await,
        }
    };
    assert!(matches!(ask("cross-site").await, Err(IdentifyError::CrossOrigin)));
    assert_eq!(ask("same-origin").await.unwrap().subject.as_str(), "alice");
}
